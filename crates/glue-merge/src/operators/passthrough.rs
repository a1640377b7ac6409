//! One model as it is, or scaled: what layers of several models are stacked with.

use super::combination::combination;
use crate::contract::{Operand, Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};

/// `passthrough`.
pub const DEF: OperatorDef = OperatorDef {
    name: "passthrough",
    summary: "One model unchanged; with slices, stacks layers of several models.",
    formula: "scale · θ1, a copy bit for bit when scale is 1",
    reference: "layer stacking as in SOLAR 10.7B, arXiv 2312.15166",
    inputs: InputRule::exactly(1),
    base: BaseRule::Unused,
    params: &[ParamSpec::number(
        "scale",
        "Factor on every element.",
        Interval::ANY,
        (0.0, 1.0),
    )
    .or(1.0)
    .per_input()],
    plan,
};

fn plan(_: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let scale = params.input_number(0, "scale");
    Ok(if scale == 1.0 {
        Plan::Copy(Operand::Input(0))
    } else {
        combination(0.0, [scale])
    })
}
