//! log Σ exp over rows of logits, and where the largest is.

use crate::ops::exp;
use rayon::prelude::*;

/// What turns a row of logits into log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RowSums {
    /// log Σ exp of the row.
    pub(crate) log_sum: f64,
    /// The first of the largest.
    pub(crate) argmax: usize,
}

/// Elements summed in f32 before they go into the sum in f64.
const BLOCK: usize = 256;

/// Elements from which rows are handed to other threads.
const PARALLEL_FROM: usize = 1 << 20;

/// For each row of `width` logits.
pub(crate) fn row_sums(logits: &[f32], width: usize) -> Vec<RowSums> {
    if logits.len() < PARALLEL_FROM {
        logits.chunks_exact(width).map(one).collect()
    } else {
        logits.par_chunks_exact(width).with_min_len((PARALLEL_FROM / 4).div_ceil(width)).map(one).collect()
    }
}

fn one(row: &[f32]) -> RowSums {
    let largest = lanes(row, f32::NEG_INFINITY, f32::max).into_iter().fold(f32::NEG_INFINITY, f32::max);
    let argmax = row.iter().position(|&x| x == largest).unwrap_or(0);
    let sum_block = |block: &[f32]| f64::from(lanes(block, 0.0, |sum, x| sum + exp(x - largest)).iter().sum::<f32>());
    let sum: f64 = row.chunks(BLOCK).map(sum_block).sum();
    RowSums { log_sum: f64::from(largest) + sum.ln(), argmax }
}

/// Folds in sixteen lanes, which the compiler can turn into vectors.
#[inline(always)]
fn lanes(values: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    let mut lanes = [start; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, x);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_f64() {
        for width in [1, 15, 16, 300, 5000] {
            let row: Vec<f32> = (0..width).map(|i| ((i * 7919) % 997) as f32 / 50.0 - 10.0).collect();
            let RowSums { log_sum, argmax } = row_sums(&row, width)[0];
            let exact: f64 = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            // Partial sums of 16 terms in f32, each rounded to 2^-24.
            assert!((log_sum - exact).abs() < 1e-6, "{width}: {log_sum} {exact}");
            assert!(row.iter().all(|&x| x <= row[argmax]));
        }
    }

    #[test]
    fn large_logits_do_not_overflow_and_the_first_of_equals_counts() {
        let sums = row_sums(&[1000.0, 1000.0, -1000.0, 0.0, 3.0, 3.0], 3);
        assert!((sums[0].log_sum - (1000.0 + 2f64.ln())).abs() < 1e-9);
        assert_eq!((sums[0].argmax, sums[1].argmax), (0, 1));
    }
}
