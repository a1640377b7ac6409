//! Euclidean distance of all selected tensors together.
//!
//! d(θ, φ) = √(Σ_tensors Σ_e (θ_e − φ_e)²). Unlike the cosines it is a figure of the model, not a mean over matrices,
//! and it covers every tensor by default. Differences are squared, not squares subtracted, so that near
//! models keep all digits; a model has exactly 0 to itself. Doubling both models doubles it. A sampled sum of squares
//! is scaled up by the rows left out.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Aggregation, Kernel, Metric, Part};
use crate::metrics::cosine_flat::FlatSums;
use crate::panel::{SquaredDifference, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};

/// `l2_distance`.
pub static METRIC: Metric = Metric {
    name: "l2_distance",
    summary: "Euclidean distance of all selected tensors as one vector (by default of all tensors)",
    reference: "the norm of the difference of two parameter vectors",
    needs_base: false,
    scale: Scale::Distance,
    aggregation: Aggregation::RootSumSquares,
    default_selection: Selection::all,
    kernel: &SquaredDistance,
};

#[derive(Debug)]
struct SquaredDistance;

impl Kernel for SquaredDistance {
    fn units(&self, stack: &Stack<'_>) -> usize {
        FlatSums::<SquaredDifference>::units(stack)
    }

    fn sums(&self, stack: &Stack<'_>, _: &[f64], unit: usize, scratch: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        FlatSums::<SquaredDifference>::sums(stack, unit, scratch)
    }

    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
        let variants = stack.by_variant(sums, pairs(stack.n()));
        let scaled = |(variant, sums): (usize, &Vec<f64>)| {
            // A variant without rows counts as no tensor.
            let factor = stack.rows_per_row(variant);
            let part = |sum: &f64| factor.map_or(Part::default(), |factor| Part { sum: sum * factor, weight: 1.0 });
            sums.iter().map(part).collect()
        };
        variants.iter().enumerate().map(scaled).collect()
    }
}
