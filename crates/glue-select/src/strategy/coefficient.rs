//! Coefficient search.
//!
//! Models come in by descending score of their own. The current merge M keeps the share c that is best of a grid,
//! c·M + (1 − c)·θ with c from 0.1 to 0.9; a model that lowers the score with every c stays out.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "coefficient".

use super::greedy::{Shares, by_score, grow};
use super::{Strategy, StrategyDef, check, count};
use crate::course::Halt;
use crate::session::Session;
use glue_search::ParamSpec;

/// How many shares of the current merge are tried.
pub(super) const POINTS: ParamSpec = ParamSpec::integer(
    "points",
    "How many shares of the current merge are tried with each model, evenly spaced: 9 are 0.1 to 0.9.",
    1,
    99,
    9,
);

/// The best share of a grid for each model in turn.
pub const COEFFICIENT: StrategyDef = StrategyDef {
    name: "coefficient",
    summary: "Merges in one model after the other, the best first, each with the best share of a grid.",
    reference: "arXiv 2410.05357",
    params: &[POINTS],
    build: |_, settings| {
        let values = check("coefficient", &[POINTS], settings)?;
        Ok(Box::new(Coefficient { shares: Shares::Grid(count(values.first())) }))
    },
};

struct Coefficient {
    shares: Shares,
}

impl Strategy for Coefficient {
    fn run(&self, session: &mut Session<'_, '_>) -> Result<(), Halt> {
        grow(session, self.shares, &by_score)
    }

    fn evaluations(&self, models: usize) -> u64 {
        models.saturating_sub(1) as u64 * self.shares.len()
    }
}
