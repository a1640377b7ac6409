//! Task arithmetic: adds weighted task vectors to the base. Ilharco et al., "Editing models with task arithmetic",
//! arXiv 2212.04089.

use super::task::{LAMBDA, Task, WEIGHT, normalize};
use crate::def::{BaseRule, InputRule, OperatorDef};

/// `task_arithmetic`.
pub const DEF: OperatorDef = OperatorDef {
    name: "task_arithmetic",
    summary: "Adds the weighted task vectors of the models to the base.",
    formula: "θ0 + λ Σ wi τi, divided by Σ wi when normalize",
    reference: "Task arithmetic, arXiv 2212.04089",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[WEIGHT, LAMBDA, normalize(false)],
    plan: |_, params| Ok(Task::new(params, false, false).plan_untrimmed()),
    ..OperatorDef::DEFAULT
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    #[test]
    fn by_hand() {
        let check = |settings: &[Number], expected: &[f32]| {
            let own: [&[Number]; 2] = [&[("weight", 0.5)], &[("weight", -2.0)]];
            let inputs: [&[f32]; 2] = [&[3.0, 1.0], &[2.0, 0.0]];
            Case { settings, own: &own, base: Some(&[1.0, 1.0]), ..Case::of(&DEF, &inputs) }.gives(expected);
        };
        check(&[], &[0.0, 3.0]);
        check(&[("lambda", 0.5)], &[0.5, 2.0]);
        check(&[("lambda", 3.0), ("normalize", 1.0)], &[3.0, -3.0]);
    }
}
