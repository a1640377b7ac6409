//! How much memory a pass and what it keeps take, and how much there is.
//!
//! A budget is for keys, values, activations and logits: what grows with the texts. Weights are mapped from their files
//! or belong to the caller. Sizes follow from the model and from numbers of tokens alone, so that a plan can be made,
//! and shown, before anything is computed.

mod available;

use crate::architecture::Architecture;
use crate::model::Model;
use crate::ops::{GROWTH, KvCacheType};
pub use available::available;

/// Fraction of the available memory that is the budget where none is given.
const FRACTION: f64 = 0.5;

/// The budget where the system does not say what is available.
const UNKNOWN: u64 = 4 << 30;

/// Fraction of a budget that the activations of a pass may take.
const FOR_ACTIVATIONS: u64 = 4;

/// The part of a budget that is not planned with, one in so many: what an allocator keeps of buffers that were given
/// up, and what is too small to be counted. With prompts of 1200 tokens on a model of 135 million parameters that was
/// an eighth on top of a budget of 2 GiB.
const RESERVED: u64 = 8;

/// What of a budget is planned with.
pub(crate) fn planned(budget: u64) -> u64 {
    budget - budget / RESERVED
}

/// The budget of which this is planned with.
pub(crate) fn with_reserve(planned: u64) -> u64 {
    planned.saturating_add(planned / (RESERVED - 1))
}

/// Rows that a pass has room for however small the budget is: a product with fewer takes as long.
const MIN_ROWS: usize = 64;

/// Half of the memory that is available now, rounded down to a power of two: what is planned for it should not change
/// with every fluctuation.
pub fn default_budget() -> u64 {
    match available() {
        Some(bytes) => 1 << ((bytes as f64 * FRACTION) as u64).max(1).ilog2(),
        None => UNKNOWN,
    }
}

/// What a model takes, in bytes, apart from its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Keys and values of a token.
    pub kv_per_token: u64,
    /// Activations of a row of a pass, where they are widest.
    pub activations_per_row: u64,
    /// A row of logits, and what else is as long.
    pub logits_per_row: u64,
}

impl Architecture {
    /// What the model takes with a cache of this type, where every layer has one attention block.
    pub fn footprint(&self, cache_type: KvCacheType) -> Footprint {
        self.footprint_of(self.num_layers(), cache_type)
    }

    fn footprint_of(&self, caches: usize, cache_type: KvCacheType) -> Footprint {
        let kv = self.key_width();
        // Latent attention brings each head of queries into the space of the latent vector.
        let queries = self.heads * self.latent.map_or(self.head_dim, |latent| latent.rank + latent.rotated_dim);
        let inner = match self.experts {
            Some(experts) => self.intermediate_size.max(experts.intermediate_size).max(experts.shared.unwrap_or(0)),
            None => self.intermediate_size,
        };
        // What experts made of a row stands side by side before it is summed.
        let outputs = self.experts.map_or(0, |experts| 2 * experts.per_token * self.hidden_size);
        // In the MLP there are the stream before and after attention, what both blocks read, what attention made,
        // queries, keys, values, and the three inner states.
        let widest = 5 * self.hidden_size + 2 * queries + 2 * kv + 3 * inner + outputs;
        // What the widest product reads, packed for a matrix unit.
        let packed = crate::ops::packed_bytes() * inner.max(queries).max(self.hidden_size);
        let copies = if self.final_softcap.is_some() { 2 } else { 1 };
        Footprint {
            kv_per_token: (2 * caches * kv * cache_type.bytes()) as u64,
            activations_per_row: (4 * widest + packed) as u64,
            logits_per_row: 4 * copies * self.vocab_size as u64,
        }
    }
}

impl Model {
    /// What the model takes with a cache of this type.
    pub fn footprint(&self, cache_type: KvCacheType) -> Footprint {
        self.architecture().footprint_of(self.slots(), cache_type)
    }
}

impl Footprint {
    /// Keys and values of a branch that is filled with so many tokens, with the room that is left over.
    pub(crate) fn kv(&self, tokens: usize) -> u64 {
        self.kv_per_token * tokens.next_multiple_of(GROWTH) as u64
    }

    /// Rows of a pass, at most `max`, whose activations take no more than their part of `budget`.
    pub(crate) fn rows(&self, budget: u64, max: usize) -> usize {
        let fitting = (budget / FOR_ACTIVATIONS / self.activations_per_row.max(1)) as usize;
        max.min(fitting.max(MIN_ROWS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_footprint_is_that_of_the_configuration() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo/a-chat");
        let model = Model::open(dir).unwrap();
        let arch = model.architecture();
        let full = model.footprint(KvCacheType::F32);
        assert_eq!(full, arch.footprint(KvCacheType::F32));
        let expected = 2 * 4 * arch.num_layers() * arch.kv_heads * arch.head_dim;
        assert_eq!(full.kv_per_token, expected as u64);
        assert_eq!(model.footprint(KvCacheType::Bf16).kv_per_token * 2, full.kv_per_token);
        assert_eq!(full.logits_per_row, 4 * 512);
        assert_eq!((full.kv(1), full.kv(17)), (16 * full.kv_per_token, 32 * full.kv_per_token));
    }

    #[test]
    fn rows_follow_from_the_budget_within_bounds() {
        let footprint = Footprint { kv_per_token: 1, activations_per_row: 1000, logits_per_row: 1 };
        assert_eq!(footprint.rows(0, 2048), 64);
        assert_eq!(footprint.rows(4_000_000, 2048), 1000);
        assert_eq!(footprint.rows(u64::MAX, 2048), 2048);
        assert_eq!(footprint.rows(u64::MAX, 7), 7);
    }

    #[test]
    fn a_reserve_is_left_and_added_again() {
        assert_eq!((planned(800), with_reserve(700)), (700, 800));
        assert_eq!((planned(0), with_reserve(0)), (0, 0));
        assert_eq!(with_reserve(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_default_is_a_power_of_two() {
        assert!(default_budget().is_power_of_two());
    }
}
