//! The border between strategies and scorers: candidates, scores, and the trait [`Scorer`].

use serde::{Deserialize, Serialize};

/// A possible merge: a recipe in the dialect of `glue merge`, one document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Candidate {
    /// The text of the recipe. Candidates with the same text are the same.
    pub recipe: String,
}

/// What items of the proxy tasks are used for. Each item has one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemRole {
    /// Scored during the search.
    Search,
    /// Held out: they show whether the search has overfitted the search items, and decide between strategies.
    Validation,
}

/// The score of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// Name of the task.
    pub task: String,
    /// Name of its main metric.
    pub metric: String,
    /// Its value over the items scored, negated where less is better: more is always better.
    pub value: f64,
    /// Items scored.
    pub n: usize,
}

/// The scores of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The tasks, in their order.
    pub tasks: Vec<TaskScore>,
    /// Mean over tasks.
    pub average: f64,
    /// Whether the candidate was dropped before all items were scored, because it could not win any more. `average` is
    /// over the items scored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// Why a candidate has no score: its recipe cannot be merged, or its evaluation failed. The search continues without
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CandidateError {
    /// The error and its causes.
    pub message: String,
}

/// Merges candidates and scores them: in this process, in worker processes, or by a command of the user.
pub trait Scorer: Sync {
    /// Scores candidates, up to [`parallelism`](Self::parallelism) of them together, and returns their scores in the
    /// same order. `done` is called once for each, from any thread, with its index and result, as soon as that is
    /// known.
    ///
    /// With a `cutoff`, a candidate may be dropped before all items are scored once its average can no longer exceed
    /// it. A result is a function of the candidate, the role and the cutoff: not of the other candidates, nor of the
    /// number of threads or workers.
    ///
    /// # Errors
    /// [`Stopped`] when the scorer was cancelled; results already given to `done` are valid.
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        cutoff: Option<f64>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped>;

    /// Like [`score`](Self::score), with the average of `incumbent` as the cutoff. A scorer that was configured to do
    /// so may compare a candidate with the incumbent item by item, and drop one that is very unlikely to win. By
    /// default only the cutoff counts. A result is a function of the candidate, the role and the incumbent.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    fn score_against(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        incumbent: Option<(&Candidate, f64)>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        self.score(candidates, role, incumbent.map(|(_, average)| average), done)
    }

    /// How many candidates it can score in parallel, at least 1.
    fn parallelism(&self) -> usize {
        1
    }
}

/// The scorer was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;
