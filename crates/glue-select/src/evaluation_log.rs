//! The evaluations of a search: each is made once, written to the journal, and kept for whoever asks again.
//!
//! What a strategy gets depends only on what it asked for before, never on what the journal happens to hold. An
//! evaluation from an earlier run is handed out when it is asked for again, as if it had just been made. A search that
//! was killed and resumed therefore proceeds exactly as one that was not.

use crate::contract::{Candidate, CandidateError, ItemRole, Scorer, Scores};
use crate::journal::{Journal, JournalError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Instant;

/// The result of an evaluation.
pub type Outcome = Result<Scores, CandidateError>;

/// When a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Budget {
    /// Maximum number of evaluations on the search items; no limit when absent. Repeated candidates cost nothing.
    pub evaluations: Option<u64>,
    /// Maximum number of seconds, including those of interrupted runs; no limit when absent. No evaluation begins after
    /// it.
    pub seconds: Option<f64>,
}

/// Why a strategy has to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// All evaluations are spent.
    #[error("the budget of {evaluations} evaluations is used up")]
    Evaluations {
        /// The budget.
        evaluations: u64,
    },
    /// The time is spent.
    #[error("the budget of {seconds} seconds is used up")]
    Seconds {
        /// The budget.
        seconds: f64,
    },
    /// The user asked to stop.
    #[error("stopped")]
    Stopped,
    /// An evaluation could not be written to the journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The strategy cannot continue.
    #[error("{0}")]
    Strategy(String),
}

impl StopReason {
    /// Whether a budget is used up: the best candidate so far is the result then.
    pub fn is_budget(&self) -> bool {
        matches!(self, StopReason::Evaluations { .. } | StopReason::Seconds { .. })
    }
}

/// The state of a search in numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SearchStatus {
    /// Evaluations made, on the search items.
    pub evaluations: u64,
    /// Evaluations that remain in the budget, where there is one.
    pub remaining: Option<u64>,
    /// How many evaluations came from the journal.
    pub replayed: u64,
    /// Items that were not scored because their candidates were dropped early.
    pub items_saved: u64,
    /// Items of all evaluations, those not scored included.
    pub items: u64,
    /// Seconds, including those of interrupted runs.
    pub seconds: f64,
}

/// One evaluation in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: ItemRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cutoff: Option<f64>,
    recipe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scores: Option<Scores>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Seconds from the beginning of the search to the end of the evaluation.
    seconds: f64,
}

impl Entry {
    fn outcome(&self) -> Outcome {
        match (&self.scores, &self.error) {
            (Some(scores), _) => Ok(scores.clone()),
            (None, message) => Err(CandidateError { message: message.clone().unwrap_or_default() }),
        }
    }
}

/// By which an evaluation is found in the journal.
type Key = (ItemRole, Option<u64>, String);

fn key(candidate: &Candidate, role: ItemRole, cutoff: Option<f64>) -> Key {
    (role, cutoff.map(f64::to_bits), candidate.recipe.clone())
}

/// An evaluation of this run.
#[derive(Debug, Clone)]
struct Cached {
    outcome: Outcome,
    /// The cutoff it was scored with.
    cutoff: Option<f64>,
}

/// The evaluations of one search, in memory and in its journal.
pub struct EvaluationLog<'a> {
    scorer: &'a dyn Scorer,
    journal: Mutex<Journal>,
    /// Evaluations of earlier runs that nobody has asked for in this run.
    replayable: HashMap<Key, Outcome>,
    cached: HashMap<(ItemRole, String), Cached>,
    budget: Budget,
    spent: u64,
    replayed: u64,
    items: u64,
    items_saved: u64,
    /// Number of search items, once that is known.
    whole: Option<u64>,
    before: f64,
    start: Instant,
}

impl std::fmt::Debug for EvaluationLog<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvaluationLog")
            .field("budget", &self.budget)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

/// The outcomes of a batch: of its first candidates only, when the search has to end.
#[derive(Debug)]
pub struct Batch {
    /// The outcomes, in the order of the candidates.
    pub outcomes: Vec<Outcome>,
    /// Why the search has to end; `None` when all candidates were scored.
    pub stop: Option<StopReason>,
}

