//! The result of a search: the contents of `search.json`, which depend on config, inputs and scores, never on time.

use crate::context::{TrialRecord, compare};
use crate::contract::{Scores, TaskScore};
use crate::evaluation_log::Budget;
use crate::finalists::Finalist;
use crate::harmful::ModelVerdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cmp::Ordering;

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

impl Row {
    /// Whether its average on the search items is above that of another.
    pub(crate) fn is_above(&self, other: &Row) -> bool {
        let search = |row: &Row| row.search.as_ref().map(|scores| (!scores.dropped, scores.average));
        match (search(self), search(other)) {
            (Some((full, a)), Some((other_full, b))) => full.cmp(&other_full).then(compare(a, b)).is_gt(),
            (a, b) => a.is_some() && b.is_none(),
        }
    }

    /// Whether its average on the validation items is above that of another; among equals, or without validation items,
    /// that on the search items.
    pub(crate) fn is_better_held(&self, other: &Row) -> bool {
        match (&self.validation, &other.validation) {
            (Some(a), Some(b)) => match compare(a.average, b.average) {
                Ordering::Equal => self.is_above(other),
                order => order.is_gt(),
            },
            (None, None) => self.is_above(other),
            (a, _) => a.is_some(),
        }
    }
}

/// One comparison by the rule of [`glue_eval::decision`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RulingRow {
    /// What is decided.
    pub question: String,
    /// The model that stays if nothing is significant.
    pub incumbent: String,
    /// The model compared with it.
    pub challenger: String,
    /// Average of the challenger minus that of the incumbent.
    pub gain: f64,
    /// Its standard error; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// The p-value, corrected for the number of challengers.
    pub p: f64,
    /// Number of challengers that p is corrected for.
    pub challengers: usize,
    /// Whether the challenger is accepted.
    pub accepted: bool,
}

/// The result of a strategy: its best finalist on the validation items, or on the search items if there are none.
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
    /// Why it is the best, or that it is no better than a single model.
    pub reason: String,
    /// Name of the best single model, by search score.
    pub best_single: String,
    /// Whether the result is significantly better than the best single model on the validation items. Absent if that
    /// cannot be said, as without validation items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub significant: Option<bool>,
    /// The models alone, in the order of the config.
    pub models: Vec<Row>,
    /// The base alone, if it was scored as the reference for harmful models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Row>,
    /// The verdict on each model, if `filter` is on; otherwise on those without scores.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<ModelVerdict>,
    /// The strategies, in the order in which they ran.
    pub strategies: Vec<StrategyRow>,
    /// The merges among which the result was chosen.
    pub finalists: Vec<Finalist>,
    /// All decisions in order: which models to keep, and which finalist is the result.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ruling: Vec<RulingRow>,
    /// Number of evaluations of merged candidates on the search items.
    pub evaluations: u64,
    /// Items of these evaluations that racing saved.
    pub items_saved: u64,
    /// All items of these evaluations.
    pub items: u64,
    /// The budget that ended the search; absent if all strategies have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
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
