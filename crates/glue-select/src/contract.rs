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
    /// The score of each item, with the same sign, in an order that is the same for all candidates. Empty when the
    /// scorer does not know them, or when not all items were scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<f64>,
}

/// The scores of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The tasks, in their order.
    pub tasks: Vec<TaskScore>,
    /// Mean over tasks. For a dropped candidate, an estimate that does not exceed the cutoff.
    pub average: f64,
    /// The standard error of the average where it is [estimated](crate::race) from a fraction of the items; those of
    /// the tasks are estimates as well. Absent when all items were scored, and for a dropped candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// Whether the candidate was dropped before all items were scored, because it could not win any more. The values of
    /// the tasks are over the items scored.
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

/// Which items tell models apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Strata {
    /// For each task and each of its items, in the order of [`TaskScore::items`], whether the baselines differ in it.
    /// Empty for a task where that is not known.
    pub contested: Vec<Vec<bool>>,
}

impl Strata {
    /// Those of baselines. A task whose items are not known for at least two of them has none.
    pub fn of(baselines: &[&Scores]) -> Strata {
        let tasks = baselines.iter().map(|scores| scores.tasks.len()).min().unwrap_or(0);
        let of_task = |t: usize| {
            let items: Vec<&[f64]> =
                baselines.iter().map(|scores| &scores.tasks[t].items[..]).filter(|items| !items.is_empty()).collect();
            match items.split_first() {
                Some((first, rest)) if !rest.is_empty() && rest.iter().all(|other| other.len() == first.len()) => {
                    (0..first.len()).map(|i| rest.iter().any(|other| other[i] != first[i])).collect()
                }
                _ => Vec::new(),
            }
        };
        Strata { contested: (0..tasks).map(of_task).collect() }
    }
}

/// What a candidate races against: the incumbent of the search.
#[derive(Debug, Clone, Copy)]
pub struct Rival<'a> {
    /// A candidate whose average does not exceed this is of no interest.
    pub cutoff: f64,
    /// The scores of the incumbent on all items.
    pub incumbent: &'a Scores,
    /// Which items are scored first.
    pub strata: &'a Strata,
}

/// A loss at a merge θ0 + Σ wi τi, and how it changes with the weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LossGradient {
    /// Mean over tasks of the mean over their items of 1 − p, from 0 to 1, with p the probability of the right choices
    /// among all choices or, where an item has one continuation, the geometric mean of the probabilities of its tokens.
    pub loss: f64,
    /// For each tensor, in the order of the recipe's plan, ⟨∂loss/∂tensor, τi⟩ for each model i in the order of the
    /// recipe.
    pub tensors: Vec<(String, Vec<f64>)>,
    /// Names of the tasks among those of the items that have no right continuation, and are not part of the loss.
    pub left_out: Vec<String>,
}

/// Merges candidates and scores them: in this process, in worker processes, or by a command of the user.
pub trait Scorer: Sync {
    /// Scores candidates, up to [`parallelism`](Self::parallelism) of them together, and returns their scores in the
    /// same order. `done` is called once for each, from any thread, with its index and result, as soon as that is
    /// known.
    ///
    /// With a `rival`, a candidate may be [dropped](Scores::dropped) before all items are scored, once its average
    /// cannot exceed the cutoff, or is very unlikely to; and its scores may be [estimates](Scores::stderr) from some
    /// items. A result is a function of the candidate, the role and the
    /// rival: not of the other candidates, nor of the number of threads or workers.
    ///
    /// # Errors
    /// [`Stopped`] when the scorer was cancelled; results already given to `done` are valid.
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped>;

    /// The loss of the right answers to some search items at `candidate`, a merge by task arithmetic, and its
    /// derivatives by the weights of the models, tensor by tensor: what a strategy needs to learn weights. An item is
    /// given by the number of its task and its number among the search items of that task. The result is a function of
    /// the candidate and the items. By default a scorer has no gradients, and says so in the error of the candidate.
    ///
    /// # Errors
    /// [`Stopped`] when the scorer was cancelled.
    fn loss_gradient(
        &self,
        candidate: &Candidate,
        items: &[(usize, usize)],
    ) -> Result<Result<LossGradient, CandidateError>, Stopped> {
        let _ = (candidate, items);
        let message = "there are no gradients where candidates are scored by worker processes or by a command".into();
        Ok(Err(CandidateError { message }))
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
