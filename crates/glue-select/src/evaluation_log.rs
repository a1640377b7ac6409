//! The evaluations of a search: each is made once, written to the journal, and kept for whoever asks again.
//!
//! What a strategy gets depends only on what it asked for before, never on what the journal happens to hold. An
//! evaluation from an earlier run is handed out when it is asked for again, as if it had just been made. A search that
//! was killed and resumed therefore proceeds exactly as one that was not.

use crate::context::{DescribedCandidate, short};
use crate::contract::{Candidate, CandidateError, ItemRole, LossGradient, Rival, Scorer, Scores, Strata};
use crate::journal::{Journal, JournalError};
use glue_progress::{Progress, Unit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_128;

/// The result of an evaluation.
pub type Outcome = Result<Scores, CandidateError>;

/// When a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Maximum number of evaluations of merged candidates on the search items; no limit when absent. Neither models
    /// alone nor repeated candidates nor validation items count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluations: Option<u64>,
    /// Maximum number of seconds, including those of interrupted runs; no limit when absent. No evaluation begins after
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// The budget that is used up: the result is then chosen among the candidates so far. `None` for another reason.
    pub fn budget(&self) -> Option<Budget> {
        match *self {
            StopReason::Evaluations { evaluations } => Some(Budget { evaluations: Some(evaluations), seconds: None }),
            StopReason::Seconds { seconds } => Some(Budget { evaluations: None, seconds: Some(seconds) }),
            _ => None,
        }
    }
}

/// The state of a search in numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SearchStatus {
    /// Evaluations of merged candidates on the search items.
    pub evaluations: u64,
    /// Evaluations that remain in the budget, where there is one.
    pub remaining: Option<u64>,
    /// How many evaluations of any kind came from the journal.
    pub replayed: u64,
    /// Items that were not scored because their candidates were dropped early, or scored on a fraction of them, less
    /// those that leading candidates were scored on again.
    pub items_saved: u64,
    /// Items of these evaluations, those not scored included.
    pub items: u64,
    /// Seconds, including those of interrupted runs.
    pub seconds: f64,
}

/// What evaluations are for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'r> {
    /// Models alone, on all search items. They do not count towards the budget of evaluations.
    Baseline,
    /// Candidates of a strategy, on the search items or a fraction of them, which may race.
    Search(Option<Against<'r>>),
    /// Results and finalists, on all search items. They do not count towards budgets, and do not race.
    Whole,
    /// Finalists, on the validation items. They do not count towards budgets, and do not race.
    Validation,
}

impl Purpose<'_> {
    /// Whether a budget in seconds holds.
    fn is_limited(&self) -> bool {
        matches!(self, Purpose::Baseline | Purpose::Search(_))
    }

    /// The items that are scored.
    pub fn role(&self) -> ItemRole {
        match self {
            Purpose::Baseline | Purpose::Whole | Purpose::Search(_) => ItemRole::Search,
            Purpose::Validation => ItemRole::Validation,
        }
    }
}

/// What candidates race against.
#[derive(Debug, Clone, Copy)]
pub struct Against<'r> {
    /// A candidate whose average does not exceed this is of no interest.
    pub cutoff: f64,
    /// The incumbent, which was scored on all items; otherwise there is no race. Where scores are
    /// [estimates](EvaluationLog::set_reference), the reference takes its place.
    pub incumbent: &'r Candidate,
}

/// One evaluation in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: ItemRole,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    race: Option<Race>,
    recipe: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scores: Option<Scores>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Seconds from the beginning of the search to the end of the evaluation.
    seconds: f64,
}

/// What an evaluation depends on besides the candidate: with the baselines, whose scores are entries of their own, it
/// determines the race.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Race {
    cutoff: f64,
    /// A hash of the recipe of the incumbent.
    incumbent: String,
}

impl Race {
    fn of(against: Against<'_>) -> Race {
        let incumbent = format!("{:032x}", xxh3_128(against.incumbent.recipe.as_bytes()));
        Race { cutoff: against.cutoff, incumbent }
    }
}

impl Entry {
    fn outcome(&self) -> Outcome {
        match (&self.scores, &self.error) {
            (Some(scores), _) => Ok(scores.clone()),
            (None, message) => Err(CandidateError { message: message.clone().unwrap_or_default() }),
        }
    }
}

