//! A scorer for tests: scores are a function of the text of the recipe.

use crate::context::DescribedCandidate;
use crate::contract::{Candidate, CandidateError, ItemRole, LossGradient, Rival, Scorer, Scores, Stopped, TaskScore};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The gradient at a recipe and some items.
type GradientFn = dyn Fn(&str, &[(usize, usize)]) -> LossGradient + Sync;

/// Scores by a function, and counts candidates and gradients.
pub(crate) struct Counting {
    score: Box<dyn Fn(&str) -> f64 + Sync>,
    gradient: Option<Box<GradientFn>>,
    calls: AtomicUsize,
    races: bool,
}

/// A candidate with this text.
pub(crate) fn described(text: &str) -> DescribedCandidate {
    DescribedCandidate { candidate: Candidate { recipe: text.into() }, what: text.into(), weights: Vec::new() }
}

/// Items of the one task.
const ITEMS: usize = 100;

impl Counting {
    pub(crate) fn new(score: impl Fn(&str) -> f64 + Sync + 'static) -> Counting {
        Counting { score: Box::new(score), gradient: None, calls: AtomicUsize::new(0), races: true }
    }

    /// The same, scoring all items of every candidate.
    pub(crate) fn without_races(self) -> Counting {
        Counting { races: false, ..self }
    }

    pub(crate) fn with_gradient(
        self,
        gradient: impl Fn(&str, &[(usize, usize)]) -> LossGradient + Sync + 'static,
    ) -> Counting {
        Counting { gradient: Some(Box::new(gradient)), ..self }
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
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let outcomes: Vec<Result<Scores, CandidateError>> = candidates
            .iter()
            .map(|candidate| {
                self.calls.fetch_add(1, Ordering::Relaxed);
                let value = (self.score)(&candidate.recipe);
                let dropped = self.races && rival.is_some_and(|rival| value <= rival.cutoff);
                let n = if dropped { ITEMS / 2 } else { ITEMS };
                let task = TaskScore { task: "length".into(), metric: "acc".into(), value, n, items: vec![] };
                Ok(Scores { tasks: vec![task], average: value, stderr: None, dropped })
            })
            .collect();
        outcomes.iter().enumerate().for_each(|(i, outcome)| done(i, outcome));
        Ok(outcomes)
    }

    fn loss_gradient(
        &self,
        candidate: &Candidate,
        items: &[(usize, usize)],
    ) -> Result<Result<LossGradient, CandidateError>, Stopped> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let none = || CandidateError { message: "no gradients".into() };
        Ok(self.gradient.as_ref().map(|gradient| gradient(&candidate.recipe, items)).ok_or_else(none))
    }
}
