//! DELLA: drops elements at random, small ones more often than large ones. Deep, Bhardwaj, Poria, "DELLA-Merging",
//! arXiv 2406.11617.
//!
//! The probability of being kept rises linearly with the rank of |τ| inside its row, from density − ε to density + ε.
//! A random word below the least probability keeps its element and one above the greatest drops it, whatever the rank;
//! of the others, a histogram of the row bounds the rank, and that decides nearly all. Only where both bounds lie on
//! different sides of the word is the element ranked exactly, among those that share its bin.

use super::task::{DENSITY, LAMBDA, RESCALE, Task, Trim, WEIGHT, normalize};
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::device::{RankedDrop, Trimming};
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};
use crate::random::ElementRng;
use crate::task_vectors::subtract;

/// `della_linear`.
pub const LINEAR: OperatorDef = OperatorDef {
    name: "della_linear",
    summary: "Drops elements of each task vector at random, small ones more often, rescales the rest, and adds them up.",
    formula: "τi with each element kept with probability density − ε + 2ε·rank(|τ|)/(row length − 1), rescaled; θ0 + λ Σ wi τi, divided by Σ wi when normalize",
    reference: "DELLA-Merging, arXiv 2406.11617",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[WEIGHT, DENSITY, EPSILON, LAMBDA, RESCALE, normalize(false)],
    plan: |tensor, params| plan(tensor, params, LINEAR.name, false),
    ..OperatorDef::DEFAULT
};

/// `della`.
pub const TIES: OperatorDef = OperatorDef {
    name: "della",
    summary: "Drops elements of each task vector at random, small ones more often, rescales the rest, and elects signs as TIES does.",
    formula: "τi trimmed as by della_linear, then as ties",
    params: &[WEIGHT, DENSITY, EPSILON, LAMBDA, RESCALE, normalize(true)],
    plan: |tensor, params| plan(tensor, params, TIES.name, true),
    ..LINEAR
};

/// What the sum of two decimal fractions may be off by.
const ROUNDING: f64 = 1e-9;

const EPSILON: ParamSpec = ParamSpec::number(
    "epsilon",
    "How far the probability of being kept goes below and above the density; both ends must stay within 0 and 1, except at density 1, where all is kept.",
    Interval::closed(0.0, 0.5),
    (0.0, 0.3),
)
.or(0.15)
.per_input();

fn plan(tensor: &TensorSpec<'_>, params: &Params, operator: &'static str, elect: bool) -> Result<Plan, MergeError> {
    let rescale = params.word("rescale");
    let mut inputs = Vec::new();
    for i in 0..tensor.n_inputs {
        let (density, epsilon) = (params.input_number(i, "density"), params.input_number(i, "epsilon"));
        if density < 1.0 && (density - epsilon < -ROUNDING || density + epsilon > 1.0 + ROUNDING) {
            return Err(ParamError::Refused {
                operator,
                key: "epsilon",
                allowed: format!(
                    "at most {} at density {density}, so that density ± epsilon stays within 0 and 1",
                    (density.min(1.0 - density) * 1e6).round() / 1e6
                ),
                found: epsilon.to_string(),
            }
            .into());
        }
        let epsilon = if density < 1.0 { epsilon } else { 0.0 };
        let rng = ElementRng::new(tensor.seed, tensor.name, i);
        inputs.push(ranked(rng, density - epsilon, 2.0 * epsilon, tensor.row_len()));
    }
    let dropping = inputs.iter().any(|r| !r.keeps_all());
    let trim = ByRank { inputs, row: tensor.row_len(), inverse: rescale == "inverse" };
    Ok(Task::new(params, elect, rescale == "l1" && dropping).plan(trim, tensor.len()))
}

/// Probabilities of being kept that rise linearly over the ranks of a row of `n`, from `least` by `spread`, in whole
/// numbers; of a row of one, the middle.
fn ranked(rng: ElementRng, least: f64, spread: f64, n: usize) -> RankedDrop {
    let unit = 2_147_483_648.0;
    let start = if n > 1 { least } else { least + 0.5 * spread };
    let rise = if n > 1 { spread / (n - 1) as f64 } else { 0.0 };
    RankedDrop { rng, start: (start * unit).round() as u64, rise: (rise * unit * f64::from(1 << 16)).round() as u64 }
}

fn keeps(drop: &RankedDrop, word: u32, rank: u32) -> bool {
    word >> 1 < drop.bound(rank)
}

fn probability(drop: &RankedDrop, rank: u32) -> f32 {
    drop.bound(rank) as f32 / (1_u32 << 31) as f32
}

struct ByRank {
    inputs: Vec<RankedDrop>,
    row: usize,
    inverse: bool,
}

