//! An operator in thirty lines, and a merge by it.

use glue_merge::{
    BaseRule, Block, Granularity, InputRule, Interval, Map, Merge, OperatorDef, ParamSpec, Plan, Registry,
};

/// Moves the base towards another model, by no more than a limit for each weight.
const CLIPPED: OperatorDef = OperatorDef {
    name: "clipped",
    summary: "Adds the task vector of the model to the base, clipped element by element.",
    formula: "θ0 + max(−c, min(c, τ1))",
    reference: "an example",
    inputs: InputRule::exactly(1),
    base: BaseRule::Required,
    params: &[ParamSpec::number("limit", "The limit c.", Interval::above(0.0, f64::INFINITY), (1e-4, 1e-2))],
    plan: |_, params| Ok(Plan::map(Clipped { limit: params.number("limit") as f32 })),
    ..OperatorDef::DEFAULT
};

struct Clipped {
    limit: f32,
}

impl Map for Clipped {
    /// An element of the result follows from the same element of the operands.
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        for ((out, base), x) in out.iter_mut().zip(block.base()).zip(block.inputs[0]) {
            *out = base + (x - base).clamp(-self.limit, self.limit);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clipped = Registry::builtin().with(&[&CLIPPED]).operator("clipped", None)?;
    let params = clipped.params(1).set("limit", 0.5).check()?;
    let merged = Merge::new(&clipped, &params).base(&[1.0, 1.0]).inputs([&[1.25, 9.0]]).run()?;
    assert_eq!(merged, [1.25, 1.5]);
    Ok(())
}
