//! Tasks, scores and the test.

use serde::{Deserialize, Serialize};

/// A task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Task {
    /// Its name; not `average`, which stands beside the tasks in `report.json`.
    pub name: String,
    /// Name of its main metric, of which more is better.
    pub metric: String,
    /// What it asks for, in a few words.
    pub description: Option<String>,
    /// How many items each split has.
    pub splits: Vec<SplitSize>,
}

/// A split of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SplitSize {
    /// Name, such as `proxy`.
    pub split: String,
    /// Number of items.
    pub items: usize,
}

/// A score; more is better.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// Its value, usually 0 to 1. Must be finite.
    pub value: f64,
    /// Standard error of the value, where it is known.
    pub stderr: Option<f64>,
    /// Number of items it is over.
    pub n: Option<usize>,
}

/// The score of one task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskScore {
    /// Name of the task.
    pub task: String,
    /// The score.
    #[serde(flatten)]
    pub score: Score,
}

/// Scores of one model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Name of the model.
    pub name: String,
    /// Its scores, in any order; a task that was not scored is missing.
    pub scores: Vec<TaskScore>,
}

/// Scores of models on one split.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ScoreTable {
    /// The split.
    pub split: String,
    /// What the split decides, in words.
    pub purpose: String,
    /// The models.
    pub rows: Vec<ScoreRow>,
}

/// What a row of the test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A model of the zoo. The default.
    #[default]
    Single,
    /// A base model: forgetting is measured against it.
    Base,
    /// Something to compare with, such as the uniform average of all models.
    Reference,
    /// A merge, without a mixture.
    Merged,
    /// A mixture that is not the final model.
    Mixture,
    /// The final model; at most one row.
    Final,
}

/// A row of the test.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TestRow {
    /// Name of the model. Unique among rows.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its scores, one for each task.
    pub scores: Vec<TaskScore>,
}

/// The test. The best single model, the oracle that takes each task's best single model, the gain and the averages
/// follow from the rows; bases count as single models.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Test {
    /// Name of the split.
    pub split: String,
    /// Every single model, baselines, merges and mixtures, the final model.
    pub rows: Vec<TestRow>,
    /// Paired standard error of the gain of the final model over the best single one. Without it, the two averages
    /// count as independent, which overestimates the error.
    pub gain_stderr: Option<f64>,
    /// For each row of role [`Role::Base`] by name: the gain of the final model over it, task by task, with its paired
    /// standard error. Without it, the two scores count as independent, which overestimates the error.
    #[serde(default)]
    pub over_bases: Vec<ScoreRow>,
}

impl ScoreRow {
    /// The score on a task.
    pub fn get(&self, task: &str) -> Option<Score> {
        find(&self.scores, task)
    }

    /// The mean over `tasks`, with the standard error that follows from theirs; `None` unless all are there.
    pub fn average(&self, tasks: &[Task]) -> Option<Score> {
        average(&self.scores, tasks)
    }
}

impl TestRow {
    /// The score on a task.
    pub fn get(&self, task: &str) -> Option<Score> {
        find(&self.scores, task)
    }

    /// The mean over `tasks`, with the standard error that follows from theirs; `None` unless all are there.
    pub fn average(&self, tasks: &[Task]) -> Option<Score> {
        average(&self.scores, tasks)
    }
}

fn find(scores: &[TaskScore], task: &str) -> Option<Score> {
    scores.iter().find(|score| score.task == task).map(|score| score.score)
}

fn average(scores: &[TaskScore], tasks: &[Task]) -> Option<Score> {
    let all: Vec<Score> = tasks.iter().map(|task| find(scores, &task.name)).collect::<Option<_>>()?;
    mean(&all)
}

/// The mean of scores of independent tasks; `None` of nothing.
pub(crate) fn mean(scores: &[Score]) -> Option<Score> {
    if scores.is_empty() {
        return None;
    }
    let count = scores.len() as f64;
    let value = scores.iter().map(|score| score.value).sum::<f64>() / count;
    let squares = scores.iter().map(|score| score.stderr.map(|stderr| stderr * stderr)).sum::<Option<f64>>();
    let n = scores.iter().map(|score| score.n).sum::<Option<usize>>();
    Some(Score { value, stderr: squares.map(|sum| sum.sqrt() / count), n })
}