/// A gradient in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GradientEntry {
    gradient: LossGradient,
    recipe: String,
    items: Vec<(usize, usize)>,
    /// Seconds from the beginning of the search.
    seconds: f64,
}

/// By which a gradient is found in the journal: recipe and items.
type GradientKey = (String, Vec<(usize, usize)>);

/// By which an evaluation is found in the journal.
type Key = (ItemRole, Option<(u64, String)>, String);

fn key(recipe: String, role: ItemRole, race: Option<Race>) -> Key {
    (role, race.map(|race| (race.cutoff.to_bits(), race.incumbent)), recipe)
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
    progress: &'a dyn Progress,
    journal: Mutex<Journal>,
    /// Evaluations of earlier runs that nobody has asked for in this run.
    replayable: HashMap<Key, Outcome>,
    /// Gradients of earlier runs.
    gradients: HashMap<GradientKey, LossGradient>,
    cached: HashMap<(ItemRole, String), Cached>,
    budget: Budget,
    strata: Strata,
    reference: Option<Candidate>,
    spent: u64,
    replayed: u64,
    /// Items that evaluations would have scored without races, and those that they and the leading ones did score.
    items: u64,
    asked: u64,
    /// Number of search items, once that is known.
    whole: Option<u64>,
    /// The best average on the search items so far.
    best: Option<f64>,
    /// Evaluations of the current phase, and their maximum.
    done: u64,
    total: u64,
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
    /// Continues after the `entries` of `journal`. `progress` gets a unit and a message for each candidate.
    ///
    /// # Errors
    /// A message about an entry that is not an evaluation.
    pub fn new(
        scorer: &'a dyn Scorer,
        journal: Journal,
        entries: Vec<serde_json::Value>,
        budget: Budget,
        progress: &'a dyn Progress,
    ) -> Result<EvaluationLog<'a>, String> {
        let (mut replayable, mut gradients) = (HashMap::new(), HashMap::new());
        let mut before = 0.0_f64;
        for (i, entry) in entries.into_iter().enumerate() {
            let invalid = |error| format!("{}:{}: expected an evaluation: {error}", journal.path().display(), i + 2);
            if entry.get("gradient").is_some() {
                let entry: GradientEntry = serde_json::from_value(entry).map_err(invalid)?;
                before = before.max(entry.seconds);
                gradients.insert((entry.recipe, entry.items), entry.gradient);
                continue;
            }
            let entry: Entry = serde_json::from_value(entry).map_err(invalid)?;
            before = before.max(entry.seconds);
            let outcome = entry.outcome();
            replayable.insert(key(entry.recipe, entry.role, entry.race), outcome);
        }
        Ok(EvaluationLog {
            scorer,
            progress,
            journal: Mutex::new(journal),
            replayable,
            gradients,
            cached: HashMap::new(),
            budget,
            strata: Strata::default(),
            reference: None,
            spent: 0,
            replayed: 0,
            items: 0,
            asked: 0,
            whole: None,
            best: None,
            done: 0,
            total: 0,
            before,
            start: Instant::now(),
        })
    }

    /// Begins a phase of at most `total` evaluations, for those who watch.
    pub fn begin(&mut self, phase: &str, total: u64) {
        (self.done, self.total) = (0, total);
        self.progress.begin(phase, Unit::Evaluations, Some(total));
    }

    /// Sets in which order items are scored in races from now on: a function of the baselines.
    pub fn set_strata(&mut self, strata: Strata) {
        self.strata = strata;
    }

    /// Sets what the scores of candidates are estimated from in races from now on, instead of the incumbent: a
    /// candidate that was scored on all search items, the same for all.
    pub fn set_reference(&mut self, reference: Candidate) {
        self.reference = Some(reference);
    }

    /// The state of the search.
    pub fn status(&self) -> SearchStatus {
        SearchStatus {
            evaluations: self.spent,
            remaining: self.budget.evaluations.map(|all| all.saturating_sub(self.spent)),
            replayed: self.replayed,
            items_saved: self.items.saturating_sub(self.asked),
            items: self.items,
            seconds: self.seconds(),
        }
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    /// The scores of a candidate that was evaluated in this run, perhaps estimates, unless it failed or was dropped.
    pub fn cached(&self, candidate: &Candidate, role: ItemRole) -> Option<&Scores> {
        let cached = self.cached.get(&(role, candidate.recipe.clone()))?;
        cached.outcome.as_ref().ok().filter(|scores| !scores.dropped)
    }

    /// The best average on the search items so far, of candidates that were not dropped.
    pub fn best(&self) -> Option<f64> {
        self.best
    }

    /// Scores candidates of `strategy` in order, until a budget is used up.
    pub fn score(&mut self, strategy: &str, described: &[DescribedCandidate], purpose: Purpose<'_>) -> Batch {
        let reference = self.reference.clone();
        let purpose = match purpose {
            Purpose::Search(Some(against)) => {
                let incumbent = reference.as_ref().unwrap_or(against.incumbent);
                let is_whole = self.cached(incumbent, ItemRole::Search).is_some_and(|scores| scores.stderr.is_none());
                Purpose::Search(is_whole.then_some(Against { incumbent, ..against }))
            }
            purpose => purpose,
        };
        let mut outcomes = Vec::with_capacity(described.len());
        let mut rest = described;
        while !rest.is_empty() {
            // With a time limit, only as many begin together as are scored in parallel.
            let size = match self.budget.seconds.filter(|_| purpose.is_limited()) {
                Some(_) => self.scorer.parallelism().max(1).min(rest.len()),
                None => rest.len(),
            };
            let batch = self.score_chunk(strategy, &rest[..size], purpose);
            outcomes.extend(batch.outcomes);
            if batch.stop.is_some() {
                return Batch { outcomes, stop: batch.stop };
            }
            rest = &rest[size..];
        }
        Batch { outcomes, stop: None }
    }

    fn score_chunk(&mut self, strategy: &str, described: &[DescribedCandidate], purpose: Purpose<'_>) -> Batch {
        let role = purpose.role();
        let against = if let Purpose::Search(against) = purpose { against } else { None };
        let cutoff = against.map(|against| against.cutoff);
        let mut stop = None;
        // Each new candidate once, in order.
        let mut new: Vec<&DescribedCandidate> = Vec::new();
        let mut taken = described.len();
        for (i, one) in described.iter().enumerate() {
            let is_new = |known: &&DescribedCandidate| known.candidate == one.candidate;
            if self.answer(&one.candidate, purpose, cutoff).is_some() || new.iter().any(is_new) {
                continue;
            }
            if let (Purpose::Search(_), Some(evaluations)) = (purpose, self.budget.evaluations)
                && self.spent + new.len() as u64 >= evaluations
            {
                stop = Some(StopReason::Evaluations { evaluations });
                taken = i;
                break;
            }
            new.push(one);
        }
        let race = against.map(Race::of);
        let of = |candidate: &Candidate| key(candidate.recipe.clone(), role, race.clone());
        let mut found: Vec<Option<Outcome>> =
            new.iter().map(|new| self.replayable.remove(&of(&new.candidate))).collect();
        let replayed = found.iter().flatten().count() as u64;
        self.progress.advance(replayed);
        self.done += replayed;
        let open: Vec<usize> = (0..new.len()).filter(|&i| found[i].is_none()).collect();
        if let (false, Some(seconds), true) = (open.is_empty(), self.budget.seconds, purpose.is_limited())
            && self.seconds() >= seconds
        {
            stop = Some(StopReason::Seconds { seconds });
        } else if !open.is_empty() {
            let asked: Vec<&DescribedCandidate> = open.iter().map(|&i| new[i]).collect();
            match self.evaluate(strategy, &asked, role, against) {
                Ok(outcomes) => {
                    self.done += outcomes.len() as u64;
                    open.iter().zip(outcomes).for_each(|(&i, outcome)| found[i] = Some(outcome));
                }
                Err(error) => stop = Some(error),
            }
        }
        // Outcomes after the first missing one are not used: an uninterrupted search would not have reached them.
        let done = found.iter().position(Option::is_none).unwrap_or(found.len());
        if done < found.len() {
            let first_open = new[done];
            taken = taken.min(described.iter().position(|one| one == first_open).unwrap_or(taken));
        }
        for (new, outcome) in new.iter().zip(found.into_iter().flatten()).take(done) {
            self.enter(&new.candidate, purpose, cutoff, outcome);
        }
        self.replayed += replayed.min(done as u64);
        let unknown = || Err(CandidateError { message: "it was not evaluated".into() });
        let outcomes = described[..taken]
            .iter()
            .map(|one| self.answer(&one.candidate, purpose, cutoff).unwrap_or_else(unknown))
            .collect();
        Batch { outcomes, stop }
    }

    /// The outcome of an earlier evaluation, if it answers a request with this cutoff. An estimate answers other
    /// candidates of a search: what races is compared on the same items.
    fn answer(&self, candidate: &Candidate, purpose: Purpose<'_>, cutoff: Option<f64>) -> Option<Outcome> {
        let cached = self.cached.get(&(purpose.role(), candidate.recipe.clone()))?;
        let is = |what: fn(&Scores) -> bool| cached.outcome.as_ref().is_ok_and(what);
        if is(|scores| scores.stderr.is_some()) && !matches!(purpose, Purpose::Search(_)) {
            return None;
        }
        // A candidate that cannot exceed a cutoff cannot exceed a higher one.
        let answers = !is(|scores| scores.dropped) || cached.cutoff.zip(cutoff).is_some_and(|(was, is)| is >= was);
        answers.then(|| cached.outcome.clone())
    }

    fn enter(&mut self, candidate: &Candidate, purpose: Purpose<'_>, cutoff: Option<f64>, outcome: Outcome) {
        let role = purpose.role();
        if let (ItemRole::Search, Ok(scores)) = (role, &outcome) {
            let items: u64 = scores.tasks.iter().map(|task| task.n as u64).sum();
            let whole = self.whole.unwrap_or(items).max(items);
            self.whole = Some(whole);
            if !scores.dropped {
                self.best = Some(self.best.map_or(scores.average, |best| best.max(scores.average)));
            }
            if matches!(purpose, Purpose::Search(_)) {
                self.items += whole;
            }
            if matches!(purpose, Purpose::Search(_) | Purpose::Whole) {
                self.asked += items;
            }
        }
        self.spent += u64::from(matches!(purpose, Purpose::Search(_)));
        self.cached.insert((role, candidate.recipe.clone()), Cached { outcome, cutoff });
    }

    /// Scores candidates; each outcome is on disk as soon as it is known.
    fn evaluate(
        &self,
        strategy: &str,
        described: &[&DescribedCandidate],
        role: ItemRole,
        against: Option<Against<'_>>,
    ) -> Result<Vec<Outcome>, StopReason> {
        let candidates: Vec<Candidate> = described.iter().map(|one| one.candidate.clone()).collect();
        let rival = against.and_then(|Against { cutoff, incumbent }| {
            Some(Rival { cutoff, incumbent: self.cached(incumbent, role)?, strata: &self.strata })
        });
        let race = against.map(Race::of);
        let failed: Mutex<Option<JournalError>> = Mutex::new(None);
        let (done, total) = (self.done, self.total);
        let news = Mutex::new(News { done, total, best: self.best, items: self.items, asked: self.asked });
        let done = |i: usize, outcome: &Outcome| {
            let outcome = finite(outcome.clone());
            let entry = Entry {
                role,
                race: race.clone(),
                recipe: candidates.get(i).map(|candidate| candidate.recipe.clone()).unwrap_or_default(),
                scores: outcome.as_ref().ok().cloned(),
                error: outcome.as_ref().err().map(|error| error.message.clone()),
                seconds: self.seconds(),
            };
            let entry = serde_json::to_value(&entry).unwrap_or_default();
            let appended = self.journal.lock().append(&entry);
            if let Err(error) = appended {
                failed.lock().get_or_insert(error);
            }
            let what = described.get(i).map_or("", |one| one.what.as_str());
            let mut news = news.lock();
            let text = news.of(what, &outcome, role, self.whole);
            self.progress.advance(1);
            self.progress.message(&format!("{strategy}: {text}"));
            news.plot(&outcome, role, self.progress);
        };
        let outcomes = self.scorer.score(&candidates, role, rival, &done);
        if let Some(error) = failed.into_inner() {
            return Err(StopReason::Journal(error));
        }
        match outcomes {
            Ok(outcomes) => Ok(outcomes.into_iter().map(finite).collect()),
            Err(_) => Err(StopReason::Stopped),
        }
    }

    /// The loss on some search items at a merge by task arithmetic, with its derivatives: see
    /// [`Scorer::loss_gradient`]. It is not an evaluation and counts towards the budget in seconds only; it is on disk
    /// before it is used.
    ///
    /// # Errors
    /// A [`StopReason`]: [`StopReason::Strategy`] when there is no gradient.
    pub fn loss_gradient(
        &mut self,
        candidate: &Candidate,
        items: &[(usize, usize)],
    ) -> Result<LossGradient, StopReason> {
        let key: GradientKey = (candidate.recipe.clone(), items.to_vec());
        if let Some(known) = self.gradients.get(&key) {
            return Ok(known.clone());
        }
        if let Some(seconds) = self.budget.seconds.filter(|seconds| self.seconds() >= *seconds) {
            return Err(StopReason::Seconds { seconds });
        }
        let found = self.scorer.loss_gradient(candidate, items).map_err(|_| StopReason::Stopped)?;
        let gradient = found.map_err(|error| StopReason::Strategy(error.message))?;
        let (recipe, items) = key.clone();
        let entry = GradientEntry { gradient: gradient.clone(), recipe, items, seconds: self.seconds() };
        let entry = serde_json::to_value(&entry).unwrap_or_default();
        self.journal.lock().append(&entry).map_err(StopReason::Journal)?;
        self.gradients.insert(key, gradient.clone());
        Ok(gradient)
    }

    /// The journal.
    pub fn into_journal(self) -> Journal {
        self.journal.into_inner()
    }
}

