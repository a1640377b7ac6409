//! Thresholds by a sample and one pass.
//!
//! A sample of the keys says between which two values the threshold lies, with a margin on either side, and which keys
//! in that bracket are common: in low precision a single value may be that of a tenth of the elements. One pass counts
//! the elements above the bracket, counts block by block those that equal a common key, and collects the others inside.
//! From these the threshold follows, and the border among its ties: that of a collected one is known, that of a common
//! key lies in a block that the counts name, which is read again. The counts also tell when the threshold is not in the
//! bracket after all.

use super::pile::Pile;
use super::{Keys, Largest, Question, Threshold, fill, in_parts, radix, trivial};
use crate::contract::{Block, Granularity, Plan, Reduction};
use crate::device::{Gather, Gathered};
use crate::driver::Driver;
use crate::error::MergeError;
use std::ops::Range;

/// Elements from which on a sample pays.
pub(super) const WORTHWHILE: usize = 1 << 19;

/// Neighbouring elements that are sampled together: a cache line of 16-bit elements.
const RANGE_LEN: usize = 32;

/// Number of ranges for so many elements: one element in 256 is seen, at least 2¹⁵ and at most 2²¹ in all.
fn ranges(elements: usize) -> usize {
    (elements / 256).clamp(1 << 15, 1 << 21) / RANGE_LEN
}

/// Margin on either side of the threshold, in standard errors of a share found by a sample: so many that elements which
/// resemble their neighbours do no harm.
const ERRORS: f64 = 6.0;

/// The margin of a share p as a fraction of the elements; the second term is for shares near 0 and 1.
fn margin(p: f64, samples: usize) -> f64 {
    let samples = samples as f64;
    ERRORS * (p * (1.0 - p) / samples).sqrt() + ERRORS * ERRORS / samples
}

/// Maximum number of elements inside all brackets that are collected: one in four, and 64 MiB.
fn most_collected(elements: usize) -> usize {
    (elements / 4).min(1 << 23)
}

/// The selection by a sample.
pub(super) fn plan<K: Keys + 'static>(question: Question<K>) -> Plan {
    let most = most_collected(question.elements);
    Plan::reduce(Sample { question, most })
}

/// A look at a few elements.
struct Sample<K> {
    question: Question<K>,
    /// How many elements may be collected.
    most: usize,
}

/// Keys of each stream, in any order.
struct Sampled {
    keys: Vec<Vec<u32>>,
    scratch: Vec<u32>,
}

impl<K: Keys + 'static> Reduction for Sample<K> {
    type Accumulator = Sampled;

    fn granularity(&self) -> Granularity {
        self.question.keys.granularity()
    }

    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        let n = ranges(self.question.elements);
        let starts = (0..n).map(|r| r * (self.question.elements / n));
        Some(starts.map(|start| start..start + RANGE_LEN).collect())
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Sampled {
        Sampled { keys: vec![Vec::new(); self.question.keys.streams()], scratch: Vec::new() }
    }

    fn observe(&self, accumulator: &mut Sampled, block: &Block<'_>) {
        for (stream, seen) in accumulator.keys.iter_mut().enumerate() {
            seen.extend_from_slice(fill(&self.question.keys, stream, block, &mut accumulator.scratch));
        }
    }

    fn combine(&self, accumulator: &mut Sampled, later: Sampled) {
        for (seen, more) in accumulator.keys.iter_mut().zip(later.keys) {
            seen.extend(more);
        }
    }

    fn finish(self, total: Sampled) -> Result<Plan, MergeError> {
        let elements = self.question.elements;
        let mut brackets = Vec::new();
        let mut collected = 0.0;
        for (stream, mut seen) in total.keys.into_iter().enumerate() {
            let nonzero = seen.iter().filter(|key| **key != 0).count() * elements / seen.len().max(1);
            for count in (self.question.counts)(stream, Largest { elements, nonzero }) {
                let (bracket, share) = Bracket::around(count, elements, &mut seen);
                collected += share * elements as f64;
                brackets.push((stream, bracket));
            }
        }
        Ok(match collected <= self.most as f64 {
            true => Plan::reduce(Collect { brackets, question: self.question }),
            false => radix::plan(self.question),
        })
    }

    fn describe(&self) -> Option<Gather<'_>> {
        self.question.describe()
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        self.question.conclude(gathered)
    }
}

