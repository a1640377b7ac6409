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
    params: &[ParamSpec::number("scale", "Factor on every element.", Interval::ANY, (0.0, 1.0)).or(1.0).per_input()],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(_: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let scale = params.input_number(0, "scale");
    Ok(if scale == 1.0 { Plan::Copy(Operand::Input(0)) } else { combination(0.0, [scale]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Case;

    #[test]
    fn unscaled_it_keeps_every_bit() {
        let odd = [-0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, f32::from_bits(0x7FC0_1234)];
        let copy = Case::of(&DEF, &[&odd]).run().unwrap();
        assert_eq!(copy.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), odd.map(f32::to_bits));
        Case { settings: &[("scale", 0.5)], ..Case::of(&DEF, &[&[3.0, -1.0]]) }.gives(&[1.5, -0.5]);
    }
}
