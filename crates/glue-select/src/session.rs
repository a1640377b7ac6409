//! What a strategy has at hand: the models and their own scores, evaluations, and the record of what it tried and why.

use crate::contract::{Candidate, Part, Scores};
use crate::course::{self, Course, Halt, Outcome};
use crate::likeness::Likeness;
use crate::recipe_text::{Frame, weighted};
use crate::space::{SearchSpace, SpaceConfig, SpaceError, TensorNames};
use glue_progress::Progress;
use serde::Serialize;
use std::cell::OnceCell;
use std::cmp::Ordering;

/// Averages that are nearer than this are equal: sums of the same terms in another order. The smallest step of a score is
/// one item of one task, which is more than a hundred thousand times as much for any tasks of fewer than 10 000 items.
pub const ROUNDING: f64 = 1e-9;

/// The floor with which a candidate is dropped once it cannot be as good as `average` any more.
pub fn floor_below(average: f64) -> f64 {
    average - 2.0 * ROUNDING
}

/// A model of the zoo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// What it is called in reports: the last part of its path where that tells it apart.
    pub name: String,
    /// As it stands in recipes.
    pub path: String,
}

/// What a search is about. Nothing of it changes while strategies run.
pub struct Setup<'a> {
    /// The models, in the order of the config.
    pub members: Vec<Member>,
    /// What all recipes have in common; the base among it.
    pub frame: Frame,
    /// The space that optimisers search.
    pub space: SpaceConfig,
    /// Names of the tensors of the models.
    pub tensors: TensorNames,
    /// The merge methods.
    pub operators: &'a glue_merge::Registry,
    /// The optimisers.
    pub optimisers: &'a glue_search::Registry,
    /// The source of all randomness.
    pub seed: u64,
    /// Whether candidates are dropped before all items are scored.
    pub racing: bool,
    /// Reads how alike the models are; called once at most, when somebody asks.
    pub read_likeness: Box<dyn Fn() -> Result<Likeness, String> + Send + Sync + 'a>,
}

impl std::fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("members", &self.members).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl Setup<'_> {
    /// The linear merge of models with these weights.
    pub fn linear(&self, weights: &[(usize, f64)]) -> Candidate {
        // A linear merge has no base.
        let frame = Frame { base_model: None, ..self.frame.clone() };
        let weights: Vec<(String, f64)> = weights.iter().map(|&(i, w)| (self.members[i].path.clone(), w)).collect();
        weighted(&frame, "linear", &weights, &[])
    }

    /// The space of merges of some of the models.
    ///
    /// # Errors
    /// [`SpaceError`].
    pub fn search_space(&self, models: &[usize]) -> Result<SearchSpace, SpaceError> {
        let paths: Vec<String> = models.iter().map(|&i| self.members[i].path.clone()).collect();
        let mut config = self.space.clone();
        // What is left out here has no place in the space; what is no model at all is refused there.
        let left_out = |path: &String| self.members.iter().any(|member| member.path == *path) && !paths.contains(path);
        config.statistics.retain(|path, _| !left_out(path));
        SearchSpace::new(&config, &self.frame, &paths, &self.tensors, self.operators)
    }

    /// Weights in words: `a-math 0.6 + a-code 0.4`.
    pub fn words(&self, weights: &[(usize, f64)]) -> String {
        let word = |&(i, w): &(usize, f64)| match weights {
            [_] if w == 1.0 => self.members[i].name.clone(),
            _ => format!("{} {}", self.members[i].name, short(w)),
        };
        weights.iter().map(word).collect::<Vec<_>>().join(" + ")
    }
}

/// At most four digits behind the point.
pub(crate) fn short(x: f64) -> String {
    let text = format!("{x:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is part of the result, or was until a better one came.
    Accepted,
    /// It is not as good as what there is.
    Rejected,
    /// It could not be scored.
    Failed,
    /// It was scored to learn something from it, and nothing was to be decided.
    Measured,
}

/// A candidate that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// Which strategy asked for it.
    pub strategy: String,
    /// What it is, in words.
    pub what: String,
    /// Its models with their weights, where it is a linear merge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<(String, f64)>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Its scores on the search part; absent when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// Its recipe.
    pub recipe: String,
}

/// A candidate to be tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Its recipe.
    pub candidate: Candidate,
    /// What it is, in words.
    pub what: String,
    /// Its models by number with their weights, where it is a linear merge; else empty.
    pub weights: Vec<(usize, f64)>,
}

