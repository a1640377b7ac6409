//! Exact thresholds from histograms: which histograms to make, and what follows from them.
//!
//! A histogram has 2048 bins. Without a sample the first one spans all 31 bits of a key, and two more get to the last
//! bit. On large tensors a histogram of a sample comes first; it names a few bins around the threshold, and the next
//! pass looks only there: two passes in all. Where the threshold is not there after all, the counts say so, and the
//! search starts again over all bits.

use crate::args::BINS;
use glue_merge::select::{Largest, Threshold};

/// Shift of the histogram that spans all keys.
const WIDEST: u32 = 20;
/// Margin on either side of a threshold, as a fraction of the sample.
const MARGIN: f64 = 0.01;

/// A histogram of a sequence.
pub(crate) struct Counted<'a> {
    /// Counts of the bins.
    pub(crate) bins: &'a [u32],
    /// How many keys lie above them.
    pub(crate) above: usize,
    /// How many keys are 0.
    pub(crate) zeros: usize,
}

/// The search for one border.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Search {
    pub(crate) sequence: usize,
    /// Which of the counts of the sequence this is.
    which: usize,
    pub(crate) low: u32,
    pub(crate) shift: u32,
    state: State,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Open,
    Found(Threshold),
    /// More elements equal the threshold than are kept: so many of them, in index order.
    Tied(u32, usize),
}

type Counts<'a> = &'a (dyn Fn(usize, Largest) -> Vec<usize> + Send + Sync);

/// The cut for a count that needs no search, if it is one.
fn trivial(count: usize, elements: usize) -> Option<Threshold> {
    match count {
        0 => Some(Threshold::NONE),
        _ if count >= elements => Some(Threshold::ALL),
        _ => None,
    }
}

/// One search for each count of each sequence.
pub(crate) fn searches(sequences: usize, elements: usize, counts: Counts<'_>) -> Vec<Search> {
    let mut all = Vec::new();
    for sequence in 0..sequences {
        let fewest = counts(sequence, Largest { elements, nonzero: 0 });
        let most = counts(sequence, Largest { elements, nonzero: elements });
        for (which, (fewest, most)) in fewest.into_iter().zip(most).enumerate() {
            // Where the number of zeros changes nothing, a trivial count needs no pass.
            let state = match trivial(most, elements).filter(|_| fewest == most) {
                Some(cut) => State::Found(cut),
                None => State::Open,
            };
            all.push(Search { sequence, which, low: 0, shift: WIDEST, state });
        }
    }
    all
}

impl Search {
    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The bits of the threshold and the number of equal keys to keep, where a look at their places is needed.
    pub(crate) fn tied(&self) -> Option<(u32, usize)> {
        match self.state {
            State::Tied(bits, keep) => Some((bits, keep)),
            _ => None,
        }
    }

    /// Takes the place after which equal keys are dropped.
    pub(crate) fn settle(&mut self, index: usize) {
        if let State::Tied(bits, _) = self.state {
            self.state = State::Found(Threshold { bits, index });
        }
    }

    /// The answer, once there is one.
    pub(crate) fn threshold(&self) -> Option<Threshold> {
        match self.state {
            State::Found(cut) => Some(cut),
            _ => None,
        }
    }

    /// Takes the histogram of a sample, over all bits.
    pub(crate) fn aim(&mut self, sample: &Counted<'_>, elements: usize, counts: Counts<'_>) {
        let seen: usize = sample.bins.iter().map(|n| *n as usize).sum();
        if seen == 0 {
            return;
        }
        let scale = elements as f64 / seen as f64;
        let nonzero = elements.saturating_sub((sample.zeros as f64 * scale) as usize);
        let Some(count) = counts(self.sequence, Largest { elements, nonzero }).get(self.which).copied() else {
            return;
        };
        let rank = count as f64 / scale;
        let margin = MARGIN * seen as f64;
        let bin_at = |rank: f64| descend(sample.bins, rank.clamp(1.0, seen as f64) as usize).0;
        let (high, low) = (bin_at(rank - margin), bin_at(rank + margin));
        let bins = (high - low + 1) as u32;
        self.low = (low as u32) << WIDEST;
        self.shift = (WIDEST + bins.next_power_of_two().trailing_zeros()).saturating_sub(BINS.trailing_zeros());
    }

