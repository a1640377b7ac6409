//! SCE: selects the positions where the task vectors differ most, calculates their weights from what is left of them,
//! erases minority signs. Wan et al., "FuseChat: knowledge fusion of chat models", arXiv 2408.07990.
//!
//! Positions are ranked by the variance of τ across the models, which is 0 exactly where all agree. The weights are
//! whole-tensor sums: one reduction after the selection.
//!
//! As in mergekit, weights are equal where Σ mean(τj²) is below 1e-6. Fine-tunes of large models often stay below it:
//! three of which each changed by 5e-4 (root mean square) add up to 7.5e-7. SCE is then the plain average of what has
//! the elected sign. With `scale_free`, energies decide however small they are.

use super::task::gather_agreeing;
use super::threshold::count;
use crate::contract::{Block, Granularity, Map, Operand, Plan, Reduction, TensorSpec, wrong_answer};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::device::{Gather, Gathered, Kernel, Ranking};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};
use crate::select::{Keys, Threshold, select_largest};
use crate::striped_sum::StripedSum;
use crate::task_vectors::{CHUNK, Chunk, chunks};

/// `sce`.
pub const DEF: OperatorDef = OperatorDef {
    name: "sce",
    summary: "Keeps the positions where the task vectors vary most, weighs each by its energy there, and drops minority signs.",
    formula: "τi at the ⌊select_topk · (nonzero variances)⌋ positions of largest variance across τ; ci = mean(τi²) / Σ mean(τj²), or all equal where Σ mean(τj²) < 1e-6 unless scale_free; s = sign(Σ τi); θ0 + Σ_{sign τi = s} ci τi ÷ max(Σ_{sign τi = s} ci, 1e-6)",
    reference: "SCE, arXiv 2408.07990",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        ParamSpec::number(
            "select_topk",
            "Share of the positions with a variance that is kept; 1 keeps every position.",
            Interval::above(0.0, 1.0),
            (0.1, 1.0),
        )
        .or(1.0),
        ParamSpec::flag(
            "scale_free",
            "Weigh by energy even where the energies add up to less than 1e-6, as those of fine-tunes often do; otherwise all models weigh the same there.",
            false,
        ),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

/// Below this sum of energies the models weigh the same, unless the weights are free of scale; no divisor goes below
/// it.
const LEAST: f64 = 1e-6;

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let fraction = params.number("select_topk");
    let (inputs, elements) = (tensor.n_inputs, tensor.len());
    let least = if params.flag("scale_free") { 0.0 } else { LEAST * elements as f64 };
    let weigh = move |threshold| {
        let remember = threshold != Threshold::ALL && elements <= REMEMBERED;
        Plan::reduce(Energies { inputs, least, threshold, remember })
    };
    if fraction == 1.0 {
        return Ok(weigh(Threshold::ALL));
    }
    Ok(select_largest(
        elements,
        Variance,
        move |_, largest| vec![count(fraction, largest.nonzero)],
        move |thresholds| {
            Ok(match thresholds[0][0] {
                Threshold::NONE => Plan::Copy(Operand::Base),
                threshold => weigh(threshold),
            })
        },
    ))
}

/// `out` = the variance of τ across the models, position by position.
fn variance(chunk: &Chunk<'_>, out: &mut [f32]) {
    let n = chunk.taus().count() as f32;
    let mut scratch = [0.0; CHUNK];
    let mean = &mut scratch[..chunk.len];
    // Measured from the first model: where all agree, nothing is rounded.
    let Some(first) = chunk.taus().next() else {
        return;
    };
    for tau in chunk.taus() {
        for ((mean, tau), first) in mean.iter_mut().zip(tau).zip(first) {
            *mean += tau - first;
        }
    }
    mean.iter_mut().for_each(|mean| *mean /= n);
    out.fill(0.0);
    for tau in chunk.taus() {
        for (((out, tau), first), mean) in out.iter_mut().zip(tau).zip(first).zip(&*mean) {
            let off = (tau - first) - mean;
            *out += off * off;
        }
    }
    out.iter_mut().for_each(|out| *out /= n);
}

/// Ranks positions by variance.
struct Variance;

impl Keys for Variance {
    fn streams(&self) -> usize {
        1
    }

    fn keys(&self, _: usize, block: &Block<'_>, keys: &mut [u32]) {
        let mut scratch = [0.0; CHUNK];
        chunks(block, |chunk| {
            let variances = &mut scratch[..chunk.len];
            variance(&chunk, variances);
            for (key, variance) in keys[chunk.at..].iter_mut().zip(&*variances) {
                *key = variance.to_bits();
            }
        });
    }

