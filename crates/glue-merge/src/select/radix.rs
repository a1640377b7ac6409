//! Thresholds by histograms of the bits.
//!
//! One pass makes a histogram of the upper 16 bits, a second one of the lower 15 inside the bucket where the threshold
//! lies: that is the threshold, exactly. Where more elements equal it than may be kept, a third pass counts them by
//! block, and a look into one block finds where the count is reached.

use super::sample::Found;
use super::{Keys, Largest, Question, Then, Threshold, fill, trivial};
use crate::contract::{Block, Granularity, Plan, Reduction};
use crate::device::{Gather, Gathered};
use crate::error::MergeError;
use std::ops::Range;

/// Bits of a key below its bucket.
const LOW: u32 = 15;
const BUCKETS: usize = 1 << 16;
const LOWS: usize = 1 << LOW;
/// Histograms that neighbouring elements alternate between, so that equal neighbours do not wait for each other.
const WAYS: usize = 4;

/// The selection by histograms.
pub(super) fn plan<K: Keys + 'static>(question: Question<K>) -> Plan {
    Plan::reduce(Buckets(question))
}

/// One border that is looked for.
struct Target {
    stream: usize,
    /// How many of the largest are kept.
    count: usize,
    /// How many elements lie above the bucket and, once they are known, above the bits of the threshold.
    above: usize,
    /// Upper bits of the threshold.
    bucket: u32,
    /// All of its bits.
    bits: u32,
    /// The answer.
    threshold: Option<Threshold>,
}

/// Hands the thresholds over, by stream.
fn answer(targets: Vec<Target>, streams: usize, then: Then) -> Result<Plan, MergeError> {
    let mut thresholds = vec![Vec::new(); streams];
    for target in targets {
        thresholds[target.stream].push(target.threshold.unwrap_or(Threshold { bits: target.bits, index: usize::MAX }));
    }
    then(thresholds)
}

/// Hands over thresholds of which some are known but for their border, which is looked for first.
pub(super) fn borders<K: Keys + 'static>(found: Vec<(usize, Found)>, keys: K, then: Then) -> Result<Plan, MergeError> {
    let (mut targets, mut last) = (Vec::new(), Vec::new());
    for (stream, found) in found {
        let (bits, threshold, tie) = match found {
            Found::Threshold(threshold) => (threshold.bits, Some(threshold), None),
            Found::Tie { bits, block, wanted } => (bits, None, Some(LastTie { block, wanted })),
        };
        targets.push(Target { stream, count: 0, above: 0, bucket: bits >> LOW, bits, threshold });
        last.push(tie);
    }
    if targets.iter().all(|t| t.threshold.is_some()) {
        return answer(targets, keys.streams(), then);
    }
    Ok(Plan::reduce(Borders { keys, targets, last, then }))
}

/// The targets without an answer, by stream.
fn open(targets: &[Target], stream: usize) -> impl Iterator<Item = (usize, &Target)> {
    targets.iter().enumerate().filter(move |(_, t)| t.stream == stream && t.threshold.is_none())
}

/// From the last bin down, the first whose running total reaches `count`, with the total above it.
fn descend(bins: impl DoubleEndedIterator<Item = usize> + ExactSizeIterator, count: usize) -> (usize, usize) {
    let mut above = 0;
    for (bin, n) in bins.enumerate().rev() {
        if above + n >= count {
            return (bin, above);
        }
        above += n;
    }
    (0, above)
}

/// Histograms, and scratch for the keys of a block.
struct Histograms {
    bins: Vec<u32>,
    zeros: Vec<usize>,
    scratch: Vec<u32>,
}

impl Histograms {
    fn new(bins: usize, streams: usize) -> Self {
        Self { bins: vec![0; bins], zeros: vec![0; streams], scratch: Vec::new() }
    }

    fn combine(&mut self, later: &Self) {
        self.bins.iter_mut().zip(&later.bins).for_each(|(bin, more)| *bin += more);
        self.zeros.iter_mut().zip(&later.zeros).for_each(|(n, more)| *n += more);
    }
}

/// First pass: a histogram of the upper bits for each stream.
struct Buckets<K>(Question<K>);

