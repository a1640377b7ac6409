//! The merge operator `{{name}}`: the weighted task vectors of the models, added to the base.
//!
//! θ0 + λ Σ wi τi, with θ0 the base, θi a model, τi = θi − θ0 its task vector and wi its weight.
//!
//! Ilharco et al., "Editing models with task arithmetic", arXiv 2212.04089.
//!
//! ```
//! use glue_merge::{Merge, Registry};
//!
//! let operator = Registry::builtin().with(&[&{{lib}}::DEF]).operator("{{name}}", None)?;
//! let params = operator.params(2).each("weight", [0.5, 1.0]).check()?;
//! let merge = Merge::new(&operator, &params).base(&[1.0, 1.0]).inputs([&[3.0, 1.0], &[1.0, 0.0]]);
//! assert_eq!(merge.run()?, [2.0, 0.0]);
//! # Ok::<(), glue_merge::MergeError>(())
//! ```

use glue_merge::{BaseRule, Block, Granularity, InputRule, Interval, Map, OperatorDef, ParamSpec, Plan};

/// `{{name}}`: all that a program needs to list it, to document it, to check its settings and to search for good ones.
pub const DEF: OperatorDef = OperatorDef {
    name: "{{name}}",
    summary: "Adds the weighted task vectors of the models to the base.",
    formula: "θ0 + λ Σ wi τi",
    reference: "Task arithmetic, arXiv 2212.04089",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        // Of a number: what is allowed, and where good values usually are, which is where a search looks.
        ParamSpec::number("weight", "Weight of the model.", Interval::ANY, (0.0, 1.0)).per_input(),
        ParamSpec::number("lambda", "Factor on the sum of the task vectors.", Interval::ANY, (0.1, 1.5)).or(1.0),
    ],
    // What can be refused is refused here: nothing after it may fail.
    plan: |_, params| {
        let weights = params.input_numbers("weight").into_iter().map(|w| w as f32).collect();
        Ok(Plan::map(Sum { weights, lambda: params.number("lambda") as f32 }))
    },
    // What most operators do not need, such as statistics measured on data.
    ..OperatorDef::DEFAULT
};

struct Sum {
    weights: Vec<f32>,
    lambda: f32,
}

impl Map for Sum {
    /// An element of the result follows from the same element of the models, so that any block will do.
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let base = block.base();
        out.fill(0.0);
        for (input, weight) in block.inputs.iter().zip(&self.weights) {
            for ((out, x), base) in out.iter_mut().zip(*input).zip(base) {
                *out += weight * (x - base);
            }
        }
        for (out, base) in out.iter_mut().zip(base) {
            *out = base + self.lambda * *out;
        }
    }
}

#[cfg(test)]
mod tests {
    //! The contract, and a case worked by hand.
    use super::DEF;
    use glue_merge::{Conformance, Merge, MergeError, Operator, check_operator};

    #[test]
    fn it_keeps_the_contract() {
        check_operator(&DEF);
        // A claim of its own: the order of the models does not matter but for rounding.
        Conformance::new(&DEF).symmetric().check();
    }

    #[test]
    fn by_hand() -> Result<(), MergeError> {
        let operator = Operator::new(&DEF);
        let params = operator.params(2).set("lambda", 2.0).each("weight", [0.5, -1.0]).check()?;
        // Task vectors (2, 0) and (1, -1): 1 + 2 · (0.5 · 2 − 1) and 1 + 2 · (0 + 1).
        let merge = Merge::new(&operator, &params).base(&[1.0, 1.0]).inputs([&[3.0, 1.0], &[2.0, 0.0]]);
        assert_eq!(merge.run()?, [1.0, 3.0]);
        Ok(())
    }
}
