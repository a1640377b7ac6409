//! PCB: parameters compete inside their model and between models. Du et al., "Parameter competition balancing for model
//! merging", arXiv 2410.02396.
//!
//! An element weighs by how large it is among those of its own task vector (intra-balancing) and by how well it goes
//! with what all models together do at its place (inter-balancing): βi = exp(N · ui²) · tanh(τi · Σ τ), where ui is
//! |τi| with its least value in the tensor moved to 0 and its greatest to 1, and N the number of models. Of each model
//! the top share of βi is kept, and of that only what is above 0: an element that opposes the sum has lost. The paper
//! takes minimum, maximum and share over the whole model; here they are taken tensor by tensor, so that tensors stream.

use super::task::LAMBDA;
use super::threshold::count;
use crate::contract::{Block, Granularity, Map, Plan, Reduction, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};
use crate::select::{Keys, Threshold, select_largest};
use crate::task_vectors::{CHUNK, Chunk, chunks};

/// `pcb`.
pub const DEF: OperatorDef = OperatorDef {
    name: "pcb",
    summary: "Weighs each element by its size in its own model and by its agreement with the others, and keeps the best.",
    formula: "βi = exp(N · norm(|τi|)²) · tanh(τi · Σ τ), norm to 0..1 by least and greatest, N models; βi of the ⌊density·n⌋ largest that are above 0; θ0 + λ Σ βi τi ÷ Σ βi",
    reference: "PCB-Merging, arXiv 2410.02396",
    inputs: InputRule::at_least(2),
    base: BaseRule::Required,
    params: &[
        ParamSpec::number("density", "Share of each task vector that is kept.", Interval::above(0.0, 1.0), (0.05, 0.5))
            .or(0.2)
            .per_input(),
        LAMBDA,
    ],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    Ok(Plan::reduce(Extremes {
        elements: tensor.len(),
        counts: params.input_numbers("density").iter().map(|d| count(*d, tensor.len())).collect(),
        lambda: params.number("lambda") as f32,
    }))
}

/// The least and the greatest |τ| of each input.
struct Extremes {
    elements: usize,
    counts: Vec<usize>,
    lambda: f32,
}

impl Reduction for Extremes {
    type Accumulator = Vec<[f32; 2]>;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Vec<[f32; 2]> {
        vec![[f32::INFINITY, 0.0]; self.counts.len()]
    }

    fn observe(&self, accumulator: &mut Vec<[f32; 2]>, block: &Block<'_>) {
        chunks(block, |chunk| {
            for ([least, greatest], tau) in accumulator.iter_mut().zip(chunk.taus()) {
                for tau in tau {
                    *least = least.min(tau.abs());
                    *greatest = greatest.max(tau.abs());
                }
            }
        });
    }

    fn combine(&self, accumulator: &mut Vec<[f32; 2]>, later: Vec<[f32; 2]>) {
        for ([least, greatest], [low, high]) in accumulator.iter_mut().zip(later) {
            *least = least.min(low);
            *greatest = greatest.max(high);
        }
    }

    fn finish(self, extremes: Vec<[f32; 2]>) -> Result<Plan, MergeError> {
        let Self { elements, counts, lambda } = self;
        let competition = Competition { extremes };
        Ok(select_largest(
            elements,
            competition.clone(),
            move |input, _| vec![counts[input]],
            move |thresholds| {
                Ok(Plan::map(Balanced { competition, thresholds: thresholds.iter().map(|c| c[0]).collect(), lambda }))
            },
        ))
    }
}

/// What the elements of each input weigh.
#[derive(Clone)]
struct Competition {
    extremes: Vec<[f32; 2]>,
}

impl Competition {
    /// `beta` = max(βi, 0) / exp(N), from τi and Σ τ: the factor cancels, and without it many models would overflow.
    fn beta(&self, input: usize, tau: &[f32], sum: &[f32], beta: &mut [f32]) {
        let n = self.extremes.len() as f32;
        let [least, greatest] = self.extremes[input];
        // Where all are of one size, none stands out.
        let scale = if greatest > least { 1.0 / (greatest - least) } else { 0.0 };
        for ((beta, tau), sum) in beta.iter_mut().zip(tau).zip(sum) {
            let u = (tau.abs() - least) * scale;
            *beta = exp(n * (u * u - 1.0)) * tanh((tau * sum).max(0.0));
        }
    }
}

/// eˣ for x ≤ 0, to a few units in the last place, without a branch or a call that would keep loops from SIMD.
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number and leaves that in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    // ln 2 in two parts, the first of which has few bits: x − k ln 2 is then exact to f32.
    let r = x - k * 0.693_359_4 + k * 2.121_944_4e-4;
    let series = 1.0 + r * (1.0 + r / 2.0 * (1.0 + r / 3.0 * (1.0 + r / 4.0 * (1.0 + r / 5.0 * (1.0 + r / 6.0)))));
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    series * power
}

