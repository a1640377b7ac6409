//! What the strategies ask for, and what answers them.

use serde::{Deserialize, Serialize};

/// A merge that might be worth making: a recipe in the dialect of `glue merge`, one document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Candidate {
    /// The text of the recipe. Two candidates are the same when their texts are.
    pub recipe: String,
}

/// Which items of the proxy tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Those that the search may look at.
    Search,
    /// Those held out, to tell whether the search has fitted the others too closely.
    Validation,
}

/// The score of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// Name of the task.
    pub task: String,
    /// Name of its main metric.
    pub metric: String,
    /// Its value over the items scored, turned so that more is better.
    pub value: f64,
    /// Items scored.
    pub n: usize,
}

/// What is known of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The tasks, in their order.
    pub tasks: Vec<TaskScore>,
    /// Mean over tasks.
    pub average: f64,
    /// Whether the race was left before all items were scored: `average` is over those scored, and the candidate cannot
    /// win any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// Why a candidate has no score: its recipe cannot be merged, or its evaluation failed. The search goes on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CandidateError {
    /// The whole chain of reasons, in words.
    pub message: String,
}

/// Whatever merges candidates and scores them: this process, several, or a command of the user.
pub trait Scorer: Sync {
    /// Scores candidates, as many at once as it can, and returns their scores in their order. `done` is called once
    /// for each, from any thread, with its index and result, as soon as that is known.
    ///
    /// With `floor`, a candidate may be dropped before all items are scored once its average cannot exceed that number any more.
    /// A result is a function of the candidate, the part and the floor: not of what else is asked for at once, nor of the
    /// number of threads or workers.
    ///
    /// # Errors
    /// [`Stopped`] when the scorer was told to stop; results already given to `done` are valid.
    fn score(
        &self,
        candidates: &[Candidate],
        part: Part,
        floor: Option<f64>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped>;

    /// The same as [`score`](Self::score) with the average of `incumbent` as the floor, whose recipe is told too, so that
    /// a scorer may compare the two item by item and drop a candidate that is very unlikely to win, where it was asked to
    /// do that. By default only the floor counts. A result is a function of the candidate, the part and the incumbent.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    fn score_against(
        &self,
        candidates: &[Candidate],
        part: Part,
        incumbent: Option<(&Candidate, f64)>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        self.score(candidates, part, incumbent.map(|(_, average)| average), done)
    }

    /// How many candidates it can score at once, at least 1.
    fn parallelism(&self) -> usize {
        1
    }
}

/// The scorer was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;
