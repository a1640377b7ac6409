//! SCE: selects the positions where the task vectors differ most, calculates their weights from what is left of them,
//! erases minority signs. Wan et al., "FuseChat: knowledge fusion of chat models", arXiv 2408.07990.
//!
//! Positions are ranked by the variance of τ across the models, which is 0 exactly where all agree. The weights are
//! whole-tensor sums: one reduction after the selection.

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
    formula: "τi at the ⌊select_topk · (nonzero variances)⌋ positions of largest variance across τ; ci = mean(τi²) / Σ mean(τj²); s = sign(Σ τi); θ0 + Σ_{sign τi = s} ci τi ÷ max(Σ_{sign τi = s} ci, 1e-6)",
    reference: "SCE, arXiv 2408.07990",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[ParamSpec::number(
        "select_topk",
        "Share of the positions with a variance that is kept; 1 keeps every position.",
        Interval::above(0.0, 1.0),
        (0.1, 1.0),
    )
    .or(1.0)],
    plan,
    ..OperatorDef::DEFAULT
};

/// Below this sum of energies the models weigh the same; no divisor goes below it.
const LEAST: f64 = 1e-6;

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let fraction = params.number("select_topk");
    let (inputs, elements) = (tensor.n_inputs, tensor.len());
    let weigh = move |threshold| Plan::reduce(Energies { inputs, elements, threshold });
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

/// Calls `see` with the selected part of the task vectors, the rest set to 0.
fn selected(threshold: Threshold, block: &Block<'_>, mut see: impl FnMut(Chunk<'_>)) {
    let (mut scratch, mut masks) = ([0.0; CHUNK], [0; CHUNK]);
    chunks(block, |mut chunk| {
        if threshold != Threshold::ALL {
            let variances = &mut scratch[..chunk.len];
            variance(&chunk, variances);
            for (range, least) in threshold.ranges(block.offset + chunk.at, chunk.len) {
                for (mask, variance) in masks[range.clone()].iter_mut().zip(&variances[range]) {
                    *mask = if variance.to_bits() >= least { u32::MAX } else { 0 };
                }
            }
            for tau in chunk.taus_mut() {
                for (tau, mask) in tau.iter_mut().zip(&masks) {
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
    elements: usize,
    threshold: Threshold,
}

impl Reduction for Energies {
    type Accumulator = Vec<StripedSum>;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn accumulator(&self) -> Vec<StripedSum> {
        vec![StripedSum::default(); self.inputs]
    }

    fn observe(&self, sums: &mut Vec<StripedSum>, block: &Block<'_>) {
        selected(self.threshold, block, |chunk| {
            for (sum, tau) in sums.iter_mut().zip(chunk.taus()) {
                sum.dot(block.offset + chunk.at, tau, tau);
            }
        });
    }

    fn combine(&self, sums: &mut Vec<StripedSum>, later: Vec<StripedSum>) {
        StripedSum::combine_all(sums, &later);
    }

    fn finish(self, sums: Vec<StripedSum>) -> Result<Plan, MergeError> {
        let energies: Vec<f64> = sums.iter().map(StripedSum::total).collect();
        Ok(Plan::map(Erase { threshold: self.threshold, weights: weights(&energies, self.elements) }))
    }

    fn describe(&self) -> Option<Gather<'_>> {
        Some(Gather::Energies { threshold: self.threshold, inputs: self.inputs })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match gathered {
            Gathered::Sums(energies) if energies.len() == self.inputs => {
                Ok(Plan::map(Erase { threshold: self.threshold, weights: weights(&energies, self.elements) }))
            }
            other => Err(wrong_answer(&other)),
        }
    }
}

/// The weights of the models from their sums of squares over `n` elements.
fn weights(energies: &[f64], n: usize) -> Vec<f32> {
    let sum: f64 = energies.iter().sum();
    let weight = |energy: &f64| {
        if sum / (n as f64) < LEAST { 1.0 / energies.len() as f64 } else { energy / sum }
    };
    energies.iter().map(|energy| weight(energy) as f32).collect()
}

/// Adds what agrees with the sign of Σ τ, weighed.
struct Erase {
    threshold: Threshold,
    weights: Vec<f32>,
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
        selected(self.threshold, block, |mut chunk| {
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
        assert_eq!(weights(&[1e-7, 3e-7], 1), [0.5, 0.5]);
        assert_eq!(weights(&[1e3, 3e3], 1000), [0.25, 0.75]);
    }
}
