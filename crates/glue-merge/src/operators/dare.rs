//! DARE: drops elements of each task vector at random and rescales the rest. Yu et al., "Language models are Super
//! Mario", arXiv 2311.03099.

use super::task::{DENSITY, LAMBDA, RESCALE, Task, Trim, WEIGHT, normalize};
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::device::{RandomDrop, Trimming};
use crate::params::Params;
use crate::random::{ElementRng, keep_threshold};
use crate::task_vectors::subtract;

/// `dare_linear`.
pub const LINEAR: OperatorDef = OperatorDef {
    name: "dare_linear",
    summary: "Drops elements of each task vector at random, rescales the rest, and adds them up.",
    formula: "τi with each element dropped with probability 1 − density, rescaled; θ0 + λ Σ wi τi, divided by Σ wi when normalize",
    reference: "DARE, arXiv 2311.03099",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[WEIGHT, DENSITY, LAMBDA, RESCALE, normalize(false)],
    plan: |tensor, params| Ok(plan(tensor, params, false)),
    ..OperatorDef::DEFAULT
};

/// `dare_ties`.
pub const TIES: OperatorDef = OperatorDef {
    name: "dare_ties",
    summary: "Drops elements of each task vector at random, rescales the rest, and elects signs as TIES does.",
    formula: "τi trimmed as by dare_linear, then as ties",
    plan: |tensor, params| Ok(plan(tensor, params, true)),
    ..LINEAR
};

fn plan(tensor: &TensorSpec<'_>, params: &Params, elect: bool) -> Plan {
    let rescale = params.word("rescale");
    let densities = params.input_numbers("density");
    let dropping = densities.iter().any(|d| *d < 1.0);
    let inputs = densities.iter().enumerate().map(|(i, density)| RandomDrop {
        rng: ElementRng::new(tensor.seed, tensor.name, i),
        kept_below: keep_threshold(*density),
        scale: if rescale == "inverse" { (1.0 / density) as f32 } else { 1.0 },
    });
    Task::new(params, elect, rescale == "l1" && dropping).plan(Random { inputs: inputs.collect() }, tensor.len())
}

struct Random {
    inputs: Vec<RandomDrop>,
}

/// Random words that are held at once.
const WORDS: usize = 256;

impl Trim for Random {
    type Scratch = ();

    fn trim(&self, input: usize, offset: usize, x: &[f32], base: &[f32], tau: &mut [f32], (): &mut ()) {
        subtract(x, base, tau);
        let RandomDrop { rng, kept_below, scale } = &self.inputs[input];
        let Ok(kept_below) = u32::try_from(*kept_below) else {
            return;
        };
        let mut words = [0; WORDS];
        for (c, tau) in tau.chunks_mut(WORDS).enumerate() {
            let words = &mut words[..tau.len()];
            rng.fill(offset + c * WORDS, words);
            drop_by_word(tau, words, kept_below, *scale);
        }
    }

    fn describe(&self) -> Option<Trimming<'_>> {
        Some(Trimming::Random(&self.inputs))
    }
}

/// Scales what a word below the bound keeps and sets the rest to 0, by masks: a branch would be taken at random.
fn drop_by_word(tau: &mut [f32], words: &[u32], kept_below: u32, scale: f32) {
    for (tau, word) in tau.iter_mut().zip(words) {
        let mask = if *word < kept_below { u32::MAX } else { 0 };
        *tau = f32::from_bits((*tau * scale).to_bits() & mask);
    }
}
