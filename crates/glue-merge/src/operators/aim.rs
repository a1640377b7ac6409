//! AIM: what another operator merges is drawn back to the base where the base's activations are large. Heyrani Nobari
//! et al., "Activation-informed merging of large language models", arXiv 2502.02421.
//!
//! With Δ = merged − θ0 and a the mean magnitude of what each input column of the tensor reads in the base, on data of
//! any kind, the result is θ0 + (1 − (1 − ω) â) Δ with â = a / max a: columns that the base uses most keep the fraction
//! ω of Δ, columns that it does not use keep all of it. A tensor without activations (norms, embeddings, biases) is
//! merged by the wrapped operator unchanged. The wrapped operator gets no statistics.
//!
//! Weaknesses: one column of massive activations makes all others of its tensor look unimportant, which turns the
//! protection off; the importance is the base's alone and knows nothing of what the fine-tunes learned; by ω < 1 the
//! merged task vector gets shorter, so that part of any gain may be that of a smaller weight.

use super::combination::combination;
use super::wrapper::{WrappedReduction, Wrapper};
use crate::contract::{Block, Granularity, Map, Operand, Plan, TensorSpec};
use crate::def::{BaseRule, OperatorDef};
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};
use crate::statistic::{StatisticOf, StatisticShape, StatisticSpec};
use std::sync::OnceLock;

/// `aim`.
pub const DEF: OperatorDef = OperatorDef {
    name: "aim",
    summary: "Merges by another operator, and holds on to the base where its activations are large.",
    formula: "θ0 + (1 − (1 − ω) â) Δ with Δ = the wrapped operator − θ0, and for each column â = a / max a, a the base's mean |activation|",
    reference: "AIM, arXiv 2502.02421",
    base: BaseRule::Required,
    params: &[
        ParamSpec::operator("operator", "Name of the operator that merges the task vectors."),
        ParamSpec::number(
            "omega",
            "Fraction of the merged task vector that remains in the column with the largest activations.",
            Interval::closed(0.0, 1.0),
            (0.2, 1.0),
        )
        .or(0.4),
    ],
    statistic: Some(StatisticSpec {
        name: StatisticSpec::ACTIVATION,
        doc: "Mean magnitude of what each column of the matrix is multiplied by.",
        shape: StatisticShape::Columns,
        of: StatisticOf::Base,
    }),
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let Some(inner) = params.inner() else {
        return Err(ParamError::Missing { operator: DEF.name, key: "operator", input: None }.into());
    };
    let (omega, merged) = (params.number("omega"), inner.plan(&tensor.with_statistic(None), params)?);
    if tensor.statistic.is_none() || omega == 1.0 {
        return Ok(merged);
    }
    Ok(Damping { omega, inputs: tensor.n_inputs }.of(merged))
}

#[derive(Clone, Copy)]
struct Damping {
    omega: f64,
    inputs: usize,
}

impl Damping {
    /// `plan` with less of Δ in columns of large activations.
    fn of(self, plan: Plan) -> Plan {
        let damped = |map| Plan::map(Damped { map, damping: self, taken: OnceLock::new() });
        match plan {
            Plan::Copy(Operand::Input(i)) => {
                let one = |j| if i == j { 1.0 } else { 0.0 };
                self.of(combination(0.0, (0..self.inputs).map(one)))
            }
            Plan::Copy(_) => plan,
            Plan::Map(map) => damped(map),
            Plan::Reduce(reduction) => Plan::reduce(WrappedReduction { reduction, wrapper: self }),
        }
    }

    /// What is taken away of Δ in each column: (1 − ω) â.
    fn taken(self, activations: &[f32]) -> Vec<f32> {
        let largest = activations.iter().copied().fold(0.0, f32::max);
        let usage = |a: f32| if largest > 0.0 { f64::from(a) / f64::from(largest) } else { 0.0 };
        activations.iter().map(|a| ((1.0 - self.omega) * usage(*a)) as f32).collect()
    }
}

struct Damped {
    map: Box<dyn Map>,
    damping: Damping,
    /// The same for all blocks, found with the first.
    taken: OnceLock<Vec<f32>>,
}

