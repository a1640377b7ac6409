//! LiNeS: scales task vectors by depth before another operator merges them. Wang et al., "LiNeS: post-training layer
//! scaling prevents forgetting and enhances model merging", arXiv 2410.17146.
//!
//! The first of L layers is scaled by alpha, the last by alpha + beta, those between linearly. Tensors outside of the
//! layers are scaled by alpha, as the authors do. The wrapped operator sees θ0 + s·τi in the place of θi, and the
//! statistics that it declares as they are.

use super::combination::combination;
use super::wrapper::{WrappedReduction, Wrapper};
use crate::contract::{Block, Granularity, Map, Operand, Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::device::Kernel;
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};

/// `lines`.
pub const DEF: OperatorDef = OperatorDef {
    name: "lines",
    summary: "Scales task vectors by depth, then merges them by another operator.",
    formula: "the wrapped operator on θ0 + s τi with s = alpha + beta · l/(L−1) in layer l of L, counted from 0, and s = alpha outside of the layers",
    reference: "LiNeS, arXiv 2410.17146",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        ParamSpec::operator("operator", "Name of the operator that merges the scaled task vectors."),
        ParamSpec::number(
            "alpha",
            "Factor on the task vectors in the first layer and outside of the layers.",
            Interval::ANY,
            (0.1, 1.0),
        ),
        ParamSpec::number("beta", "By how much the factor is greater in the last layer.", Interval::ANY, (0.0, 1.0)),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let Some(inner) = params.inner() else {
        return Err(ParamError::Missing { operator: DEF.name, key: "operator", input: None }.into());
    };
    let scaling = Scaling {
        factor: factor(tensor.layer, params.number("alpha"), params.number("beta")),
        inputs: tensor.n_inputs,
    };
    Ok(scaling.of(inner.plan(tensor, params)?))
}

/// The factor on the task vectors of a layer.
fn factor(layer: Option<(usize, usize)>, alpha: f64, beta: f64) -> f64 {
    match layer {
        Some((layer, layers)) if layers > 1 => alpha + beta * layer as f64 / (layers - 1) as f64,
        _ => alpha,
    }
}

#[derive(Clone, Copy)]
struct Scaling {
    factor: f64,
    inputs: usize,
}

impl Scaling {
    /// `plan` with θ0 + s·τi in the place of θi.
    fn of(self, plan: Plan) -> Plan {
        let s = self.factor;
        match plan {
            _ if s == 1.0 => plan,
            Plan::Copy(Operand::Base | Operand::Statistic(_)) => plan,
            Plan::Copy(Operand::Input(i)) => {
                let one = |j| if i == j { s } else { 0.0 };
                combination(1.0 - s, (0..self.inputs).map(one))
            }
            Plan::Map(map) => {
                if let Some(Kernel::Linear { base, inputs }) = map.kernel() {
                    let sum: f64 = inputs.iter().map(|c| f64::from(*c)).sum();
                    return combination(f64::from(base) + (1.0 - s) * sum, inputs.iter().map(|c| f64::from(*c) * s));
                }
                Plan::map(ScaledMap { map, scaling: self })
            }
            Plan::Reduce(reduction) => Plan::reduce(WrappedReduction { reduction, wrapper: self }),
        }
    }

    /// Calls `see` with the block in which θ0 + s·τi stands for θi.
    fn replace(self, block: &Block<'_>, see: impl FnOnce(&Block<'_>)) {
        let s = self.factor as f32;
        let len = block.len();
        let mut scratch = vec![0.0; len * block.inputs.len()];
        let mut inputs = Vec::with_capacity(block.inputs.len());
        let mut rest = scratch.as_mut_slice();
        for input in block.inputs {
            let (out, later) = rest.split_at_mut(len);
            for ((out, base), x) in out.iter_mut().zip(block.base()).zip(*input) {
                *out = base + s * (x - base);
            }
            inputs.push(&*out);
            rest = later;
        }
        see(&Block { inputs: &inputs, ..*block });
    }
}

struct ScaledMap {
    map: Box<dyn Map>,
    scaling: Scaling,
}

impl Map for ScaledMap {
    fn granularity(&self) -> Granularity {
        self.map.granularity()
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        self.scaling.replace(block, |block| self.map.merge(block, out));
    }
}

