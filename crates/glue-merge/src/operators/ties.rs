//! TIES: trim, elect signs, merge what agrees. Yadav et al., "TIES-Merging", arXiv 2306.01708.

use super::task::{DENSITY, LAMBDA, Task, WEIGHT, normalize};
use super::threshold::{count, trim_by_magnitude};
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::{ParamSpec, Params};

/// `ties`.
pub const DEF: OperatorDef = OperatorDef {
    name: "ties",
    summary: "Keeps the largest elements of each task vector, elects a sign for each weight, and adds what agrees.",
    formula: "di = wi · (the ⌊density·n⌋ largest |τi|), s = sign(Σ di); θ0 + λ Σ_{sign di = s} di, divided by Σ_{sign di = s} wi when normalize",
    reference: "TIES-Merging, arXiv 2306.01708",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        WEIGHT,
        DENSITY,
        LAMBDA,
        normalize(true),
        ParamSpec::flag("rescale", "Restore the L1 norm that each task vector had before it was trimmed.", false),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let counts = params.input_numbers("density").iter().map(|d| [count(*d, tensor.len()), 0]).collect();
    Ok(trim_by_magnitude(tensor, counts, Task::new(params, true, params.flag("rescale"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    fn check(settings: &[Number], own: &[&[Number]], expected: &[f32]) {
        let inputs: [&[f32]; 2] = [&[4.0, -3.0, 1.0, 2.0], &[2.0, 5.0, -1.0, 0.5]];
        let base = Some(&[10.0_f32; 4][..]);
        Case { settings, own, base, ..Case::of(&DEF, &inputs.map(add)) }.gives(expected);
    }

    /// θ = θ0 + τ.
    fn add(tau: &[f32]) -> &[f32] {
        tau.iter().map(|x| x + 10.0).collect::<Vec<_>>().leak()
    }

    #[test]
    fn elects_and_averages_what_agrees() {
        // Sums of signs: 6, 2, 0 which counts as +, 2.5. Averages of what agrees: 3, 5, 1, 1.25.
        check(&[("weight", 1.0)], &[], &[13.0, 15.0, 11.0, 11.25]);
        check(&[("weight", 1.0), ("normalize", 0.0)], &[], &[16.0, 15.0, 11.0, 12.5]);
        // A negative weight turns the vote of its model around. Where the weights that agree cancel, they divide by 1.
        check(&[], &[&[("weight", 1.0)], &[("weight", -1.0)]], &[14.0, 2.0, 12.0, 12.0]);
    }

    #[test]
    fn trims_to_the_density_of_each_model() {
        let own: [&[Number]; 2] = [&[("weight", 1.0), ("density", 0.5)], &[("weight", 1.0), ("density", 0.25)]];
        check(&[], &own, &[14.0, 15.0, 10.0, 10.0]);
        // The L1 norms 10 and 8.5 are restored over what is left, 7 and 5.
        check(&[("rescale", 1.0)], &own, &[10.0 + 40.0 / 7.0, 18.5, 10.0, 10.0]);
    }
}
