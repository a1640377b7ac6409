//! Consensus task arithmetic: adds the task vectors where enough of them matter to their own task. Wang et al.,
//! "Localizing task information for improved model merging and compression", arXiv 2405.07813.

use crate::contract::{Block, Granularity, Map, Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::{MergeError, ParamError};
use crate::params::{Interval, ParamSpec, Params};
use crate::task_vectors::{CHUNK, chunks};

/// `consensus_ta`.
pub const DEF: OperatorDef = OperatorDef {
    name: "consensus_ta",
    summary: "Adds up the task vectors where several of them matter to their own task; elsewhere the base stays.",
    formula: "mi = |τi| > λi · |Σ τ − τi|; θ0 + α Σ τ where Σ mi ≥ k, θ0 elsewhere",
    reference: "Consensus Merging, arXiv 2405.07813",
    inputs: InputRule::at_least(2),
    base: BaseRule::Required,
    params: &[
        ParamSpec::number(
            "lambda_mask",
            "How much larger than what the other models add an element must be to matter to its task.",
            Interval::closed(0.0, f64::INFINITY),
            (0.2, 0.6),
        )
        .or(0.4)
        .per_input(),
        ParamSpec::integer(
            "k",
            "Number of models an element must matter to; at most the number of models.",
            0,
            i64::MAX,
            2,
        ),
        ParamSpec::number("alpha", "Factor on the sum of the task vectors.", Interval::ANY, (0.1, 1.5)).or(1.0),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let k = params.integer("k");
    let max = tensor.n_inputs;
    match u32::try_from(k) {
        Ok(k) if k as usize <= max => Ok(Plan::map(Consensus {
            lambdas: params.input_numbers("lambda_mask").iter().map(|l| *l as f32).collect(),
            k,
            alpha: params.number("alpha") as f32,
        })),
        _ => Err(ParamError::Refused {
            operator: DEF.name,
            key: "k",
            allowed: format!("at most {max}, the number of models"),
            found: k.to_string(),
        }
        .into()),
    }
}

struct Consensus {
    lambdas: Vec<f32>,
    k: u32,
    alpha: f32,
}

impl Map for Consensus {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut scratch = [0; CHUNK];
        chunks(block, |chunk| {
            let votes = &mut scratch[..chunk.len];
            let sum = &mut out[chunk.at..chunk.at + chunk.len];
            chunk.sum(sum);
            votes.fill(0);
            for (lambda, tau) in self.lambdas.iter().zip(chunk.taus()) {
                for ((votes, sum), tau) in votes.iter_mut().zip(&*sum).zip(tau) {
                    *votes += u32::from(tau.abs() > lambda * (sum - tau).abs());
                }
            }
            for ((out, base), votes) in sum.iter_mut().zip(chunk.base).zip(&*votes) {
                let agreed = if *votes >= self.k { *out } else { 0.0 };
                *out = base + self.alpha * agreed;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    /// One model alone; two of a size; three; two of a size that cancel; nobody.
    const INPUTS: [&[f32]; 3] = [&[5.0, 3.0, 1.0, 2.0, 0.0], &[0.0, 3.0, 1.0, -2.0, 0.0], &[0.0, 0.0, 1.0, 0.0, 0.0]];

    fn merge(settings: &[Number]) -> Case<'_> {
        Case { settings, base: Some(&[0.0; 5]), ..Case::of(&DEF, &INPUTS) }
    }

    #[test]
    fn elements_that_matter_to_too_few_stay_as_in_the_base() {
        merge(&[]).gives(&[0.0, 6.0, 3.0, 0.0, 0.0]);
        merge(&[("k", 1.0)]).gives(&[5.0, 6.0, 3.0, 0.0, 0.0]);
        merge(&[("k", 3.0)]).gives(&[0.0, 0.0, 3.0, 0.0, 0.0]);
        merge(&[("lambda_mask", 0.6)]).gives(&[0.0, 6.0, 0.0, 0.0, 0.0]);
        merge(&[("k", 0.0), ("alpha", 0.5)]).gives(&[2.5, 3.0, 1.5, 0.0, 0.0]);
    }

    #[test]
    fn more_votes_than_models_are_refused() {
        merge(&[("k", 4.0)]).refused("consensus_ta: `k` must be at most 3, the number of models, found 4");
    }
}