impl Trim for ByRank {
    type Scratch = Row;

    fn row(&self) -> Option<usize> {
        Some(self.row)
    }

    fn trim(&self, input: usize, offset: usize, x: &[f32], base: &[f32], tau: &mut [f32], row: &mut Row) {
        subtract(x, base, tau);
        let drop = &self.inputs[input];
        if drop.keeps_all() {
            return;
        }
        row.words.resize(tau.len(), 0);
        drop.rng.fill(offset, &mut row.words);
        row.rank(tau);
        if self.inverse {
            row.settle(tau, 0..tau.len() as u32);
            for ((tau, word), rank) in tau.iter_mut().zip(&row.words).zip(&row.ranks) {
                *tau = if keeps(drop, *word, *rank) { *tau / probability(drop, *rank) } else { 0.0 };
            }
        } else {
            row.draw(tau, drop);
            for (tau, kept) in tau.iter_mut().zip(&row.words) {
                *tau = f32::from_bits(tau.to_bits() & kept);
            }
        }
    }

    fn describe(&self) -> Option<Trimming<'_>> {
        // Dividing by each element's own probability needs every rank, not only those near the random word.
        (!self.inverse).then_some(Trimming::Ranked { inputs: &self.inputs, row: self.row })
    }
}

/// A row whose ranks by |τ| are known to within a bin of a histogram. Equal values rank by index.
#[derive(Default)]
struct Row {
    /// Random words; after [`Row::draw`], all ones where the element is kept and 0 where it is dropped.
    words: Vec<u32>,
    /// The bin of each element; bins ascend with |τ|.
    bins: Vec<u16>,
    /// Parts of the histogram.
    ways: Vec<[u32; BINS]>,
    /// The rank of the first element of each bin; one more entry for the end.
    starts: Vec<u32>,
    /// Bounds at the first and at the last rank of each bin.
    bounds: Vec<[u32; 2]>,
    /// Elements whose bin does not decide: index and word.
    unsure: Vec<(u32, u32)>,
    /// Bins whose elements are ranked exactly.
    chosen: Vec<u16>,
    /// For each bin, where its next element goes among `members`, and by how much that moves on: 1 of a chosen bin, and
    /// 0 of the others, whose elements all go to the first place.
    next: Vec<[u32; 2]>,
    /// The elements of the chosen bins, bin by bin, after the first place: the bits of |τ|, then the index.
    members: Vec<u64>,
    /// The rank of each element of the chosen bins.
    ranks: Vec<u32>,
}

/// Maximum number of bins of a histogram.
const BINS: usize = 4096;

/// Bits of |x|.
#[inline]
fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7FFF_FFFF
}

impl Row {
    /// Puts the elements into bins.
    fn rank(&mut self, tau: &[f32]) {
        let count = (tau.len() / 4).next_power_of_two().clamp(64, BINS);
        let largest = f32::from_bits(tau.iter().fold(0, |m, x| m.max(magnitude(*x))));
        let scale = (count - 1) as f32 / largest.max(f32::MIN_POSITIVE);
        // Adding 2²³ rounds to a whole number and leaves it in the low bits.
        let bin = |x: &f32| ((x.abs() * scale + 8_388_608.0).to_bits() & (count as u32 - 1)) as u16;
        self.bins.clear();
        self.bins.extend(tau.iter().map(bin));
        // Neighbours count apart: in low precision many are equal, and would wait for each other.
        self.ways.resize(4, [0; BINS]);
        if let [a, b, c, d] = &mut self.ways[..] {
            for way in [&mut *a, &mut *b, &mut *c, &mut *d] {
                way[..count].fill(0);
            }
            let fours = self.bins.chunks_exact(4);
            fours.remainder().iter().for_each(|bin| a[*bin as usize % BINS] += 1);
            for four in fours {
                a[four[0] as usize % BINS] += 1;
                b[four[1] as usize % BINS] += 1;
                c[four[2] as usize % BINS] += 1;
                d[four[3] as usize % BINS] += 1;
            }
            for (((a, b), c), d) in a[..count].iter_mut().zip(b).zip(c).zip(d) {
                *a += *b + *c + *d;
            }
        }
        self.starts.resize(count + 1, 0);
        let mut before = 0;
        for (start, n) in self.starts.iter_mut().zip(&self.ways[0][..count]) {
            *start = before;
            before += n;
        }
        self.starts[count] = before;
    }

