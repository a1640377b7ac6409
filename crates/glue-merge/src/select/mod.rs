//! Exact selection of the largest values without sorting.
//!
//! The bits of a non-negative float, read as an integer, order as the float does. A threshold is found in one of two
//! ways, whose answers are the same to the element:
//!
//! - [`sample`]: a small sample brackets the threshold; one pass counts what lies above the bracket and collects what
//!   is in it, and a selection among those few gives threshold and border. Tried first on large tensors.
//! - [`radix`]: histograms of the bits, upper half and then lower half. Its memory does not depend on the data, so it
//!   takes over where too much lies in the bracket (in low precision many elements may be equal) or the sample misled.

mod radix;
mod sample;

use crate::contract::{Block, Grain, Plan, no_answer};
use crate::error::MergeError;
use crate::kernel::{Gather, Gathered, Ranking};
use std::ops::Range;

/// What elements are ranked by: for each stream, a non-negative `f32` for every element.
pub trait Keys: Send + Sync {
    /// Number of independent rankings.
    fn streams(&self) -> usize;

    /// What a block must hold. Default: any run of elements.
    fn grain(&self) -> Grain {
        Grain::Element
    }

    /// Fills `keys`, which is as long as the block, with the bits of the values of a stream; sign bits clear.
    fn keys(&self, stream: usize, block: &Block<'_>, keys: &mut [u32]);

    /// The well-known ranking this equals, for an executor that has it.
    fn ranking(&self) -> Option<Ranking> {
        None
    }
}

/// The border between the elements that are kept and the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bits of the threshold.
    pub bits: u32,
    /// Elements that equal the threshold are kept below this index.
    pub index: usize,
}

impl Cut {
    /// Keeps every element.
    pub const ALL: Self = Self { bits: 0, index: usize::MAX };
    /// Keeps none.
    pub const NONE: Self = Self { bits: u32::MAX, index: 0 };

    /// Whether the element of this key and index is kept.
    pub fn keeps(&self, key: u32, index: usize) -> bool {
        key > self.bits || (key == self.bits && index < self.index)
    }

    /// The runs of a block of `len` elements from `offset` on, each with the least key that is kept in it: a plain
    /// comparison for the loop inside.
    pub fn runs(&self, offset: usize, len: usize) -> [(Range<usize>, u32); 2] {
        let border = self.index.saturating_sub(offset).min(len);
        [(0..border, self.bits), (border..len, self.bits.saturating_add(1))]
    }
}

/// What is known of a stream when its counts are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Number of elements.
    pub elements: usize,
    /// Number of elements whose key is not 0.
    pub nonzero: usize,
}

/// A plan that finds, for each stream, where the `counts` largest values end, and then asks `then`.
///
/// The tensor has `elements` elements, 2³² − 1 at most. `counts` names how many of the largest of a stream are to be
/// kept: any number of such counts. It is told how many keys are zero, at first as a sample has it and then exactly,
/// and its last answer holds. `then` receives a [`Cut`] for each, in the same order; exactly the count that was asked
/// for is kept by it, or all elements when there are fewer. Equal values are taken in index order.
pub fn select_largest<K: Keys + 'static>(
    elements: usize,
    keys: K,
    counts: impl Fn(usize, Largest) -> Vec<usize> + Send + Sync + 'static,
    then: impl FnOnce(Vec<Vec<Cut>>) -> Result<Plan, MergeError> + Send + Sync + 'static,
) -> Plan {
    let question = Question { keys, elements, counts: Box::new(counts), then: Box::new(then) };
    if elements >= sample::WORTHWHILE && question.keys.grain() == Grain::Element {
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
            Gathered::Cuts(cuts) if cuts.len() == self.keys.streams() => (self.then)(cuts),
            other => Err(no_answer(&other)),
        }
    }
}

type Counts = Box<dyn Fn(usize, Largest) -> Vec<usize> + Send + Sync>;
type Then = Box<dyn FnOnce(Vec<Vec<Cut>>) -> Result<Plan, MergeError> + Send + Sync>;

/// The cut for a count that needs no search, if it is one.
fn trivial(count: usize, elements: usize) -> Option<Cut> {
    match count {
        0 => Some(Cut::NONE),
        _ if count >= elements => Some(Cut::ALL),
        _ => None,
    }
}

/// The keys of a stream.
fn fill<'a>(keys: &impl Keys, stream: usize, block: &Block<'_>, room: &'a mut Vec<u32>) -> &'a [u32] {
    room.resize(block.len(), 0);
    keys.keys(stream, block, room);
    room
}