    /// Takes the histogram that was asked for.
    pub(crate) fn narrow(&mut self, found: &Counted<'_>, elements: usize, counts: Counts<'_>) {
        let nonzero = elements - found.zeros;
        let Some(count) = counts(self.sequence, Largest { elements, nonzero }).get(self.which).copied() else {
            return;
        };
        if let Some(cut) = trivial(count, elements) {
            self.state = State::Found(cut);
            return;
        }
        let inside: usize = found.bins.iter().map(|n| *n as usize).sum();
        if count <= found.above || count > found.above + inside {
            (self.low, self.shift) = (0, WIDEST);
            return;
        }
        let (bin, above) = descend(found.bins, count - found.above);
        self.low += (bin as u32) << self.shift;
        if self.shift > 0 {
            self.shift = self.shift.saturating_sub(BINS.trailing_zeros());
            return;
        }
        let keep = count - found.above - above;
        self.state = match found.bins[bin] as usize == keep {
            true => State::Found(Threshold { bits: self.low, index: usize::MAX }),
            false => State::Tied(self.low, keep),
        };
    }
}

/// From the last bin down, the first whose running total reaches `count`, with the total above it.
fn descend(bins: &[u32], count: usize) -> (usize, usize) {
    let mut above = 0;
    for (bin, n) in bins.iter().enumerate().rev() {
        if above + *n as usize >= count {
            return (bin, above);
        }
        above += *n as usize;
    }
    (0, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(keys: &[u32], low: u32, shift: u32) -> (Vec<u32>, usize, usize) {
        let mut bins = vec![0; BINS];
        let (mut above, mut zeros) = (0, 0);
        for key in keys {
            match key.checked_sub(low).map(|k| (k >> shift) as usize) {
                Some(bin) if bin < BINS => bins[bin] += 1,
                Some(_) => above += 1,
                None => {}
            }
            zeros += usize::from(*key == 0);
        }
        (bins, above, zeros)
    }

    /// The search against sorting; passes are counted.
    fn check(keys: &[u32], count: usize, sample: Option<&[u32]>, most_passes: usize) {
        let elements = keys.len();
        let counts = move |_: usize, _: Largest| vec![count];
        let mut search = searches(1, elements, &counts).remove(0);
        if let Some(sample) = sample.filter(|_| search.is_open()) {
            let (bins, above, zeros) = histogram(sample, search.low, search.shift);
            search.aim(&Counted { bins: &bins, above, zeros }, elements, &counts);
        }
        let mut passes = 0;
        while search.is_open() {
            let (bins, above, zeros) = histogram(keys, search.low, search.shift);
            search.narrow(&Counted { bins: &bins, above, zeros }, elements, &counts);
            passes += 1;
        }
        assert!(passes <= most_passes, "{passes} passes for {count} of {elements}");
        if let Some((bits, keep)) = search.tied() {
            let mut equal = keys.iter().enumerate().filter(|(_, key)| **key == bits);
            search.settle(equal.nth(keep - 1).unwrap().0 + 1);
        }
        let cut = search.threshold().unwrap();
        let mut order: Vec<usize> = (0..elements).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(keys[*i]), *i));
        let mut expected = order[..count.min(elements)].to_vec();
        expected.sort_unstable();
        let kept: Vec<usize> = (0..elements).filter(|i| cut.keeps(keys[*i], *i)).collect();
        assert_eq!(kept, expected);
    }

    fn keys(n: usize, of: impl Fn(u64) -> f32) -> Vec<u32> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        (0..n).map(|_| of(next()).abs().to_bits()).collect()
    }

    #[test]
    fn exact_counts_are_kept_in_three_passes() {
        let smooth = keys(3000, |r| (r as f32 / 1e9).powi(3));
        let tied = keys(3000, |r| (r % 5) as f32);
        for keys in [&smooth, &tied, &vec![0; 3000]] {
            for count in [0, 1, 2, 1500, 2999, 3000, 4000] {
                check(keys, count, None, 3);
            }
        }
    }

    #[test]
    fn a_sample_saves_a_pass_and_a_wrong_one_does_no_harm() {
        let smooth = keys(100_000, |r| (r as f32 / 1e9).powi(3));
        for count in [1000, 50_000, 70_000] {
            // So many that chance moves the threshold by a third of the margin.
            check(&smooth, count, Some(&smooth[..20_000]), 2);
            check(&smooth, count, Some(&keys(500, |r| r as f32 * 1e20)), 4);
            check(&smooth, count, Some(&[]), 3);
        }
    }

    #[test]
    fn counts_that_depend_on_zeros_are_asked_again() {
        let keys = keys(1000, |r| if r % 2 == 0 { 0.0 } else { r as f32 });
        let nonzero = keys.iter().filter(|k| **k != 0).count();
        let counts = |_: usize, known: Largest| vec![known.nonzero / 2];
        let mut search = searches(1, 1000, &counts).remove(0);
        while search.is_open() {
            let (bins, above, zeros) = histogram(&keys, search.low, search.shift);
            search.narrow(&Counted { bins: &bins, above, zeros }, 1000, &counts);
        }
        let cut = search.threshold().unwrap();
        assert_eq!(keys.iter().enumerate().filter(|(i, k)| cut.keeps(**k, *i)).count(), nonzero / 2);
    }
}
