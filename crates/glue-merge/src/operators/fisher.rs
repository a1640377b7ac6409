//! Fisher-weighted averaging: each element is the mean of the models', weighed by how sure each of them is of it.
//! Matena and Raffel, "Merging models with Fisher-weighted averaging", arXiv 2111.09832.
//!
//! With Fi the diagonal of the Fisher information of model i on data of its own, θ = Σ wi F̂i θi / Σ wi F̂i. That is
//! the mode of the product of Gaussians, one for each model, with mean θi and precision wi F̂i.
//!
//! Two things are settled here that the formula leaves open. **Scale:** Fi grows with the square of the gradients, by
//! orders of magnitude from model to model; with `normalize` each is divided by its root mean square first. The
//! authors' code divides by the norm over the whole model; here it is taken over the tensor, since tensors are merged
//! one by one. **Zeros:** where no model has any Fisher information, as for tokens that the data does not have, the
//! quotient is 0/0. F̂i = Fi / rms + floor, so that such elements get the weighted mean, and others are hardly moved;
//! without `normalize` the rms is the mean of those of all models. Adding ε to the divisor alone would shrink those
//! elements to 0.
//!
//! Weaknesses: a diagonal says nothing of how parameters depend on each other, so that models from different
//! optima are averaged as badly as by `linear`. A Fisher information from few examples is noise. A model that fits its
//! data well has small gradients, and without `normalize` hardly any say.

use crate::contract::{Block, Granularity, Map, Plan, Reduction, TensorSpec};
use crate::def::{BaseRule, OperatorDef};
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};
use crate::statistic::{StatisticOf, StatisticShape, StatisticSpec};
use crate::striped_sum::StripedSum;

/// `fisher`.
pub const DEF: OperatorDef = OperatorDef {
    name: "fisher",
    summary: "Average of the models in which each element is weighed by its Fisher information.",
    formula: "Σ wi F̂i θi / Σ wi F̂i with F̂i = Fi/rms(Fi) + floor, rms over the tensor; without normalize the mean rms of all models",
    reference: "Fisher merging, arXiv 2111.09832",
    base: BaseRule::Unused,
    params: &[
        ParamSpec::number("weight", "Weight of the model.", Interval::closed(0.0, f64::INFINITY), (0.0, 1.0))
            .or(1.0)
            .per_input(),
        ParamSpec::flag(
            "normalize",
            "Divide the Fisher information of each model by its root mean square over the tensor.",
            true,
        ),
        ParamSpec::number(
            "floor",
            "Added to the Fisher information, as a fraction of its root mean square; where there is nothing else, the \
             result is the weighted mean.",
            Interval::above(0.0, 1.0),
            (1e-6, 1e-6),
        )
        .or(1e-6),
    ],
    statistic: Some(StatisticSpec {
        name: StatisticSpec::FISHER,
        doc: "Diagonal of the Fisher information: the mean over examples of the squared gradient of the log-likelihood.",
        shape: StatisticShape::Same,
        of: StatisticOf::Inputs,
    }),
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let weights = params.input_numbers("weight");
    if weights.iter().sum::<f64>() < 1e-12 {
        let (operator, key) = (DEF.name, "weight");
        let (allowed, found) = ("above 0 for at least one model".into(), format!("{weights:?}"));
        return Err(ParamError::Refused { operator, key, allowed, found }.into());
    }
    // Every parameter has a gradient: one without Fisher information is of a file that is not what it should be.
    let Some(statistic) = tensor.statistic else {
        let statistic = DEF.statistic.map_or("", |statistic| statistic.name);
        return Err(MergeError::StatisticMissing { operator: DEF.name, tensor: tensor.name.into(), statistic });
    };
    let n = statistic.of.count(tensor.n_inputs);
    let (normalize, floor) = (params.flag("normalize"), params.number("floor"));
    Ok(Plan::reduce(Sizes { n, elements: tensor.len(), weights, normalize, floor }))
}

/// Finds the root mean square of each Fisher information.
struct Sizes {
    n: usize,
    elements: usize,
    weights: Vec<f64>,
    normalize: bool,
    floor: f64,
}

impl Reduction for Sizes {
    type Accumulator = Vec<StripedSum>;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn accumulator(&self) -> Vec<StripedSum> {
        vec![StripedSum::default(); self.n]
    }

    fn observe(&self, squares: &mut Vec<StripedSum>, block: &Block<'_>) {
        for (squares, fisher) in squares.iter_mut().zip(block.statistics) {
            squares.dot(block.offset, fisher, fisher);
        }
    }

    fn combine(&self, squares: &mut Vec<StripedSum>, later: Vec<StripedSum>) {
        StripedSum::combine_all(squares, &later);
    }

    fn finish(self, squares: Vec<StripedSum>) -> Result<Plan, MergeError> {
        let rms: Vec<f64> =
            squares.iter().map(|squares| (squares.total() / self.elements.max(1) as f64).sqrt()).collect();
        let mean = rms.iter().sum::<f64>() / rms.len().max(1) as f64;
        let scale = |rms: f64| if rms > 0.0 { 1.0 / rms } else { 0.0 };
        let scale = |rms: &f64| scale(if self.normalize { *rms } else { mean });
        let coefficients =
            self.weights.iter().zip(&rms).map(|(weight, rms)| (weight * scale(rms), weight * self.floor));
        Ok(Plan::map(Weighed { coefficients: coefficients.collect() }))
    }
}

