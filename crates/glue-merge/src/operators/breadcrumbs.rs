//! Model Breadcrumbs: drops the smallest and the very largest elements of each task vector. Davari, Belilovsky,
//! "Model Breadcrumbs", arXiv 2312.06795.

use super::task::{DENSITY, LAMBDA, Task, WEIGHT, normalize};
use super::threshold::{count, trim_by_magnitude};
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::params::{Interval, ParamSpec, Params};

/// `breadcrumbs`.
pub const DEF: OperatorDef = OperatorDef {
    name: "breadcrumbs",
    summary: "Drops the smallest and the very largest elements of each task vector, then adds them up.",
    formula: "τi without its ⌊gamma·n⌋ largest and without as many smallest as leave ⌊density·n⌋; θ0 + λ Σ wi τi, divided by Σ wi when normalize",
    reference: "Model Breadcrumbs, arXiv 2312.06795",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[WEIGHT, DENSITY, GAMMA, LAMBDA, normalize(false)],
    plan: |tensor, params| Ok(plan(tensor, params, false)),
    ..OperatorDef::DEFAULT
};

/// `breadcrumbs_ties`.
pub const TIES: OperatorDef = OperatorDef {
    name: "breadcrumbs_ties",
    summary: "Drops the smallest and the very largest elements of each task vector, then elects signs as TIES does.",
    formula: "τi trimmed as by breadcrumbs, then as ties",
    plan: |tensor, params| Ok(plan(tensor, params, true)),
    ..DEF
};

const GAMMA: ParamSpec = ParamSpec::number(
    "gamma",
    "Fraction of the largest elements that is dropped.",
    Interval::closed(0.0, 1.0),
    (0.0, 0.1),
)
.or(0.01)
.per_input();

fn plan(tensor: &TensorSpec<'_>, params: &Params, elect: bool) -> Plan {
    let n = tensor.len();
    let counts = (0..tensor.n_inputs)
        .map(|i| {
            let target = count(params.input_number(i, "density"), n);
            // Fewer of the largest are dropped when otherwise less than the density would remain.
            let outliers = count(params.input_number(i, "gamma"), n).min(n - target);
            [target + outliers, outliers]
        })
        .collect();
    trim_by_magnitude(tensor, counts, Task::new(params, elect, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    /// Which magnitudes 1 ..= 20 remain.
    fn kept(settings: &[Number]) -> Vec<usize> {
        let mut tau: Vec<f32> = (1..=20).map(|x| x as f32).collect();
        tau.iter_mut().step_by(3).for_each(|x| *x = -*x);
        let inputs: [&[f32]; 1] = [&tau];
        let all: Vec<Number> = settings.iter().copied().chain([("weight", 1.0)]).collect();
        let merged = Case { settings: &all, base: Some(&[0.0; 20]), ..Case::of(&DEF, &inputs) }.run().unwrap();
        let mut kept: Vec<usize> = merged.iter().map(|x| x.abs() as usize).filter(|x| *x != 0).collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn drops_from_both_ends() {
        let check = |density, gamma, expected: std::ops::RangeInclusive<usize>| {
            let kept = kept(&[("density", density), ("gamma", gamma)]);
            assert_eq!(kept, expected.collect::<Vec<_>>(), "density {density}, gamma {gamma}");
        };
        check(0.5, 0.1, 9..=18);
        check(0.5, 0.0, 11..=20);
        // Of 0.01 · 20 elements none is whole.
        check(0.5, 0.01, 11..=20);
        // Half of the elements remain, however many of the largest were to go.
        check(0.5, 0.7, 1..=10);
        check(1.0, 0.3, 1..=20);
    }
}
