//! Which rows of a tensor a sampled pass reads.
//!
//! Rows are drawn in runs, so that what is read is contiguous on disk, by simple random sampling without replacement:
//! a function of the seed and the tensor's name, the same for every model. Each run belongs to one of [`BATCHES`]
//! groups, dealt like cards. Every figure is computed from all runs, and again with each batch left out; the spread of
//! the latter is the delete-a-group jackknife estimate of the standard error (Kott 2001, "The delete-a-group
//! jackknife", Journal of Official Statistics 17), with the correction for a finite population: with K batches and a
//! share f read, √((1 − f)·(K − 1)/K·Σ(θ₋ₖ − θ̄)²).

use glue_tensor::ContentHash;
use std::ops::Range;

/// Groups of runs; the standard error has one degree of freedom less.
pub(crate) const BATCHES: usize = 8;
/// Rows of a tensor that are read at least, two to each batch.
const FEWEST_ROWS: usize = 2 * BATCHES;
/// Longest run in rows.
const LONGEST_RUN: usize = 64;

/// Neighbouring rows that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) rows: Range<usize>,
    pub(crate) batch: usize,
}

/// The runs to read of a tensor of `rows` × `columns`, in order, and the number of batches they are in: 1 when the
/// tensor is read whole, which vectors and short tensors always are.
pub(crate) fn runs(share: f64, seed: u64, tensor: &str, rows: usize, columns: usize) -> (Vec<Run>, usize) {
    let wanted = ((share * rows as f64).ceil() as usize).max(FEWEST_ROWS);
    if wanted >= rows || columns == 1 {
        return (vec![Run { rows: 0..rows, batch: 0 }], 1);
    }
    let length = (wanted / FEWEST_ROWS).clamp(1, LONGEST_RUN);
    let mut starts: Vec<usize> = (0..rows).step_by(length).collect();
    let count = wanted.div_ceil(length).min(starts.len());
    let mut random = Random::new(seed, tensor);
    let offset = random.below(BATCHES);
    for i in 0..count {
        let other = i + random.below(starts.len() - i);
        starts.swap(i, other);
    }
    let run =
        |(i, &start): (usize, &usize)| Run { rows: start..(start + length).min(rows), batch: (offset + i) % BATCHES };
    let mut runs: Vec<Run> = starts[..count].iter().enumerate().map(run).collect();
    runs.sort_by_key(|run| run.rows.start);
    (runs, BATCHES)
}

/// SplitMix64 (Steele, Lea, Flood 2014), started from a seed and a name.
struct Random(u64);

impl Random {
    fn new(seed: u64, name: &str) -> Random {
        let hash = ContentHash::of(name.as_bytes()).0;
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (hash >> 64) as u64 ^ hash as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, each as likely as the next to within n/2^64; 0 for `n` = 0.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_disjoint_ordered_and_of_the_share_asked_for() {
        for (rows, share) in [(128, 0.05), (4096, 0.05), (11008, 0.05), (4096, 0.9), (1000, 0.5)] {
            let (runs, batches) = runs(share, 1, "w", rows, 64);
            assert_eq!(batches, BATCHES);
            assert!(runs.windows(2).all(|pair| pair[0].rows.end <= pair[1].rows.start));
            assert!(runs.iter().all(|run| run.rows.end <= rows && !run.rows.is_empty()));
            let read: usize = runs.iter().map(|run| run.rows.len()).sum();
            let wanted = (share * rows as f64).max(FEWEST_ROWS as f64);
            // A run more or less than asked for.
            assert!((read as f64 - wanted).abs() <= LONGEST_RUN as f64, "{rows} {share}: {read}");
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
        assert_eq!(runs(0.05, 0, "w", FEWEST_ROWS, 8), whole(FEWEST_ROWS));
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
