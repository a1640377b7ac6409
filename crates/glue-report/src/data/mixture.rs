//! The mixture, its router, and the final model.

use super::{Command, Score};
use serde::{Deserialize, Serialize};

/// A mixture of experts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Mixture {
    /// What is mixed: `ffn`, `block` or `model`.
    pub level: String,
    /// The unit that is routed: `token` or `sample`.
    pub routing: String,
    /// Layers at the bottom that are not mixed.
    pub dense_layers: usize,
    /// Layers in all.
    pub layers: usize,
    /// Experts used for a token or a sample.
    pub experts_per_token: usize,
    /// The experts.
    pub experts: Vec<Expert>,
    /// Parameters in all.
    pub parameters_total: u64,
    /// Parameters that one token passes through.
    pub parameters_active: u64,
    /// Parameters of the experts, which a budget may limit.
    pub parameters_experts: u64,
    /// What was tried, in order, with scores.
    pub steps: Vec<MixtureStep>,
    /// Candidates that were left out.
    pub left_out: Vec<LeftOut>,
}

/// An expert.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Expert {
    /// Its name in the mixture.
    pub name: String,
    /// The candidate it was taken from.
    pub source: String,
    /// Its parameters.
    pub parameters: Option<u64>,
    /// The tasks it is used for, in words.
    pub purpose: Option<String>,
}

/// One step of the greedy choice.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MixtureStep {
    /// What was tried, such as `add a-code` or `level block`.
    pub action: String,
    /// Score of the mixture with it.
    pub score: Option<Score>,
    /// Whether it was kept.
    pub kept: bool,
    /// Why or why not, in words.
    pub reason: String,
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why, in words, without the name.
    pub reason: String,
}

/// A trained router.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Router {
    /// How it was trained, in words.
    pub method: String,
    /// The split that the figures are from.
    pub split: String,
    /// Fraction of samples that went to the expert that is right for their skill.
    pub accuracy: Option<Score>,
    /// Where the samples of each skill went.
    pub confusion: Option<Confusion>,
    /// The experts that loads are over; those of the confusion may be fewer.
    pub experts: Vec<String>,
    /// How the tokens of each task spread over the experts.
    pub load: Vec<Load>,
}

/// Skills against experts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Confusion {
    /// Rows.
    pub skills: Vec<String>,
    /// Columns.
    pub experts: Vec<String>,
    /// Samples of each skill that went to each expert, a row for each skill.
    pub counts: Vec<Vec<u64>>,
    /// For each skill, the number of the expert that is right; `None` where any is.
    pub right: Vec<Option<usize>>,
}

/// How the tokens of a task spread over the experts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Load {
    /// The task, or anything else whose tokens were counted.
    pub task: String,
    /// Fraction of each expert, 0 to 1; their sum is 1, or 0 without tokens.
    pub shares: Vec<f64>,
}

/// What kind of model the final one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinalKind {
    /// A mixture of experts. The default.
    #[default]
    Mixture,
    /// One merged model, since no mixture was better.
    Merged,
    /// A model of the zoo, since nothing was better.
    Single,
}

/// The final model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Final {
    /// Its name, that of its row in the test.
    pub name: String,
    /// What it is.
    pub kind: FinalKind,
    /// Why it is that, in words.
    pub why: String,
    /// Where it is, as `report.json` gives it to scripts.
    pub path: String,
    /// Parameters in all.
    pub parameters: u64,
    /// Parameters that one token passes through, if not all.
    pub parameters_active: Option<u64>,
    /// Size on disk, in bytes.
    pub bytes: Option<u64>,
    /// Stored type.
    pub dtype: String,
    /// Ways to use it; the first is the one that the beginning of the report shows.
    pub usage: Vec<Command>,
    /// The models of the zoo that it is made of, a list for each expert: one name for a model that is used unchanged,
    /// several for a merge. The first line of the report names them. For a single model, one list with its name.
    #[serde(default)]
    pub made_of: Vec<Vec<String>>,
    /// Which programs open it, in sentences; empty if that is not known.
    #[serde(default)]
    pub opened_by: String,
}