impl<K: Keys + 'static> Reduction for Buckets<K> {
    type Accumulator = Histograms;

    fn granularity(&self) -> Granularity {
        self.0.keys.granularity()
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Histograms {
        Histograms::new(self.0.keys.streams() * WAYS * BUCKETS, self.0.keys.streams())
    }

    fn observe(&self, accumulator: &mut Histograms, block: &Block<'_>) {
        let Histograms { bins, zeros, scratch } = accumulator;
        for (stream, bins) in bins.chunks_exact_mut(WAYS * BUCKETS).enumerate() {
            let keys = fill(&self.0.keys, stream, block, scratch);
            zeros[stream] += keys.iter().map(|k| u32::from(*k == 0)).sum::<u32>() as usize;
            let fours = keys.chunks_exact(WAYS);
            for key in fours.remainder() {
                bins[(key >> LOW) as usize] += 1;
            }
            for four in fours {
                for way in 0..WAYS {
                    bins[way * BUCKETS + (four[way] >> LOW) as usize] += 1;
                }
            }
        }
    }

    fn combine(&self, accumulator: &mut Histograms, later: Histograms) {
        accumulator.combine(&later);
    }

    fn finish(self, total: Histograms) -> Result<Plan, MergeError> {
        let mut targets = Vec::new();
        for (stream, ways) in total.bins.chunks_exact(WAYS * BUCKETS).enumerate() {
            let bin = |b: usize| (0..WAYS).map(|way| ways[way * BUCKETS + b] as usize).sum::<usize>();
            let elements = (0..BUCKETS).map(bin).sum();
            for count in (self.0.counts)(stream, Largest { elements, nonzero: elements - total.zeros[stream] }) {
                let threshold = trivial(count, elements);
                let (bucket, above) = descend((0..BUCKETS).map(bin), count);
                targets.push(Target { stream, count, above, bucket: bucket as u32, bits: 0, threshold });
            }
        }
        let streams = self.0.keys.streams();
        if targets.iter().all(|t| t.threshold.is_some()) {
            return answer(targets, streams, self.0.then);
        }
        Ok(Plan::reduce(Lows { keys: self.0.keys, targets, then: self.0.then }))
    }

    fn describe(&self) -> Option<Gather<'_>> {
        self.0.describe()
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        self.0.conclude(gathered)
    }
}

/// Second pass: a histogram of the lower bits inside each target's bucket.
struct Lows<K> {
    keys: K,
    targets: Vec<Target>,
    then: Then,
}

impl<K: Keys + 'static> Reduction for Lows<K> {
    type Accumulator = Histograms;

    fn granularity(&self) -> Granularity {
        self.keys.granularity()
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Histograms {
        Histograms::new(self.targets.len() * LOWS, 0)
    }

    fn observe(&self, accumulator: &mut Histograms, block: &Block<'_>) {
        let Histograms { bins, scratch, .. } = accumulator;
        for stream in 0..self.keys.streams() {
            if open(&self.targets, stream).next().is_none() {
                continue;
            }
            let keys = fill(&self.keys, stream, block, scratch);
            for (t, target) in open(&self.targets, stream) {
                let bins = &mut bins[t * LOWS..][..LOWS];
                // Few elements lie in the bucket: many are looked at at once, and closer only where there is one.
                for many in keys.chunks(32) {
                    if many.iter().fold(false, |hit, key| hit | (key >> LOW == target.bucket)) {
                        for key in many.iter().filter(|key| *key >> LOW == target.bucket) {
                            bins[*key as usize & (LOWS - 1)] += 1;
                        }
                    }
                }
            }
        }
    }

    fn combine(&self, accumulator: &mut Histograms, later: Histograms) {
        accumulator.combine(&later);
    }

    fn finish(mut self, total: Histograms) -> Result<Plan, MergeError> {
        for (target, bins) in self.targets.iter_mut().zip(total.bins.chunks_exact(LOWS)) {
            if target.threshold.is_some() {
                continue;
            }
            let (low, above) = descend(bins.iter().map(|n| *n as usize), target.count - target.above);
            target.above += above;
            target.bits = target.bucket << LOW | low as u32;
            if target.count - target.above == bins[low] as usize {
                target.threshold = Some(Threshold { bits: target.bits, index: usize::MAX });
            }
        }
        let streams = self.keys.streams();
        if self.targets.iter().all(|t| t.threshold.is_some()) {
            return answer(self.targets, streams, self.then);
        }
        Ok(Plan::reduce(Ties { keys: self.keys, targets: self.targets, then: self.then }))
    }
}

