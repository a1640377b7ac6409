//! SCE: selects the positions where the task vectors differ most, calculates their weights from what is left of them,
//! erases minority signs. Wan et al., "FuseChat: knowledge fusion of chat models", arXiv 2408.07990.
//!
//! Positions are ranked by the variance of τ across the models, which is 0 exactly where all agree. The weights are
//! whole-tensor sums: one survey after the selection.

use super::chunks::{CHUNK, Chunk, chunks};
use super::task::gather_agreeing;
use super::threshold::count;
use crate::contract::{Block, Grain, Map, Operand, Plan, Survey, TensorSpec, no_answer};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::kernel::{Gather, Gathered, Kernel, Ranking};
use crate::lanes::Lanes;
use crate::params::{Interval, ParamSpec, Params};
use crate::select::{Cut, Keys, select_largest};

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
    statistic: None,
    plan,
};

/// Below this sum of energies the models weigh the same; no divisor goes below it.
const LEAST: f64 = 1e-6;

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let share = params.number("select_topk");
    let (inputs, elements) = (tensor.n_inputs, tensor.len());
    let weigh = move |cut| Plan::survey(Energies { inputs, elements, cut });
    if share == 1.0 {
        return Ok(weigh(Cut::ALL));
    }
    Ok(select_largest(
        elements,
        Variance,
        move |_, largest| vec![count(share, largest.nonzero)],
        move |cuts| {
            Ok(match cuts[0][0] {
                Cut::NONE => Plan::Copy(Operand::Base),
                cut => weigh(cut),
            })
        },
    ))
}

/// `out` = the variance of τ across the models, position by position.
fn variance(chunk: &Chunk<'_>, out: &mut [f32]) {
    let n = chunk.taus().count() as f32;
    let mut room = [0.0; CHUNK];
    let mean = &mut room[..chunk.len];
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
        let mut room = [0.0; CHUNK];
        chunks(block, |chunk| {
            let variances = &mut room[..chunk.len];
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
fn selected(cut: Cut, block: &Block<'_>, mut see: impl FnMut(Chunk<'_>)) {
    let (mut room, mut masks) = ([0.0; CHUNK], [0; CHUNK]);
    chunks(block, |mut chunk| {
        if cut != Cut::ALL {
            let variances = &mut room[..chunk.len];
            variance(&chunk, variances);
            for (run, least) in cut.runs(block.offset + chunk.at, chunk.len) {
                for (mask, variance) in masks[run.clone()].iter_mut().zip(&variances[run]) {
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
    cut: Cut,
}

impl Survey for Energies {
    type Partial = Vec<Lanes>;

    fn grain(&self) -> Grain {
        Grain::Element
    }

    fn partial(&self) -> Vec<Lanes> {
        vec![Lanes::default(); self.inputs]
    }

    fn observe(&self, sums: &mut Vec<Lanes>, block: &Block<'_>) {
        selected(self.cut, block, |chunk| {
            for (sum, tau) in sums.iter_mut().zip(chunk.taus()) {
                sum.dot(block.offset + chunk.at, tau, tau);
            }
        });
    }

    fn join(&self, sums: &mut Vec<Lanes>, later: Vec<Lanes>) {
        sums.iter_mut().zip(&later).for_each(|(sum, more)| sum.join(more));
    }

    fn finish(self, sums: Vec<Lanes>) -> Result<Plan, MergeError> {
        let energies: Vec<f64> = sums.iter().map(Lanes::total).collect();
        Ok(Plan::map(Erase { cut: self.cut, weights: weights(&energies, self.elements) }))
    }

    fn describe(&self) -> Option<Gather<'_>> {
        Some(Gather::Energies { cut: self.cut, inputs: self.inputs })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match gathered {
            Gathered::Sums(energies) if energies.len() == self.inputs => {
                Ok(Plan::map(Erase { cut: self.cut, weights: weights(&energies, self.elements) }))
            }
            other => Err(no_answer(&other)),
        }
    }
}

/// The shares of the models from their sums of squares over `n` elements.
fn weights(energies: &[f64], n: usize) -> Vec<f32> {
    let sum: f64 = energies.iter().sum();
    let share = |energy: &f64| {
        if sum / (n as f64) < LEAST { 1.0 / energies.len() as f64 } else { energy / sum }
    };
    energies.iter().map(|energy| share(energy) as f32).collect()
}

/// Adds what agrees with the sign of Σ τ, weighed.
struct Erase {
    cut: Cut,
    weights: Vec<f32>,
}

impl Map for Erase {
    fn grain(&self) -> Grain {
        Grain::Element
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Sce { cut: self.cut, weights: &self.weights })
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut room = [[0.0; CHUNK]; 2];
        selected(self.cut, block, |mut chunk| {
            let [sum, weight] = room.each_mut().map(|r| &mut r[..chunk.len]);
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
    use crate::operators::testing::Merge;

    fn check(topk: f64, inputs: &[&[f32]], expected: &[f32]) {
        let base = vec![0.0; expected.len()];
        Merge { settings: &[("select_topk", topk)], base: Some(&base), ..Merge::of(&DEF, inputs) }.gives(expected);
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