/// tanh x for x ≥ 0 by the first nine terms of Lambert's continued fraction; off by 1e-5 at most.
#[inline]
fn tanh(x: f32) -> f32 {
    let x = x.min(6.0);
    let s = x * x;
    let above = 34_459_425.0 + s * (4_729_725.0 + s * (135_135.0 + s * (990.0 + s)));
    let below = 34_459_425.0 + s * (16_216_200.0 + s * (945_945.0 + s * (13_860.0 + s * 45.0)));
    (x * above / below).min(1.0)
}

impl Keys for Competition {
    fn streams(&self) -> usize {
        self.extremes.len()
    }

    fn keys(&self, input: usize, block: &Block<'_>, keys: &mut [u32]) {
        let mut scratch = [[0.0; CHUNK]; 2];
        chunks(block, |chunk| {
            let [sum, beta] = scratch.each_mut().map(|r| &mut r[..chunk.len]);
            chunk.sum(sum);
            if let Some(tau) = chunk.taus().nth(input) {
                self.beta(input, tau, sum, beta);
            }
            for (key, beta) in keys[chunk.at..].iter_mut().zip(&*beta) {
                *key = beta.to_bits();
            }
        });
    }
}

struct Balanced {
    competition: Competition,
    thresholds: Vec<Threshold>,
    lambda: f32,
}

impl Balanced {
    fn merge_chunk(&self, chunk: &Chunk<'_>, offset: usize, out: &mut [f32]) {
        let mut scratch = [[0.0; CHUNK]; 3];
        let [sum, beta, weight] = scratch.each_mut().map(|r| &mut r[..chunk.len]);
        chunk.sum(sum);
        out.fill(0.0);
        weight.fill(0.0);
        for (input, (tau, threshold)) in chunk.taus().zip(&self.thresholds).enumerate() {
            self.competition.beta(input, tau, sum, beta);
            for (range, least) in threshold.ranges(offset, chunk.len) {
                for j in range {
                    let beta = if beta[j].to_bits() >= least { beta[j] } else { 0.0 };
                    out[j] += beta * tau[j];
                    weight[j] += beta;
                }
            }
        }
        for ((out, base), weight) in out.iter_mut().zip(chunk.base).zip(&*weight) {
            // Where nothing is kept, the sum above is 0 as well.
            let weight = if *weight > 0.0 { *weight } else { 1.0 };
            *out = base + self.lambda * (*out / weight);
        }
    }
}

impl Map for Balanced {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        chunks(block, |chunk| {
            let out = &mut out[chunk.at..chunk.at + chunk.len];
            self.merge_chunk(&chunk, block.offset + chunk.at, out);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Case;

    fn check(density: f64, inputs: &[&[f32]], expected: &[f32]) {
        let base = vec![0.0; expected.len()];
        Case { settings: &[("density", density)], base: Some(&base), ..Case::of(&DEF, inputs) }.gives(expected);
    }

    #[test]
    fn weights_by_hand() {
        // |τ1| from 0 to 2 and |τ2| from 0 to 1, N = 2. Signs clash in the second place: τ2 opposes the sum and is out.
        let beta = |u: f32, product: f32| (2.0 * u * u).exp() * product.tanh();
        let (b1, b2) = (beta(0.5, 1.5), beta(0.5, 0.75));
        let first = (b1 * 1.0 + b2 * 0.5) / (b1 + b2);
        check(1.0, &[&[1.0, 2.0, 0.0], &[0.5, -1.0, 0.0]], &[first, 2.0, 0.0]);
    }

    #[test]
    fn the_share_is_taken_of_each_model() {
        // Of three places one is kept: the largest of each model, at different places.
        check(0.34, &[&[3.0, 0.1, 0.1], &[0.1, 0.1, 3.0]], &[3.0, 0.0, 3.0]);
    }

    #[test]
    fn functions_are_near_those_of_the_library() {
        for j in 0..20_000 {
            let x = j as f32 / 1000.0;
            let (found, expected) = (tanh(x), f64::from(x).tanh());
            assert!((f64::from(found) - expected).abs() <= 1e-5 * expected, "tanh {x} = {found}");
            let (found, expected) = (exp(-4.0 * x), f64::from(-4.0 * x).exp());
            assert!((f64::from(found) / expected - 1.0).abs() <= 1e-6, "exp -{x} = {found}");
        }
        assert_eq!((tanh(1e-20), exp(0.0)), (1e-20, 1.0));
    }

    #[test]
    fn a_hundred_models_do_not_overflow() {
        let models = vec![&[1.0_f32, 0.5][..]; 100];
        check(1.0, &models, &[1.0, 0.5]);
    }

    #[test]
    fn models_that_cancel_leave_the_base() {
        check(1.0, &[&[1.0, -2.0], &[-1.0, 2.0]], &[0.0, 0.0]);
    }
}