/// The best of a strategy.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The candidate.
    pub candidate: Candidate,
    /// What it is, in words.
    pub what: String,
    /// Its models by number with their weights, where it is a linear merge; else empty.
    pub weights: Vec<(usize, f64)>,
    /// Its average on the search part.
    pub average: f64,
}

/// The numbers, in [`Session::tried`], of what was scored: fewer than proposals when the search has to end.
#[derive(Debug)]
pub struct Scored {
    /// In the order of the proposals.
    pub tried: Vec<usize>,
    /// Why there are not as many as proposals. Whoever asked should decide on those there are, and end with it.
    pub halt: Option<Halt>,
}

/// Tells that another step of `strategy` is done; `best` is the best average so far, if there is one.
pub(crate) fn tell(progress: &dyn Progress, strategy: &str, best: Option<f64>, state: &course::Progress) {
    let best = best.map_or("nothing yet".to_owned(), |best| format!("{best:.4}"));
    let left = state.left.map_or(String::new(), |left| format!(", {left} left"));
    let saved = match state.items_saved {
        0 => String::new(),
        saved => format!(", {:.0} % of the items saved by racing", 100.0 * saved as f64 / state.items as f64),
    };
    let done = state.evaluations;
    progress.message(&format!("{strategy}: best so far {best}; {done} evaluations{left}{saved}"));
}

/// A strategy at work.
pub struct Session<'s, 'a> {
    setup: &'s Setup<'a>,
    course: &'s mut Course<'a>,
    progress: &'s dyn Progress,
    strategy: String,
    /// Scores of the models by themselves; `None` for one that could not be scored.
    singles: &'s [Option<Scores>],
    /// The models that may be merged.
    admitted: &'s [usize],
    earlier: &'s [Found],
    likeness: &'s OnceCell<Likeness>,
    tried: Vec<Tried>,
    found: Option<Found>,
    /// The best average of the whole search so far.
    best_anywhere: Option<f64>,
}

impl std::fmt::Debug for Session<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("strategy", &self.strategy).field("found", &self.found).finish_non_exhaustive()
    }
}

/// What a session is made from.
pub(crate) struct Parts<'s, 'a> {
    pub(crate) setup: &'s Setup<'a>,
    pub(crate) course: &'s mut Course<'a>,
    pub(crate) progress: &'s dyn Progress,
    pub(crate) singles: &'s [Option<Scores>],
    pub(crate) admitted: &'s [usize],
    pub(crate) earlier: &'s [Found],
    pub(crate) likeness: &'s OnceCell<Likeness>,
    pub(crate) best: Option<f64>,
}

impl<'s, 'a> Session<'s, 'a> {
    pub(crate) fn new(strategy: &str, parts: Parts<'s, 'a>) -> Session<'s, 'a> {
        let Parts { setup, course, progress, singles, admitted, earlier, likeness, best } = parts;
        Session {
            setup,
            course,
            progress,
            strategy: strategy.into(),
            singles,
            admitted,
            earlier,
            likeness,
            tried: Vec::new(),
            found: None,
            best_anywhere: best,
        }
    }

    /// What the search is about.
    pub fn setup(&self) -> &'s Setup<'a> {
        self.setup
    }