    fn ranking(&self) -> Option<Ranking> {
        Some(Ranking::Variance)
    }
}

/// Which positions of blocks are selected: offset and length of a block, and a bit for each position.
type Positions = Vec<(usize, usize, Vec<u32>)>;

/// Maximum number of elements of a tensor whose selected positions are remembered, in 64 MiB.
const REMEMBERED: usize = 1 << 29;

/// Calls `see` with the selected part of the task vectors, the rest set to 0. Variances decide, or what was `known`
/// before; where they decide, positions are added to `found`.
fn selected(
    threshold: Threshold,
    block: &Block<'_>,
    known: Option<&[u32]>,
    mut found: Option<&mut Vec<u32>>,
    mut see: impl FnMut(Chunk<'_>),
) {
    let (mut scratch, mut masks) = ([0.0; CHUNK], [0_u32; CHUNK]);
    chunks(block, |mut chunk| {
        if threshold != Threshold::ALL {
            let masks = &mut masks[..chunk.len];
            if let Some(words) = known {
                for (masks, word) in masks.chunks_mut(32).zip(&words[chunk.at / 32..]) {
                    masks.iter_mut().enumerate().for_each(|(j, mask)| *mask = (word >> j & 1).wrapping_neg());
                }
            } else {
                let variances = &mut scratch[..chunk.len];
                variance(&chunk, variances);
                for (range, least) in threshold.ranges(block.offset + chunk.at, chunk.len) {
                    for (mask, variance) in masks[range.clone()].iter_mut().zip(&variances[range]) {
                        *mask = if variance.to_bits() >= least { u32::MAX } else { 0 };
                    }
                }
                if let Some(found) = &mut found {
                    let word =
                        |masks: &[u32]| masks.iter().enumerate().fold(0, |word, (j, mask)| word | (mask & 1) << j);
                    let (whole, rest) = masks.as_chunks::<32>();
                    found.extend(whole.iter().map(|masks| word(masks)).chain(rest.chunks(32).map(word)));
                }
            }
            for tau in chunk.taus_mut() {
                for (tau, mask) in tau.iter_mut().zip(&*masks) {
                    *tau = f32::from_bits(tau.to_bits() & mask);
                }
            }
        }
        see(chunk);
    });
}

/// Sums of squares of the selected part of each task vector.
struct Energies {
    inputs: usize,
    /// Below this total the models weigh the same.
    least: f64,
    threshold: Threshold,
    remember: bool,
}

#[derive(Default)]
struct EnergySums {
    sums: Vec<StripedSum>,
    positions: Positions,
}

impl Reduction for Energies {
    type Accumulator = EnergySums;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn accumulator(&self) -> EnergySums {
        EnergySums { sums: vec![StripedSum::default(); self.inputs], positions: Positions::new() }
    }

    fn observe(&self, accumulator: &mut EnergySums, block: &Block<'_>) {
        let mut found = Vec::new();
        selected(self.threshold, block, None, self.remember.then_some(&mut found), |chunk| {
            for (sum, tau) in accumulator.sums.iter_mut().zip(chunk.taus()) {
                sum.dot(block.offset + chunk.at, tau, tau);
            }
        });
        if self.remember {
            accumulator.positions.push((block.offset, block.len(), found));
        }
    }

    fn combine(&self, accumulator: &mut EnergySums, mut later: EnergySums) {
        StripedSum::combine_all(&mut accumulator.sums, &later.sums);
        accumulator.positions.append(&mut later.positions);
    }

    fn finish(self, total: EnergySums) -> Result<Plan, MergeError> {
        let energies: Vec<f64> = total.sums.iter().map(StripedSum::total).collect();
        let weights = weights(&energies, self.least);
        Ok(Plan::map(Erase { threshold: self.threshold, weights, positions: total.positions }))
    }

    fn describe(&self) -> Option<Gather<'_>> {
        Some(Gather::Energies { threshold: self.threshold, inputs: self.inputs })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match gathered {
            Gathered::Sums(energies) if energies.len() == self.inputs => {
                let weights = weights(&energies, self.least);
                Ok(Plan::map(Erase { threshold: self.threshold, weights, positions: Positions::new() }))
            }
            other => Err(wrong_answer(&other)),
        }
    }
}