/// Third pass: how many elements equal each threshold, block by block.
struct Ties<K> {
    keys: K,
    targets: Vec<Target>,
    then: Then,
}

/// For each block, its elements and how many of them equal each threshold.
#[derive(Default)]
struct TieCounts {
    blocks: Vec<(Range<usize>, Vec<u32>)>,
    scratch: Vec<u32>,
}

impl<K: Keys + 'static> Reduction for Ties<K> {
    type Accumulator = TieCounts;

    fn granularity(&self) -> Granularity {
        self.keys.granularity()
    }

    fn accumulator(&self) -> TieCounts {
        TieCounts::default()
    }

    fn observe(&self, accumulator: &mut TieCounts, block: &Block<'_>) {
        let mut counts = vec![0; self.targets.len()];
        for stream in 0..self.keys.streams() {
            if open(&self.targets, stream).next().is_none() {
                continue;
            }
            let keys = fill(&self.keys, stream, block, &mut accumulator.scratch);
            for (t, target) in open(&self.targets, stream) {
                counts[t] = keys.iter().map(|key| u32::from(*key == target.bits)).sum();
            }
        }
        accumulator.blocks.push((block.offset..block.offset + block.len(), counts));
    }

    fn combine(&self, accumulator: &mut TieCounts, mut later: TieCounts) {
        accumulator.blocks.append(&mut later.blocks);
    }

    fn finish(self, total: TieCounts) -> Result<Plan, MergeError> {
        let mut last = Vec::new();
        for (t, target) in self.targets.iter().enumerate() {
            let mut wanted = target.count - target.above;
            let mut found = None;
            if target.threshold.is_none() {
                for (range, counts) in &total.blocks {
                    if wanted <= counts[t] as usize {
                        found = Some(LastTie { block: range.clone(), wanted });
                        break;
                    }
                    wanted -= counts[t] as usize;
                }
            }
            last.push(found);
        }
        Ok(Plan::reduce(Borders { keys: self.keys, targets: self.targets, last, then: self.then }))
    }
}

/// The block in which the last tie that is kept lies, and which tie of that block it is, from 1.
struct LastTie {
    block: Range<usize>,
    wanted: usize,
}

/// Last look, into one block for each target: after which element the ties are dropped.
struct Borders<K> {
    keys: K,
    targets: Vec<Target>,
    last: Vec<Option<LastTie>>,
    then: Then,
}

impl<K: Keys + 'static> Reduction for Borders<K> {
    /// For each target, how many ties were seen and the border once it is found.
    type Accumulator = Vec<(usize, Option<usize>)>;

    fn granularity(&self) -> Granularity {
        self.keys.granularity()
    }

    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        let mut ranges: Vec<_> = self.last.iter().flatten().map(|l| l.block.clone()).collect();
        ranges.sort_by_key(|r| r.start);
        ranges.dedup();
        Some(ranges)
    }

    fn accumulator(&self) -> Self::Accumulator {
        vec![(0, None); self.targets.len()]
    }

    fn observe(&self, accumulator: &mut Self::Accumulator, block: &Block<'_>) {
        let mut scratch = Vec::new();
        for (t, (target, last)) in self.targets.iter().zip(&self.last).enumerate() {
            let Some(last) = last.as_ref().filter(|l| l.block.contains(&block.offset)) else {
                continue;
            };
            let (seen, border) = &mut accumulator[t];
            for (j, key) in fill(&self.keys, target.stream, block, &mut scratch).iter().enumerate() {
                if *key == target.bits {
                    *seen += 1;
                    if *seen == last.wanted {
                        *border = Some(block.offset + j + 1);
                    }
                }
            }
        }
    }

    fn combine(&self, accumulator: &mut Self::Accumulator, later: Self::Accumulator) {
        for ((_, border), (_, found)) in accumulator.iter_mut().zip(later) {
            *border = border.or(found);
        }
    }

    fn finish(mut self, borders: Self::Accumulator) -> Result<Plan, MergeError> {
        for (target, (_, border)) in self.targets.iter_mut().zip(borders) {
            if let Some(index) = border {
                target.threshold = Some(Threshold { bits: target.bits, index });
            }
        }
        answer(self.targets, self.keys.streams(), self.then)
    }
}
