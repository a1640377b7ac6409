//! The course of a search: every evaluation goes through here, is written to the journal, and is never made twice.
//!
//! What a strategy is told is a function of what it asked for before, never of what happens to stand in the journal
//! already: an evaluation that is there from an earlier run is handed out when it is asked for again, as if it had been
//! made then. So the course of a search that was killed and resumed is that of one that was not.

use crate::contract::{Candidate, CandidateError, Part, Scorer, Scores};
use crate::journal::{Journal, JournalError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Instant;

/// What an evaluation gave.
pub type Outcome = Result<Scores, CandidateError>;

/// When a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Budget {
    /// Evaluations on the search part; no limit when absent. Candidates known already cost nothing.
    pub evaluations: Option<u64>,
    /// Seconds, those of interrupted runs among them; no limit when absent. Nothing new is begun after them.
    pub seconds: Option<f64>,
}

/// Why a strategy is asked to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Halt {
    /// All evaluations are spent.
    #[error("the budget of {evaluations} evaluations is spent")]
    Evaluations {
        /// The budget.
        evaluations: u64,
    },
    /// The time is over.
    #[error("the budget of {seconds} seconds is spent")]
    Seconds {
        /// The budget.
        seconds: f64,
    },
    /// The user asked to stop.
    #[error("stopped")]
    Stopped,
    /// An evaluation could not be written down.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A strategy cannot go on.
    #[error("{0}")]
    Strategy(String),
}

impl Halt {
    /// Whether what was found so far is the result.
    pub fn is_budget(&self) -> bool {
        matches!(self, Halt::Evaluations { .. } | Halt::Seconds { .. })
    }
}

/// How far a search is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Evaluations that were asked for.
    pub evaluations: u64,
    /// Those that are left in the budget, where there is one.
    pub left: Option<u64>,
    /// How many of them were answered from the journal.
    pub replayed: u64,
    /// Items that were not scored because their candidates were dropped before, and those of all candidates.
    pub items_saved: u64,
    /// Items of all evaluations that were asked for.
    pub items: u64,
    /// Seconds, with those of interrupted runs.
    pub seconds: f64,
}

/// One evaluation as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    part: Part,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    recipe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scores: Option<Scores>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Seconds since the search began, when it was done.
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

/// What an evaluation is found by in the journal.
type Key = (Part, Option<u64>, String);

fn key(candidate: &Candidate, part: Part, floor: Option<f64>) -> Key {
    (part, floor.map(f64::to_bits), candidate.recipe.clone())
}

/// A candidate that was evaluated in this course.
#[derive(Debug, Clone)]
struct Known {
    outcome: Outcome,
    /// With which floor, when it was dropped.
    floor: Option<f64>,
}

/// The course of one search.
pub struct Course<'a> {
    scorer: &'a dyn Scorer,
    journal: Mutex<Journal>,
    /// Evaluations of earlier runs that were not asked for again so far.
    ahead: HashMap<Key, Outcome>,
    known: HashMap<(Part, String), Known>,
    budget: Budget,
    spent: u64,
    replayed: u64,
    items: u64,
    items_saved: u64,
    /// Items of a whole evaluation of the search part, once that is known.
    whole: Option<u64>,
    before: f64,
    start: Instant,
}

impl std::fmt::Debug for Course<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Course").field("budget", &self.budget).field("spent", &self.spent).finish_non_exhaustive()
    }
}

/// What came of a batch: of the first candidates only, when the search has to end.
#[derive(Debug)]
pub struct Batch {
    /// The outcomes, in the order of the candidates.
    pub outcomes: Vec<Outcome>,
    /// Why there are not as many as candidates.
    pub halt: Option<Halt>,
}

