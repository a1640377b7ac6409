//! How many tokens and sequences fit into a memory budget, and what a generation takes.

use super::GenerateOptions;
use crate::memory::{Footprint, default_budget, planned, with_reserve};
use crate::ops::{GROWTH, KvCacheType};

/// What a batch may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) footprint: Footprint,
    /// Rows of a pass.
    pub(super) rows: usize,
    /// Sequences.
    pub(super) sequences: usize,
    /// Bytes of keys, values and logits.
    pub(super) bytes: u64,
}

impl Limits {
    /// The limits of each of `side_by_side` batches.
    pub(super) fn new(footprint: Footprint, options: &GenerateOptions, side_by_side: usize) -> Limits {
        let budget = planned(options.memory.unwrap_or_else(default_budget)) / side_by_side.max(1) as u64;
        let rows = footprint.rows(budget, options.rows_per_pass);
        let bytes = budget.saturating_sub(rows as u64 * footprint.activations_per_row);
        Limits { footprint, rows, sequences: options.max_sequences, bytes }
    }

    /// What a sequence of up to so many new tokens takes, its prompt aside.
    pub(super) fn of_sequence(&self, new_tokens: usize) -> u64 {
        self.footprint.kv(new_tokens + GROWTH - 1) + self.footprint.logits_per_row
    }
}

/// Numbers of tokens of the prompts of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptLengths {
    /// Of all prompts, as if they shared nothing.
    pub sum: u64,
    /// Of the longest.
    pub longest: usize,
}

/// What a generation takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationEstimate {
    /// Peak bytes of keys, values, activations and logits, with what an allocator keeps; weights are not in it.
    pub memory: u64,
    /// Sequences that are generated at the same time.
    pub sequences: usize,
    /// Keys and values of a token, in bytes.
    pub kv_per_token: u64,
}

impl GenerationEstimate {
    /// The estimate for a model of this footprint that continues `prompts` prompts in one batch.
    pub fn new(
        footprint: impl Fn(KvCacheType) -> Footprint,
        lengths: PromptLengths,
        prompts: usize,
        options: &GenerateOptions,
    ) -> GenerationEstimate {
        GenerationEstimate::of_batches(footprint, lengths, prompts, options, 1)
    }

    /// The estimate where sequences are spread over so many batches, some of which run side by side.
    pub(super) fn of_batches(
        footprint: impl Fn(KvCacheType) -> Footprint,
        lengths: PromptLengths,
        prompts: usize,
        options: &GenerateOptions,
        batches: usize,
    ) -> GenerationEstimate {
        let footprint = footprint(options.cache_type);
        let side_by_side = batches.clamp(1, super::BATCHES_SIDE_BY_SIDE);
        let limits = Limits::new(footprint, options, side_by_side);
        let in_batch = prompts.saturating_mul(options.samples).div_ceil(batches.max(1));
        let own = limits.of_sequence(options.max_new_tokens);
        let mean = footprint.kv(lengths.sum.div_ceil(prompts.max(1) as u64) as usize);
        // Samples of a prompt share it.
        let each = own + mean.div_ceil(options.samples.max(1) as u64);
        let fitting = usize::try_from(limits.bytes / each.max(1)).unwrap_or(usize::MAX);
        let sequences = in_batch.min(limits.sequences).min(fitting.max(1));
        let rows = (lengths.sum.div_ceil(batches.max(1) as u64).min(limits.rows as u64) as usize).max(sequences);
        // The longest prompt is run whatever it takes.
        let alone = own + footprint.kv(lengths.longest);
        let kept = (sequences as u64 * each).clamp(alone, limits.bytes.max(alone));
        GenerationEstimate {
            memory: with_reserve(side_by_side as u64 * (kept + rows as u64 * footprint.activations_per_row)),
            sequences: side_by_side * sequences,
            kv_per_token: footprint.kv_per_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys and values of 1 MB for 16 tokens.
    const FOOTPRINT: Footprint =
        Footprint { kv_per_token: 62_500, activations_per_row: 100_000, logits_per_row: 200_000 };

    fn estimate(prompts: usize, length: usize, options: &GenerateOptions) -> GenerationEstimate {
        let lengths = PromptLengths { sum: (prompts * length) as u64, longest: length };
        GenerationEstimate::new(|_| FOOTPRINT, lengths, prompts, options)
    }

    #[test]
    fn a_generation_that_fits_takes_what_its_tokens_take() {
        let options =
            GenerateOptions { memory: Some(10_000_000_000), max_new_tokens: 17, ..GenerateOptions::default() };
        let found = estimate(4, 160, &options);
        // Ten chunks for each prompt, three for 17 new tokens at most, and 640 rows in the first pass.
        assert_eq!(found.memory, with_reserve(4 * (10_000_000 + 2_000_000 + 200_000) + 640 * 100_000));
        assert_eq!((found.sequences, found.kv_per_token), (4, 62_500));
    }

    #[test]
    fn one_that_does_not_fit_stays_within_the_budget() {
        let options = GenerateOptions { memory: Some(1_000_000_000), max_new_tokens: 16, ..GenerateOptions::default() };
        let found = estimate(1000, 1600, &options);
        assert!(found.memory <= 1_000_000_000 && found.memory > 900_000_000, "{found:?}");
        // Of 875 MB 2048 rows of 100 kB, and 102.2 MB for each sequence.
        assert_eq!(found.sequences, 6);
        // Less than a sequence takes: one is run all the same.
        let tiny = GenerateOptions { memory: Some(1), ..options };
        assert_eq!(estimate(1000, 1600, &tiny).sequences, 1);
    }
}
