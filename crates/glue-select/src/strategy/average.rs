//! Running average.
//!
//! Models come in by descending score of their own. The merge of m models keeps the share m/(m+1) when another comes in,
//! so that all have the same weight; a model that lowers the score stays out.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "average"; the greedy soup of Wortsman et al., *Model soups*, arXiv 2203.05482.

use super::greedy::{Shares, by_score, grow};
use super::{Strategy, StrategyDef, check};
use crate::course::Halt;
use crate::session::Session;

/// Running average of the models that do not lower the score.
pub const AVERAGE: StrategyDef = StrategyDef {
    name: "average",
    summary: "Averages the models that do not lower the score, the best first.",
    reference: "arXiv 2410.05357; arXiv 2203.05482",
    params: &[],
    build: |_, settings| {
        check("average", &[], settings)?;
        Ok(Box::new(Average))
    },
};

struct Average;

impl Strategy for Average {
    fn run(&self, session: &mut Session<'_, '_>) -> Result<(), Halt> {
        grow(session, Shares::Average, &by_score)
    }

    fn evaluations(&self, models: usize) -> u64 {
        models.saturating_sub(1) as u64
    }
}
