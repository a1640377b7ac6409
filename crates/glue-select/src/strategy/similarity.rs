//! Coefficient search over models by similarity.
//!
//! The best single model is followed, each time, by the model whose MLP weights are most similar to those of the
//! current merge. Its weight is the best on a grid, or that of a running average when `points` is 0; a model that
//! lowers the score is skipped.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "similarity".

use super::StrategyDef;
use super::greedy::{Greedy, POINTS, WeightGrid, most_similar};
use glue_search::Params;

/// The model most similar to the current merge comes next.
pub const SIMILARITY: StrategyDef = StrategyDef {
    name: "similarity",
    summary: "Adds, each time, the model most similar to the current merge, with the best weight on a grid.",
    reference: "arXiv 2410.05357",
    params: &[POINTS],
    build: |_, settings| {
        let points = Params::check("strategy `similarity`", &[POINTS], settings)?.count("points");
        Ok(Box::new(Greedy { grid: WeightGrid::new(points), next: most_similar }))
    },
};
