//! A search: it hands out candidates, takes their results, and passes whole generations to the optimiser behind it.

use crate::def::{Optimiser, OptimiserDef, OptimiserSetup, Trial};
use crate::error::SearchError;
use crate::front::dominates;
use crate::params::{ParamSetting, Params};
use crate::registry::OptimiserRegistry;
use crate::space::Space;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Which way an objective is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// More is better: scores. The default.
    #[default]
    Maximise,
    /// Less is better: losses.
    Minimise,
}

impl Direction {
    fn loss(self, objective: f64) -> f64 {
        match self {
            Self::Maximise => -objective,
            Self::Minimise => objective,
        }
    }
}

/// What a search does besides choosing points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The direction of each objective. Default: one, maximised.
    pub objectives: Vec<Direction>,
    /// The source of all randomness. Default: 0.
    pub seed: u64,
    /// Maximum number of candidates. Default: 500.
    pub evaluations: u64,
    /// Points to start from, in user units, best first: a population starts with them, a distribution around the first.
    /// Default: none.
    pub start: Vec<Vec<f64>>,
    /// Parameters of the optimiser; those left out have their defaults.
    pub settings: Vec<(String, ParamSetting)>,
}

impl Default for Options {
    fn default() -> Self {
        let objectives = vec![Direction::Maximise];
        Self { objectives, seed: 0, evaluations: 500, start: Vec::new(), settings: Vec::new() }
    }
}

/// A point to evaluate.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidatePoint {
    /// Identifies it in [`Search::tell`]. Ids count up from 0 in the order in which candidates are handed out.
    pub id: u64,
    /// One number for each coordinate, in its units: see [`Space`].
    pub point: Vec<f64>,
}

/// A candidate with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// The id of the candidate.
    pub id: u64,
    /// The point, in user units.
    pub point: Vec<f64>,
    /// Its objectives, as they were given to [`Search::tell`].
    pub objectives: Vec<f64>,
}

/// Why a search hands out no further candidates.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// [`Options::evaluations`] candidates were handed out, and all have results.
    Evaluations,
    /// The optimiser has nothing left to propose; why.
    Stopped(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PendingTrial {
    unit: Vec<f64>,
    state: TrialState,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TrialState {
    Waiting,
    Failed,
    Losses(Vec<f64>),
}

/// Everything but the optimiser itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    optimiser: String,
    space: Space,
    options: Options,
    /// Generations that the optimiser has not learned from yet, the oldest first; ids run through them.
    generations: VecDeque<Vec<PendingTrial>>,
    /// The id of the first candidate of the first of them.
    first: u64,
    /// The id of the next candidate to be handed out.
    next: u64,
    /// How many have results, and how many of those failed.
    told: u64,
    failed: u64,
    /// The Pareto front, by id; with one objective, the best.
    front: Vec<Evaluated>,
}

#[derive(Serialize, Deserialize)]
struct State {
    search: Record,
    state: String,
}

/// A search in progress.
///
/// Candidates belong to generations. What an optimiser learns from is a whole generation in the order of its ids, so
/// that it does not matter which worker is faster. While results are missing, [`ask`](Self::ask) may return nothing.
pub struct Search {
    record: Record,
    optimiser: Box<dyn Optimiser>,
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.record.fmt(f)
    }
}

impl Search {
    /// A search that has not handed out anything.
    ///
    /// # Errors
    /// Parameters that the optimiser does not have or that are out of range, a start outside of the space, or a number
    /// of objectives that the optimiser does not work on.
    pub fn new(def: &OptimiserDef, space: Space, options: Options) -> Result<Self, SearchError> {
        let optimiser = with_setup(def, &space, &options, |setup| (def.build)(setup))?;
        let record = Record {
            optimiser: def.name.into(),
            space,
            options,
            generations: VecDeque::new(),
            first: 0,
            next: 0,
            told: 0,
            failed: 0,
            front: Vec::new(),
        };
        Ok(Self { record, optimiser })
    }

    /// Continues where [`state`](Self::state) was taken. Candidates without a result at that time are
    /// [pending](Self::pending).
    ///
    /// # Errors
    /// An optimiser that the registry does not have, or a state that cannot be read.
    pub fn restore(registry: &OptimiserRegistry, state: &str) -> Result<Self, SearchError> {
        let State { search: record, state } =
            serde_json::from_str(state).map_err(|e| SearchError::state("the search", e))?;
        let proposed: usize = record.generations.iter().map(Vec::len).sum();
        let consistent = record.generations.iter().flatten().all(|p| p.unit.len() == record.space.dimension())
            && (record.first..=record.first.saturating_add(proposed as u64)).contains(&record.next);
        if !consistent {
            return Err(SearchError::state("the search", "its parts contradict each other"));
        }
        let def = registry.get(&record.optimiser)?;
        let optimiser = with_setup(def, &record.space, &record.options, |setup| (def.restore)(setup, &state))?;
        Ok(Self { record, optimiser })
    }

