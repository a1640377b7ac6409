//! Exact selection of the largest values without sorting.
//!
//! The bits of a non-negative float, read as an integer, order as the float does. One pass makes a histogram of their
//! upper 16 bits and finds the bucket where the threshold lies. Mostly that bucket is small: a second pass collects what
//! is in it, and a selection among those few gives the threshold and, where elements equal it, the index up to which
//! they are kept. A crowded bucket (many elements may be equal in low precision) takes no memory either: the second
//! pass makes a histogram of the lower 15 bits inside it, a third counts what equals the threshold by block, and a look
//! into one block finds where the count is reached.

use crate::contract::{Block, Grain, Plan, Survey};
use crate::error::MergeError;
use std::ops::Range;

/// Bits of a key below its bucket.
const LOW: u32 = 15;
const BUCKETS: usize = 1 << 16;
const LOWS: usize = 1 << LOW;
/// Histograms that neighbouring elements alternate between, so that equal neighbours do not wait for each other.
const WAYS: usize = 4;

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

/// What the first pass tells of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Largest {
    /// Number of elements.
    pub elements: usize,
    /// Number of elements whose key is not 0.
    pub nonzero: usize,
}

/// A plan that finds, for each stream, where the `counts` largest values end, and then asks `then`.
///
/// `counts` is called once for each stream, when it is known how many of its keys are zero, and names how many of the
/// largest are to be kept: any number of such counts. `then` receives a [`Cut`] for each, in the same order; exactly
/// the count that was asked for is kept by it, or all elements when there are fewer. Equal values are taken in index
/// order. A tensor may have 2³² − 1 elements at most.
pub fn select_largest<K: Keys + 'static>(
    keys: K,
    counts: impl Fn(usize, Largest) -> Vec<usize> + Send + Sync + 'static,
    then: impl FnOnce(Vec<Vec<Cut>>) -> Result<Plan, MergeError> + Send + Sync + 'static,
) -> Plan {
    Plan::survey(Buckets { keys, counts: Box::new(counts), then: Box::new(then) })
}

type Counts = Box<dyn Fn(usize, Largest) -> Vec<usize> + Send + Sync>;
type Then = Box<dyn FnOnce(Vec<Vec<Cut>>) -> Result<Plan, MergeError> + Send + Sync>;

/// One border that is looked for.
struct Target {
    stream: usize,
    /// How many of the largest are kept.
    count: usize,
    /// How many elements lie above the bucket and, once they are known, above the bits of the threshold.
    above: usize,
    /// Upper bits of the threshold.
    bucket: u32,
    /// How many elements lie in the bucket.
    inside: usize,
    /// All of its bits.
    bits: u32,
    /// The answer.
    cut: Option<Cut>,
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

/// Histograms, and room for the keys of a block.
struct Histograms {
    bins: Vec<u32>,
    zeros: Vec<usize>,
    room: Vec<u32>,
}

impl Histograms {
    fn new(bins: usize, streams: usize) -> Self {
        Self { bins: vec![0; bins], zeros: vec![0; streams], room: Vec::new() }
    }

    fn join(&mut self, later: &Self) {
        self.bins.iter_mut().zip(&later.bins).for_each(|(bin, more)| *bin += more);
        self.zeros.iter_mut().zip(&later.zeros).for_each(|(n, more)| *n += more);
    }
}

fn fill<'a>(keys: &impl Keys, stream: usize, block: &Block<'_>, room: &'a mut Vec<u32>) -> &'a [u32] {
    room.resize(block.len(), 0);
    keys.keys(stream, block, room);
    room
}

/// First pass: a histogram of the upper bits for each stream.
struct Buckets<K> {
    keys: K,
    counts: Counts,
    then: Then,
}

impl<K: Keys + 'static> Survey for Buckets<K> {
    type Partial = Histograms;

    fn grain(&self) -> Grain {
        self.keys.grain()
    }

    fn order_free(&self) -> bool {
        true
    }

    fn partial(&self) -> Histograms {
        Histograms::new(self.keys.streams() * WAYS * BUCKETS, self.keys.streams())
    }

