//! Evolutionary search over the space of the config.
//!
//! The published search takes the models that a heuristic accepted and begins at its weights (`from: best`). Unless told so,
//! this one takes all that the filter has left, with equal weights: a heuristic judges a model by an average with others,
//! and one that does not help there may well help as a task vector, while a weight near 0 is something that an optimiser
//! finds by itself. The other defaults are the published ones: CMA-ES, population 15, σ₀ 1/6 of each range, at most 500
//! trials, a fixed seed. Any optimiser will do; one for several objectives is given the score of each task as an objective of
//! its own.
//!
//! When the search races, a candidate is dropped as soon as it cannot reach the median of the generation before: those
//! are the candidates whose exact rank an optimiser hardly learns from. It is told their score over the items seen.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357; Akiba et al.,
//! *Evolutionary Optimization of Model Merging Recipes*, arXiv 2403.13187.

use super::greedy::{Shares, by_likeness, by_score, grow};
use super::{Strategy, StrategyDef, StrategyError, check, count};
use crate::course::Halt;
use crate::session::{Found, Proposal, Session, Setup, Verdict, compare, floor_below, short};
use crate::space::SearchSpace;
use glue_progress::ErrorChain;
use glue_search::{
    Coordinate, CoordinateValue, OptimiserDef, Options, ParamSpec, Search, SearchError, Setting, Space, Value,
};
use std::cmp::Ordering;

const PARAMS: &[ParamSpec] = &[
    ParamSpec::integer("evaluations", "How many candidates are tried at most.", 1, 1_000_000, 500),
    ParamSpec::choice(
        "from",
        "Which models, and where to begin: `all` is every model with the same weight; else what this heuristic accepts, \
         `best` being the best of those that ran before, or `average` if none did.",
        &["all", "best", "average", "coefficient", "similarity", "dissimilarity"],
        "all",
    ),
];

/// The key that names the optimiser; what is neither this nor one of the parameters is a parameter of the optimiser.
const OPTIMISER: &str = "optimiser";

/// An optimiser over the space of the config.
pub const EVOLUTIONARY: StrategyDef = StrategyDef {
    name: "evolutionary",
    summary: "Searches the space of the config by an optimiser, cma_es unless `optimiser` says otherwise, from what a \
              heuristic accepted.",
    reference: "arXiv 2410.05357; arXiv 2403.13187",
    params: PARAMS,
    build: |setup, settings| Ok(Box::new(Evolutionary::new(setup, settings)?)),
};

struct Evolutionary {
    optimiser: &'static OptimiserDef,
    settings: Vec<(String, Setting)>,
    evaluations: u64,
    from: &'static str,
}

impl Evolutionary {
    fn new(setup: &Setup<'_>, settings: &[(String, Setting)]) -> Result<Self, StrategyError> {
        let refuse =
            |error: SearchError| StrategyError::Refused { strategy: EVOLUTIONARY.name.into(), reason: error.chain() };
        let name = match settings.iter().find(|(key, _)| key == OPTIMISER) {
            None => "cma_es",
            Some((_, Setting::Text(name))) => name,
            Some((_, other)) => {
                return Err(StrategyError::Parameter {
                    strategy: EVOLUTIONARY.name.into(),
                    key: OPTIMISER.into(),
                    allowed: "the name of an optimiser".into(),
                    found: other.to_string(),
                });
            }
        };
        let optimiser = setup.optimisers.get(name).map_err(refuse)?;
        let (own, rest): (Vec<_>, Vec<_>) = settings
            .iter()
            .filter(|(key, _)| key != OPTIMISER)
            .cloned()
            .partition(|(key, _)| PARAMS.iter().any(|spec| spec.name == key));
        let values = check(EVOLUTIONARY.name, PARAMS, &own)?;
        let from = if let Some(Value::Word(word)) = values.get(1) { word } else { "all" };
        let evaluations = count(values.first()) as u64;
        // A search on a small box of its own tells whether the settings will do.
        let space = Space::new(vec![Coordinate::real("x", 0.0, 1.0)]).map_err(refuse)?;
        let options = Options { settings: rest.clone(), ..Options::default() };
        Search::new(optimiser, space, options).map_err(refuse)?;
        Ok(Evolutionary { optimiser, settings: rest, evaluations, from })
    }

    /// The models to merge with their weights: from an earlier strategy, or from a heuristic that is run first.
    fn begin(&self, session: &mut Session<'_, '_>) -> Result<Vec<(usize, f64)>, Halt> {
        let order = session.order();
        let best =
            session.earlier().iter().filter(|found| !found.weights.is_empty()).fold(None::<&Found>, |best, found| {
                match best {
                    Some(best) if compare(found.average, best.average) != Ordering::Greater => Some(best),
                    _ => Some(found),
                }
            });
        let nine = Shares::Grid(9);
        let all = || order.iter().map(|&i| (i, 1.0 / order.len() as f64)).collect();
        let grown = match (self.from, best) {
            ("best", Some(found)) => {
                let found = found.clone();
                let again = Proposal { candidate: found.candidate, what: found.what, weights: found.weights.clone() };
                let scored = session.score(std::slice::from_ref(&again), None);
                if let Some(&i) = scored.tried.first() {
                    session.accept(i, &again, "the best that strategies before this one found: the start");
                }
                return scored.halt.map_or(Ok(found.weights), Err);
            }
            ("all", _) => return Ok(all()),
            ("coefficient", _) => grow(session, nine, &by_score),
            ("similarity", _) => grow(session, nine, &|s, current, left| by_likeness(s, current, left, true)),
            ("dissimilarity", _) => grow(session, nine, &|s, current, left| by_likeness(s, current, left, false)),
            _ => grow(session, Shares::Average, &by_score),
        };
        grown?;
        Ok(session.found().map_or_else(all, |found| found.weights.clone()))
    }