    /// The whole search as one JSON document, at any moment.
    pub fn state(&self) -> String {
        let state = State { search: self.record.clone(), state: self.optimiser.state() };
        // Numbers are finite and keys are strings: nothing can fail.
        serde_json::to_string(&state).unwrap_or_default()
    }

    /// Candidates to evaluate: the rest of the current generation, or a new one. Empty while results of earlier
    /// candidates are needed, and when the search is over or its budget used up.
    pub fn ask(&mut self) -> Vec<CandidatePoint> {
        let r = &mut self.record;
        let mut end = r.first + r.generations.iter().map(Vec::len).sum::<usize>() as u64;
        let may = r.generations.is_empty() || !self.optimiser.waits();
        if r.next == end && r.next < r.options.evaluations && may && self.optimiser.stopped().is_none() {
            let points = self.optimiser.propose();
            end += points.len() as u64;
            r.generations
                .push_back(points.into_iter().map(|unit| PendingTrial { unit, state: TrialState::Waiting }).collect());
        }
        let ids = r.next..end.min(r.options.evaluations).max(r.next);
        r.next = ids.end;
        ids.map(|id| self.candidate(id)).collect()
    }

    fn candidate(&self, id: u64) -> CandidatePoint {
        let r = &self.record;
        let unit = r.generations.iter().flatten().nth((id - r.first) as usize).map(|p| &p.unit[..]);
        CandidatePoint { id, point: r.space.to_user(unit.unwrap_or_default()) }
    }

    /// Candidates without a result, by id: workers have to evaluate them again after a restart.
    pub fn pending(&self) -> Vec<CandidatePoint> {
        let r = &self.record;
        let waiting =
            r.generations.iter().flatten().zip(r.first..r.next).filter(|(p, _)| p.state == TrialState::Waiting);
        waiting.map(|(_, id)| self.candidate(id)).collect()
    }

    /// Takes the result of a candidate. A result that is not finite counts as a [failure](Self::fail).
    ///
    /// # Errors
    /// An id that was not handed out or has a result already, or another number of objectives than the search has.
    /// Nothing changes then.
    pub fn tell(&mut self, id: u64, objectives: &[f64]) -> Result<(), SearchError> {
        let directions = &self.record.options.objectives;
        if objectives.len() != directions.len() {
            let (expected, found) = (directions.len(), objectives.len());
            return Err(SearchError::ResultLength { id, expected, found });
        }
        if objectives.iter().any(|x| !x.is_finite()) {
            return self.fail(id);
        }
        // Adding zero makes one of the two zeros.
        let losses: Vec<f64> = directions.iter().zip(objectives).map(|(d, x)| d.loss(*x) + 0.0).collect();
        self.record.set(id, TrialState::Losses(losses))?;
        let point = self.candidate(id).point;
        self.record.enter(Evaluated { id, point, objectives: objectives.to_vec() });
        self.learn();
        Ok(())
    }

    /// Records that a candidate could not be evaluated, which ranks below every result.
    ///
    /// # Errors
    /// An id that was not handed out or has a result already.
    pub fn fail(&mut self, id: u64) -> Result<(), SearchError> {
        self.record.set(id, TrialState::Failed)?;
        self.record.failed += 1;
        self.learn();
        Ok(())
    }

    /// Passes every complete generation to the optimiser, the oldest first.
    fn learn(&mut self) {
        let r = &mut self.record;
        while let Some(generation) = r.generations.pop_front_if(|g| g.iter().all(|p| p.state != TrialState::Waiting)) {
            let trials: Vec<Trial<'_>> = generation
                .iter()
                .map(|p| {
                    let losses = if let TrialState::Losses(losses) = &p.state { Some(&losses[..]) } else { None };
                    Trial { point: &p.unit, losses }
                })
                .collect();
            self.optimiser.learn(&trials);
            r.first += generation.len() as u64;
        }
    }

