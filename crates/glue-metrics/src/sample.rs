//! Which rows of a tensor a sampled pass reads.
//!
//! Runs of neighbouring rows, which are contiguous on disk, are drawn by simple random sampling without replacement:
//! a function of the seed and the tensor's name, the same for every model. Each run belongs to one of [`BATCHES`]
//! groups, dealt like cards. Every figure is computed from all runs, and again with each batch left out; the spread of
//! the latter is the delete-a-group jackknife estimate of the standard error (Kott 2001, "The delete-a-group
//! jackknife", Journal of Official Statistics 17), with the correction for a finite population: with K batches and a
//! fraction f read, √((1 − f)·(K − 1)/K·Σ(θ₋ₖ − θ̄)²).

use glue_tensor::{ContentHash, random};
use std::ops::Range;

/// Groups of runs; the standard error has one degree of freedom less.
pub(crate) const BATCHES: usize = 8;
/// Minimum number of rows read of a tensor, two for each batch.
const MIN_ROWS: usize = 2 * BATCHES;
/// Maximum length of a run in rows.
const MAX_RUN: usize = 64;

/// Neighbouring rows that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) rows: Range<usize>,
    pub(crate) batch: usize,
}

/// The runs to read of a tensor of `rows` × `columns`, in order, and the number of batches they are in: 1 when the
/// tensor is read whole, which vectors and short tensors always are.
pub(crate) fn runs(fraction: f64, seed: u64, tensor: &str, rows: usize, columns: usize) -> (Vec<Run>, usize) {
    let needed = ((fraction * rows as f64).ceil() as usize).max(MIN_ROWS);
    if needed >= rows || columns == 1 {
        return (vec![Run { rows: 0..rows, batch: 0 }], 1);
    }
    let length = (needed / MIN_ROWS).clamp(1, MAX_RUN);
    let mut starts: Vec<usize> = (0..rows).step_by(length).collect();
    let count = needed.div_ceil(length).min(starts.len());
    let hash = ContentHash::of(tensor.as_bytes()).0;
    let key = seed.wrapping_mul(random::GOLDEN) ^ (hash >> 64) as u64 ^ hash as u64;
    // Number `drawn`, each below `n` as likely as the next to within n/2^64.
    let below = |drawn: usize, n: usize| ((u128::from(random::at(key, drawn as u64)) * n as u128) >> 64) as usize;
    let offset = below(0, BATCHES);
    for i in 0..count {
        // Fisher and Yates, ended early.
        let other = i + below(i + 1, starts.len() - i);
        starts.swap(i, other);
    }
    let run =
        |(i, &start): (usize, &usize)| Run { rows: start..(start + length).min(rows), batch: (offset + i) % BATCHES };
    let mut runs: Vec<Run> = starts[..count].iter().enumerate().map(run).collect();
    runs.sort_by_key(|run| run.rows.start);
    (runs, BATCHES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_disjoint_ordered_and_of_the_fraction_asked_for() {
        for (rows, fraction) in [(128, 0.05), (4096, 0.05), (11008, 0.05), (4096, 0.9), (1000, 0.5)] {
            let (runs, batches) = runs(fraction, 1, "w", rows, 64);
            assert_eq!(batches, BATCHES);
            assert!(runs.windows(2).all(|pair| pair[0].rows.end <= pair[1].rows.start));
            assert!(runs.iter().all(|run| run.rows.end <= rows && !run.rows.is_empty()));
            let read: usize = runs.iter().map(|run| run.rows.len()).sum();
            let needed = (fraction * rows as f64).max(MIN_ROWS as f64);
            // A run more or less than asked for.
            assert!((read as f64 - needed).abs() <= MAX_RUN as f64, "{rows} {fraction}: {read}");
            assert!((0..BATCHES).all(|batch| runs.iter().any(|run| run.batch == batch)));
        }
    }

    #[test]
    fn seed_and_name_decide() {
        let draw = |seed, name| runs(0.1, seed, name, 2000, 8).0;
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
    }

    #[test]
    fn everything_is_one_run() {
        let whole = |rows| (vec![Run { rows: 0..rows, batch: 0 }], 1);
        assert_eq!(runs(1.0, 0, "w", 5000, 8), whole(5000));
        assert_eq!(runs(0.05, 0, "norm", 5000, 1), whole(5000));
        assert_eq!(runs(0.05, 0, "w", MIN_ROWS, 8), whole(MIN_ROWS));
    }

    #[test]
    fn rows_are_drawn_evenly() {
        // Runs of 3 rows, so that every sixty rows have twenty of them.
        let mut drawn = [0; 10];
        for seed in 0..2000 {
            for run in runs(0.1, seed, "w", 600, 8).0 {
                drawn[run.rows.start / 60] += run.rows.len();
            }
        }
        let mean = drawn.iter().sum::<usize>() as f64 / 10.0;
        // About 4000 runs in each tenth: four standard deviations are 6 %.
        assert!(drawn.iter().all(|&rows| (rows as f64 / mean - 1.0).abs() < 0.06), "{drawn:?}");
    }
}
