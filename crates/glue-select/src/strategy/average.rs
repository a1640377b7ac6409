//! Running average.
//!
//! Models are added by descending score. The merge of m models keeps the weight m/(m+1) when another is added, so that
//! all models have the same weight; a model that lowers the score is skipped.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357, heuristic
//! "average"; the greedy soup of Wortsman et al., *Model soups*, arXiv 2203.05482.

use super::StrategyDef;
use super::greedy::{Greedy, METHOD, WeightGrid, by_score, lengthens};
use glue_search::{ParamSpec, Params};

const PARAMS: &[ParamSpec] = &[METHOD];

/// Running average of the models that do not lower the score.
pub const AVERAGE: StrategyDef = StrategyDef {
    name: "average",
    summary: "Averages the models that do not lower the score, starting with the best.",
    reference: "arXiv 2410.05357; arXiv 2203.05482",
    params: PARAMS,
    build: |search, settings| {
        let params = Params::check("strategy `average`", PARAMS, settings)?;
        let lengthen = lengthens(search, "average", &params)?;
        Ok(Box::new(Greedy { lengthen, grid: WeightGrid::Average, next: by_score }))
    },
};