    fn search(&self, session: &mut Session<'_, '_>, space: &SearchSpace, start: Vec<f64>) -> Result<(), Halt> {
        let fail = |error: SearchError| Halt::Strategy(error.chain());
        let tasks = session.order().first().and_then(|&i| session.single(i)).map_or(1, |scores| scores.tasks.len());
        let several = self.optimiser.multi_objective && tasks > 1;
        let options = Options {
            objectives: vec![Default::default(); if several { tasks } else { 1 }],
            seed: session.setup().seed,
            evaluations: self.evaluations,
            start: vec![start],
            settings: self.settings.clone(),
        };
        let mut search = Search::new(self.optimiser, space.space().clone(), options).map_err(fail)?;
        let mut floor: Option<f64> = None;
        loop {
            let asked = search.ask();
            if asked.is_empty() {
                return Ok(());
            }
            let proposals: Vec<Proposal> = asked
                .iter()
                .map(|asked| {
                    let candidate = space.candidate(&asked.point).map_err(|error| Halt::Strategy(error.chain()))?;
                    Ok(Proposal { candidate, what: words(space, &asked.point), weights: Vec::new() })
                })
                .collect::<Result<_, Halt>>()?;
            let limit = if several { None } else { floor };
            let scored = session.score(&proposals, limit);
            let mut averages = Vec::new();
            for ((asked, proposal), &i) in asked.iter().zip(&proposals).zip(&scored.tried) {
                match session.tried()[i].scores.clone() {
                    Some(scores) if several => {
                        let values: Vec<f64> = scores.tasks.iter().map(|task| task.value).collect();
                        if values.len() == tasks {
                            search.tell(asked.id, &values).map_err(fail)?;
                        } else {
                            search.fail(asked.id).map_err(fail)?;
                        }
                    }
                    Some(scores) => {
                        search.tell(asked.id, &[scores.average]).map_err(fail)?;
                        averages.push(scores.average);
                    }
                    None => search.fail(asked.id).map_err(fail)?,
                }
                judge(session, i, proposal);
            }
            if let Some(halt) = scored.halt {
                return Err(halt);
            }
            floor = median(&mut averages).map(|median| {
                let best = session.found().map_or(median, |found| found.average);
                floor_below(median.min(best))
            });
        }
    }
}

/// Accepts entry `i` when it is better than what there is.
fn judge(session: &mut Session<'_, '_>, i: usize, proposal: &Proposal) {
    let best = session.found().map(|found| found.average);
    match (session.average(i), best) {
        (Some(average), None) => session.accept(i, proposal, format!("average {}, the first", short(average))),
        (Some(average), Some(best)) if compare(average, best) == Ordering::Greater => {
            session.accept(
                i,
                proposal,
                format!("average {} is above {}, the best so far", short(average), short(best)),
            );
        }
        (None, None) => session.decide(i, Verdict::Rejected, "dropped early"),
        (_, Some(best)) => session.reject(i, best),
    }
}

/// The upper median.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A point in words: of several methods, the coordinates of the one that it is of.
fn words(space: &SearchSpace, point: &[f64]) -> String {
    let named = space.space().describe(point).unwrap_or_default();
    let several: Vec<&str> = space.methods().collect();
    let chosen = named.iter().find_map(|(name, value)| match value {
        CoordinateValue::Category(option) if *name == "method" && several.len() > 1 => Some(*option),
        _ => None,
    });
    let word = |(name, value): &(&str, CoordinateValue<'_>)| {
        let value = match value {
            CoordinateValue::Real(x) => short(*x),
            CoordinateValue::Integer(x) => x.to_string(),
            CoordinateValue::Category(option) => (*option).to_string(),
        };
        match (chosen, *name) {
            (Some(_), "method") => Some(value),
            (Some(method), name) => Some(format!("{} {value}", name.strip_prefix(method)?.strip_prefix('.')?)),
            (None, name) => Some(format!("{name} {value}")),
        }
    };
    named.iter().filter_map(word).collect::<Vec<_>>().join(", ")
}

impl Strategy for Evolutionary {
    fn run(&self, session: &mut Session<'_, '_>) -> Result<(), Halt> {
        let mut weights = self.begin(session)?;
        if weights.len() < 2 {
            // Of a single model there is nothing to search; an optimiser can do without the others again.
            let order = session.order();
            weights = order.iter().map(|&i| (i, 1.0 / order.len() as f64)).collect();
        }
        let refuse = |error: crate::space::SpaceError| Halt::Strategy(error.chain());
        // In the order of the zoo, so that the space does not depend on the order in which models were accepted.
        weights.sort_by_key(|&(i, _)| i);
        let models: Vec<usize> = weights.iter().map(|&(i, _)| i).collect();
        let space = session.setup().search_space(&models).map_err(refuse)?;
        let paths: Vec<(String, f64)> =
            weights.iter().map(|&(i, w)| (session.setup().members[i].path.clone(), w)).collect();
        let start = space.start(None, &paths).map_err(refuse)?;
        self.search(session, &space, start)
    }

    fn evaluations(&self, models: usize) -> u64 {
        let before = match self.from {
            "all" => 0,
            "best" | "average" => models.saturating_sub(1) as u64,
            _ => 9 * models.saturating_sub(1) as u64,
        };
        before + self.evaluations
    }
}