    /// Decides by the random words which elements are kept.
    fn draw(&mut self, tau: &[f32], p: &RankedDrop) {
        self.bounds.resize(BINS, [0; 2]);
        for (bound, s) in self.bounds.iter_mut().zip(self.starts.windows(2)) {
            *bound = [p.bound(s[0]), p.bound(s[1].max(1) - 1)];
        }
        let Ok(bounds) = <&[[u32; 2]; BINS]>::try_from(&*self.bounds) else {
            return;
        };
        self.unsure.clear();
        for (c, (words, bins)) in self.words.chunks_mut(MANY).zip(self.bins.chunks(MANY)).enumerate() {
            let mut looked_up = [[0; MANY]; 2];
            for (j, bin) in bins.iter().enumerate() {
                [looked_up[0][j], looked_up[1][j]] = bounds[*bin as usize % BINS];
            }
            let [first, last] = looked_up;
            let mut unsure = 0_u32;
            for (j, ((word, first), last)) in words.iter().zip(&first).zip(&last).enumerate() {
                unsure |= u32::from((*word >> 1 < *first) != (*word >> 1 < *last)) << j;
            }
            while unsure != 0 {
                let j = unsure.trailing_zeros() as usize;
                self.unsure.push(((c * MANY + j) as u32, words[j]));
                unsure &= unsure - 1;
            }
            for (word, first) in words.iter_mut().zip(&first) {
                *word = u32::from(*word >> 1 < *first).wrapping_neg();
            }
        }
        let unsure = std::mem::take(&mut self.unsure);
        self.settle(tau, unsure.iter().map(|(j, _)| *j));
        for (j, word) in &unsure {
            self.words[*j as usize] = u32::from(keeps(p, *word, self.ranks[*j as usize])).wrapping_neg();
        }
        self.unsure = unsure;
    }

    /// Finds the ranks of these elements, and of all that share a bin with one of them.
    fn settle(&mut self, tau: &[f32], elements: impl Iterator<Item = u32>) {
        self.chosen.clear();
        self.next.clear();
        self.next.resize(BINS, [0; 2]);
        let mut count = 1;
        for j in elements {
            let bin = self.bins[j as usize];
            let next = &mut self.next[bin as usize];
            if *next == [0; 2] {
                *next = [count, 1];
                count += self.starts[bin as usize + 1] - self.starts[bin as usize];
                self.chosen.push(bin);
            }
        }
        if self.chosen.is_empty() {
            return;
        }
        self.members.resize(count as usize, 0);
        self.ranks.resize(self.bins.len(), 0);
        for ((j, bin), tau) in self.bins.iter().enumerate().zip(tau) {
            // Without a branch, which would be taken at random.
            let [at, step] = &mut self.next[*bin as usize % BINS];
            self.members[*at as usize] = u64::from(magnitude(*tau)) << 32 | j as u64;
            *at += *step;
        }
        for bin in &self.chosen {
            let bin = *bin as usize;
            let (start, end) = (self.starts[bin], self.next[bin][0]);
            let members = &mut self.members[(end + start - self.starts[bin + 1]) as usize..end as usize];
            // In low precision most bins hold one value, and its elements stand in order already.
            if members.iter().any(|m| m >> 32 != members[0] >> 32) {
                members.sort_unstable();
            }
            for (rank, m) in (start..).zip(&*members) {
                self.ranks[*m as u32 as usize] = rank;
            }
        }
    }
}

/// Elements that are decided side by side, one to a bit.
const MANY: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// The short way of ranking decides as the long one does, with ties and zeros among the values.
    #[test]
    fn bounds_decide_as_exact_ranks_do() {
        let mut row = Row::default();
        for n in [1_usize, 2, 3, 63, 64, 65, 1000, 5000] {
            let mut words = vec![0; 2 * n];
            ElementRng::new(3, "values", 0).fill(0, &mut words);
            let value = |w: &u32| if w.is_multiple_of(3) { 0.0 } else { ((w >> 8) % 997) as f32 - 498.0 };
            let tau: Vec<f32> = words[n..].iter().map(value).collect();
            let p = ranked(ElementRng::new(3, "words", 0), 0.35, 0.3, n);
            let mut order: Vec<u32> = (0..n as u32).collect();
            order.sort_by_key(|j| (magnitude(tau[*j as usize]), *j));
            row.rank(&tau);
            row.settle(&tau, 0..n as u32);
            let ranks: Vec<u32> = order.iter().map(|j| row.ranks[*j as usize]).collect();
            assert_eq!(ranks, (0..n as u32).collect::<Vec<_>>());
            words.truncate(n);
            row.words.clone_from(&words);
            row.draw(&tau, &p);
            for (rank, j) in order.iter().enumerate() {
                let kept = row.words[*j as usize] != 0;
                assert_eq!(kept, keeps(&p, words[*j as usize], rank as u32), "element {j} of {n}");
            }
        }
    }
}
