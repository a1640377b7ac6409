//! Exact selection of the largest values without sorting.
//!
//! The bits of a non-negative float, read as an integer, order as the float does. A threshold is found in one of two
//! ways, whose answers are the same to the element:
//!
//! - `sample`: a small sample brackets the threshold; one pass counts what lies above the bracket and what equals one
//!   of the common keys in it, and collects the rest of it. Tried first on large tensors.
//! - `radix`: histograms of the bits, upper half and then lower half. Its memory does not depend on the data, so it
//!   takes over where too much lies in the bracket or the sample misled.

mod pile;
mod radix;
mod sample;

use crate::contract::{Block, Granularity, Plan, wrong_answer};
use crate::device::{Gather, Gathered, Ranking};
use crate::error::MergeError;
use std::ops::Range;

/// What elements are ranked by: for each stream, a non-negative `f32` for every element.
pub trait Keys: Send + Sync {
    /// Number of independent rankings.
    fn streams(&self) -> usize;

    /// The pieces that a block must consist of. Default: any range of elements.
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    /// Fills `keys`, which is as long as the block, with the bits of the values of a stream; sign bits clear.
    fn keys(&self, stream: usize, block: &Block<'_>, keys: &mut [u32]);

    /// The well-known ranking this equals, for an executor that has it.
    fn ranking(&self) -> Option<Ranking> {
        None
    }
}

/// What separates the elements that are kept from the others: a key, and an index among the elements that equal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// Bits of the threshold.
    pub bits: u32,
    /// Elements that equal the threshold are kept below this index.
    pub index: usize,
}

impl Threshold {
    /// Keeps every element.
    pub const ALL: Self = Self { bits: 0, index: usize::MAX };
    /// Keeps none.
    pub const NONE: Self = Self { bits: u32::MAX, index: 0 };

    /// Whether the element of this key and index is kept.
    pub fn keeps(&self, key: u32, index: usize) -> bool {
        key > self.bits || (key == self.bits && index < self.index)
    }

    /// Both parts of a block of `len` elements from `offset` on, before and after [`Threshold::index`], each with the
    /// lowest key that is kept in it: a plain comparison for the loop inside.
    pub fn ranges(&self, offset: usize, len: usize) -> [(Range<usize>, u32); 2] {
        let border = self.index.saturating_sub(offset).min(len);
        [(0..border, self.bits), (border..len, self.bits.saturating_add(1))]
    }
}

/// What is known of a stream when it is decided how many of its largest elements are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Number of elements.
    pub elements: usize,
    /// Number of elements whose key is not 0.
    pub nonzero: usize,
}

/// A plan that finds, for each stream, which elements are the `counts` largest, and then decides by `then`.
///
/// The tensor has `elements` elements, at most 2³² − 1. `counts` says for a stream how many of its largest elements are
/// kept: any number of such counts. It is called with an estimate of the number of nonzero keys and later with the
/// exact number; the last answer holds. `then` receives a [`Threshold`] for each count, in the same order, which keeps
/// exactly so many elements, or all if there are fewer. Equal values are taken in the order of their indices.
pub fn select_largest<K: Keys + 'static>(
    elements: usize,
    keys: K,
    counts: impl Fn(usize, Largest) -> Vec<usize> + Send + Sync + 'static,
    then: impl FnOnce(Vec<Vec<Threshold>>) -> Result<Plan, MergeError> + Send + Sync + 'static,
) -> Plan {
    let question = Question { keys, elements, counts: Box::new(counts), then: Box::new(then) };
    if elements >= sample::WORTHWHILE && question.keys.granularity() == Granularity::Element {
        sample::plan(question)
    } else {
        radix::plan(question)
    }
}

/// What is asked of a selection.
struct Question<K> {
    keys: K,
    elements: usize,
    counts: Counts,
    then: Then,
}

impl<K: Keys> Question<K> {
    fn describe(&self) -> Option<Gather<'_>> {
        let ranking = self.keys.ranking()?;
        Some(Gather::Largest { ranking, streams: self.keys.streams(), elements: self.elements, counts: &*self.counts })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match gathered {
            Gathered::Thresholds(thresholds) if thresholds.len() == self.keys.streams() => (self.then)(thresholds),
            other => Err(wrong_answer(&other)),
        }
    }
}

type Counts = Box<dyn Fn(usize, Largest) -> Vec<usize> + Send + Sync>;
type Then = Box<dyn FnOnce(Vec<Vec<Threshold>>) -> Result<Plan, MergeError> + Send + Sync>;

/// The threshold for a count that needs no search.
fn trivial(count: usize, elements: usize) -> Option<Threshold> {
    match count {
        0 => Some(Threshold::NONE),
        _ if count >= elements => Some(Threshold::ALL),
        _ => None,
    }
}

/// Calls `see` with one part of the block after the other, each of at most `len` elements.
fn in_parts(block: &Block<'_>, len: usize, mut see: impl FnMut(&Block<'_>)) {
    // Of statistics it is not known which follow the elements.
    if block.len() <= len || !block.statistics.is_empty() {
        return see(block);
    }
    let mut inputs = Vec::with_capacity(block.inputs.len());
    for at in (0..block.len()).step_by(len) {
        let range = at..(at + len).min(block.len());
        inputs.clear();
        inputs.extend(block.inputs.iter().map(|x| &x[range.clone()]));
        see(&Block {
            offset: block.offset + at,
            base: block.base.map(|x| &x[range]),
            inputs: &inputs,
            statistics: &[],
        });
    }
}

/// The keys of a stream.
fn fill<'a>(keys: &impl Keys, stream: usize, block: &Block<'_>, scratch: &'a mut Vec<u32>) -> &'a [u32] {
    scratch.resize(block.len(), 0);
    keys.keys(stream, block, scratch);
    scratch
}
