//! NearSwap: moves to the other model where the two are near already.

use crate::contract::{Block, Granularity, Map, Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};

/// `nearswap`.
pub const DEF: OperatorDef = OperatorDef {
    name: "nearswap",
    summary: "Takes the other model's weight where it is within t of the base's, and less of it the further it is.",
    formula: "a θ1 + (1−a) θ0 with a = min(1, t/|θ1 − θ0|)",
    reference: "alchemonaut, QuartetAnemoi-70B-t0.0001 (model card, 2024)",
    inputs: InputRule::exactly(1),
    base: BaseRule::Required,
    params: &[ParamSpec::number(
        "t",
        "Distance up to which the other model's weight is taken whole.",
        Interval::closed(0.0, f64::INFINITY),
        (0.0, 0.01),
    )],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(_: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    Ok(Plan::map(NearSwap { t: params.number("t") as f32 }))
}

struct NearSwap {
    t: f32,
}

impl Map for NearSwap {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        for ((out, x), base) in out.iter_mut().zip(block.inputs[0]).zip(block.base()) {
            let distance = (x - base).abs();
            let a = if distance <= self.t { 1.0 } else { self.t / distance };
            *out = a * x + (1.0 - a) * base;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::Case;

    #[test]
    fn near_elements_are_swapped_and_far_ones_moved_by_t() {
        let check = |t, expected: &[f32]| {
            let base = Some(&[1.0_f32; 4][..]);
            Case { settings: &[("t", t)], base, ..Case::of(&DEF, &[&[1.25, 0.5, 3.0, 1.0]]) }.gives(expected);
        };
        check(0.5, &[1.25, 0.5, 1.5, 1.0]);
        check(0.0, &[1.0, 1.0, 1.0, 1.0]);
    }
}
