//! Arcee Fusion: takes an element of the other model where its difference from the base matters most, by size and by
//! how much it moves the distribution its row stands for. Arcee AI, "Meet mergekit v0.1", 2025.
//!
//! Importance is |τ| times the divergence between the softmax of the row in both models. What lies as far above the
//! median as outliers do, 1.5 interquartile ranges, is taken. One reduction finds the divergences, one number for each
//! row; with them the importance of an element needs no more than the element, and its quartiles are exact.

use crate::contract::{Block, Granularity, Map, Plan, Reduction, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::Params;
use crate::select::{Keys, Threshold, select_largest};
use std::ops::Range;
use std::sync::Arc;

/// `arcee_fusion`.
pub const DEF: OperatorDef = OperatorDef {
    name: "arcee_fusion",
    summary: "Takes the elements of the other model that matter most, and the base's elsewhere.",
    formula: "score = |τ| · Σ p log(p/q) over the row, p = softmax(θ1 row) + 1e-8, q = softmax(θ0 row) + 1e-8; θ1 where score ≥ median + 1.5·(upper − lower quartile), θ0 elsewhere; the order statistic of q is at ⌊q(n−1)⌋",
    reference: "Arcee Fusion, mergekit v0.1 release notes (2025)",
    inputs: InputRule::exactly(1),
    base: BaseRule::Required,
    params: &[],
    plan,
    ..OperatorDef::DEFAULT
};

/// Added to probabilities so that none is 0.
const LEAST: f64 = 1e-8;

fn plan(tensor: &TensorSpec<'_>, _: &Params) -> Result<Plan, MergeError> {
    Ok(Plan::reduce(Divergences { row_len: tensor.row_len().max(1), elements: tensor.len() }))
}

/// Σ p log(p/q), with p and q from the softmax of `x` and of `base`.
fn divergence(x: &[f32], base: &[f32]) -> f64 {
    let exponentials = |row: &[f32]| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|x| f64::from(x - max).exp()).collect();
        let sum: f64 = powers.iter().sum();
        (powers, sum)
    };
    let ((p, p_sum), (q, q_sum)) = (exponentials(x), exponentials(base));
    p.iter()
        .zip(&q)
        .map(|(p, q)| {
            let (p, q) = (p / p_sum + LEAST, q / q_sum + LEAST);
            p * (p / q).ln()
        })
        .sum()
}

/// How important the elements of a tensor are.
#[derive(Clone)]
struct Importance {
    row_len: usize,
    /// For each row.
    divergences: Arc<[f32]>,
}

impl Importance {
    /// The rows that the block has a part in: that part, and the row's divergence.
    fn rows(&self, block: &Block<'_>) -> impl Iterator<Item = (Range<usize>, f32)> {
        let (row_len, offset, len) = (self.row_len, block.offset, block.len());
        let rows = if len == 0 { 0..0 } else { offset / row_len..(offset + len - 1) / row_len + 1 };
        rows.map(move |row| {
            let start = (row * row_len).saturating_sub(offset);
            let end = ((row + 1) * row_len - offset).min(len);
            (start..end, self.divergences[row])
        })
    }
}

#[inline]
fn score(x: f32, base: f32, divergence: f32) -> f32 {
    (x - base).abs() * divergence
}

impl Keys for Importance {
    fn streams(&self) -> usize {
        1
    }

    fn keys(&self, _: usize, block: &Block<'_>, keys: &mut [u32]) {
        let (base, x) = (block.base(), block.inputs[0]);
        for (range, divergence) in self.rows(block) {
            let elements = x[range.clone()].iter().zip(&base[range.clone()]);
            for (key, (x, base)) in keys[range].iter_mut().zip(elements) {
                *key = score(*x, *base, divergence).to_bits();
            }
        }
    }
}

/// Finds the divergence of each row, and the least score.
struct Divergences {
    row_len: usize,
    elements: usize,
}

/// Rows that were seen, in order.
struct Rows {
    divergences: Vec<f32>,
    least: f32,
}