    fn observe(&self, partial: &mut Histograms, block: &Block<'_>) {
        let Histograms { bins, zeros, room } = partial;
        for (stream, bins) in bins.chunks_exact_mut(WAYS * BUCKETS).enumerate() {
            let keys = fill(&self.keys, stream, block, room);
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

    fn join(&self, partial: &mut Histograms, later: Histograms) {
        partial.join(&later);
    }

    fn finish(self, total: Histograms) -> Result<Plan, MergeError> {
        let mut targets = Vec::new();
        for (stream, ways) in total.bins.chunks_exact(WAYS * BUCKETS).enumerate() {
            let bin = |b: usize| (0..WAYS).map(|way| ways[way * BUCKETS + b] as usize).sum::<usize>();
            let elements = (0..BUCKETS).map(bin).sum();
            for count in (self.counts)(stream, Largest { elements, nonzero: elements - total.zeros[stream] }) {
                let cut = match count {
                    0 => Some(Cut::NONE),
                    _ if count >= elements => Some(Cut::ALL),
                    _ => None,
                };
                let (bucket, above) = descend((0..BUCKETS).map(bin), count);
                targets.push(Target { stream, count, above, bucket: bucket as u32, inside: bin(bucket), bits: 0, cut });
            }
        }
        let streams = self.keys.streams();
        if targets.iter().all(|t| t.cut.is_some()) {
            return answer(targets, streams, self.then);
        }
        if targets.iter().filter(|t| t.cut.is_none()).all(|t| t.inside <= FEW) {
            return Ok(Plan::survey(Collect { keys: self.keys, targets, then: self.then }));
        }
        Ok(Plan::survey(Lows { keys: self.keys, targets, then: self.then }))
    }
}

/// Most elements of a bucket that are collected: 8 MiB for each target.
const FEW: usize = 1 << 20;

/// Second pass, where the buckets hold few elements: collects them.
struct Collect<K> {
    keys: K,
    targets: Vec<Target>,
    then: Then,
}

/// The elements inside each target's bucket, as numbers that order by falling key and then by rising index.
struct Collected {
    inside: Vec<Vec<u64>>,
    room: Vec<u32>,
}

/// Bits of an index in a collected number.
const INDEX: u32 = 64 - LOW;

impl<K: Keys + 'static> Survey for Collect<K> {
    type Partial = Collected;

    fn grain(&self) -> Grain {
        self.keys.grain()
    }

    fn order_free(&self) -> bool {
        true
    }

    fn partial(&self) -> Collected {
        Collected { inside: vec![Vec::new(); self.targets.len()], room: Vec::new() }
    }

    fn observe(&self, partial: &mut Collected, block: &Block<'_>) {
        for stream in 0..self.keys.streams() {
            if open(&self.targets, stream).next().is_none() {
                continue;
            }
            let keys = fill(&self.keys, stream, block, &mut partial.room);
            for (t, target) in open(&self.targets, stream) {
                let inside = &mut partial.inside[t];
                each_in_bucket(keys, target.bucket, |j, key| {
                    let falling = u64::from(!key) & (LOWS as u64 - 1);
                    inside.push(falling << INDEX | (block.offset + j) as u64);
                });
            }
        }
    }

    fn join(&self, partial: &mut Collected, later: Collected) {
        for (inside, mut more) in partial.inside.iter_mut().zip(later.inside) {
            inside.append(&mut more);
        }
    }

    fn finish(mut self, total: Collected) -> Result<Plan, MergeError> {
        for (target, mut inside) in self.targets.iter_mut().zip(total.inside) {
            if target.cut.is_none() {
                let (_, last, _) = inside.select_nth_unstable(target.count - target.above - 1);
                let low = !(*last >> INDEX) as u32 & (LOWS as u32 - 1);
                let index = (*last & ((1 << INDEX) - 1)) as usize + 1;
                target.cut = Some(Cut { bits: target.bucket << LOW | low, index });
            }
        }
        answer(self.targets, self.keys.streams(), self.then)
    }
}

/// Calls `see` with the place and the key of each element in a bucket. Few are: many are looked at at once, and
/// closer only where there is one.
#[inline]
fn each_in_bucket(keys: &[u32], bucket: u32, mut see: impl FnMut(usize, u32)) {
    const MANY: usize = 32;
    for (c, many) in keys.chunks(MANY).enumerate() {
        let mut hits =
            many.iter().enumerate().fold(0_u32, |hits, (j, key)| hits | u32::from(key >> LOW == bucket) << j);
        while hits != 0 {
            let j = hits.trailing_zeros() as usize;
            see(c * MANY + j, many[j]);
            hits &= hits - 1;
        }
    }
}

/// Hands the cuts over, by stream.
fn answer(targets: Vec<Target>, streams: usize, then: Then) -> Result<Plan, MergeError> {
    let mut cuts = vec![Vec::new(); streams];
    for target in targets {
        cuts[target.stream].push(target.cut.unwrap_or(Cut { bits: target.bits, index: usize::MAX }));
    }
    then(cuts)
}

/// The targets without an answer, by stream.
fn open(targets: &[Target], stream: usize) -> impl Iterator<Item = (usize, &Target)> {
    targets.iter().enumerate().filter(move |(_, t)| t.stream == stream && t.cut.is_none())
}

/// Second pass, where a bucket is crowded: a histogram of the lower bits inside each target's bucket.
struct Lows<K> {
    keys: K,
    targets: Vec<Target>,
    then: Then,
}

impl<K: Keys + 'static> Survey for Lows<K> {
    type Partial = Histograms;

