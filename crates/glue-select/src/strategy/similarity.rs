//! Coefficient search over models by similarity.
//!
//! After the best single model comes, each time, the model whose MLP weights are most like those of the current merge. Its
//! share is the best of a grid, or that of a running average when `points` is 0; a model that lowers the score stays out.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "similarity".

use super::greedy::{Shares, by_likeness, grow};
use super::{Strategy, StrategyDef, check, count};
use crate::course::Halt;
use crate::session::Session;
use glue_search::ParamSpec;

const POINTS: ParamSpec = ParamSpec::integer(
    "points",
    "How many shares of the current merge are tried with each model, evenly spaced; 0 is a running average.",
    0,
    99,
    9,
);

/// The model that is most like the current merge comes next.
pub const SIMILARITY: StrategyDef = StrategyDef {
    name: "similarity",
    summary: "Merges in, each time, the model that is most like the current merge, with the best share of a grid.",
    reference: "arXiv 2410.05357",
    params: &[POINTS],
    build: |_, settings| {
        let values = check("similarity", &[POINTS], settings)?;
        Ok(Box::new(Similarity { shares: Shares::new(count(values.first())) }))
    },
};

struct Similarity {
    shares: Shares,
}

impl Strategy for Similarity {
    fn run(&self, session: &mut Session<'_, '_>) -> Result<(), Halt> {
        grow(session, self.shares, &|session, current, left| by_likeness(session, current, left, true))
    }

    fn evaluations(&self, models: usize) -> u64 {
        models.saturating_sub(1) as u64 * self.shares.len()
    }
}
