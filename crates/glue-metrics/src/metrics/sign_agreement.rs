//! Fraction of elements with the same sign.
//!
//! s(θ, φ) = |{e : sgn θ_e = sgn φ_e}| / |{e}| over all selected tensors together, with sgn ∈ {−1, 0, 1}; of deltas
//! from a base, sgn(θ_e − θ0_e). Where the signs of deltas disagree, averaging cancels: the interference that TIES
//! elects signs with (Yadav et al. 2023, arXiv 2306.01708). Counts are exact. Two unrelated models have about 1/2.
//! Invariant to positive factors.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Aggregation, Kernel, Metric, Part, parts_of_ratios};
use crate::panel::{pair, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};

/// `sign_agreement`.
pub static METRIC: Metric = Metric {
    name: "sign_agreement",
    summary: "share of elements with the same sign, over all matrices together",
    reference: "Yadav et al. 2023, arXiv 2306.01708",
    needs_base: false,
    scale: Scale::Similarity,
    aggregation: Aggregation::Fraction,
    default_selection: Selection::default,
    kernel: &EqualSigns,
};

/// `delta_sign_agreement`.
pub static OF_DELTAS: Metric = Metric {
    name: "delta_sign_agreement",
    summary: "share of elements that changed from the base in the same direction, over all matrices together",
    reference: "Yadav et al. 2023, arXiv 2306.01708",
    needs_base: true,
    scale: Scale::Similarity,
    aggregation: Aggregation::Fraction,
    default_selection: Selection::default,
    kernel: &EqualSigns,
};

#[inline(always)]
fn sign(x: f32) -> i8 {
    i8::from(x > 0.0) - i8::from(x < 0.0)
}

/// Elements of a unit over the length of a block.
const BLOCKS: usize = 16;
/// Signs that are compared in one go: the count fits a byte, so that 32 comparisons go in one instruction.
const WIDTH: usize = 224;
/// Elements of each model whose signs are held at once.
const HELD: usize = 18 * WIDTH;

#[derive(Debug)]
struct EqualSigns;

impl Kernel for EqualSigns {
    fn units(&self, stack: &Stack<'_>) -> usize {
        stack.spans(BLOCKS * stack.block).len()
    }

    fn sums(&self, stack: &Stack<'_>, _: &[f64], unit: usize, scratch: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        let n = stack.n();
        let span = stack.spans(BLOCKS * stack.block)[unit].clone();
        let mut signs = vec![[0; WIDTH]; n * HELD / WIDTH];
        let mut counts = vec![0; pairs(n)];
        let range = span.rows.start * stack.columns..span.rows.end * stack.columns;
        for start in range.clone().step_by(HELD) {
            let elements = start..(start + HELD).min(range.end);
            let rows = elements.len().div_ceil(WIDTH);
            // The padding beyond the last element always agrees, and is subtracted again.
            let beyond = rows * WIDTH - elements.len();
            stack.read(elements, &mut scratch.buffers, |model, values| {
                let signs = signs[model * HELD / WIDTH..][..rows].as_flattened_mut();
                write_signs(values, signs);
                signs[values.len()..].fill(0);
            })?;
            for i in 0..n {
                let a = &signs[i * HELD / WIDTH..][..rows];
                for j in 0..=i {
                    let b = &signs[j * HELD / WIDTH..][..rows];
                    counts[pair(i, j)] += equal_bytes(a, b) - beyond as u64;
                }
            }
        }
        let mut sums = vec![0.0; stack.batches * 2 * pairs(n)];
        for (two, count) in sums[span.batch * 2 * pairs(n)..].as_chunks_mut().0.iter_mut().zip(&counts) {
            *two = [*count as f64, range.len() as f64];
        }
        Ok(sums)
    }

    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
        let mut parts = parts_of_ratios(stack, sums);
        for (variant, parts) in parts.iter_mut().enumerate() {
            let factor = stack.rows_per_row(variant).unwrap_or(0.0);
            for part in parts {
                *part = Part { sum: part.sum * factor, weight: part.weight * factor };
            }
        }
        parts
    }
}

fn write_signs(values: &[f32], signs: &mut [i8]) {
    for (slot, value) in signs.iter_mut().zip(values) {
        *slot = sign(*value);
    }
}

/// Positions at which two stretches are equal.
fn equal_bytes(a: &[[i8; WIDTH]], b: &[[i8; WIDTH]]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from(equal_in_row(a, b))).sum()
}

#[inline(never)]
fn equal_in_row(a: &[i8; WIDTH], b: &[i8; WIDTH]) -> u8 {
    let mut count = 0;
    for (a, b) in a.iter().zip(b) {
        count += u8::from(a == b);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stretch_does_not_overflow_a_byte() {
        let same = vec![[1; WIDTH]; HELD / WIDTH];
        assert_eq!(equal_bytes(&same, &same), HELD as u64);
    }
}