    /// The best so far by the first objective; of equals, the first that was handed out. `None` while nothing
    /// succeeded.
    pub fn best(&self) -> Option<&Evaluated> {
        let direction = self.record.options.objectives[0];
        let loss = |e: &Evaluated| direction.loss(e.objectives[0]);
        self.record.front.iter().min_by(|a, b| loss(a).total_cmp(&loss(b)).then(a.id.cmp(&b.id)))
    }

    /// The point, in user units, that the optimiser holds to be best, whether or not it was evaluated: for CMA-ES the
    /// mean of its distribution, as `xfavorite` of pycma. `None` for optimisers without one, and before the first
    /// generation is complete.
    pub fn favourite(&self) -> Option<Vec<f64>> {
        self.optimiser.favourite().map(|unit| self.record.space.to_user(&unit))
    }

    /// The Pareto front of all results, by id; among equals the first that was handed out. With one objective that is
    /// the best.
    pub fn front(&self) -> &[Evaluated] {
        &self.record.front
    }

    /// Why the search is over, once it is and every candidate has a result.
    pub fn done(&self) -> Option<Done> {
        let r = &self.record;
        if r.told < r.next {
            return None;
        }
        if r.next >= r.options.evaluations {
            return Some(Done::Evaluations);
        }
        let all_handed_out = r.generations.is_empty();
        self.optimiser.stopped().filter(|_| all_handed_out).map(|why| Done::Stopped(why.into()))
    }

    /// Number of candidates with a result, failures included.
    pub fn told(&self) -> u64 {
        self.record.told
    }

    /// How many of those could not be evaluated.
    pub fn failed(&self) -> u64 {
        self.record.failed
    }

    /// Changes [`Options::evaluations`]; a search that had used up its budget continues as if it had never stopped.
    pub fn set_evaluations(&mut self, evaluations: u64) {
        self.record.options.evaluations = evaluations;
    }

    /// The space it searches.
    pub fn space(&self) -> &Space {
        &self.record.space
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.record.options
    }

    /// The optimiser behind it.
    pub fn optimiser(&self) -> &dyn Optimiser {
        &*self.optimiser
    }
}

impl Record {
    fn set(&mut self, id: u64, state: TrialState) -> Result<(), SearchError> {
        if id >= self.next {
            let last = self.next.checked_sub(1).map_or("none".into(), |last| last.to_string());
            return Err(SearchError::UnknownCandidate { id, last });
        }
        let index = id.checked_sub(self.first);
        let slot = index.and_then(|i| self.generations.iter_mut().flatten().nth(i as usize));
        match slot {
            Some(p) if p.state == TrialState::Waiting => p.state = state,
            _ => return Err(SearchError::ToldTwice { id }),
        }
        self.told += 1;
        Ok(())
    }

    /// Updates the front, which does not depend on the order of results.
    fn enter(&mut self, new: Evaluated) {
        let losses = |e: &Evaluated| -> Vec<f64> {
            self.options.objectives.iter().zip(&e.objectives).map(|(d, x)| d.loss(*x)).collect()
        };
        let mine = losses(&new);
        let beaten = |winner: (&[f64], u64), loser: (&[f64], u64)| {
            dominates(winner.0, loser.0) || (winner.0 == loser.0 && winner.1 < loser.1)
        };
        if self.front.iter().any(|e| beaten((&losses(e), e.id), (&mine, new.id))) {
            return;
        }
        let keep: Vec<bool> = self.front.iter().map(|e| !beaten((&mine, new.id), (&losses(e), e.id))).collect();
        let mut keep = keep.into_iter();
        self.front.retain(|_| keep.next().unwrap_or(true));
        let at = self.front.partition_point(|e| e.id < new.id);
        self.front.insert(at, new);
    }
}

fn with_setup<T>(
    def: &OptimiserDef,
    space: &Space,
    options: &Options,
    make: impl FnOnce(&OptimiserSetup<'_>) -> Result<T, SearchError>,
) -> Result<T, SearchError> {
    let objectives = options.objectives.len();
    if objectives == 0 || (objectives > 1 && !def.multi_objective) {
        let expected = if def.multi_objective { "one or more objectives" } else { "one objective" };
        return Err(SearchError::ObjectiveCount { optimiser: def.name, expected, found: objectives });
    }
    let params = Params::check(def.name, def.params, &options.settings)?;
    let start = options.start.iter().map(|p| space.to_unit(p)).collect::<Result<Vec<_>, _>>()?;
    make(&OptimiserSetup { space, objectives, seed: options.seed, start: &start, params: &params })
}
