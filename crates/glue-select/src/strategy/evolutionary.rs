//! Evolutionary search over the space of the config.
//!
//! The published search takes the models that a heuristic accepted and starts from their weights (`from: best`). By
//! default, this one starts from all models that passed the filter, with equal weights: a heuristic judges a model by
//! an average with others, and a model that does not help there may help as a task vector, while an optimiser finds
//! weights near 0 by itself. The other defaults are the published ones: CMA-ES, population 15, σ₀ 1/6 of each range, at
//! most 500 trials, a fixed seed. Any optimiser will do; one for several objectives gets the score of each task as a
//! separate objective.
//!
//! When the search races, a candidate is dropped as soon as it cannot reach the median of the previous generation: an
//! optimiser learns little from the exact rank of such candidates. It gets their score over the items seen.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357; Akiba et
//! al., *Evolutionary Optimization of Model Merging Recipes*, arXiv 2403.13187.

use super::greedy::{WeightGrid, by_score, grow, least_similar, most_similar};
use super::{Strategy, StrategyDef, StrategyError};
use crate::context::{
    BestCandidate, DescribedCandidate, SearchContext, StrategyContext, Verdict, compare, cutoff_below, short,
};
use crate::evaluation_log::StopReason;
use crate::space::SearchSpace;
use glue_progress::ErrorChain;
use glue_search::{
    Coordinate, CoordinateValue, OptimiserDef, Options, ParamError, ParamSetting, ParamSpec, Params, Search,
    SearchError, Space,
};
use std::cmp::Ordering;

const PARAMS: &[ParamSpec] = &[
    ParamSpec::integer("evaluations", "Maximum number of candidates.", 1, 1_000_000, 500),
    ParamSpec::choice(
        "from",
        "Which models, and where to start: `all` is every model with the same weight; otherwise what this heuristic accepts. \
         `best` is the best heuristic that ran before, or `average` if none did.",
        &["all", "best", "average", "coefficient", "similarity", "dissimilarity"],
        "all",
    ),
];

/// The key that names the optimiser. Keys that are neither this nor one of the parameters belong to the optimiser.
const OPTIMISER: &str = "optimiser";

/// The strategy in messages.
const OWNER: &str = "strategy `evolutionary`";

/// An optimiser over the space of the config.
pub const EVOLUTIONARY: StrategyDef = StrategyDef {
    name: "evolutionary",
    summary: "Searches the space of the config with an optimiser, `cma_es` unless `optimiser` names another.",
    reference: "arXiv 2410.05357; arXiv 2403.13187",
    params: PARAMS,
    build: |search, settings| Ok(Box::new(Evolutionary::new(search, settings)?)),
};

struct Evolutionary {
    optimiser: &'static OptimiserDef,
    settings: Vec<(String, ParamSetting)>,
    evaluations: u64,
    from: &'static str,
}

impl Evolutionary {
    fn new(search: &SearchContext<'_>, settings: &[(String, ParamSetting)]) -> Result<Self, StrategyError> {
        let refuse =
            |error: SearchError| StrategyError::Refused { strategy: EVOLUTIONARY.name.into(), reason: error.chain() };
        let name = match settings.iter().find(|(key, _)| key == OPTIMISER) {
            None => "cma_es",
            Some((_, ParamSetting::Text(name))) => name,
            Some((_, other)) => {
                let (owner, key) = (OWNER.into(), OPTIMISER.into());
                let (allowed, found) = ("the name of an optimiser".into(), other.to_string());
                return Err(ParamError::Value { owner, key, allowed, found }.into());
            }
        };
        let optimiser = search.optimisers.get(name).map_err(|error| refuse(error.into()))?;
        let (own, rest): (Vec<_>, Vec<_>) = settings
            .iter()
            .filter(|(key, _)| key != OPTIMISER)
            .cloned()
            .partition(|(key, _)| PARAMS.iter().any(|spec| spec.name == key));
        let values = Params::check(OWNER, PARAMS, &own)?;
        let (from, evaluations) = (values.word("from"), values.count("evaluations") as u64);
        // A search in a small box checks the settings of the optimiser.
        let space = Space::new(vec![Coordinate::real("x", 0.0, 1.0)]).map_err(refuse)?;
        let options = Options { settings: rest.clone(), ..Options::default() };
        Search::new(optimiser, space, options).map_err(refuse)?;
        Ok(Evolutionary { optimiser, settings: rest, evaluations, from })
    }

