//! Barycentre of several models on the unit sphere, in one step.
//!
//! With unit vectors ui: m = Σ wi ui, normalised, is the point around which the tangents ui − (ui·m)m are weighed.
//! Their weighted sum is Σ wi ui − (Σ wi ui · m) m, and since Σ wi ui is parallel to m, it is zero: the exponential map
//! at m stays at m. So the result is m times Σ wi ‖θi‖, a combination whose coefficients follow from the inner
//! products.

use super::combination::combination;
use super::linear::zero_sum;
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::gram::{Gram, Vectors, gram};
use crate::params::{Interval, ParamSpec, Params};

/// `multislerp`.
pub const DEF: OperatorDef = OperatorDef {
    name: "multislerp",
    summary: "Spherical interpolation of any number of models, or of their task vectors.",
    formula: "m · Σ wi ‖vi‖ with m = Σ wi vi/‖vi‖ at unit length; vi = θi, or τi and then added to θ0 when there is a base",
    reference: "barycentric interpolation on the sphere; options of mergekit's multislerp",
    inputs: InputRule::at_least(1),
    base: BaseRule::Optional,
    params: &[
        ParamSpec::number("weight", "Weight of the model.", Interval::ANY, (0.0, 1.0)).per_input(),
        ParamSpec::flag("normalize_weights", "Divide the weights by their sum.", true),
        ParamSpec::number(
            "eps",
            "Length below which the mean direction is undefined and a weighted sum is taken instead.",
            Interval::above(0.0, 1.0),
            (1e-8, 1e-8),
        )
        .or(1e-8),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let mut weights = params.input_numbers("weight");
    if params.flag("normalize_weights") {
        let sum: f64 = weights.iter().sum();
        if sum.abs() < 1e-12 {
            return Err(zero_sum(DEF.name, &weights));
        }
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    let eps = params.number("eps");
    let deltas = tensor.has_base;
    let vectors = if deltas { Vectors::TaskVectors } else { Vectors::Inputs };
    Ok(gram(vectors, tensor.n_inputs, move |g| {
        let norm = weights.iter().enumerate().map(|(i, w)| w * g.norm(i)).sum::<f64>();
        let direction: Vec<f64> = weights.iter().enumerate().map(|(i, w)| w / g.norm(i).max(eps)).collect();
        let length = length(g, &direction);
        let c: Vec<f64> = if length < eps { weights } else { direction.iter().map(|d| d / length * norm).collect() };
        Ok(combination(if deltas { 1.0 - c.iter().sum::<f64>() } else { 0.0 }, c))
    }))
}

/// ‖Σ ci vi‖.
pub(super) fn length(g: &Gram, c: &[f64]) -> f64 {
    inner(g, c, c).max(0.0).sqrt()
}

/// ⟨Σ ai vi, Σ bi vi⟩.
pub(super) fn inner(g: &Gram, a: &[f64], b: &[f64]) -> f64 {
    let row = |i: usize| b.iter().enumerate().map(|(j, b)| b * g.dot(i, j)).sum::<f64>();
    a.iter().enumerate().map(|(i, a)| a * row(i)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    const A: [f32; 3] = [2.0, 0.0, 0.0];
    const B: [f32; 3] = [0.0, 0.0, 4.0];

    #[test]
    fn of_one_model_it_is_that_model() {
        let inputs: [&[f32]; 1] = [&[1.0, -2.0, 0.5]];
        let merge = Case { settings: &[("weight", 0.3)], ..Case::of(&DEF, &inputs) };
        merge.gives(&[1.0, -2.0, 0.5]);
        Case { base: Some(&[0.5, 0.5, 0.5]), ..merge }.gives(&[1.0, -2.0, 0.5]);
    }

    #[test]
    fn direction_and_length_are_averaged_apart() {
        let half = 0.5_f32.sqrt();
        let check = |settings: &[Number], length: f32| {
            Case { settings, ..Case::of(&DEF, &[&A, &B]) }.gives(&[length * half, 0.0, length * half]);
        };
        check(&[("weight", 0.7)], 3.0);
        check(&[("weight", 1.0), ("normalize_weights", 0.0)], 6.0);
    }

    #[test]
    fn opposed_models_fall_back_to_a_weighted_sum() {
        let opposed: [&[f32]; 2] = [&A, &[-4.0, 0.0, 0.0]];
        Case { settings: &[("weight", 1.0)], ..Case::of(&DEF, &opposed) }.gives(&[-1.0, 0.0, 0.0]);
    }

    #[test]
    fn weights_that_cancel_are_refused() {
        let own: [&[Number]; 2] = [&[("weight", 1.0)], &[("weight", -1.0)]];
        Case { own: &own, ..Case::of(&DEF, &[&A, &B]) }.refused(
            "multislerp: `weight` must be such that the weights do not add up to 0, which normalize divides by, found [1.0, -1.0]",
        );
    }
}
