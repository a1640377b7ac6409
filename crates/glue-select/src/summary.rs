//! The result of a search: the contents of `search.json`, which depend on config, inputs and scores, never on time.

use crate::context::TrialRecord;
use crate::contract::{Scores, TaskScore};
use crate::filter::ModelVerdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The scores of a merge, or of a model alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the model or of the strategy.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// Its recipe.
    pub recipe: String,
    /// On the search items.
    pub search: Option<Scores>,
    /// On the validation items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Scores>,
    /// Macro average over search and validation items together, where both come from one split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<f64>,
    /// Average on the search items minus average on the validation items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
}

/// The result of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StrategyRow {
    /// Its result.
    #[serde(flatten)]
    pub row: Row,
    /// Its evaluations, without those that an earlier strategy had made.
    pub evaluations: u64,
    /// Items of these evaluations that were not scored because candidates were dropped early.
    pub items_saved: u64,
    /// All items of these evaluations.
    pub items: u64,
    /// Why it ended early, if it did.
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
    /// Why it is the best.
    pub reason: String,
    /// The models alone, in the order of the config.
    pub models: Vec<Row>,
    /// The verdict on each model, if `filter` is on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<ModelVerdict>,
    /// The strategies, in the order in which they ran.
    pub strategies: Vec<StrategyRow>,
    /// Number of evaluations on the search items.
    pub evaluations: u64,
    /// Items that racing saved.
    pub items_saved: u64,
    /// Items of all evaluations.
    pub items: u64,
    /// The Pareto front over tasks, as indices into `candidates`; only after a strategy with several objectives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub front: Vec<usize>,
    /// All trials, in order.
    pub candidates: Vec<TrialRecord>,
}

impl Summary {
    /// The row of the best strategy.
    pub fn best_row(&self) -> Option<&StrategyRow> {
        self.strategies.iter().find(|row| row.row.name == self.best)
    }
}

/// The macro average over two disjoint sets of items of the same tasks.
pub(crate) fn pooled(a: &Scores, b: &Scores) -> Option<f64> {
    let of = |task: &TaskScore| -> Option<f64> {
        let other = b.tasks.iter().find(|other| other.task == task.task)?;
        let n = (task.n + other.n) as f64;
        (n > 0.0).then(|| (task.value * task.n as f64 + other.value * other.n as f64) / n)
    };
    let values = a.tasks.iter().map(of).collect::<Option<Vec<f64>>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
