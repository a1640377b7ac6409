//! Coefficient search over models by similarity.
//!
//! The best single model is followed, each time, by the model whose MLP weights are most similar to those of the
//! current merge. Its weight is the best on a grid, or that of a running average when `points` is 0; a model that
//! lowers the score is skipped.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "similarity".

use super::StrategyDef;
use super::greedy::{Greedy, METHOD, POINTS, WeightGrid, lengthens, most_similar};
use glue_search::{ParamSpec, Params};

const PARAMS: &[ParamSpec] = &[POINTS, METHOD];

/// The model most similar to the current merge comes next.
pub const SIMILARITY: StrategyDef = StrategyDef {
    name: "similarity",
    summary: "Adds, each time, the model most similar to the current merge, with the best weight on a grid.",
    reference: "arXiv 2410.05357",
    params: PARAMS,
    build: |search, settings| {
        let params = Params::check("strategy `similarity`", PARAMS, settings)?;
        let lengthen = lengthens(search, "similarity", &params)?;
        Ok(Box::new(Greedy { lengthen, grid: WeightGrid::new(params.count("points")), next: most_similar }))
    },
};
