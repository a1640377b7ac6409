//! Cosine of whole matrices, each flattened to a vector.
//!
//! s(W, V) = ⟨W, V⟩_F / (‖W‖_F ‖V‖_F), and of two models the mean of s over their matrices. The usual measure in the
//! literature on task arithmetic (Ilharco et al. 2023, "Editing models with task arithmetic", arXiv 2212.04089).
//! Invariant to a positive factor on either model. A matrix that is zero in either model is left out.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Aggregation, Kernel, Metric, Part, cosine};
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
    aggregation: Aggregation::Mean,
    default_selection: Selection::default,
    kernel: &FlatCosine,
};

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
