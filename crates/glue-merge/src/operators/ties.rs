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
        ParamSpec::flag(
            "rescale",
            "Restore the L1 norm that each task vector had before it was trimmed.",
            false,
        ),
    ],
    plan,
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let counts = params
        .input_numbers("density")
        .iter()
        .map(|d| [count(*d, tensor.len()), 0])
        .collect();
    Ok(trim_by_magnitude(
        tensor,
        counts,
        Task::new(params, true, params.flag("rescale")),
    ))
}
