//! Coefficient search.
//!
//! Models are added by descending score. The current merge M keeps the weight c that scores best on a grid, c·M + (1 −
//! c)·θ with c from 0.1 to 0.9; a model that lowers the score at every c is skipped.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "coefficient".

use super::StrategyDef;
use super::greedy::{Greedy, METHOD, WeightGrid, by_score, lengthens};
use glue_search::{ParamSpec, Params};

const POINTS: ParamSpec = ParamSpec::integer(
    "points",
    "Number of weights of the current merge tried with each model, evenly spaced: 9 are 0.1 to 0.9.",
    1,
    99,
    9,
);

const PARAMS: &[ParamSpec] = &[POINTS, METHOD];

/// The best weight on a grid for each model in turn.
pub const COEFFICIENT: StrategyDef = StrategyDef {
    name: "coefficient",
    summary: "Adds one model after another, starting with the best, each with the best weight on a grid.",
    reference: "arXiv 2410.05357",
    params: PARAMS,
    build: |search, settings| {
        let params = Params::check("strategy `coefficient`", PARAMS, settings)?;
        let lengthen = lengthens(search, "coefficient", &params)?;
        Ok(Box::new(Greedy { lengthen, grid: WeightGrid::Points(params.count("points")), next: by_score }))
    },
};
