//! Cosine of whole matrices, each flattened to a vector.
//!
//! s(W, V) = ⟨W, V⟩_F / (‖W‖_F ‖V‖_F), and of two models the mean of s over their matrices. The measure that
//! arithmetic of weights is usually discussed in (Ilharco et al. 2023, "Editing models with task arithmetic", arXiv
//! 2212.04089). Invariant to a positive factor on either model. A matrix that is zero in either model is left out.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Kernel, Metric, OverTensors, Part, cosine, products};
use crate::panel::{self, LANES, Lane, Product, STEPS, Term, pair, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};
use std::marker::PhantomData;

/// `cosine_flat`.
pub static METRIC: Metric = Metric {
    name: "cosine_flat",
    summary: "cosine of each matrix as one vector, then mean over matrices",
    reference: "Ilharco et al. 2023, arXiv 2212.04089",
    needs_base: false,
    scale: Scale::Similarity,
    pair: cosine_flat,
    over_tensors: OverTensors::Mean,
    default_selection: Selection::default,
    kernel: &FlatCosine,
};

/// Cosine of `a` and `b` as vectors; `None` when one is zero.
pub fn cosine_flat(a: &[f32], b: &[f32], _columns: usize) -> Option<f64> {
    let (dot, aa, bb) = products(a.iter().zip(b));
    cosine(dot, aa, bb)
}

/// Elements of a unit over the length of a block.
const BLOCKS: usize = 16;

/// A term summed over all elements, for every pair and batch: a unit is a span of rows.
#[derive(Debug)]
pub(crate) struct FlatSums<T>(PhantomData<T>);

impl<T: Term> FlatSums<T> {
    pub(crate) fn units(stack: &Stack<'_>) -> usize {
        stack.spans(BLOCKS * stack.block).len()
    }

    pub(crate) fn sums(stack: &Stack<'_>, unit: usize, scratch: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        let n = stack.n();
        let span = stack.spans(BLOCKS * stack.block)[unit].clone();
        let Scratch { block, panel, totals, .. } = scratch;
        panel.resize(STEPS * n, Lane::ZERO);
        totals.clear();
        totals.resize(pairs(n), [0.0; LANES]);
        let end = span.rows.end * stack.columns;
        // In whole panels, so that the sums are cut at the same places whatever the length of a block.
        let held = stack.block.next_multiple_of(STEPS * LANES);
        for start in (span.rows.start * stack.columns..end).step_by(held) {
            let elements = start..(start + held).min(end);
            block.load(stack, elements.clone())?;
            for first in (0..elements.len()).step_by(STEPS * LANES) {
                let length = (elements.len() - first).min(STEPS * LANES);
                let steps = block.fill_along(stack, panel, first, length)?;
                panel::accumulate::<T>(&panel[..steps * n], n, totals);
            }
        }
        let mut sums = vec![0.0; stack.batches * pairs(n)];
        for (sum, lanes) in sums[span.batch * pairs(n)..].iter_mut().zip(&*totals) {
            *sum = panel::total(lanes);
        }
        Ok(sums)
    }
}

#[derive(Debug)]
pub(crate) struct FlatCosine;

impl Kernel for FlatCosine {
    fn units(&self, stack: &Stack<'_>) -> usize {
        FlatSums::<Product>::units(stack)
    }

    fn sums(&self, stack: &Stack<'_>, _: &[f64], unit: usize, scratch: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        FlatSums::<Product>::sums(stack, unit, scratch)
    }

    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
        parts_of_products(stack, sums)
    }
}

/// Parts from sums per batch with one inner product per pair: cosines of the sums.
pub(crate) fn parts_of_products(stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
    let n = stack.n();
    let parts = |products: &Vec<f64>| {
        let mut parts = vec![Part::default(); pairs(n)];
        for i in 0..n {
            for j in 0..=i {
                let cosine = cosine(products[pair(i, j)], products[pair(i, i)], products[pair(j, j)]);
                parts[pair(i, j)] = cosine.map_or(Part::default(), |cosine| Part { sum: cosine, weight: 1.0 });
            }
        }
        parts
    };
    stack.by_variant(sums, pairs(n)).iter().map(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(cosine_flat(&[3.0, 0.0, 4.0, 0.0], &[0.0, 0.0, -2.0, 0.0], 2), Some(-0.8));
        assert_eq!(cosine_flat(&[0.0; 4], &[1.0; 4], 2), None);
    }
}