impl Wrapper for Scaling {
    fn plan(self, plan: Plan) -> Plan {
        self.of(plan)
    }

    fn show(&self, block: &Block<'_>, see: &mut dyn FnMut(&Block<'_>)) {
        self.replace(block, see);
    }
}

#[cfg(test)]
mod tests {
    use crate::merge::Merge;
    use crate::registry::Registry;

    const BASE: [f32; 6] = [0.5, -1.0, 2.0, 0.0, 1.5, -0.25];
    const INPUTS: [&[f32]; 2] = [&[0.75, -1.5, 2.0, 1.0, -3.5, 0.75], &[1.5, -0.5, 4.0, -0.5, 2.5, -0.25]];

    fn merge(operator: (&str, Option<&str>), layer: Option<(usize, usize)>, settings: &[(&str, f64)]) -> Vec<f32> {
        let operator = Registry::builtin().operator(operator.0, operator.1).unwrap();
        let params = operator.params(2).set_all(settings.iter().copied()).check().unwrap();
        let merge = Merge::new(&operator, &params).tensor("weight").base(&BASE).inputs(INPUTS);
        match layer {
            Some((position, layers)) => merge.layer(position, layers).run().unwrap(),
            None => merge.run().unwrap(),
        }
    }

    #[test]
    fn around_task_arithmetic_it_scales_the_weight() {
        let check = |layer, factor: f64| {
            let settings = [("weight", 0.5), ("alpha", 0.25), ("beta", 0.5)];
            let wrapped = merge(("lines", Some("task_arithmetic")), layer, &settings);
            let plain = merge(("task_arithmetic", None), layer, &[("weight", 0.5 * factor)]);
            for (found, expected) in wrapped.iter().zip(&plain) {
                // One rounding more, of θ0 + s·τ.
                assert!((found - expected).abs() < 1e-6, "{wrapped:?} {plain:?}");
            }
        };
        check(Some((0, 5)), 0.25);
        check(Some((1, 5)), 0.375);
        check(Some((4, 5)), 0.75);
        check(Some((0, 1)), 0.25);
        check(None, 0.25);
    }

    /// Selections and weights that ignore the size of τ are those of the wrapped operator; what it adds is scaled.
    #[test]
    fn around_reductions_and_kernels_it_scales_what_is_added() {
        for (inner, settings) in [
            ("ties", vec![("weight", 0.5), ("density", 0.5)]),
            ("sce", vec![("select_topk", 0.6)]),
            ("model_stock", vec![]),
            ("pcb", vec![("density", 0.5)]),
        ] {
            let plain = merge((inner, None), None, &settings);
            let mut settings = settings;
            settings.extend([("alpha", 0.5), ("beta", 0.0)]);
            let wrapped = merge(("lines", Some(inner)), None, &settings);
            for ((found, plain), base) in wrapped.iter().zip(&plain).zip(&BASE) {
                let expected = base + 0.5 * (plain - base);
                // The weights of pcb do depend on the size of τ: they only have to stay between the models.
                let tolerance = if inner == "pcb" { 1.0 } else { 1e-6 };
                assert!((found - expected).abs() <= tolerance, "{inner}: {wrapped:?}");
            }
        }
    }

    #[test]
    fn a_factor_of_one_leaves_the_plan_alone() {
        let settings = [("weight", 0.3), ("density", 0.5)];
        let plain = merge(("dare_ties", None), None, &settings);
        let all = [settings[0], settings[1], ("alpha", 1.0), ("beta", 0.0)];
        assert_eq!(merge(("lines", Some("dare_ties")), None, &all), plain);
    }

    #[test]
    fn what_it_cannot_wrap_is_refused() {
        let check = |inner, expected: &str| {
            let refused = Registry::builtin().operator("lines", inner).unwrap_err();
            assert_eq!(refused.to_string(), expected);
        };
        check(None, "lines needs the parameter `operator`");
        check(
            Some("linear"),
            "lines: `operator` must be an operator that needs a base and wraps no other, found `linear`",
        );
        check(
            Some("lines"),
            "lines: `operator` must be an operator that needs a base and wraps no other, found `lines`",
        );
        check(
            Some("ramplus_tl"),
            "lines: `operator` must be an operator without a parameter `alpha`, which would be ambiguous, found `ramplus_tl`",
        );
    }
}