/// The weights of the models from their sums of squares; all the same where these add up to less than `least`, or to 0.
fn weights(energies: &[f64], least: f64) -> Vec<f32> {
    let sum: f64 = energies.iter().sum();
    let weight = |energy: &f64| if sum < least || sum == 0.0 { 1.0 / energies.len() as f64 } else { energy / sum };
    energies.iter().map(|energy| weight(energy) as f32).collect()
}

/// Adds what agrees with the sign of Σ τ, weighed.
struct Erase {
    threshold: Threshold,
    weights: Vec<f32>,
    /// Of blocks that are not among them, variances are compared again.
    positions: Positions,
}

impl Map for Erase {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Sce { threshold: self.threshold, weights: &self.weights })
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut scratch = [[0.0; CHUNK]; 2];
        let known = self.positions.binary_search_by_key(&block.offset, |(offset, ..)| *offset);
        let known = known.ok().map(|at| &self.positions[at]).filter(|(_, len, _)| *len == block.len());
        selected(self.threshold, block, known.map(|(.., words)| &words[..]), None, |mut chunk| {
            let [sum, weight] = scratch.each_mut().map(|r| &mut r[..chunk.len]);
            let out = &mut out[chunk.at..chunk.at + chunk.len];
            chunk.sum(sum);
            out.fill(0.0);
            weight.fill(0.0);
            for (c, tau) in self.weights.iter().zip(chunk.taus_mut()) {
                tau.iter_mut().for_each(|tau| *tau *= c);
                gather_agreeing(tau, *c, sum, out, weight);
            }
            for ((out, base), weight) in out.iter_mut().zip(chunk.base).zip(&*weight) {
                *out = base + *out / weight.max(LEAST as f32);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Case;

    fn check(topk: f64, inputs: &[&[f32]], expected: &[f32]) {
        let base = vec![0.0; expected.len()];
        Case { settings: &[("select_topk", topk)], base: Some(&base), ..Case::of(&DEF, inputs) }.gives(expected);
    }

    #[test]
    fn by_hand() {
        // Energies 4+1 and 16+1 of four elements: shares 5/22 and 17/22. Signs clash in the last place, where 1 − 1 = 0
        // elects +, and the first model alone agrees.
        check(1.0, &[&[2.0, 0.0, 0.0, 1.0], &[4.0, 0.0, 0.0, -1.0]], &[(5.0 * 2.0 + 17.0 * 4.0) / 22.0, 0.0, 0.0, 1.0]);
        // Variances 1, 0, 4, 1: of the three that are not 0, two thirds keep the third place and the first.
        check(
            0.67,
            &[&[2.0, 3.0, 4.0, 1.0], &[4.0, 3.0, 8.0, 3.0]],
            &[(20.0 * 2.0 + 80.0 * 4.0) / 100.0, 0.0, (20.0 * 4.0 + 80.0 * 8.0) / 100.0, 0.0],
        );
    }

    #[test]
    fn without_variance_nothing_is_selected() {
        check(0.9, &[&[2.0, 3.0]], &[0.0, 0.0]);
        check(0.9, &[&[2.0, 3.0], &[2.0, 3.0]], &[0.0, 0.0]);
        check(1.0, &[&[2.0, 3.0], &[2.0, 3.0]], &[2.0, 3.0]);
        // Three times 0.9, over three, is not 0.9 in f32; the models agree there all the same, and half of one
        // position is none.
        check(0.5, &[&[0.9, 1.0], &[0.9, 2.0], &[0.9, 4.0]], &[0.0, 0.0]);
    }

    #[test]
    fn tiny_energies_weigh_the_same() {
        assert_eq!(weights(&[1e-7, 3e-7], LEAST), [0.5, 0.5]);
        assert_eq!(weights(&[1e3, 3e3], 1000.0 * LEAST), [0.25, 0.75]);
        assert_eq!(weights(&[0.0, 0.0], 0.0), [0.5, 0.5]);
    }

    /// Task vectors of 1e-4 and 3e-4, as of a fine-tune with a small learning rate.
    #[test]
    fn small_energies_decide_where_weights_are_free_of_scale() {
        let merge = |scale_free, expected: f32| {
            let settings = [("scale_free", scale_free)];
            let (inputs, base): ([&[f32]; 2], _) = ([&[1e-4; 4], &[3e-4; 4]], Some(&[0.0; 4][..]));
            let found = Case { settings: &settings, base, ..Case::of(&DEF, &inputs) }.run().unwrap();
            assert!(found.iter().all(|x| (x / expected - 1.0).abs() < 1e-6), "{found:?} for {expected}");
        };
        merge(0.0, 2e-4);
        merge(1.0, 2.8e-4);
    }
}
