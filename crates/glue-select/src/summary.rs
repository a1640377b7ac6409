//! What a search ends with: the content of `search.json`, which depends on config, inputs and scores, never on time.

use crate::contract::{Scores, TaskScore};
use crate::filter::ModelVerdict;
use crate::session::Tried;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The scores of one merge, or of a model by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the model or of the strategy.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// Its recipe.
    pub recipe: String,
    /// On the items that the search saw.
    pub search: Option<Scores>,
    /// On those held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Scores>,
    /// Average over the tasks of both parts together, where both are parts of one split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<f64>,
    /// Average on the search part less that on the validation part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
}

/// What came of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StrategyRow {
    /// Its result.
    #[serde(flatten)]
    pub row: Row,
    /// Evaluations that no strategy before it had made.
    pub evaluations: u64,
    /// Items of those that were not scored because candidates were dropped before.
    pub items_saved: u64,
    /// Items of those evaluations in all.
    pub items: u64,
    /// Why it ended before its end, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// A whole search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Version of the program.
    pub version: String,
    /// The config, with all defaults.
    pub config: Value,
    /// Hashes of the inputs.
    pub inputs: Value,
    /// Name of the best strategy.
    pub best: String,
    /// Why it is the best, in words.
    pub reason: String,
    /// The models by themselves, in the order of the config.
    pub models: Vec<Row>,
    /// What was found about harmful models, when that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<ModelVerdict>,
    /// The strategies, in the order in which they ran.
    pub strategies: Vec<StrategyRow>,
    /// Evaluations on the search part in all.
    pub evaluations: u64,
    /// Items that racing saved.
    pub items_saved: u64,
    /// Items of all evaluations.
    pub items: u64,
    /// Candidates that no other one is as good as in all tasks and better in one; only after a strategy with several
    /// objectives. Numbers into `candidates`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub front: Vec<usize>,
    /// Everything that was tried, in order.
    pub candidates: Vec<Tried>,
}

impl Summary {
    /// The row of the best.
    pub fn best_row(&self) -> Option<&StrategyRow> {
        self.strategies.iter().find(|row| row.row.name == self.best)
    }
}

/// The average over the tasks of two parts of the same items.
pub(crate) fn pooled(a: &Scores, b: &Scores) -> Option<f64> {
    let of = |task: &TaskScore| -> Option<f64> {
        let other = b.tasks.iter().find(|other| other.task == task.task)?;
        let n = (task.n + other.n) as f64;
        (n > 0.0).then(|| (task.value * task.n as f64 + other.value * other.n as f64) / n)
    };
    let values = a.tasks.iter().map(of).collect::<Option<Vec<f64>>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
