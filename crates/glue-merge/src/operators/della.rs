//! DELLA: drops elements at random, small ones more often than large ones. Deep, Bhardwaj, Poria, "DELLA-Merging",
//! arXiv 2406.11617.
//!
//! The probability of being kept rises linearly with the rank of |τ| inside its row, from density − ε to density + ε.
//! A random word below the least probability keeps its element and one above the greatest drops it, whatever the rank;
//! of the others, a histogram of the row bounds the rank, and that decides nearly all. Only where both bounds lie on
//! different sides of the word is the element ranked exactly, among the few that share its bin.

use super::task::{DENSITY, LAMBDA, RESCALE, Task, Trim, WEIGHT, normalize};
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};
use crate::random::ElementRng;

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

const EPSILON: ParamSpec = ParamSpec::number(
    "epsilon",
    "How far the probability of being kept goes below and above the density; both ends must stay within 0 and 1, except at density 1, where all is kept.",
    Interval::closed(0.0, 0.5),
    (0.0, 0.3),
)
.or(0.15)
.per_input();

fn plan(
    tensor: &TensorSpec<'_>,
    params: &Params,
    operator: &'static str,
    elect: bool,
) -> Result<Plan, MergeError> {
    let rescale = params.word("rescale");
    let mut inputs = Vec::new();
    for i in 0..tensor.n_inputs {
        let (density, epsilon) = (
            params.input_number(i, "density"),
            params.input_number(i, "epsilon"),
        );
        if density < 1.0 && (density - epsilon < 0.0 || density + epsilon > 1.0) {
            return Err(ParamError::Refused {
                operator,
                key: "epsilon",
                allowed: format!("at most {} at density {density}, so that density ± epsilon stays within 0 and 1", density.min(1.0 - density)),
                found: epsilon.to_string(),
            }
            .into());
        }
        let epsilon = if density < 1.0 { epsilon } else { 0.0 };
        inputs.push(Ranked {
            rng: ElementRng::new(tensor.seed, tensor.name, i),
            least: density - epsilon,
            spread: 2.0 * epsilon,
        });
    }
    let dropping = inputs.iter().any(|r| r.least < 1.0);
    let trim = ByRank {
        inputs,
        row: tensor.row_len(),
        inverse: rescale == "inverse",
    };
    Ok(Task::new(params, elect, rescale == "l1" && dropping).plan(trim))
}

struct Ranked {
    rng: ElementRng,
    /// Probability at rank 0.
    least: f64,
    /// Rise of the probability from the first to the last rank.
    spread: f64,
}

impl Ranked {
    /// Probability that the element of this rank is kept in a row of `n`; of a row of one, the density.
    fn probability(&self, rank: usize, n: usize) -> f64 {
        let position = if n > 1 {
            rank as f64 / (n - 1) as f64
        } else {
            0.5
        };
        self.least + self.spread * position
    }

    /// The bound below which a random word keeps the element of this rank.
    fn bound(&self, rank: usize, n: usize) -> u64 {
        (self.probability(rank, n) * 4_294_967_296.0).ceil() as u64
    }
}

struct ByRank {
    inputs: Vec<Ranked>,
    row: usize,
    inverse: bool,
}

impl Trim for ByRank {
    fn row(&self) -> Option<usize> {
        Some(self.row)
    }

    fn trim(&self, input: usize, offset: usize, tau: &mut [f32]) {
        let ranked = &self.inputs[input];
        if ranked.least >= 1.0 {
            return;
        }
        let mut words = vec![0; tau.len()];
        ranked.rng.fill(offset, &mut words);
        let ranks = Ranks::new(tau);
        if self.inverse {
            let n = tau.len();
            let exact = ranks.all(tau);
            for ((tau, word), rank) in tau.iter_mut().zip(&words).zip(exact) {
                let kept = u64::from(*word) < ranked.bound(rank, n);
                *tau = if kept {
                    *tau / ranked.probability(rank, n) as f32
                } else {
                    0.0
                };
            }
        } else {
            ranks.draw(ranked, tau, &mut words);
            for (tau, kept) in tau.iter_mut().zip(&words) {
                *tau = if *kept != 0 { *tau } else { 0.0 };
            }
        }
    }
}

/// Ranks by |τ| in a row, known to within a bin of a histogram. Equal values rank by index.
struct Ranks {
    /// The bin of each element; bins ascend with |τ|.
    bins: Vec<u16>,
    /// The rank of the first element of each bin; one more entry for the end.
    starts: Vec<u32>,
}