    fn grain(&self) -> Grain {
        self.keys.grain()
    }

    fn order_free(&self) -> bool {
        true
    }

    fn partial(&self) -> Histograms {
        Histograms::new(self.targets.len() * LOWS, 0)
    }

    fn observe(&self, partial: &mut Histograms, block: &Block<'_>) {
        let Histograms { bins, room, .. } = partial;
        for stream in 0..self.keys.streams() {
            if open(&self.targets, stream).next().is_none() {
                continue;
            }
            let keys = fill(&self.keys, stream, block, room);
            for (t, target) in open(&self.targets, stream) {
                let bins = &mut bins[t * LOWS..][..LOWS];
                each_in_bucket(keys, target.bucket, |_, key| bins[key as usize & (LOWS - 1)] += 1);
            }
        }
    }

    fn join(&self, partial: &mut Histograms, later: Histograms) {
        partial.join(&later);
    }

    fn finish(mut self, total: Histograms) -> Result<Plan, MergeError> {
        for (target, bins) in self.targets.iter_mut().zip(total.bins.chunks_exact(LOWS)) {
            if target.cut.is_some() {
                continue;
            }
            let (low, above) = descend(bins.iter().map(|n| *n as usize), target.count - target.above);
            target.above += above;
            target.bits = target.bucket << LOW | low as u32;
            if target.count - target.above == bins[low] as usize {
                target.cut = Some(Cut { bits: target.bits, index: usize::MAX });
            }
        }
        let streams = self.keys.streams();
        if self.targets.iter().all(|t| t.cut.is_some()) {
            return answer(self.targets, streams, self.then);
        }
        Ok(Plan::survey(Ties { keys: self.keys, targets: self.targets, then: self.then }))
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
    room: Vec<u32>,
}

impl<K: Keys + 'static> Survey for Ties<K> {
    type Partial = TieCounts;

    fn grain(&self) -> Grain {
        self.keys.grain()
    }

    fn partial(&self) -> TieCounts {
        TieCounts::default()
    }

    fn observe(&self, partial: &mut TieCounts, block: &Block<'_>) {
        let mut counts = vec![0; self.targets.len()];
        for stream in 0..self.keys.streams() {
            if open(&self.targets, stream).next().is_none() {
                continue;
            }
            let keys = fill(&self.keys, stream, block, &mut partial.room);
            for (t, target) in open(&self.targets, stream) {
                counts[t] = keys.iter().map(|key| u32::from(*key == target.bits)).sum();
            }
        }
        partial.blocks.push((block.offset..block.offset + block.len(), counts));
    }

    fn join(&self, partial: &mut TieCounts, mut later: TieCounts) {
        partial.blocks.append(&mut later.blocks);
    }

    fn finish(self, total: TieCounts) -> Result<Plan, MergeError> {
        let mut last = Vec::new();
        for (t, target) in self.targets.iter().enumerate() {
            let mut wanted = target.count - target.above;
            let mut found = None;
            if target.cut.is_none() {
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
        Ok(Plan::survey(Borders { keys: self.keys, targets: self.targets, last, then: self.then }))
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

impl<K: Keys + 'static> Survey for Borders<K> {
    /// For each target, how many ties were seen and the border once it is found.
    type Partial = Vec<(usize, Option<usize>)>;

    fn grain(&self) -> Grain {
        self.keys.grain()
    }

    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        let mut ranges: Vec<_> = self.last.iter().flatten().map(|l| l.block.clone()).collect();
        ranges.sort_by_key(|r| r.start);
        ranges.dedup();
        Some(ranges)
    }

    fn partial(&self) -> Self::Partial {
        vec![(0, None); self.targets.len()]
    }

    fn observe(&self, partial: &mut Self::Partial, block: &Block<'_>) {
        let mut room = Vec::new();
        for (t, (target, last)) in self.targets.iter().zip(&self.last).enumerate() {
            let Some(last) = last.as_ref().filter(|l| l.block.contains(&block.offset)) else {
                continue;
            };
            let (seen, border) = &mut partial[t];
            for (j, key) in fill(&self.keys, target.stream, block, &mut room).iter().enumerate() {
                if *key == target.bits {
                    *seen += 1;
                    if *seen == last.wanted {
                        *border = Some(block.offset + j + 1);
                    }
                }
            }
        }
    }

    fn join(&self, partial: &mut Self::Partial, later: Self::Partial) {
        for ((_, border), (_, found)) in partial.iter_mut().zip(later) {
            *border = border.or(found);
        }
    }

    fn finish(mut self, borders: Self::Partial) -> Result<Plan, MergeError> {
        for (target, (_, border)) in self.targets.iter_mut().zip(borders) {
            if let Some(index) = border {
                target.cut = Some(Cut { bits: target.bits, index });
            }
        }
        answer(self.targets, self.keys.streams(), self.then)
    }
}
