//! The merge operator `median`: the median of the task vectors, element by element, added to the base.
//!
//! θ0 + λ · median(τ1, …, τN), with θ0 the base, θi a model and τi = θi − θ0 its task vector; for even N the median is the
//! mean of the two in the middle. With λ = 1 that is the median of the models. One model that is far off does not move it.
//!
//! Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", arXiv 1803.01498, take the same
//! median of gradients.
//!
//! ```
//! use glue_merge::{Merge, Registry};
//!
//! let operator = Registry::builtin().with(&[&glue_median::DEF]).operator("median", None)?;
//! let params = operator.params(3).check()?;
//! let merge = Merge::new(&operator, &params).base(&[0.0, 0.0]).inputs([&[1.0, 5.0], &[100.0, 1.0], &[2.0, -7.0]]);
//! assert_eq!(merge.run()?, [2.0, 1.0]);
//! # Ok::<(), glue_merge::MergeError>(())
//! ```

use glue_merge::{BaseRule, Block, Granularity, InputRule, Interval, Map, OperatorDef, ParamSpec, Plan};

/// `median`: all that a program needs to list it, to document it, to check its settings and to search for good ones.
pub const DEF: OperatorDef = OperatorDef {
    name: "median",
    summary: "Adds the median of the task vectors, element by element, to the base.",
    formula: "θ0 + λ · median(τ1, …, τN); the mean of the two in the middle when N is even",
    reference: "coordinate-wise median as in Yin et al., arXiv 1803.01498",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[ParamSpec::number(
        "lambda",
        "Factor on the median of the task vectors.",
        Interval::closed(0.0, 4.0),
        (0.5, 2.0),
    )
    .or(1.0)],
    plan: |_, params| Ok(Plan::map(Median { lambda: params.number("lambda") as f32 })),
    ..OperatorDef::DEFAULT
};

struct Median {
    lambda: f32,
}

impl Map for Median {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut values = vec![0.0; block.inputs.len()];
        for (j, (out, base)) in out.iter_mut().zip(block.base()).enumerate() {
            for (value, input) in values.iter_mut().zip(block.inputs) {
                *value = input[j] - base;
            }
            *out = base + self.lambda * median(&mut values);
        }
    }
}

/// The median of values of which there is at least one; changes their order.
fn median(values: &mut [f32]) -> f32 {
    values.sort_unstable_by(f32::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { 0.5 * values[half - 1] + 0.5 * values[half] }
}

#[cfg(test)]
mod tests {
    //! The contract, and cases worked by hand.
    use super::DEF;
    use glue_merge::{Conformance, Merge, MergeError, Registry, check_operator};

    /// Merges at λ with the base (1, 1, 1).
    fn check(lambda: f64, inputs: &[&[f32]], expected: [f32; 3]) -> Result<(), MergeError> {
        let operator = Registry::builtin().with(&[&DEF]).operator("median", None)?;
        let params = operator.params(inputs.len()).set("lambda", lambda).check()?;
        assert_eq!(Merge::new(&operator, &params).base(&[1.0; 3]).inputs(inputs).run()?, expected);
        Ok(())
    }

    #[test]
    fn it_keeps_the_contract() {
        check_operator(&DEF);
        Conformance::new(&DEF).symmetric().check();
    }

    #[test]
    fn of_an_odd_number_it_is_the_middle() -> Result<(), MergeError> {
        let inputs: [&[f32]; 3] = [&[1.0, 5.0, 2.0], &[100.0, 1.0, 2.0], &[2.0, -7.0, -1.0]];
        check(1.0, &inputs, [2.0, 1.0, 2.0])?;
        // Task vectors (0, 4, 1), (99, 0, 1), (1, -8, -2): medians 1, 0 and 1, twice.
        check(2.0, &inputs, [3.0, 1.0, 3.0])
    }

    #[test]
    fn of_an_even_number_it_is_between_the_two_in_the_middle() -> Result<(), MergeError> {
        check(1.0, &[&[1.0, 5.0, -2.0], &[2.0, 1.0, -4.0]], [1.5, 3.0, -3.0])
    }

    #[test]
    fn a_setting_out_of_range_is_refused() {
        let error = check(5.0, &[&[1.0; 3]], [1.0; 3]).expect_err("5 is more than 4");
        assert_eq!(error.to_string(), "median: `lambda` must be a number from 0 to 4, found 5");
    }

    #[test]
    fn it_stands_beside_the_built_in_operators() {
        let registry = Registry::builtin().with(&[&DEF]);
        assert!(registry.operator("median", None).is_ok() && registry.operator("ties", None).is_ok());
    }
}