impl<'a> Course<'a> {
    /// A course that goes on where the `entries` of `journal` end.
    ///
    /// # Errors
    /// An entry that is no evaluation, in words.
    pub fn new(
        scorer: &'a dyn Scorer,
        journal: Journal,
        entries: Vec<serde_json::Value>,
        budget: Budget,
    ) -> Result<Course<'a>, String> {
        let mut ahead = HashMap::new();
        let mut before = 0.0_f64;
        for (i, entry) in entries.into_iter().enumerate() {
            let entry: Entry = serde_json::from_value(entry)
                .map_err(|error| format!("{}:{}: expected an evaluation: {error}", journal.path().display(), i + 2))?;
            before = before.max(entry.seconds);
            let outcome = entry.outcome();
            ahead.insert((entry.part, entry.floor.map(f64::to_bits), entry.recipe), outcome);
        }
        Ok(Course {
            scorer,
            journal: Mutex::new(journal),
            ahead,
            known: HashMap::new(),
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

    /// How far the search is.
    pub fn progress(&self) -> Progress {
        Progress {
            evaluations: self.spent,
            left: self.budget.evaluations.map(|all| all.saturating_sub(self.spent)),
            replayed: self.replayed,
            items_saved: self.items_saved,
            items: self.items,
            seconds: self.seconds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// The outcome of an evaluation made in this course, unless it was dropped.
    pub fn known(&self, candidate: &Candidate, part: Part) -> Option<&Scores> {
        let known = self.known.get(&(part, candidate.recipe.clone()))?;
        known.outcome.as_ref().ok().filter(|scores| !scores.dropped)
    }

    /// Scores `candidates`, in the order of their places, until a budget ends. Evaluations of the validation part are not
    /// counted, and made whatever the budget.
    pub fn score(&mut self, candidates: &[Candidate], part: Part, floor: Option<f64>) -> Batch {
        let mut outcomes = Vec::with_capacity(candidates.len());
        let mut rest = candidates;
        while !rest.is_empty() {
            // With a limit on time, no more is begun at once than is scored at once.
            let size = match (self.budget.seconds, part) {
                (Some(_), Part::Search) => self.scorer.parallelism().max(1).min(rest.len()),
                _ => rest.len(),
            };
            let batch = self.score_chunk(&rest[..size], part, floor);
            outcomes.extend(batch.outcomes);
            if batch.halt.is_some() {
                return Batch { outcomes, halt: batch.halt };
            }
            rest = &rest[size..];
        }
        Batch { outcomes, halt: None }
    }

    fn score_chunk(&mut self, candidates: &[Candidate], part: Part, floor: Option<f64>) -> Batch {
        let mut halt = None;
        // Each new candidate once, in order.
        let mut new: Vec<&Candidate> = Vec::new();
        let mut taken = candidates.len();
        for (i, candidate) in candidates.iter().enumerate() {
            if self.answer(candidate, part, floor).is_some() || new.contains(&candidate) {
                continue;
            }
            let left = self.budget.evaluations.filter(|_| part == Part::Search).map(|all| all - self.spent.min(all));
            if left.is_some_and(|left| new.len() as u64 >= left) {
                halt = Some(Halt::Evaluations { evaluations: self.budget.evaluations.unwrap_or(0) });
                taken = i;
                break;
            }
            new.push(candidate);
        }
        let mut found: Vec<Option<Outcome>> =
            new.iter().map(|candidate| self.ahead.remove(&key(candidate, part, floor))).collect();
        let replayed = found.iter().flatten().count() as u64;
        let open: Vec<usize> = (0..new.len()).filter(|&i| found[i].is_none()).collect();
        if let (false, Some(seconds), Part::Search) = (open.is_empty(), self.budget.seconds, part)
            && self.seconds() >= seconds
        {
            halt = Some(Halt::Seconds { seconds });
        } else if !open.is_empty() {
            let asked: Vec<Candidate> = open.iter().map(|&i| new[i].clone()).collect();
            match self.evaluate(&asked, part, floor) {
                Ok(outcomes) => open.iter().zip(outcomes).for_each(|(&i, outcome)| found[i] = Some(outcome)),
                Err(error) => halt = Some(error),
            }
        }
        // Whatever comes behind an open one belongs to a course that has not got there.
        let done = found.iter().position(Option::is_none).unwrap_or(found.len());
        if done < found.len() {
            let first_open = new[done];
            taken = taken.min(candidates.iter().position(|candidate| candidate == first_open).unwrap_or(taken));
        }
        for (candidate, outcome) in new.iter().zip(found.into_iter().flatten()).take(done) {
            self.enter(candidate, part, floor, outcome);
        }
        self.replayed += replayed.min(done as u64);
        let unknown = || Err(CandidateError { message: "it was not evaluated".into() });
        let outcomes = candidates[..taken]
            .iter()
            .map(|candidate| self.answer(candidate, part, floor).unwrap_or_else(unknown))
            .collect();
        Batch { outcomes, halt }
    }

    /// What is known of a candidate that answers a question with this floor.
    fn answer(&self, candidate: &Candidate, part: Part, floor: Option<f64>) -> Option<Outcome> {
        let known = self.known.get(&(part, candidate.recipe.clone()))?;
        let dropped = known.outcome.as_ref().is_ok_and(|scores| scores.dropped);
        // What cannot exceed a number cannot exceed a greater one.
        let answers = !dropped || known.floor.zip(floor).is_some_and(|(was, is)| is >= was);
        answers.then(|| known.outcome.clone())
    }

    fn enter(&mut self, candidate: &Candidate, part: Part, floor: Option<f64>, outcome: Outcome) {
        if part == Part::Search {
            self.spent += 1;
            if let Ok(scores) = &outcome {
                let items: u64 = scores.tasks.iter().map(|task| task.n as u64).sum();
                let whole = self.whole.unwrap_or(items).max(items);
                self.whole = Some(whole);
                self.items += whole;
                self.items_saved += whole - items;
            }
        }
        self.known.insert((part, candidate.recipe.clone()), Known { outcome, floor });
    }

    /// Has candidates scored, and each outcome on the disk as soon as it is known.
    fn evaluate(&self, candidates: &[Candidate], part: Part, floor: Option<f64>) -> Result<Vec<Outcome>, Halt> {
        let failed: Mutex<Option<JournalError>> = Mutex::new(None);
        let done = |i: usize, outcome: &Outcome| {
            let outcome = finite(outcome.clone());
            let entry = Entry {
                part,
                floor,
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
        let outcomes = self.scorer.score(candidates, part, floor, &done);
        if let Some(error) = failed.into_inner() {
            return Err(Halt::Journal(error));
        }
        match outcomes {
            Ok(outcomes) => Ok(outcomes.into_iter().map(finite).collect()),
            Err(_) => Err(Halt::Stopped),
        }
    }

    /// Gives the journal back.
    pub fn into_journal(self) -> Journal {
        self.journal.into_inner()
    }
}

/// Scores that are numbers: others cannot be compared, nor written as JSON.
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
    //! Replays, floors and budgets, with a scorer that counts.
    use super::*;
    use crate::testing::{Counting, candidate};
    use serde_json::json;
    use std::path::Path;

    fn course<'a>(scorer: &'a Counting, path: &Path, budget: Budget) -> Course<'a> {
        let (journal, entries) = Journal::resume(path, &json!({})).expect("a journal");
        Course::new(scorer, journal, entries, budget).expect("a course")
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
            let mut course = course(&scorer, &path, Budget::default());
            assert_eq!(averages(&course.score(&asked, Part::Search, None)), [2.0, 1.0, 2.0]);
            assert_eq!(averages(&course.score(&asked, Part::Search, Some(0.5))), [2.0, 1.0, 2.0]);
            assert_eq!((course.progress().evaluations, scorer.calls()), (2, 2));
        }
        let mut again = course(&scorer, &path, Budget::default());
        assert_eq!(averages(&again.score(&asked, Part::Search, None)), [2.0, 1.0, 2.0]);
        let progress = again.progress();
        assert_eq!((progress.evaluations, progress.replayed, scorer.calls()), (2, 2, 2));
        // Another part is another question.
        again.score(&asked, Part::Validation, None);
        assert_eq!((again.progress().evaluations, scorer.calls()), (2, 4));
    }

    #[test]
    fn what_was_dropped_answers_higher_floors_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let scorer = Counting::new(|text| text.len() as f64);
        let mut course = course(&scorer, &directory.path().join("journal"), Budget::default());
        let low = [candidate("a")];
        let dropped = |batch: &Batch| batch.outcomes[0].as_ref().is_ok_and(|scores| scores.dropped);
        assert!(dropped(&course.score(&low, Part::Search, Some(2.0))));
        assert!(dropped(&course.score(&low, Part::Search, Some(3.0))));
        assert_eq!(scorer.calls(), 1);
        assert!(!dropped(&course.score(&low, Part::Search, Some(0.5))));
        assert_eq!(scorer.calls(), 2);
        // Now that all of it is known, no floor matters.
        assert!(!dropped(&course.score(&low, Part::Search, Some(9.0))));
        assert_eq!((scorer.calls(), course.progress().items_saved), (2, 0));
    }

    #[test]
    fn a_budget_ends_a_batch_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let scorer = Counting::new(|text| text.len() as f64);
        let budget = Budget { evaluations: Some(2), seconds: None };
        let mut course = course(&scorer, &directory.path().join("journal"), budget);
        let batch = course.score(&["a", "bb", "a", "ccc", "bb"].map(candidate), Part::Search, None);
        assert_eq!(averages(&batch), [1.0, 2.0, 1.0]);
        assert!(matches!(batch.halt, Some(Halt::Evaluations { evaluations: 2 })));
        assert!(course.score(&[candidate("bb")], Part::Search, None).halt.is_none());
        assert!(course.score(&[candidate("d")], Part::Validation, None).halt.is_none());
    }

    #[test]
    fn no_time_left_is_no_evaluation_but_replays_are_free() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let scorer = Counting::new(|text| text.len() as f64);
        course(&scorer, &path, Budget::default()).score(&["a", "bb"].map(candidate), Part::Search, None);
        let mut late = course(&scorer, &path, Budget { evaluations: None, seconds: Some(0.0) });
        let batch = late.score(&["a", "bb", "ccc"].map(candidate), Part::Search, None);
        assert_eq!(averages(&batch), [1.0, 2.0]);
        assert!(matches!(batch.halt, Some(Halt::Seconds { .. })));
    }

    #[test]
    fn numbers_that_are_none_are_failures() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let scorer = Counting::new(|text| if text == "a" { f64::NAN } else { 1.0 });
        for _ in 0..2 {
            let mut course = course(&scorer, &path, Budget::default());
            let batch = course.score(&["a", "b"].map(candidate), Part::Search, None);
            let message = batch.outcomes[0].as_ref().expect_err("no number").message.clone();
            assert_eq!(message, "task length: expected a finite acc, found NaN");
            assert!(batch.outcomes[1].is_ok());
        }
        assert_eq!(scorer.calls(), 2);
    }
}
