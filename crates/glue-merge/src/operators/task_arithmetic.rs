//! Task arithmetic: adds weighted task vectors to the base. Ilharco et al., "Editing models with task arithmetic",
//! arXiv 2212.04089.

use super::task::{Keep, LAMBDA, Task, WEIGHT, normalize};
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
    plan: |_, params| Ok(Task::new(params, false, false).plan(Keep)),
};