    /// The scores of model `i` by itself; `None` when it could not be scored.
    pub fn single(&self, i: usize) -> Option<&'s Scores> {
        self.singles.get(i)?.as_ref()
    }

    /// The models that may be merged, by descending average of their own; equal ones in the order of the zoo.
    pub fn order(&self) -> Vec<usize> {
        let average = |i: usize| self.single(i).map_or(f64::NEG_INFINITY, |scores| scores.average);
        let mut order: Vec<usize> = self.admitted.iter().copied().filter(|&i| self.single(i).is_some()).collect();
        order.sort_by(|&a, &b| compare(average(b), average(a)).then(a.cmp(&b)));
        order
    }

    /// What strategies found that ran before this one.
    pub fn earlier(&self) -> &'s [Found] {
        self.earlier
    }

    /// How alike the linear merge with these weights is to model `j`, by their MLP weights.
    ///
    /// # Errors
    /// [`Halt::Strategy`] when the models cannot be compared.
    pub fn likeness(&self, weights: &[(usize, f64)], j: usize) -> Result<f64, Halt> {
        if self.likeness.get().is_none() {
            let read = (self.setup.read_likeness)().map_err(Halt::Strategy)?;
            let _ = self.likeness.set(read);
        }
        Ok(self.likeness.get().map_or(0.0, |likeness| likeness.of_merge(weights, j)))
    }

    /// The linear merge with these weights, as a proposal.
    pub fn linear(&self, weights: Vec<(usize, f64)>) -> Proposal {
        Proposal { candidate: self.setup.linear(&weights), what: self.setup.words(&weights), weights }
    }

    /// Scores `proposals` on the search part, all at once. With `floor`, and when the search races, those that cannot
    /// exceed it are dropped early. Each is in the record from here on, [measured](Verdict::Measured) or failed until
    /// something else is [decided](Self::decide).
    pub fn score(&mut self, proposals: &[Proposal], floor: Option<f64>) -> Scored {
        let candidates: Vec<Candidate> = proposals.iter().map(|proposal| proposal.candidate.clone()).collect();
        let floor = floor.filter(|_| self.setup.racing);
        let batch = self.course.score(&candidates, Part::Search, floor);
        let first = self.tried.len();
        for (proposal, outcome) in proposals.iter().zip(batch.outcomes) {
            let tried = self.entry(proposal, outcome);
            if let Some(scores) = tried.scores.as_ref().filter(|scores| !scores.dropped) {
                self.best_anywhere = Some(self.best_anywhere.map_or(scores.average, |best| best.max(scores.average)));
            }
            self.tried.push(tried);
        }
        tell(self.progress, &self.strategy, self.best_anywhere, &self.course.progress());
        Scored { tried: (first..self.tried.len()).collect(), halt: batch.halt }
    }

    fn entry(&self, proposal: &Proposal, outcome: Outcome) -> Tried {
        let named = |&(i, w): &(usize, f64)| (self.setup.members[i].name.clone(), w);
        let (verdict, reason, scores) = match outcome {
            Ok(scores) => (Verdict::Measured, format!("average {}", short(scores.average)), Some(scores)),
            Err(error) => (Verdict::Failed, error.message, None),
        };
        Tried {
            strategy: self.strategy.clone(),
            what: proposal.what.clone(),
            weights: proposal.weights.iter().map(named).collect(),
            verdict,
            reason,
            scores,
            recipe: proposal.candidate.recipe.clone(),
        }
    }

    /// The record so far.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// The average of entry `i` of the record: `None` when it failed or was dropped.
    pub fn average(&self, i: usize) -> Option<f64> {
        self.tried[i].scores.as_ref().filter(|scores| !scores.dropped).map(|scores| scores.average)
    }

    /// Writes down what was decided about entry `i`. A failure stays one.
    pub fn decide(&mut self, i: usize, verdict: Verdict, reason: impl Into<String>) {
        let tried = &mut self.tried[i];
        if tried.verdict != Verdict::Failed {
            tried.verdict = verdict;
            tried.reason = reason.into();
        }
    }

    /// Accepts entry `i`, which came of `proposal`: the strategy's result until another one is accepted.
    pub fn accept(&mut self, i: usize, proposal: &Proposal, reason: impl Into<String>) {
        let Some(average) = self.average(i) else { return };
        self.decide(i, Verdict::Accepted, reason);
        self.found = Some(Found {
            candidate: proposal.candidate.clone(),
            what: proposal.what.clone(),
            weights: proposal.weights.clone(),
            average,
        });
    }

    /// Rejects entry `i` because it is not as good as `best`.
    pub fn reject(&mut self, i: usize, best: f64) {
        let Some(scores) = self.tried[i].scores.clone() else { return };
        let items: usize = scores.tasks.iter().map(|task| task.n).sum();
        let reason = match scores.dropped {
            true => format!("after {items} items it cannot be as good as {} any more: dropped", short(best)),
            false if scores.average >= best => {
                format!("average {} is no better than {}, the best so far: dropped", short(scores.average), short(best))
            }
            false => format!("average {} is below {}, the best so far: dropped", short(scores.average), short(best)),
        };
        self.decide(i, Verdict::Rejected, reason);
    }

    /// The result so far.
    pub fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// The result, the record, and the best average of the whole search.
    pub(crate) fn finish(self) -> (Option<Found>, Vec<Tried>, Option<f64>) {
        (self.found, self.tried, self.best_anywhere)
    }
}

/// Compares averages; those that differ by rounding are equal.
pub fn compare(a: f64, b: f64) -> Ordering {
    if (a - b).abs() <= ROUNDING { Ordering::Equal } else { a.total_cmp(&b) }
}