/// Common keys of a bracket that are counted.
const COMMON: usize = 2;

/// Stands for no common key: keys have 31 bits.
const NO_KEY: u32 = u32::MAX;

/// A range of keys, both ends included, and the most common keys in it.
#[derive(Clone, Copy)]
struct Bracket {
    low: u32,
    high: u32,
    common: [u32; COMMON],
}

impl Bracket {
    /// Holds no key.
    const EMPTY: Self = Self { low: 1, high: 0, common: [NO_KEY; COMMON] };

    /// Where the `count` largest of `elements` end, as the keys `seen` have it; and the share of the elements inside
    /// that equal no common key.
    fn around(count: usize, elements: usize, seen: &mut [u32]) -> (Self, f64) {
        if seen.is_empty() || trivial(count, elements).is_some() {
            return (Self::EMPTY, 0.0);
        }
        let (samples, last) = (seen.len(), seen.len() - 1);
        let place = |fraction: f64| (fraction.clamp(0.0, 1.0) * last as f64) as usize;
        let fraction = 1.0 - count as f64 / elements as f64;
        let margin = margin(fraction, samples);
        // Beyond the ends of the sample anything may lie.
        let low = if fraction <= margin { 0 } else { *seen.select_nth_unstable(place(fraction - margin)).1 };
        let high =
            if fraction + margin >= 1.0 { NO_KEY } else { *seen.select_nth_unstable(place(fraction + margin)).1 };
        let mut inside: Vec<u32> = seen.iter().copied().filter(|key| (low..=high).contains(key)).collect();
        inside.sort_unstable();
        // One in a thousand of the whole tensor is worth a comparison for every element.
        let least = (samples / 1000).max(2);
        let mut runs: Vec<(usize, u32)> = inside.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0])).collect();
        runs.retain(|(n, _)| *n >= least);
        runs.sort_unstable_by(|a, b| b.cmp(a));
        let mut common = [NO_KEY; COMMON];
        let mut counted = 0;
        for (common, (n, key)) in common.iter_mut().zip(runs) {
            *common = key;
            counted += n;
        }
        (Self { low, high, common }, (inside.len() - counted) as f64 / samples as f64)
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
    /// The elements inside that equal no common key, as numbers that order by falling key and then by rising index.
    inside: Vec<Pile>,
    /// Each block, and how many of its elements equal each common key of each bracket.
    ties: Vec<(Range<usize>, Vec<[u32; COMMON]>)>,
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

/// Elements whose keys are looked at while they are in a first-level cache.
const PART: usize = Driver::BLOCK;

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
            inside: self.brackets.iter().map(|_| Pile::default()).collect(),
            zeros: vec![0; self.question.keys.streams()],
            ..Collected::default()
        }
    }

    fn observe(&self, accumulator: &mut Collected, block: &Block<'_>) {
        let Collected { above, inside, ties, zeros, elements, scratch } = accumulator;
        *elements += block.len();
        let mut of_block = vec![[0; COMMON]; self.brackets.len()];
        in_parts(block, PART, |part| {
            for (stream, zeros) in zeros.iter_mut().enumerate() {
                let keys = fill(&self.question.keys, stream, part, scratch);
                *zeros += keys.iter().map(|key| u32::from(*key == 0)).sum::<u32>() as usize;
                for (t, (_, bracket)) in self.brackets.iter().enumerate().filter(|(_, (s, _))| *s == stream) {
                    above[t] += bracket.count(keys, &mut of_block[t]);
                    bracket.collect(keys, part.offset, &mut inside[t]);
                }
            }
        });
        ties.push((block.offset..block.offset + block.len(), of_block));
    }

    fn combine(&self, accumulator: &mut Collected, mut later: Collected) {
        accumulator.elements += later.elements;
        accumulator.above.iter_mut().zip(later.above).for_each(|(n, more)| *n += more);
        accumulator.zeros.iter_mut().zip(later.zeros).for_each(|(n, more)| *n += more);
        accumulator.inside.iter_mut().zip(later.inside).for_each(|(all, more)| all.append(more));
        accumulator.ties.append(&mut later.ties);
    }

    fn finish(self, mut total: Collected) -> Result<Plan, MergeError> {
        let elements = total.elements;
        total.ties.sort_unstable_by_key(|(block, _)| block.start);
        let mut targets = Vec::new();
        for (stream, zeros) in total.zeros.iter().enumerate() {
            let known = Largest { elements, nonzero: elements - zeros };
            for count in (self.question.counts)(stream, known) {
                let t = targets.len();
                let (bracket, above, inside) = (&self.brackets[t].1, total.above[t], &total.inside[t]);
                let found = match trivial(count, elements) {
                    Some(threshold) => Some(Found::Threshold(threshold)),
                    None => count.checked_sub(above).and_then(|place| bracket.find(place, inside, &total.ties, t)),
                };
                match found {
                    Some(found) => targets.push((stream, found)),
                    None => return Ok(radix::plan(self.question)),
                }
            }
        }
        radix::borders(targets, self.question.keys, self.question.then)
    }
}