impl Map for Damped {
    fn granularity(&self) -> Granularity {
        self.map.granularity()
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        self.map.merge(&Block { statistics: &[], ..*block }, out);
        let Some(activations) = block.statistics.first() else { return };
        let taken = self.taken.get_or_init(|| self.damping.taken(activations));
        let (mut column, mut at) = (block.offset % taken.len().max(1), 0);
        while at < out.len() {
            let len = (taken.len() - column).min(out.len() - at);
            let columns = taken[column..column + len].iter();
            for ((out, base), taken) in out[at..at + len].iter_mut().zip(&block.base()[at..at + len]).zip(columns) {
                *out -= taken * (*out - base);
            }
            (column, at) = (0, at + len);
        }
    }
}

impl Wrapper for Damping {
    fn plan(self, plan: Plan) -> Plan {
        self.of(plan)
    }

    fn show(&self, block: &Block<'_>, see: &mut dyn FnMut(&Block<'_>)) {
        see(&Block { statistics: &[], ..*block });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::def::Operator;
    use crate::merge::Merge;
    use crate::operators::testing::close;
    use crate::operators::{fisher, lines, model_stock, nearswap, task_arithmetic, ties};

    const BASE: [f32; 6] = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
    const INPUTS: [&[f32]; 2] = [&[3.0, -1.0, 1.0, 2.0, 4.0, -2.0], &[2.0, 2.0, 5.0, 1.0, -1.0, 0.0]];
    const ACTIVATIONS: [f32; 3] = [2.0, 0.0, 1.0];

    fn merge(inner: &'static OperatorDef, omega: f64, activations: &[&[f32]]) -> Vec<f32> {
        let operator = Operator::wrapping(&DEF, inner).unwrap();
        let inputs = &INPUTS[..inner.inputs.max.unwrap_or(2)];
        let required = inner.params.iter().filter(|spec| spec.default.is_none());
        let settings = required.map(|spec| (spec.name, 0.5));
        let params = operator.params(inputs.len()).set("omega", omega).set_all(settings).check().unwrap();
        let merge = Merge::new(&operator, &params).shape(&[2, 3]).base(&BASE).inputs(inputs);
        merge.statistics(activations).run().unwrap()
    }

    /// The wrapped operator by itself.
    fn plain(inner: &'static OperatorDef) -> Vec<f32> {
        merge(inner, 0.25, &[])
    }

    #[test]
    fn by_hand() {
        // Δ = (τ1 + τ2)/2 = [1.5, -0.5, 2, 1.5, 1.5, -1], of which â = [1, 0, 1/2] leaves [1/4, 1, 5/8] with ω = 1/4.
        let expected = [1.375, 0.5, 2.25, 0.375, 1.5, -0.625];
        close(&merge(&task_arithmetic::DEF, 0.25, &[&ACTIVATIONS]), &expected);
    }

    #[test]
    fn around_plans_of_every_sort_it_takes_its_share_of_what_is_added() {
        for inner in [&task_arithmetic::DEF, &ties::DEF, &model_stock::DEF, &nearswap::DEF] {
            let merged = merge(inner, 0.25, &[&ACTIVATIONS]);
            let remaining = [0.25, 1.0, 0.625, 0.25, 1.0, 0.625];
            let expected: Vec<f32> = BASE
                .iter()
                .zip(plain(inner))
                .zip(remaining)
                .map(|((base, x), part)| base + part * (x - base))
                .collect();
            close(&merged, &expected);
        }
    }

    #[test]
    fn with_omega_one_or_without_activations_the_wrapped_operator_is_left_alone() {
        for inner in [&task_arithmetic::DEF, &ties::DEF] {
            assert_eq!(merge(inner, 1.0, &[&ACTIVATIONS]), plain(inner), "{}", inner.name);
            assert_eq!(merge(inner, 0.0, &[&[0.0; 3]]), plain(inner), "{}", inner.name);
        }
    }

    #[test]
    fn what_it_cannot_wrap_is_refused() {
        let check = |inner, expected: &str| {
            assert_eq!(Operator::wrapping(&DEF, inner).unwrap_err().to_string(), expected);
        };
        check(&fisher::DEF, "aim: `operator` must be an operator that needs a base and wraps no other, found `fisher`");
        check(&lines::DEF, "aim: `operator` must be an operator that needs a base and wraps no other, found `lines`");
        static GREEDY: OperatorDef = OperatorDef { name: "greedy", statistic: fisher::DEF.statistic, ..ties::DEF };
        check(
            &GREEDY,
            "aim: `operator` must be an operator without statistics of its own: it wants `fisher` besides `activation`, found `greedy`",
        );
        assert_eq!(Operator::wrapping(&lines::DEF, &GREEDY).unwrap().statistic(), fisher::DEF.statistic.as_ref());
    }
}
