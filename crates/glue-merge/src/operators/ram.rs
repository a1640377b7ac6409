//! RAM: averages what several models changed, and keeps whole what one of them changed alone. Yuan et al., "Behavior
//! knowledge merge in reinforced agentic models", arXiv 2601.13572.

use crate::contract::{Block, Granularity, Map, Plan, Reduction, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};
use crate::task_vectors::{CHUNK, Chunk, chunks};

/// `ram`.
pub const DEF: OperatorDef = OperatorDef {
    name: "ram",
    summary: "Averages what several models changed and keeps whole what one of them changed alone.",
    formula: "with τi active where |τi| > ε: θ0 + the mean of the active τi",
    reference: "RAM, arXiv 2601.13572",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[EPSILON],
    plan: |tensor, params| {
        Ok(Plan::map(Ram { epsilon: params.number("epsilon") as f32, boost: vec![1.0; tensor.n_inputs] }))
    },
    ..OperatorDef::DEFAULT
};

/// `ramplus_tl`.
pub const PLUS_TL: OperatorDef = OperatorDef {
    name: "ramplus_tl",
    summary: "As ram, and enlarges what a model changed alone by how much else it shares with others.",
    formula: "as ram; where τi alone is active, times 1 + r · clamp(sharedi/uniquei, 0, alpha), counted over the tensor",
    params: &[
        EPSILON,
        ParamSpec::number(
            "r",
            "How much the overlap with other models enlarges what a model changed alone.",
            Interval::closed(0.0, f64::INFINITY),
            (0.0, 0.5),
        )
        .or(0.1),
        ParamSpec::number(
            "alpha",
            "Upper limit of the ratio of shared to unique elements.",
            Interval::closed(0.0, f64::INFINITY),
            (0.0, 1.0),
        )
        .or(0.2),
    ],
    plan: plus,
    ..DEF
};

const EPSILON: ParamSpec = ParamSpec::number(
    "epsilon",
    "Size above which an element of a task vector counts as changed.",
    Interval::closed(0.0, f64::INFINITY),
    (0.0, 1e-3),
)
.or(1e-5);

fn plus(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    Ok(Plan::reduce(Overlap {
        epsilon: params.number("epsilon") as f32,
        r: params.number("r"),
        alpha: params.number("alpha"),
        inputs: tensor.n_inputs,
    }))
}

/// `counts` = how many task vectors are active, position by position.
fn active(chunk: &Chunk<'_>, epsilon: f32, counts: &mut [u32]) {
    counts.fill(0);
    for tau in chunk.taus() {
        for (count, tau) in counts.iter_mut().zip(tau) {
            *count += u32::from(tau.abs() > epsilon);
        }
    }
}

/// Counts, for each input, the elements that are active in it alone and those that are active in others too.
struct Overlap {
    epsilon: f32,
    r: f64,
    alpha: f64,
    inputs: usize,
}

/// Active elements of an input.
#[derive(Debug, Clone, Copy, Default)]
struct Active {
    unique: u64,
    shared: u64,
}

impl Reduction for Overlap {
    type Accumulator = Vec<Active>;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn order_free(&self) -> bool {
        true
    }

    fn accumulator(&self) -> Vec<Active> {
        vec![Active::default(); self.inputs]
    }

    fn observe(&self, accumulator: &mut Vec<Active>, block: &Block<'_>) {
        let mut scratch = [0; CHUNK];
        chunks(block, |chunk| {
            let counts = &mut scratch[..chunk.len];
            active(&chunk, self.epsilon, counts);
            for (seen, tau) in accumulator.iter_mut().zip(chunk.taus()) {
                let (mut all, mut unique) = (0, 0);
                for (tau, count) in tau.iter().zip(&*counts) {
                    let active = u32::from(tau.abs() > self.epsilon);
                    all += active;
                    unique += active & u32::from(*count == 1);
                }
                seen.unique += u64::from(unique);
                seen.shared += u64::from(all - unique);
            }
        });
    }

    fn combine(&self, accumulator: &mut Vec<Active>, later: Vec<Active>) {
        for (seen, more) in accumulator.iter_mut().zip(later) {
            seen.unique += more.unique;
            seen.shared += more.shared;
        }
    }

    fn finish(self, total: Vec<Active>) -> Result<Plan, MergeError> {
        let boost = |seen: &Active| {
            let overlap = seen.shared as f64 / seen.unique.max(1) as f64;
            (1.0 + self.r * overlap.min(self.alpha)) as f32
        };
        Ok(Plan::map(Ram { epsilon: self.epsilon, boost: total.iter().map(boost).collect() }))
    }
}

struct Ram {
    epsilon: f32,
    /// Factor on the unique elements of each input.
    boost: Vec<f32>,
}

impl Map for Ram {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let (mut counts, mut alone) = ([0; CHUNK], [0.0; CHUNK]);
        chunks(block, |chunk| {
            let (counts, alone) = (&mut counts[..chunk.len], &mut alone[..chunk.len]);
            let out = &mut out[chunk.at..chunk.at + chunk.len];
            active(&chunk, self.epsilon, counts);
            out.fill(0.0);
            alone.fill(0.0);
            for (boost, tau) in self.boost.iter().zip(chunk.taus()) {
                for ((out, alone), tau) in out.iter_mut().zip(&mut *alone).zip(tau) {
                    let tau = if tau.abs() > self.epsilon { *tau } else { 0.0 };
                    *out += tau;
                    *alone += boost * tau;
                }
            }
            for (((out, base), count), alone) in out.iter_mut().zip(chunk.base).zip(&*counts).zip(&*alone) {
                let merged = if *count == 1 { *alone } else { *out / (*count).max(1) as f32 };
                *out = base + merged;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    const INPUTS: [&[f32]; 2] = [&[1.0, 0.0, 2.0, 0.001, 4.0], &[3.0, 5.0, 0.0, 0.0, 6.0]];

    fn check(def: &'static OperatorDef, settings: &[Number], expected: &[f32]) {
        Case { settings, base: Some(&[0.0; 5]), ..Case::of(def, &INPUTS) }.gives(expected);
    }

    #[test]
    fn shared_elements_are_averaged_and_unique_ones_kept() {
        check(&DEF, &[("epsilon", 0.01)], &[2.0, 5.0, 2.0, 0.0, 5.0]);
        check(&DEF, &[], &[2.0, 5.0, 2.0, 0.001, 5.0]);
    }

    #[test]
    fn overlap_enlarges_what_is_unique() {
        // Each model shares 2 elements and has 1 of its own: 2 clamped to 1, times 1 + 0.5.
        check(&PLUS_TL, &[("epsilon", 0.01), ("r", 0.5), ("alpha", 1.0)], &[2.0, 7.5, 3.0, 0.0, 5.0]);
        // Not clamped: times 1 + 0.5 · 2.
        check(&PLUS_TL, &[("epsilon", 0.01), ("r", 0.5), ("alpha", 9.0)], &[2.0, 10.0, 4.0, 0.0, 5.0]);
        check(&PLUS_TL, &[("epsilon", 0.01), ("r", 0.0)], &[2.0, 5.0, 2.0, 0.0, 5.0]);
    }
}
