//! Thresholds by a sample and one pass.
//!
//! A sample of the keys says between which two values the threshold lies, with a margin on either side. One pass counts
//! the elements above that bracket and collects those inside; among the collected, the one that the count ends at is
//! selected, by falling key and rising index, which gives threshold and border at once. The counts tell when the
//! threshold is not in the bracket after all.

use super::{Keys, Largest, Question, Threshold, fill, radix, trivial};
use crate::contract::{Block, Granularity, Plan, Reduction};
use crate::device::{Gather, Gathered};
use crate::error::MergeError;
use std::ops::Range;

/// Elements from which on a sample pays.
pub(super) const WORTHWHILE: usize = 1 << 19;

/// Ranges of neighbouring elements that are sampled, evenly spaced, and elements of each.
const RANGES: usize = 256;
const RANGE_LEN: usize = 64;

/// Margin on either side of the threshold, as a fraction of the elements.
const MARGIN: f64 = 0.015;

/// Maximum number of elements inside a bracket that are collected: 8 MiB for each target.
const FEW: usize = 1 << 20;

/// The selection by a sample.
pub(super) fn plan<K: Keys + 'static>(question: Question<K>) -> Plan {
    Plan::reduce(Sample(question))
}

/// A look at a few elements.
struct Sample<K>(Question<K>);

/// Keys of each stream, in any order.
struct Sampled {
    keys: Vec<Vec<u32>>,
    scratch: Vec<u32>,
}

impl<K: Keys + 'static> Reduction for Sample<K> {
    type Accumulator = Sampled;

    fn granularity(&self) -> Granularity {
        self.0.keys.granularity()
    }

    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        let starts = (0..RANGES).map(|r| r * (self.0.elements / RANGES));
        Some(starts.map(|start| start..start + RANGE_LEN).collect())
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Sampled {
        Sampled { keys: vec![Vec::new(); self.0.keys.streams()], scratch: Vec::new() }
    }

    fn observe(&self, accumulator: &mut Sampled, block: &Block<'_>) {
        for (stream, seen) in accumulator.keys.iter_mut().enumerate() {
            seen.extend_from_slice(fill(&self.0.keys, stream, block, &mut accumulator.scratch));
        }
    }

    fn combine(&self, accumulator: &mut Sampled, later: Sampled) {
        for (seen, more) in accumulator.keys.iter_mut().zip(later.keys) {
            seen.extend(more);
        }
    }

    fn finish(self, total: Sampled) -> Result<Plan, MergeError> {
        let mut brackets = Vec::new();
        let mut few = true;
        for (stream, mut seen) in total.keys.into_iter().enumerate() {
            let nonzero = seen.iter().filter(|key| **key != 0).count() * self.0.elements / seen.len().max(1);
            for count in (self.0.counts)(stream, Largest { elements: self.0.elements, nonzero }) {
                let bracket = Bracket::around(count, self.0.elements, &mut seen);
                let inside = seen.iter().filter(|key| bracket.holds(**key)).count();
                few &= inside * (self.0.elements / seen.len().max(1)) <= FEW;
                brackets.push((stream, bracket));
            }
        }
        Ok(match few {
            true => Plan::reduce(Collect { brackets, question: self.0 }),
            false => radix::plan(self.0),
        })
    }

    fn describe(&self) -> Option<Gather<'_>> {
        self.0.describe()
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        self.0.conclude(gathered)
    }
}

/// A range of keys, both ends included.
#[derive(Clone, Copy)]
struct Bracket {
    low: u32,
    high: u32,
}

impl Bracket {
    /// Where the `count` largest of `elements` end, as the keys `seen` have it.
    fn around(count: usize, elements: usize, seen: &mut [u32]) -> Self {
        if seen.is_empty() || trivial(count, elements).is_some() {
            return Self { low: 1, high: 0 };
        }
        let last = seen.len() - 1;
        let mut key_at = |fraction: f64| *seen.select_nth_unstable((fraction.clamp(0.0, 1.0) * last as f64) as usize).1;
        let fraction = 1.0 - count as f64 / elements as f64;
        // Beyond the ends of the sample anything may lie.
        let low = if fraction <= MARGIN { 0 } else { key_at(fraction - MARGIN) };
        let high = if fraction + MARGIN >= 1.0 { u32::MAX } else { key_at(fraction + MARGIN) };
        Self { low, high }
    }

