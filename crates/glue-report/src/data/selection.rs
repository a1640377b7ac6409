//! Selective merging, and the candidates for experts.

use super::Score;
use serde::{Deserialize, Serialize};

/// Selective merging in one cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Selection {
    /// Name of the cluster.
    pub cluster: String,
    /// The strategies that were tried.
    pub strategies: Vec<StrategyResult>,
    /// Name of the strategy whose merge was taken; `None` if none was better than the best member alone.
    pub chosen: Option<String>,
    /// Why that one, in words.
    pub why: String,
    /// Score of the best member alone on the search items.
    pub best_member: Option<Score>,
    /// What was accepted and what was rejected, in the order in which it was tried.
    pub decisions: Vec<Decision>,
    /// Harmful models, found by the filter.
    pub harmful: Vec<Harmful>,
    /// The weights of the merge that was taken.
    pub weights: Option<Weights>,
    /// The recipe of the merge that was taken, as `glue merge` reads it.
    pub recipe: Option<String>,
}

/// The result of a strategy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StrategyResult {
    /// Name of the strategy.
    pub name: String,
    /// The best score on the search items.
    pub proxy: Option<Score>,
    /// The score of that merge on the validation items.
    pub validation: Option<Score>,
    /// Number of merges evaluated.
    pub evaluations: u64,
    /// The best score so far on the search items, by number of evaluations.
    pub curve: Vec<CurvePoint>,
    /// A remark, such as that its budget ended before it had converged.
    pub note: Option<String>,
}

/// The best score so far on the search items.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Evaluations done.
    pub evaluations: u64,
    /// The best score among them.
    pub best: f64,
    /// The score of that candidate on the validation items, where it was scored on them.
    #[serde(default)]
    pub validation: Option<f64>,
}

/// A step of a strategy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Decision {
    /// The strategy.
    pub strategy: String,
    /// What was tried, such as `add a-code`.
    pub candidate: String,
    /// Its score.
    pub score: Option<Score>,
    /// Whether it was kept.
    pub accepted: bool,
    /// Why, in words.
    pub reason: String,
}

/// A harmful model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Harmful {
    /// Name of the model.
    pub model: String,
    /// Why, in words, without the name.
    pub reason: String,
}

/// Weights of a merge.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Weights {
    /// What was done with them, such as `task_arithmetic on base-a`.
    pub method: String,
    /// Groups of layers, such as `all`, or `0–1`, `2–3` and `embedding`.
    pub groups: Vec<String>,
    /// The models.
    pub rows: Vec<WeightRow>,
}

/// The weights of one model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct WeightRow {
    /// Name of the model.
    pub model: String,
    /// Its weight in each group; `None` where it has no part.
    pub values: Vec<Option<f64>>,
}

/// How a candidate came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CandidateKind {
    /// The merge of a cluster.
    Merged,
    /// A model alone in its cluster. The default.
    #[default]
    Alone,
    /// A member of a merged cluster, offered as an expert of its own tasks.
    Specialist,
    /// Stacked layers of two models (frankenmerge).
    Stacked,
}

/// A candidate for an expert.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExpertCandidate {
    /// Its name.
    pub name: String,
    /// How it came to be.
    pub kind: CandidateKind,
    /// The models that it is made of.
    pub members: Vec<String>,
    /// Its score on the split that decides.
    pub score: Option<Score>,
    /// Number of parameters.
    pub parameters: Option<u64>,
    /// Whether it went on to the mixture.
    pub kept: bool,
    /// Why or why not, in words.
    pub reason: String,
}