/// What messages about finished candidates add up while a batch is scored.
struct News {
    done: u64,
    total: u64,
    best: Option<f64>,
    items: u64,
    asked: u64,
}

impl News {
    /// A finished candidate in words: what it is, its average, the best so far, how many are done, and what was
    /// saved.
    fn of(&mut self, what: &str, outcome: &Outcome, role: ItemRole, whole: Option<u64>) -> String {
        self.done += 1;
        let done = format!("{} of {}", self.done, self.total.max(self.done));
        let scores = match outcome {
            Ok(scores) => scores,
            Err(error) => return format!("{what} failed: {error} ({done})"),
        };
        let average = short(scores.average);
        if role == ItemRole::Validation {
            return format!("{what}: {average} ({done})");
        }
        let items: u64 = scores.tasks.iter().map(|task| task.n as u64).sum();
        let whole = whole.unwrap_or(items).max(items);
        self.items += whole;
        self.asked += items;
        if !scores.dropped {
            self.best = Some(self.best.map_or(scores.average, |best| best.max(scores.average)));
        }
        let result = match (scores.dropped, scores.stderr) {
            (true, _) => format!("about {average}, dropped after {items} of {whole} items"),
            (false, Some(stderr)) => format!("{average} ± {} from {items} of {whole} items", short(stderr)),
            (false, None) => average,
        };
        let best = self.best.map_or(String::new(), |best| format!(", best so far {}", short(best)));
        let saved = match self.items.saturating_sub(self.asked) {
            0 => String::new(),
            saved => format!(", {:.0} % of the items saved", 100.0 * saved as f64 / self.items as f64),
        };
        format!("{what}: {result}{best} ({done}{saved})")
    }

    /// The same as metrics: `evaluations`, then `average` and `best`, or `validation`. The average of a candidate that
    /// was dropped is an estimate, and left out.
    fn plot(&self, outcome: &Outcome, role: ItemRole, progress: &dyn Progress) {
        progress.metric("evaluations", self.done as f64);
        let series = if role == ItemRole::Validation { "validation" } else { "average" };
        if let Ok(scores) = outcome
            && !scores.dropped
        {
            progress.metric(series, scores.average);
        }
        if role == ItemRole::Search
            && let Some(best) = self.best
        {
            progress.metric("best", best);
        }
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
mod tests;