impl<'a> EvaluationLog<'a> {
    /// Continues after the `entries` of `journal`.
    ///
    /// # Errors
    /// A message about an entry that is not an evaluation.
    pub fn new(
        scorer: &'a dyn Scorer,
        journal: Journal,
        entries: Vec<serde_json::Value>,
        budget: Budget,
    ) -> Result<EvaluationLog<'a>, String> {
        let mut replayable = HashMap::new();
        let mut before = 0.0_f64;
        for (i, entry) in entries.into_iter().enumerate() {
            let entry: Entry = serde_json::from_value(entry)
                .map_err(|error| format!("{}:{}: expected an evaluation: {error}", journal.path().display(), i + 2))?;
            before = before.max(entry.seconds);
            let outcome = entry.outcome();
            replayable.insert((entry.role, entry.cutoff.map(f64::to_bits), entry.recipe), outcome);
        }
        Ok(EvaluationLog {
            scorer,
            journal: Mutex::new(journal),
            replayable,
            cached: HashMap::new(),
            budget,
            spent: 0,
            replayed: 0,
            items: 0,
            items_saved: 0,
            whole: None,
            before,
            start: Instant::now(),
        })
    }

    /// The state of the search.
    pub fn status(&self) -> SearchStatus {
        SearchStatus {
            evaluations: self.spent,
            remaining: self.budget.evaluations.map(|all| all.saturating_sub(self.spent)),
            replayed: self.replayed,
            items_saved: self.items_saved,
            items: self.items,
            seconds: self.seconds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// The scores of a candidate that was evaluated in this run, unless it failed or was dropped.
    pub fn cached(&self, candidate: &Candidate, role: ItemRole) -> Option<&Scores> {
        let cached = self.cached.get(&(role, candidate.recipe.clone()))?;
        cached.outcome.as_ref().ok().filter(|scores| !scores.dropped)
    }

    /// Scores `candidates` in order, until a budget is used up. Evaluations on the validation items do not count
    /// towards budgets.
    pub fn score(&mut self, candidates: &[Candidate], role: ItemRole, cutoff: Option<f64>) -> Batch {
        let mut outcomes = Vec::with_capacity(candidates.len());
        let mut rest = candidates;
        while !rest.is_empty() {
            // With a time limit, only as many begin together as are scored in parallel.
            let size = match (self.budget.seconds, role) {
                (Some(_), ItemRole::Search) => self.scorer.parallelism().max(1).min(rest.len()),
                _ => rest.len(),
            };
            let batch = self.score_chunk(&rest[..size], role, cutoff);
            outcomes.extend(batch.outcomes);
            if batch.stop.is_some() {
                return Batch { outcomes, stop: batch.stop };
            }
            rest = &rest[size..];
        }
        Batch { outcomes, stop: None }
    }

    fn score_chunk(&mut self, candidates: &[Candidate], role: ItemRole, cutoff: Option<f64>) -> Batch {
        let mut stop = None;
        // Each new candidate once, in order.
        let mut new: Vec<&Candidate> = Vec::new();
        let mut taken = candidates.len();
        for (i, candidate) in candidates.iter().enumerate() {
            if self.answer(candidate, role, cutoff).is_some() || new.contains(&candidate) {
                continue;
            }
            let remaining =
                self.budget.evaluations.filter(|_| role == ItemRole::Search).map(|all| all - self.spent.min(all));
            if remaining.is_some_and(|remaining| new.len() as u64 >= remaining) {
                stop = Some(StopReason::Evaluations { evaluations: self.budget.evaluations.unwrap_or(0) });
                taken = i;
                break;
            }
            new.push(candidate);
        }
        let mut found: Vec<Option<Outcome>> =
            new.iter().map(|candidate| self.replayable.remove(&key(candidate, role, cutoff))).collect();
        let replayed = found.iter().flatten().count() as u64;
        let open: Vec<usize> = (0..new.len()).filter(|&i| found[i].is_none()).collect();
        if let (false, Some(seconds), ItemRole::Search) = (open.is_empty(), self.budget.seconds, role)
            && self.seconds() >= seconds
        {
            stop = Some(StopReason::Seconds { seconds });
        } else if !open.is_empty() {
            let asked: Vec<Candidate> = open.iter().map(|&i| new[i].clone()).collect();
            match self.evaluate(&asked, role, cutoff) {
                Ok(outcomes) => open.iter().zip(outcomes).for_each(|(&i, outcome)| found[i] = Some(outcome)),
                Err(error) => stop = Some(error),
            }
        }
        // Outcomes after the first missing one are not used: an uninterrupted search would not have reached them.
        let done = found.iter().position(Option::is_none).unwrap_or(found.len());
        if done < found.len() {
            let first_open = new[done];
            taken = taken.min(candidates.iter().position(|candidate| candidate == first_open).unwrap_or(taken));
        }
        for (candidate, outcome) in new.iter().zip(found.into_iter().flatten()).take(done) {
            self.enter(candidate, role, cutoff, outcome);
        }
        self.replayed += replayed.min(done as u64);
        let unknown = || Err(CandidateError { message: "it was not evaluated".into() });
        let outcomes = candidates[..taken]
            .iter()
            .map(|candidate| self.answer(candidate, role, cutoff).unwrap_or_else(unknown))
            .collect();
        Batch { outcomes, stop }
    }

    /// The outcome of an earlier evaluation, if it answers a request with this cutoff.
    fn answer(&self, candidate: &Candidate, role: ItemRole, cutoff: Option<f64>) -> Option<Outcome> {
        let cached = self.cached.get(&(role, candidate.recipe.clone()))?;
        let dropped = cached.outcome.as_ref().is_ok_and(|scores| scores.dropped);
        // A candidate that cannot exceed a cutoff cannot exceed a higher one.
        let answers = !dropped || cached.cutoff.zip(cutoff).is_some_and(|(was, is)| is >= was);
        answers.then(|| cached.outcome.clone())
    }

    fn enter(&mut self, candidate: &Candidate, role: ItemRole, cutoff: Option<f64>, outcome: Outcome) {
        if role == ItemRole::Search {
            self.spent += 1;
            if let Ok(scores) = &outcome {
                let items: u64 = scores.tasks.iter().map(|task| task.n as u64).sum();
                let whole = self.whole.unwrap_or(items).max(items);
                self.whole = Some(whole);
                self.items += whole;
                self.items_saved += whole - items;
            }
        }
        self.cached.insert((role, candidate.recipe.clone()), Cached { outcome, cutoff });
    }

    /// Scores candidates; each outcome is on disk as soon as it is known.
    fn evaluate(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        cutoff: Option<f64>,
    ) -> Result<Vec<Outcome>, StopReason> {
        let failed: Mutex<Option<JournalError>> = Mutex::new(None);
        let done = |i: usize, outcome: &Outcome| {
            let outcome = finite(outcome.clone());
            let entry = Entry {
                role,
                cutoff,
                recipe: candidates.get(i).map(|candidate| candidate.recipe.clone()).unwrap_or_default(),
                scores: outcome.as_ref().ok().cloned(),
                error: outcome.err().map(|error| error.message),
                seconds: self.seconds(),
            };
            let entry = serde_json::to_value(&entry).unwrap_or_default();
            let mut journal = self.journal.lock();
            if let Err(error) = journal.append(&entry) {
                failed.lock().get_or_insert(error);
            }
        };
        let outcomes = self.scorer.score(candidates, role, cutoff, &done);
        if let Some(error) = failed.into_inner() {
            return Err(StopReason::Journal(error));
        }
        match outcomes {
            Ok(outcomes) => Ok(outcomes.into_iter().map(finite).collect()),
            Err(_) => Err(StopReason::Stopped),
        }
    }

    /// The journal.
    pub fn into_journal(self) -> Journal {
        self.journal.into_inner()
    }
}

/// Turns scores that are not finite into a failure: they cannot be compared, nor written as JSON.
fn finite(outcome: Outcome) -> Outcome {
    let scores = outcome?;
    match scores.tasks.iter().find(|task| !task.value.is_finite()) {
        Some(task) => {
            let message = format!("task {}: expected a finite {}, found {}", task.task, task.metric, task.value);
            Err(CandidateError { message })
        }
        None if !scores.average.is_finite() => {
            Err(CandidateError { message: format!("expected a finite average, found {}", scores.average) })
        }
        None => Ok(scores),
    }
}

#[cfg(test)]
mod tests {
    //! Replays, cutoffs and budgets, with a scorer that counts.
    use super::*;
    use crate::testing::{Counting, candidate};
    use serde_json::json;
    use std::path::Path;

    fn open<'a>(scorer: &'a Counting, path: &Path, budget: Budget) -> EvaluationLog<'a> {
        let (journal, entries) = Journal::resume(path, &json!({})).expect("a journal");
        EvaluationLog::new(scorer, journal, entries, budget).expect("a log")
    }

    fn averages(batch: &Batch) -> Vec<f64> {
        batch.outcomes.iter().map(|outcome| outcome.as_ref().map_or(f64::NAN, |scores| scores.average)).collect()
    }

    #[test]
    fn nothing_is_scored_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let scorer = Counting::new(|text| text.len() as f64);
        let asked = ["aa", "b", "aa"].map(candidate);
        {
            let mut log = open(&scorer, &path, Budget::default());
            assert_eq!(averages(&log.score(&asked, ItemRole::Search, None)), [2.0, 1.0, 2.0]);
            assert_eq!(averages(&log.score(&asked, ItemRole::Search, Some(0.5))), [2.0, 1.0, 2.0]);
            assert_eq!((log.status().evaluations, scorer.calls()), (2, 2));
        }
        let mut again = open(&scorer, &path, Budget::default());
        assert_eq!(averages(&again.score(&asked, ItemRole::Search, None)), [2.0, 1.0, 2.0]);
        let progress = again.status();
        assert_eq!((progress.evaluations, progress.replayed, scorer.calls()), (2, 2, 2));
        // Validation items are another question.
        again.score(&asked, ItemRole::Validation, None);
        assert_eq!((again.status().evaluations, scorer.calls()), (2, 4));
    }

    #[test]
    fn a_dropped_candidate_answers_higher_cutoffs_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let scorer = Counting::new(|text| text.len() as f64);
        let mut log = open(&scorer, &directory.path().join("journal"), Budget::default());
        let low = [candidate("a")];
        let dropped = |batch: &Batch| batch.outcomes[0].as_ref().is_ok_and(|scores| scores.dropped);
        assert!(dropped(&log.score(&low, ItemRole::Search, Some(2.0))));
        assert!(dropped(&log.score(&low, ItemRole::Search, Some(3.0))));
        assert_eq!(scorer.calls(), 1);
        assert!(!dropped(&log.score(&low, ItemRole::Search, Some(0.5))));
        assert_eq!(scorer.calls(), 2);
        // Once all items are scored, no cutoff matters.
        assert!(!dropped(&log.score(&low, ItemRole::Search, Some(9.0))));
        assert_eq!((scorer.calls(), log.status().items_saved), (2, 0));
    }

    #[test]
    fn a_budget_ends_a_batch_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let scorer = Counting::new(|text| text.len() as f64);
        let budget = Budget { evaluations: Some(2), seconds: None };
        let mut log = open(&scorer, &directory.path().join("journal"), budget);
        let batch = log.score(&["a", "bb", "a", "ccc", "bb"].map(candidate), ItemRole::Search, None);
        assert_eq!(averages(&batch), [1.0, 2.0, 1.0]);
        assert!(matches!(batch.stop, Some(StopReason::Evaluations { evaluations: 2 })));
        assert!(log.score(&[candidate("bb")], ItemRole::Search, None).stop.is_none());
        assert!(log.score(&[candidate("d")], ItemRole::Validation, None).stop.is_none());
    }

    #[test]
    fn without_time_nothing_is_evaluated_but_replays_are_free() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let scorer = Counting::new(|text| text.len() as f64);
        open(&scorer, &path, Budget::default()).score(&["a", "bb"].map(candidate), ItemRole::Search, None);
        let mut late = open(&scorer, &path, Budget { evaluations: None, seconds: Some(0.0) });
        let batch = late.score(&["a", "bb", "ccc"].map(candidate), ItemRole::Search, None);
        assert_eq!(averages(&batch), [1.0, 2.0]);
        assert!(matches!(batch.stop, Some(StopReason::Seconds { .. })));
    }

    #[test]
    fn scores_that_are_nan_are_failures() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let scorer = Counting::new(|text| if text == "a" { f64::NAN } else { 1.0 });
        for _ in 0..2 {
            let mut log = open(&scorer, &path, Budget::default());
            let batch = log.score(&["a", "b"].map(candidate), ItemRole::Search, None);
            let message = batch.outcomes[0].as_ref().expect_err("no number").message.clone();
            assert_eq!(message, "task length: expected a finite acc, found NaN");
            assert!(batch.outcomes[1].is_ok());
        }
        assert_eq!(scorer.calls(), 2);
    }
}
