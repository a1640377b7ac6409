//! A scorer for tests: scores are a function of the text of the recipe.

use crate::contract::{Candidate, CandidateError, ItemRole, Scorer, Scores, Stopped, TaskScore};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Scores by a function, and counts the candidates.
pub(crate) struct Counting {
    score: Box<dyn Fn(&str) -> f64 + Sync>,
    calls: AtomicUsize,
}

/// A candidate with this text.
pub(crate) fn candidate(text: &str) -> Candidate {
    Candidate { recipe: text.into() }
}

/// Items of the one task.
const ITEMS: usize = 100;

impl Counting {
    pub(crate) fn new(score: impl Fn(&str) -> f64 + Sync + 'static) -> Counting {
        Counting { score: Box::new(score), calls: AtomicUsize::new(0) }
    }

    /// How many candidates were scored.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Scorer for Counting {
    fn score(
        &self,
        candidates: &[Candidate],
        _: ItemRole,
        cutoff: Option<f64>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let outcomes: Vec<Result<Scores, CandidateError>> = candidates
            .iter()
            .map(|candidate| {
                self.calls.fetch_add(1, Ordering::Relaxed);
                let value = (self.score)(&candidate.recipe);
                let dropped = cutoff.is_some_and(|cutoff| value <= cutoff);
                let n = if dropped { ITEMS / 2 } else { ITEMS };
                let task = TaskScore { task: "length".into(), metric: "acc".into(), value, n };
                Ok(Scores { tasks: vec![task], average: value, dropped })
            })
            .collect();
        outcomes.iter().enumerate().for_each(|(i, outcome)| done(i, outcome));
        Ok(outcomes)
    }
}
