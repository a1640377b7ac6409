//! Euclidean distance of all selected tensors together.
//!
//! d(θ, φ) = √(Σ_tensors Σ_e (θ_e − φ_e)²). Unlike the cosines it is a figure of the model, not a mean over matrices,
//! and it looks at every tensor unless told otherwise. Differences are squared, not squares subtracted, so that near
//! models keep all digits; a model has exactly 0 to itself. Doubling both models doubles it. A sampled sum of squares
//! is scaled up by the rows left out.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Kernel, Metric, OverTensors, Part};
use crate::metrics::cosine_flat::FlatSums;
use crate::panel::{SquaredDifference, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};

/// `l2_distance`.
pub static METRIC: Metric = Metric {
    name: "l2_distance",
    summary: "Euclidean distance of all selected tensors as one vector (by default of all tensors)",
    reference: "Euclid; the norm of the difference of two parameter vectors",
    needs_base: false,
    scale: Scale::Distance,
    pair: l2_distance,
    over_tensors: OverTensors::RootOfSquares,
    default_selection: Selection::all,
    kernel: &SquaredDistance,
};

/// Distance of `a` and `b`; always there.
pub fn l2_distance(a: &[f32], b: &[f32], _columns: usize) -> Option<f64> {
    Some(a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt())
}

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
            // A variant that no row is left of stands for no tensor, and is passed over.
            let factor = stack.rows_per_row(variant);
            let part = |sum: &f64| factor.map_or(Part::default(), |factor| Part { sum: sum * factor, weight: 1.0 });
            sums.iter().map(part).collect()
        };
        variants.iter().enumerate().map(scaled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(l2_distance(&[1.0, 2.0, 3.0], &[1.0, -1.0, 7.0], 3), Some(5.0));
        assert_eq!(l2_distance(&[1.5; 9], &[1.5; 9], 3), Some(0.0));
    }
}