impl Reduction for Divergences {
    type Accumulator = Rows;

    fn granularity(&self) -> Granularity {
        Granularity::Row
    }

    fn accumulator(&self) -> Rows {
        Rows { divergences: Vec::new(), least: f32::INFINITY }
    }

    fn observe(&self, rows: &mut Rows, block: &Block<'_>) {
        let (base, x) = (block.base(), block.inputs[0]);
        for (x, base) in x.chunks(self.row_len).zip(base.chunks(self.row_len)) {
            // Never below 0 but for rounding.
            let divergence = divergence(x, base).max(0.0) as f32;
            rows.divergences.push(divergence);
            for (x, base) in x.iter().zip(base) {
                rows.least = rows.least.min(score(*x, *base, divergence));
            }
        }
    }

    fn combine(&self, rows: &mut Rows, mut later: Rows) {
        rows.divergences.append(&mut later.divergences);
        rows.least = rows.least.min(later.least);
    }

    fn finish(self, rows: Rows) -> Result<Plan, MergeError> {
        let importance = Importance { row_len: self.row_len, divergences: rows.divergences.into() };
        let keys = importance.clone();
        Ok(select_largest(
            self.elements,
            keys,
            // The k-th in ascending order ends the n − k largest.
            |_, largest| {
                let n = largest.elements;
                let last = n.saturating_sub(1) as f64;
                [0.25, 0.5, 0.75].map(|q| n - (q * last) as usize).to_vec()
            },
            move |thresholds| {
                let [lower, median, upper] = [0, 1, 2].map(|q| match thresholds[0][q] {
                    Threshold::ALL => rows.least,
                    threshold => f32::from_bits(threshold.bits),
                });
                Ok(Plan::map(Fusion { importance, threshold: median + 1.5 * (upper - lower) }))
            },
        ))
    }
}

struct Fusion {
    importance: Importance,
    threshold: f32,
}

impl Map for Fusion {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let (base, x) = (block.base(), block.inputs[0]);
        for (range, divergence) in self.importance.rows(block) {
            let elements = x[range.clone()].iter().zip(&base[range.clone()]);
            for (out, (x, base)) in out[range].iter_mut().zip(elements) {
                let taken = score(*x, *base, divergence) >= self.threshold;
                *out = if taken { *x } else { *base };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Case;

    fn check(shape: &[usize], base: &[f32], x: &[f32], expected: &[f32]) {
        Case { shape, base: Some(base), ..Case::of(&DEF, &[x]) }.gives(expected);
    }

    #[test]
    fn a_row_whose_distribution_stays_has_no_importance() {
        // The first row is shifted as a whole, which softmax does not see; of the second, one element moves. All scores
        // but one are 0: so are the quartiles, and every score reaches the threshold.
        let x = [5.0, 5.0, 5.0, 5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        check(&[2, 5], &[0.0; 10], &x, &x);
        // With small scores elsewhere, the outlier alone is taken, and the shifted row is not.
        let x = [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 0.1, 0.1, 0.1, 0.1, 0.1, 3.0];
        let mut expected = [0.0; 12];
        expected[11] = 3.0;
        check(&[2, 6], &[0.0; 12], &x, &expected);
    }

    #[test]
    fn quartiles_of_few_elements_are_order_statistics() {
        // Scores ascend in proportion to 1, 2, 3: quartiles at index 0, 1, 1 give 2 + 1.5 · (2 − 1), above all.
        check(&[3], &[0.0; 3], &[1.0, 2.0, 3.0], &[0.0; 3]);
        // 1, 2, 9: the last is above 3.5.
        check(&[3], &[0.0; 3], &[1.0, 2.0, 9.0], &[0.0, 0.0, 9.0]);
    }

    #[test]
    fn divergence_by_hand() {
        let (p, q) = ([0.75_f64, 0.25], [0.5_f64, 0.5]);
        let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let found = divergence(&[3.0_f32.ln(), 0.0], &[7.0, 7.0]);
        assert!((found - expected).abs() < 1e-6, "{found}");
    }
}