/// Precisions a·F + b, with a and b of each model.
struct Weighed {
    coefficients: Vec<(f64, f64)>,
}

/// Elements at a time: both sums stay in a first-level cache.
const CHUNK: usize = 1024;

impl Map for Weighed {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        // Fisher information spans more orders of magnitude than f32 does.
        let (mut above, mut below) = ([0.0_f64; CHUNK], [0.0_f64; CHUNK]);
        for (c, out) in out.chunks_mut(CHUNK).enumerate() {
            let range = c * CHUNK..c * CHUNK + out.len();
            let (above, below) = (&mut above[..out.len()], &mut below[..out.len()]);
            above.fill(0.0);
            below.fill(0.0);
            for ((a, b), (x, fisher)) in self.coefficients.iter().zip(block.inputs.iter().zip(block.statistics)) {
                let sums = above.iter_mut().zip(below.iter_mut());
                for ((above, below), (x, fisher)) in sums.zip(x[range.clone()].iter().zip(&fisher[range.clone()])) {
                    let precision = a * f64::from(*fisher) + b;
                    *above += precision * f64::from(*x);
                    *below += precision;
                }
            }
            for (out, (above, below)) in out.iter_mut().zip(above.iter().zip(below)) {
                *out = (above / *below) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::linear;
    use crate::operators::testing::{Case, Number, close};

    const INPUTS: [&[f32]; 2] = [&[1.0, 2.0, -4.0, 6.0], &[5.0, -2.0, 0.0, 2.0]];
    const FISHERS: [&[f32]; 2] = [&[3.0, 0.0, 1.0, 0.0], &[1.0, 2.0, 1.0, 0.0]];

    fn merge<'a>(settings: &'a [Number], own: &'a [&'a [Number]], statistics: &'a [&'a [f32]]) -> Case<'a> {
        Case { settings, own, statistics, ..Case::of(&DEF, &INPUTS) }
    }

    #[test]
    fn by_hand() {
        // (3·1 + 1·5)/4, (0·2 − 2·2)/2, (−4 + 0)/2, and the mean where nobody knows anything. The floor moves the
        // others by less than 1e-8.
        let settings = [("normalize", 0.0), ("floor", 1e-9)];
        merge(&settings, &[], &FISHERS).gives(&[2.0, -2.0, -2.0, 4.0]);
        let own: [&[Number]; 2] = [&[("weight", 1.0)], &[("weight", 3.0)]];
        merge(&settings, &own, &FISHERS).gives(&[3.0, -2.0, -1.0, 3.0]);
    }

    #[test]
    fn normalised_fishers_are_compared_by_shape_alone() {
        // The root mean squares are √(10/4) and √(6/4): precisions 3/√10 and 1/√6 at the first element.
        let (a, b) = (3.0 / 10.0_f64.sqrt(), 1.0 / 6.0_f64.sqrt());
        let expected = ((a + 5.0 * b) / (a + b)) as f32;
        let found = merge(&[("floor", 1e-9)], &[], &FISHERS).run().unwrap();
        close(&found[..1], &[expected]);
        let larger: Vec<f32> = FISHERS[1].iter().map(|x| x * 1e8).collect();
        merge(&[("floor", 1e-9)], &[], &[FISHERS[0], &larger]).gives(&found);
    }

    #[test]
    fn equal_fishers_give_the_weighted_mean() {
        let own: [&[Number]; 2] = [&[("weight", 0.25)], &[("weight", 0.5)]];
        let mean = Case { own: &own, ..Case::of(&linear::DEF, &INPUTS) }.run().unwrap();
        for normalize in [0.0, 1.0] {
            merge(&[("normalize", normalize)], &own, &[FISHERS[0], FISHERS[0]]).gives(&mean);
            merge(&[("normalize", normalize)], &own, &[&[0.0; 4], &[0.0; 4]]).gives(&mean);
        }
    }

    #[test]
    fn the_smallest_and_the_largest_numbers_do_no_harm() {
        // The second knows nothing in comparison.
        let tiny = f32::from_bits(1);
        merge(&[("normalize", 0.0), ("floor", 1e-9)], &[], &[&[f32::MAX; 4], &[tiny; 4]]).gives(INPUTS[0]);
        // Among themselves, numbers below the normal range count like any others.
        merge(&[], &[], &[&[tiny; 4], &[tiny; 4]]).gives(&[3.0, 0.0, -2.0, 4.0]);
    }

    #[test]
    fn what_cannot_be_weighed_is_refused() {
        merge(&[], &[], &[]).refused("fisher needs the statistic `fisher` of tensor unnamed, and there is none");
        merge(&[("weight", 0.0)], &[], &FISHERS)
            .refused("fisher: `weight` must be above 0 for at least one model, found [0.0, 0.0]");
        merge(&[], &[], &FISHERS[..1]).refused("statistics of tensor unnamed: expected 2 of them, found 1");
        merge(&[], &[], &[FISHERS[0], &[1.0; 3]]).refused(
            "statistics of tensor unnamed: expected 4 numbers of shape [4] in each `fisher`, found 3 in statistic 2",
        );
        merge(&[], &[], &[FISHERS[0], &[1.0, -1.0, 0.0, 0.0]]).refused(
            "statistics of tensor unnamed: expected finite numbers, none negative where it must not be, found -1 at index 1 of `fisher` 2",
        );
    }
}
