//! The size–score frontier, the decisions, and what came of them.

use super::{Command, Score};
use serde::{Deserialize, Serialize};

/// Partitions of the zoo into experts, from the most experts to one model, each with its score under perfect routing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Frontier {
    /// The points, by descending number of experts.
    pub points: Vec<FrontierPoint>,
    /// Number of merges evaluated.
    pub evaluations: u64,
    /// A remark, such as that the budget ended before all pairs were tried.
    pub note: Option<String>,
}

/// A partition of the zoo.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FrontierPoint {
    /// Its experts. A task's expert is chosen by its score on the search items.
    pub experts: Vec<FrontierExpert>,
    /// How it came from the point before, such as `news and mood merged`; empty for the first.
    pub step: String,
    /// Parameters of all experts together.
    pub parameters: u64,
    /// Average on the search items under perfect routing.
    pub search: Option<Score>,
    /// Average on the validation items, with the same experts for the same tasks.
    pub validation: Option<Score>,
    /// What the point is known as: `best single model`, `chosen`, `clusters merged (paper)`, `members`.
    pub labels: Vec<String>,
}

/// An expert of a partition.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FrontierExpert {
    /// Its name.
    pub name: String,
    /// The models that it is made of.
    pub members: Vec<String>,
    /// How they are merged, such as `task_arithmetic: news 1, mood 0.7`; empty for a single model.
    pub merge: String,
    /// The tasks routed to it.
    pub tasks: Vec<String>,
}

/// One application of the decision rule.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RuleRow {
    /// What is decided, such as `merge or single model`.
    pub question: String,
    /// Name of the model that stays unless it is beaten.
    pub incumbent: String,
    /// Name of the model that it is compared with.
    pub challenger: String,
    /// The paired gain of the challenger over the incumbent on the validation items. Must be finite.
    pub gain: f64,
    /// Its standard error, where it is known.
    pub stderr: Option<f64>,
    /// The p-value, corrected for the number of challengers.
    pub p: f64,
    /// Number of challengers that p is corrected for.
    pub challengers: usize,
    /// Whether the gain is significant.
    pub accepted: bool,
}

/// A result that can be used, with its size and its score on the test items.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SizeRow {
    /// Its name; that of its row in the test.
    pub name: String,
    /// What it is, in words: `best single model`, `best merge`, `mixture of merged clusters (paper)`, `mixture of
    /// members`, `oracle`.
    pub what: String,
    /// Parameters in all.
    pub parameters: u64,
    /// Parameters that one token passes through.
    pub parameters_active: u64,
    /// Bytes on disk, where it is written or belongs to the zoo.
    pub bytes: Option<u64>,
    /// Average on the test items.
    pub score: Score,
    /// Gain over the best single model with its paired standard error; absent for that model itself.
    pub gain: Option<Score>,
    /// Whether no smaller row scores at least as much, and none of the same size more; never for the oracle. See
    /// [`SizeRow::mark_pareto`].
    pub pareto: bool,
    /// Whether it is the final model.
    pub last: bool,
    /// Its directory, relative to the report; absent if it is not kept.
    pub path: Option<String>,
    /// How to use it.
    pub usage: Option<Command>,
}

impl FrontierPoint {
    /// Label of the point that the run decided for.
    pub const CHOSEN: &str = "chosen";
    /// Label of the best single model.
    pub const BEST_SINGLE: &str = "best single model";
    /// Label of the pipeline of Model-GLUE: each cluster merged.
    pub const PAPER: &str = "clusters merged (paper)";
    /// Label of the members of the zoo as experts.
    pub const MEMBERS: &str = "members";
}

impl SizeRow {
    /// [`what`](SizeRow::what) the best single model is.
    pub const BEST_SINGLE: &str = "best single model";
    /// What the best merge is.
    pub const BEST_MERGE: &str = "best merge";
    /// What the mixture of merged clusters and of models that stayed alone is.
    pub const PAPER: &str = "mixture of merged clusters (paper)";
    /// What the mixture of members is.
    pub const MEMBERS: &str = "mixture of members";
    /// What the row of perfect routing is. It is no model: charts show it as a line, and it is never on the frontier.
    pub const ORACLE: &str = "oracle";

    /// Whether this is the row of perfect routing.
    pub fn is_oracle(&self) -> bool {
        self.what == SizeRow::ORACLE
    }

    /// Sets [`pareto`](SizeRow::pareto) of every row.
    pub fn mark_pareto(rows: &mut [SizeRow]) {
        let sizes: Vec<(bool, u64, f64)> =
            rows.iter().map(|row| (row.is_oracle(), row.parameters, row.score.value)).collect();
        for (row, &(oracle, size, score)) in rows.iter_mut().zip(&sizes) {
            let beaten = sizes.iter().any(|&(oracle, other_size, other_score)| {
                !oracle && ((other_size < size && other_score >= score) || (other_size == size && other_score > score))
            });
            row.pareto = !oracle && !beaten;
        }
    }
}

/// Items of a task that the final model answers differently from the best single model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Flips {
    /// Name of the task.
    pub task: String,
    /// Items wrong before and right after.
    pub gained: usize,
    /// Items right before and wrong after.
    pub lost: usize,
    /// A few of them.
    pub examples: Vec<Flip>,
}

/// One such item.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Flip {
    /// Its number in the split.
    pub item: usize,
    /// The end of the prompt.
    pub prompt: String,
    /// The right answer, where the task has one.
    pub expected: String,
    /// The answer of the best single model.
    pub before: String,
    /// The answer of the final model.
    pub after: String,
    /// Whether it became right.
    pub gained: bool,
}
