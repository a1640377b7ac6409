//! ExPO, model extrapolation: goes on in the direction from a model to the better one that was trained from it, θ1 +
//! α (θ1 − θ0). Zheng et al., "Model extrapolation expedites alignment", arXiv 2404.16792.
//!
//! The base is the model before alignment (after supervised fine-tuning), the input the one after (DPO, RLHF). Computed
//! as θ0 + (1 + α) τ, which leaves a weight that did not move exactly as it is. The authors choose α between 0.1 and
//! 0.5 on validation data; a large one destroys the model.

use super::task_arithmetic;
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, Operator, OperatorDef};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};

/// `expo`.
pub const DEF: OperatorDef = OperatorDef {
    name: "expo",
    summary: "Extrapolates from a model before alignment, the base, beyond the model after it.",
    formula: "θ1 + α (θ1 − θ0)",
    reference: "ExPO, arXiv 2404.16792",
    inputs: InputRule::exactly(1),
    base: BaseRule::Required,
    params: &[ParamSpec::number(
        "alpha",
        "How far beyond the model, in lengths of its task vector; 0 is the model itself.",
        Interval::closed(0.0, f64::INFINITY),
        (0.05, 0.5),
    )
    .or(0.3)],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let operator = Operator::new(&task_arithmetic::DEF);
    let scaled = operator.params(1).set("lambda", 1.0 + params.number("alpha")).each("weight", [1.0]).check()?;
    operator.plan(tensor, &scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    #[test]
    fn by_hand() {
        let check = |settings: &[Number], expected: &[f32]| {
            let input: &[f32] = &[3.0, 1.0, -2.0];
            Case { settings, base: Some(&[1.0, 1.0, 2.0]), ..Case::of(&DEF, &[input]) }.gives(expected);
        };
        // 3 + α·2, 1 + α·0, −2 − α·4.
        check(&[("alpha", 0.5)], &[4.0, 1.0, -4.0]);
        check(&[("alpha", 0.0)], &[3.0, 1.0, -2.0]);
        check(&[], &[3.6, 1.0, -3.2]);
    }

    #[test]
    fn what_did_not_move_stays_to_the_bit() {
        let same: &[f32] = &[0.1, -1.0e-8, 7.3];
        let found = Case { settings: &[("alpha", 0.37)], base: Some(same), ..Case::of(&DEF, &[same]) }.run().unwrap();
        assert_eq!(found, same);
    }
}