    /// The models to merge with their weights: from an earlier strategy, or from a heuristic that runs first.
    fn start(&self, context: &mut StrategyContext<'_, '_>) -> Result<Vec<(usize, f64)>, StopReason> {
        let order = context.order();
        let best = context.earlier().iter().filter(|found| !found.weights.is_empty()).fold(
            None::<&BestCandidate>,
            |best, found| match best {
                Some(best) if compare(found.average, best.average) != Ordering::Greater => Some(best),
                _ => Some(found),
            },
        );
        let nine = WeightGrid::Points(9);
        let all = || order.iter().map(|&i| (i, 1.0 / order.len() as f64)).collect();
        let grown = match (self.from, best) {
            ("best", Some(found)) => {
                let found = found.clone();
                let again =
                    DescribedCandidate { candidate: found.candidate, what: found.what, weights: found.weights.clone() };
                let scored = context.score(std::slice::from_ref(&again), None);
                if let Some(&i) = scored.trials.first() {
                    context.accept(i, &again, "start: the best result of earlier strategies");
                }
                return scored.stop.map_or(Ok(found.weights), Err);
            }
            ("all", _) => return Ok(all()),
            ("coefficient", _) => grow(context, nine, by_score),
            ("similarity", _) => grow(context, nine, most_similar),
            ("dissimilarity", _) => grow(context, nine, least_similar),
            _ => grow(context, WeightGrid::Average, by_score),
        };
        grown?;
        Ok(context.found().map_or_else(all, |found| found.weights.clone()))
    }

    fn search(
        &self,
        context: &mut StrategyContext<'_, '_>,
        space: &SearchSpace,
        start: Vec<f64>,
    ) -> Result<(), StopReason> {
        let fail = |error: SearchError| StopReason::Strategy(error.chain());
        let tasks = context.order().first().and_then(|&i| context.baseline(i)).map_or(1, |scores| scores.tasks.len());
        let several = self.optimiser.multi_objective && tasks > 1;
        let options = Options {
            objectives: vec![Default::default(); if several { tasks } else { 1 }],
            seed: context.search().seed,
            evaluations: self.evaluations,
            start: vec![start],
            settings: self.settings.clone(),
        };
        let mut search = Search::new(self.optimiser, space.space().clone(), options).map_err(fail)?;
        let mut cutoff: Option<f64> = None;
        loop {
            let asked = search.ask();
            if asked.is_empty() {
                return Ok(());
            }
            let described: Vec<DescribedCandidate> = asked
                .iter()
                .map(|asked| {
                    let candidate =
                        space.candidate(&asked.point).map_err(|error| StopReason::Strategy(error.chain()))?;
                    Ok(DescribedCandidate { candidate, what: words(space, &asked.point), weights: Vec::new() })
                })
                .collect::<Result<_, StopReason>>()?;
            let limit = if several { None } else { cutoff };
            let scored = context.score(&described, limit);
            let mut averages = Vec::new();
            for ((asked, described), &i) in asked.iter().zip(&described).zip(&scored.trials) {
                match context.trials()[i].scores.clone() {
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
                judge(context, i, described);
            }
            if let Some(stop) = scored.stop {
                return Err(stop);
            }
            cutoff = upper_median(&mut averages).map(|median| {
                let best = context.found().map_or(median, |found| found.average);
                cutoff_below(median.min(best))
            });
        }
    }
}

/// Accepts trial `i` if it is better than the best so far.
fn judge(context: &mut StrategyContext<'_, '_>, i: usize, described: &DescribedCandidate) {
    let best = context.found().map(|found| found.average);
    match (context.average(i), best) {
        (Some(average), None) => context.accept(i, described, format!("accepted: {}, the first", short(average))),
        (Some(average), Some(best)) if compare(average, best) == Ordering::Greater => {
            let reason = format!("accepted: {} > {} (best so far)", short(average), short(best));
            context.accept(i, described, reason);
        }
        (None, None) => context.decide(i, Verdict::Rejected, "rejected: dropped early"),
        (_, Some(best)) => context.reject(i, best),
    }
}

/// The upper median: of an even number of values the greater one in the middle, which some candidate has.
fn upper_median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A point in words. With several methods, only the coordinates of its method.
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
    fn run(&self, context: &mut StrategyContext<'_, '_>) -> Result<(), StopReason> {
        let mut weights = self.start(context)?;
        if weights.len() < 2 {
            // There is nothing to search with one model; an optimiser can leave the others out itself.
            let order = context.order();
            weights = order.iter().map(|&i| (i, 1.0 / order.len() as f64)).collect();
        }
        let refuse = |error: crate::space::SpaceError| StopReason::Strategy(error.chain());
        // In the order of the zoo, so that the space does not depend on the order in which models were accepted.
        weights.sort_by_key(|&(i, _)| i);
        let models: Vec<usize> = weights.iter().map(|&(i, _)| i).collect();
        let space = context.search().search_space(&models).map_err(refuse)?;
        let paths: Vec<(String, f64)> =
            weights.iter().map(|&(i, w)| (context.search().members[i].path.clone(), w)).collect();
        let start = space.start(None, &paths).map_err(refuse)?;
        self.search(context, &space, start)
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
