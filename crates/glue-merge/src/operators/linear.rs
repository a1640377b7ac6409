//! Weighted average: Σ wi θi, divided by Σ wi. Wortsman et al., "Model soups", arXiv 2203.05482.

use super::combination::combination;
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};

/// `linear`.
pub const DEF: OperatorDef = OperatorDef {
    name: "linear",
    summary: "Weighted average of the models.",
    formula: "Σ wi θi, divided by Σ wi when normalize",
    reference: "Model soups, arXiv 2203.05482",
    inputs: InputRule::at_least(1),
    base: BaseRule::Unused,
    params: &[
        ParamSpec::number("weight", "Weight of the model.", Interval::ANY, (0.0, 1.0)).per_input(),
        ParamSpec::flag("normalize", "Divide by the sum of the weights.", true),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(_: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let weights = params.input_numbers("weight");
    let sum: f64 = weights.iter().sum();
    if !params.flag("normalize") {
        return Ok(combination(0.0, weights));
    }
    if sum.abs() < 1e-12 {
        return Err(zero_sum(DEF.name, &weights));
    }
    Ok(combination(0.0, weights.into_iter().map(|w| w / sum)))
}

/// The refusal of weights that cannot be normalised.
pub(super) fn zero_sum(operator: &'static str, weights: &[f64]) -> MergeError {
    ParamError::Refused {
        operator,
        key: "weight",
        allowed: "such that the weights do not add up to 0, which normalize divides by".into(),
        found: format!("{weights:?}"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    const INPUTS: [&[f32]; 2] = [&[1.0, 2.0], &[5.0, -2.0]];

    fn merge<'a>(settings: &'a [Number], own: &'a [&'a [Number]]) -> Case<'a> {
        Case { settings, own, ..Case::of(&DEF, &INPUTS) }
    }

    #[test]
    fn weights_are_shares_unless_told_otherwise() {
        let own: [&[Number]; 2] = [&[("weight", 3.0)], &[("weight", 1.0)]];
        merge(&[], &own).gives(&[2.0, 1.0]);
        merge(&[("normalize", 0.0)], &own).gives(&[8.0, 4.0]);
    }

    #[test]
    fn weights_that_cancel_are_refused() {
        let own: [&[Number]; 2] = [&[("weight", 0.5)], &[("weight", -0.5)]];
        merge(&[], &own).refused(
            "linear: `weight` must be such that the weights do not add up to 0, which normalize divides by, found [0.5, -0.5]",
        );
        merge(&[("normalize", 0.0)], &own).gives(&[-2.0, 2.0]);
    }
}