/// What is known of a threshold.
pub(super) enum Found {
    /// All.
    Threshold(Threshold),
    /// Its bits, and which of the elements that equal them is the last that is kept, counted from 1 in a block.
    Tie {
        /// The bits.
        bits: u32,
        /// The block.
        block: Range<usize>,
        /// Which of the ties in it.
        wanted: usize,
    },
}

impl Bracket {
    /// Counts the elements that equal each common key and returns the number of those above the bracket.
    fn count(&self, keys: &[u32], ties: &mut [u32; COMMON]) -> usize {
        let [first, second] = self.common;
        let (mut above, mut of_first, mut of_second) = (0_u32, 0_u32, 0_u32);
        for key in keys {
            above += u32::from(*key > self.high);
            of_first += u32::from(*key == first);
            of_second += u32::from(*key == second);
        }
        ties[0] += of_first;
        ties[1] += of_second;
        above as usize
    }

    /// Appends the elements inside that equal no common key.
    fn collect(&self, keys: &[u32], offset: usize, inside: &mut Pile) {
        const MANY: usize = 32;
        if self.low > self.high {
            return;
        }
        let (low, width, [first, second]) = (self.low, self.high - self.low, self.common);
        let hit = |key: u32| u32::from((key.wrapping_sub(low) <= width) & (key != first) & (key != second));
        let mut push = |hits: u32, keys: &[u32], at: usize| {
            let mut hits = hits;
            while hits != 0 {
                let j = hits.trailing_zeros() as usize;
                inside.push(collected(keys[j], at + j));
                hits &= hits - 1;
            }
        };
        // Of a length that is known, the mask is made by SIMD.
        let (whole, rest) = keys.as_chunks::<MANY>();
        for (c, many) in whole.iter().enumerate() {
            push((0..MANY).fold(0, |hits, j| hits | hit(many[j]) << j), many, offset + c * MANY);
        }
        let hits = rest.iter().enumerate().fold(0, |hits, (j, key)| hits | hit(*key) << j);
        push(hits, rest, offset + whole.len() * MANY);
    }

    /// Finds the element at `place`, from 1, among those inside by falling key and rising index. `None` if it is not
    /// inside.
    fn find(
        &self,
        place: usize,
        inside: &Pile,
        ties: &[(Range<usize>, Vec<[u32; COMMON]>)],
        t: usize,
    ) -> Option<Found> {
        if place == 0 {
            return None;
        }
        // From the largest key down: what lies above a common key, then the elements that equal it, and so on.
        let mut common: Vec<(u32, usize)> =
            self.common.iter().copied().zip(0..).filter(|(key, _)| *key != NO_KEY).collect();
        common.sort_unstable_by(|a, b| b.cmp(a));
        let mut tied = 0;
        for (bits, c) in common {
            let over = inside.count_below(collected(bits, 0)) + tied;
            if place <= over {
                break;
            }
            let equal: usize = ties.iter().map(|(_, of_block)| of_block[t][c] as usize).sum();
            if place > over + equal {
                tied += equal;
                continue;
            }
            if place == over + equal {
                return Some(Found::Threshold(Threshold { bits, index: usize::MAX }));
            }
            let mut wanted = place - over;
            for (block, of_block) in ties {
                let n = of_block[t][c] as usize;
                if wanted <= n {
                    return Some(Found::Tie { bits, block: block.clone(), wanted });
                }
                wanted -= n;
            }
        }
        let (bits, index) = parts(inside.nth(place - tied - 1)?);
        Some(Found::Threshold(Threshold { bits, index: index + 1 }))
    }
}

