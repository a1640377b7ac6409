//! The median of the models, element by element: one model that is far off does not move it.

use glue_merge::{BaseRule, Block, Grain, InputRule, Map, OperatorDef, Plan};

/// `median`.
pub const DEF: OperatorDef = OperatorDef {
    name: "median",
    summary: "The median of the models, element by element.",
    formula: "median(θ1, …, θN); the mean of the two in the middle when N is even",
    reference: "coordinate-wise median as in Yin et al., arXiv 1803.01498",
    inputs: InputRule::at_least(1),
    base: BaseRule::Unused,
    params: &[],
    statistic: None,
    plan: |_, _| Ok(Plan::map(Median)),
};

struct Median;

impl Map for Median {
    fn grain(&self) -> Grain {
        Grain::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut values = vec![0.0; block.inputs.len()];
        let half = values.len() / 2;
        for (j, out) in out.iter_mut().enumerate() {
            for (value, input) in values.iter_mut().zip(block.inputs) {
                *value = input[j];
            }
            values.sort_unstable_by(f32::total_cmp);
            *out = if values.len() % 2 == 1 { values[half] } else { 0.5 * values[half - 1] + 0.5 * values[half] };
        }
    }
}