    #[inline]
    fn holds(&self, key: u32) -> bool {
        key >= self.low && key <= self.high
    }
}

/// The pass over all elements.
struct Collect<K> {
    /// Streams and brackets, in the order of the counts.
    brackets: Vec<(usize, Bracket)>,
    question: Question<K>,
}

#[derive(Default)]
struct Collected {
    /// For each bracket, how many elements lie above it.
    above: Vec<usize>,
    /// The elements inside, as numbers that order by falling key and then by rising index.
    inside: Vec<Vec<u64>>,
    /// For each stream, how many keys are 0.
    zeros: Vec<usize>,
    elements: usize,
    scratch: Vec<u32>,
}

/// Bits of an index in a collected number.
const INDEX: u32 = 33;

fn collected(key: u32, index: usize) -> u64 {
    u64::from(!key & 0x7FFF_FFFF) << INDEX | index as u64
}

fn parts(collected: u64) -> (u32, usize) {
    (!(collected >> INDEX) as u32 & 0x7FFF_FFFF, (collected & ((1 << INDEX) - 1)) as usize)
}

impl<K: Keys + 'static> Reduction for Collect<K> {
    type Accumulator = Collected;

    fn granularity(&self) -> Granularity {
        self.question.keys.granularity()
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Collected {
        Collected {
            above: vec![0; self.brackets.len()],
            inside: vec![Vec::new(); self.brackets.len()],
            zeros: vec![0; self.question.keys.streams()],
            ..Collected::default()
        }
    }

    fn observe(&self, accumulator: &mut Collected, block: &Block<'_>) {
        accumulator.elements += block.len();
        for stream in 0..self.question.keys.streams() {
            let keys = fill(&self.question.keys, stream, block, &mut accumulator.scratch);
            accumulator.zeros[stream] += keys.iter().map(|key| u32::from(*key == 0)).sum::<u32>() as usize;
            for (t, (_, bracket)) in self.brackets.iter().enumerate().filter(|(_, (s, _))| *s == stream) {
                accumulator.above[t] += keys.iter().map(|key| u32::from(*key > bracket.high)).sum::<u32>() as usize;
                collect(keys, block.offset, *bracket, &mut accumulator.inside[t]);
            }
        }
    }

    fn combine(&self, accumulator: &mut Collected, later: Collected) {
        accumulator.elements += later.elements;
        accumulator.above.iter_mut().zip(later.above).for_each(|(n, more)| *n += more);
        accumulator.zeros.iter_mut().zip(later.zeros).for_each(|(n, more)| *n += more);
        accumulator.inside.iter_mut().zip(later.inside).for_each(|(all, mut more)| all.append(&mut more));
    }

    fn finish(self, mut total: Collected) -> Result<Plan, MergeError> {
        let elements = total.elements;
        let mut thresholds = vec![Vec::new(); total.zeros.len()];
        let mut t = 0;
        for (stream, thresholds) in thresholds.iter_mut().enumerate() {
            let known = Largest { elements, nonzero: elements - total.zeros[stream] };
            for count in (self.question.counts)(stream, known) {
                let (above, inside) = (total.above[t], &mut total.inside[t]);
                t += 1;
                let threshold = trivial(count, elements).or_else(|| {
                    let place = count.checked_sub(above + 1).filter(|place| *place < inside.len())?;
                    let (bits, index) = parts(*inside.select_nth_unstable(place).1);
                    Some(Threshold { bits, index: index + 1 })
                });
                match threshold {
                    Some(threshold) => thresholds.push(threshold),
                    None => return Ok(radix::plan(self.question)),
                }
            }
        }
        (self.question.then)(thresholds)
    }
}

/// Appends the elements inside a bracket.
fn collect(keys: &[u32], offset: usize, bracket: Bracket, inside: &mut Vec<u64>) {
    const MANY: usize = 32;
    if bracket.low > bracket.high {
        return;
    }
    let (low, width) = (bracket.low, bracket.high - bracket.low);
    for (c, many) in keys.chunks(MANY).enumerate() {
        let hit = |key: &u32| u32::from(key.wrapping_sub(low) <= width);
        let mut hits = many.iter().enumerate().fold(0_u32, |hits, (j, key)| hits | hit(key) << j);
        while hits != 0 {
            let j = hits.trailing_zeros() as usize;
            inside.push(collected(many[j], offset + c * MANY + j));
            hits &= hits - 1;
        }
    }
}