impl Ranks {
    fn new(tau: &[f32]) -> Self {
        let count = (tau.len() / 2).next_power_of_two().clamp(64, 4096);
        let largest = tau.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let scale = (count - 1) as f32 / largest.max(f32::MIN_POSITIVE);
        let bins: Vec<u16> = tau
            .iter()
            .map(|x| ((x.abs() * scale) as i32).min(count as i32 - 1) as u16)
            .collect();
        let mut starts = vec![0; count + 1];
        for bin in &bins {
            starts[*bin as usize + 1] += 1;
        }
        for b in 0..count {
            starts[b + 1] += starts[b];
        }
        Self { bins, starts }
    }

    /// Replaces each word by 1 where it keeps its element and 0 where it drops it.
    fn draw(&self, ranked: &Ranked, tau: &[f32], words: &mut [u32]) {
        let n = tau.len();
        // Bounds at the first and at the last rank of each bin.
        let bounds: Vec<[u64; 2]> = self
            .starts
            .windows(2)
            .map(|s| {
                [
                    ranked.bound(s[0] as usize, n),
                    ranked.bound((s[1].max(s[0] + 1) - 1) as usize, n),
                ]
            })
            .collect();
        let mut unsure: Vec<(u16, u32, u32)> = Vec::new();
        for (j, (word, bin)) in words.iter_mut().zip(&self.bins).enumerate() {
            let [first, last] = bounds[*bin as usize];
            let [kept, maybe] = [u64::from(*word) < first, u64::from(*word) < last];
            if kept != maybe {
                unsure.push((*bin, j as u32, *word));
            }
            *word = u32::from(kept);
        }
        unsure.sort_unstable();
        for same in unsure.chunk_by(|a, b| a.0 == b.0) {
            let ranks = self.within(tau, same[0].0);
            for (bin, j, word) in same {
                let place = ranks.iter().position(|i| i == j).unwrap_or(0);
                let rank = self.starts[*bin as usize] as usize + place;
                words[*j as usize] = u32::from(u64::from(*word) < ranked.bound(rank, n));
            }
        }
    }

    /// The elements of a bin, by rank.
    fn within(&self, tau: &[f32], bin: u16) -> Vec<u32> {
        let mut members: Vec<u32> = Vec::new();
        for (c, bins) in self.bins.chunks(64).enumerate() {
            if bins.iter().fold(false, |hit, b| hit | (*b == bin)) {
                let here = bins.iter().enumerate().filter(|(_, b)| **b == bin);
                members.extend(here.map(|(j, _)| (c * 64 + j) as u32));
            }
        }
        // Stable, and linear where all are equal, as zeros are.
        members.sort_by_key(|j| tau[*j as usize].to_bits() & 0x7FFF_FFFF);
        members
    }

    /// The rank of every element.
    fn all(&self, tau: &[f32]) -> Vec<usize> {
        let mut ranks: Vec<(u16, u32)> = self
            .bins
            .iter()
            .enumerate()
            .map(|(j, b)| (*b, j as u32))
            .collect();
        ranks.sort_by_key(|(bin, j)| (*bin, tau[*j as usize].to_bits() & 0x7FFF_FFFF));
        let mut exact = vec![0; tau.len()];
        for (rank, (_, j)) in ranks.iter().enumerate() {
            exact[*j as usize] = rank;
        }
        exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The short way of ranking decides as the long one does, with ties and zeros among the values.
    #[test]
    fn bounds_decide_as_exact_ranks_do() {
        for n in [1_usize, 2, 3, 63, 64, 65, 1000, 5000] {
            let mut words = vec![0; 2 * n];
            ElementRng::new(3, "values", 0).fill(0, &mut words);
            let tau: Vec<f32> = words[n..]
                .iter()
                .map(|w| {
                    if w % 3 == 0 {
                        0.0
                    } else {
                        ((w >> 8) % 997) as f32 - 498.0
                    }
                })
                .collect();
            let ranked = Ranked {
                rng: ElementRng::new(3, "words", 0),
                least: 0.35,
                spread: 0.3,
            };
            let ranks = Ranks::new(&tau);
            let exact = ranks.all(&tau);
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| tau[*a].abs().total_cmp(&tau[*b].abs()).then(a.cmp(b)));
            for (rank, j) in order.iter().enumerate() {
                assert_eq!(exact[*j], rank);
            }
            let mut drawn = words[..n].to_vec();
            ranks.draw(&ranked, &tau, &mut drawn);
            for j in 0..n {
                let expected = u64::from(words[j]) < ranked.bound(exact[j], n);
                assert_eq!(drawn[j] != 0, expected, "element {j} of {n}");
            }
        }
    }
}