#[cfg(test)]
mod tests {
    //! Where too much lies in a bracket.
    use super::*;
    use crate::contract::{Operand, TensorSpec};
    use crate::merge::{SliceSource, VecSink};
    use std::sync::{Arc, Mutex};

    struct Values;

    impl Keys for Values {
        fn streams(&self) -> usize {
            1
        }

        fn keys(&self, _: usize, block: &Block<'_>, keys: &mut [u32]) {
            keys.iter_mut().zip(block.inputs[0]).for_each(|(key, x)| *key = x.to_bits());
        }
    }

    /// With a limit on what is collected, histograms take over and give the same.
    #[test]
    fn too_many_candidates_go_by_histograms() {
        let n = 600_001;
        let mix = |i: usize| (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let values: Vec<f32> = (0..n).map(|i| mix(i) as f32).collect();
        let shape = [n];
        let tensor = TensorSpec::new("values", &shape).with_operands(false, 1);
        let counts = [1, n / 3, n - 7];
        let kept = |most: Option<usize>| {
            let found = Arc::new(Mutex::new(Vec::new()));
            let answer = found.clone();
            let question = Question {
                keys: Values,
                elements: n,
                counts: Box::new(move |_, _| counts.to_vec()),
                then: Box::new(move |thresholds| {
                    *answer.lock().unwrap() = thresholds;
                    Ok(Plan::Copy(Operand::Input(0)))
                }),
            };
            let plan = match most {
                Some(most) => Plan::reduce(Sample { question, most }),
                None => radix::plan(question),
            };
            let (source, sink) = (SliceSource::new([&values]), VecSink::new(n));
            Driver::default().run(plan, &tensor, &source, &sink).unwrap();
            let thresholds = found.lock().unwrap().remove(0);
            let keeps = |t: &Threshold| (0..n).filter(|i| t.keeps(values[*i].to_bits(), *i)).collect::<Vec<_>>();
            thresholds.iter().map(keeps).collect::<Vec<_>>()
        };
        let expected = kept(None);
        assert_eq!(expected.iter().map(Vec::len).collect::<Vec<_>>(), counts);
        for most in [0, 1000, n] {
            assert!(kept(Some(most)) == expected, "at most {most}");
        }
    }

    /// What the sample says of a tensor of 7 billion parameters: the brackets of three task vectors fit.
    #[test]
    fn brackets_fit_from_half_a_million_to_half_a_billion_elements() {
        for elements in [WORTHWHILE, 1 << 22, 35_000_000, 45_088_768, 131_072_000, 500_000_000] {
            let samples = ranges(elements) * RANGE_LEN;
            assert!(samples <= elements / 16, "{samples} of {elements}");
            // Distinct values: nothing is common, and the bracket of a share of one half is the widest.
            let mut seen: Vec<u32> = (0..samples as u32).collect();
            let (bracket, share) = Bracket::around(elements / 2, elements, &mut seen);
            assert!((share - 2.0 * margin(0.5, samples)).abs() < 2.0 / samples as f64);
            assert!(bracket.common == [NO_KEY; COMMON]);
            assert!(3.0 * share * elements as f64 <= most_collected(elements) as f64, "{share} of {elements}");
            // A tenth of the elements equal the threshold.
            let mut seen: Vec<u32> =
                (0..samples as u32).map(|i| if i % 10 == 0 { samples as u32 / 2 } else { i }).collect();
            let (bracket, less) = Bracket::around(elements / 2, elements, &mut seen);
            assert!(bracket.common.contains(&(samples as u32 / 2)) && less < share);
        }
    }
}
