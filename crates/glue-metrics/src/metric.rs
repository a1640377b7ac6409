//! What a metric is, and the list of all metrics.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metrics::{
    cosine_flat, cosine_per_column, cosine_per_row, delta_cosine, l2_distance, linear_cka, sign_agreement,
};
use crate::panel::pairs;
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};
use std::fmt;

/// A way to compare the weights of two models of the same shape.
pub struct Metric {
    /// Its name, unique.
    pub name: &'static str,
    /// What it measures, in one line.
    pub summary: &'static str,
    /// The publication it is from.
    pub reference: &'static str,
    /// Whether it compares differences from a base model.
    pub needs_base: bool,
    /// Whether its figures are similarities or distances.
    pub scale: Scale,
    /// How the figures of tensors are aggregated to the figure of a model.
    pub aggregation: Aggregation,
    /// What is compared unless a selection is given.
    pub default_selection: fn() -> Selection,
    pub(crate) kernel: &'static dyn Kernel,
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How the figures of tensors are aggregated to the figure of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aggregation {
    /// The mean over tensors; those where the figure is undefined are left out.
    Mean,
    /// The fraction over all elements of all tensors.
    Fraction,
    /// The root of the sum of squares, as if all tensors were one vector.
    RootSumSquares,
}

/// Every metric, in the order in which they are listed. The first is the default.
pub const METRICS: [&Metric; 9] = [
    &cosine_per_column::METRIC,
    &cosine_flat::METRIC,
    &cosine_per_row::METRIC,
    &delta_cosine::FLAT,
    &delta_cosine::PER_COLUMN,
    &sign_agreement::METRIC,
    &sign_agreement::OF_DELTAS,
    &l2_distance::METRIC,
    &linear_cka::METRIC,
];

impl Metric {
    /// The metric called `name`.
    ///
    /// # Errors
    /// [`MetricsError::Unknown`], with the known names.
    pub fn find(name: &str) -> Result<&'static Metric, MetricsError> {
        METRICS.into_iter().find(|metric| metric.name == name).ok_or_else(|| MetricsError::Unknown {
            what: "metric",
            name: name.to_string(),
            known: METRICS.map(|metric| metric.name).join(", "),
        })
    }
}

/// What a tensor adds to the figure of a pair. Its own figure is `sum / weight`; with weight 0 it has none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Part {
    pub(crate) sum: f64,
    pub(crate) weight: f64,
}

/// How a metric is computed for all pairs of a stack. Units of work are independent; their sums are added in the order
/// of their numbers, so that no number of threads changes a result.
pub(crate) trait Kernel: Sync {
    /// Number of units of work.
    fn units(&self, stack: &Stack<'_>) -> usize;

    /// What every unit needs to know of the whole stack.
    fn prepare(&self, _stack: &Stack<'_>) -> Result<Vec<f64>, MetricsError> {
        Ok(Vec::new())
    }

    /// The sums of unit `unit`; as many for each.
    fn sums(
        &self,
        stack: &Stack<'_>,
        prepared: &[f64],
        unit: usize,
        scratch: &mut Scratch,
    ) -> Result<Vec<f64>, MetricsError>;

    /// From the sums over all units, parts of every variant of the stack: of each pair, by `panel::pair`.
    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>>;
}

/// Parts from sums per batch with two numbers per pair, sum and weight.
pub(crate) fn parts_of_ratios(stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
    let part = |two: &[f64; 2]| Part { sum: two[0], weight: two[1] };
    let variants = stack.by_variant(sums, 2 * pairs(stack.n()));
    variants.iter().map(|sums| sums.as_chunks().0.iter().map(part).collect()).collect()
}

/// Cosine from an inner product and squared norms; `None` with a zero vector.
pub(crate) fn cosine(dot: f64, xx: f64, yy: f64) -> Option<f64> {
    let norms = (xx * yy).sqrt();
    // Not `norms > 0.0 else None`: a NaN must be returned, to be reported.
    if norms == 0.0 { None } else { Some((dot / norms).clamp(-1.0, 1.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_find_themselves() {
        for (i, metric) in METRICS.into_iter().enumerate() {
            assert_eq!(Metric::find(metric.name).unwrap().name, metric.name);
            assert!(METRICS[..i].iter().all(|other| other.name != metric.name));
            assert!(!metric.summary.is_empty() && !metric.reference.is_empty());
            assert_eq!(metric.needs_base, metric.name.starts_with("delta_"));
        }
    }

    #[test]
    fn the_error_of_an_unknown_name_lists_the_known_ones() {
        let message = Metric::find("cosin").unwrap_err().to_string();
        assert!(METRICS.iter().all(|metric| message.contains(metric.name)), "{message}");
    }
}
