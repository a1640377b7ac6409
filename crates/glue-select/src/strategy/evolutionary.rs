//! Evolutionary search over the spaces of the config.
//!
//! The published search takes the models that a heuristic accepted and starts from their weights (`from: best`). By
//! default, this one takes all models that passed the filter (`from: all`): a heuristic judges a model by an average
//! with others, and a model that does not help there may help as a task vector, while an optimiser finds weights near 0
//! by itself. The other defaults are the published ones: CMA-ES, population 15, σ₀ 1/6 of each range, at most 500
//! trials, a fixed seed. Any optimiser will do; one for several objectives gets the score of each task as a separate
//! objective.
//!
//! **Methods.** Each method has a space of its own, and the best one is found by a race. Every method is scored with
//! all models at their usual weights, and the two leading ones also with half and one and a half times the length of
//! the merged task vector. Each of the two gets an optimiser for three generations, turn by turn; the one with the best
//! candidate goes on alone. Methods differ more at their usual settings than a search within one of them gains, so that
//! this costs a few evaluations where a categorical coordinate costs generations.
//!
//! **Starts.** The optimiser of a method starts from its best candidate so far, and from the best model by itself where
//! that is better still and a weight of 1 for one model gives that model: models that have little in common lose
//! everything in an average.
//!
//! Candidates race against the best one so far. Of one that is dropped, the optimiser gets the estimated average, which
//! is never above that of the best: the further it is behind, the less its exact rank matters. Methods are compared by
//! candidates that were scored on all items.
//!
//! Zhao et al., *Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild*, arXiv 2410.05357; Akiba et
//! al., *Evolutionary Optimization of Model Merging Recipes*, arXiv 2403.13187.

use super::greedy::{WeightGrid, by_score, grow, least_similar, most_similar};
use super::{Strategy, StrategyDef, StrategyError};
use crate::context::{
    BestCandidate, DescribedCandidate, SearchContext, StrategyContext, Verdict, compare, cutoff_below, short,
};
use crate::evaluation_log::StopReason;
use crate::space::{SearchSpace, SpaceError};
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
        "Which models, and where to start: `all` is every model, from the best of some simple merges and single models; \
         otherwise what this heuristic accepts. `best` is the best heuristic that ran before, or `average` if none did.",
        &["all", "best", "average", "coefficient", "similarity", "dissimilarity"],
        "all",
    ),
];

/// The key that names the optimiser. Keys that are neither this nor one of the parameters belong to the optimiser.
const OPTIMISER: &str = "optimiser";

/// How many methods get an optimiser.
const LEADING: usize = 2;

/// Generations after which the best of them goes on alone: enough for an optimiser to leave its start.
const TRIAL_GENERATIONS: usize = 3;

/// Lengths of the merged task vector that the leading methods are scored with besides the usual one.
const LENGTHS: [f64; 2] = [0.5, 1.5];

/// The strategy in messages.
const OWNER: &str = "strategy `evolutionary`";

/// An optimiser over the space of the config.
pub const EVOLUTIONARY: StrategyDef = StrategyDef {
    name: "evolutionary",
    summary: "Finds the best of several merge methods and its parameters with an optimiser, `cma_es` by default.",
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

    /// The models to merge with their weights, from an earlier strategy or from a heuristic that runs first; `None` for
    /// all models.
    fn start(&self, context: &mut StrategyContext<'_, '_>) -> Result<Option<Vec<(usize, f64)>>, StopReason> {
        let best = context.earlier().iter().filter(|found| !found.weights.is_empty()).fold(
            None::<&BestCandidate>,
            |best, found| match best {
                Some(best) if compare(found.average, best.average) != Ordering::Greater => Some(best),
                _ => Some(found),
            },
        );
        let nine = WeightGrid::Points(9);
        let grown = match (self.from, best) {
            ("best", Some(found)) => {
                let found = found.clone();
                let again =
                    DescribedCandidate { candidate: found.candidate, what: found.what, weights: found.weights.clone() };
                let scored = context.score(std::slice::from_ref(&again), None);
                if let Some(&i) = scored.trials.first() {
                    context.accept(i, &again, "start: the best result of earlier strategies");
                }
                return scored.stop.map_or(Ok(Some(found.weights)), Err);
            }
            ("all", _) => return Ok(None),
            ("coefficient", _) => grow(context, nine, by_score),
            ("similarity", _) => grow(context, nine, most_similar),
            ("dissimilarity", _) => grow(context, nine, least_similar),
            _ => grow(context, WeightGrid::Average, by_score),
        };
        grown?;
        Ok(context.found().map(|found| found.weights.clone()))
    }

    /// An optimiser that starts where its method is best.
    fn optimiser(&self, context: &StrategyContext<'_, '_>, arm: &Arm, objectives: usize) -> Result<Search, StopReason> {
        let fail = |error: SearchError| StopReason::Strategy(error.chain());
        let space = arm.space.space().ok_or_else(|| fail(SearchError::EmptySpace))?;
        let options = Options {
            objectives: vec![Default::default(); objectives],
            seed: context.search().seed,
            evaluations: self.evaluations,
            start: vec![arm.start.clone()],
            settings: self.settings.clone(),
        };
        Search::new(self.optimiser, space.clone(), options).map_err(fail)
    }

    /// Optimises within the leading methods, and then within the best of them, whose optimiser's favourite it
    /// nominates.
    fn search(&self, context: &mut StrategyContext<'_, '_>, arms: Vec<Arm>, remaining: u64) -> Result<(), StopReason> {
        let tasks = context.order().first().and_then(|&i| context.baseline(i)).map_or(1, |scores| scores.tasks.len());
        let objectives = if self.optimiser.multi_objective && tasks > 1 { tasks } else { 1 };
        let mut running: Vec<(Arm, Search)> = Vec::new();
        for arm in arms {
            let search = self.optimiser(context, &arm, objectives)?;
            running.push((arm, search));
        }
        let done = generations(context, &mut running, objectives, remaining);
        sort(&mut running, |(arm, _)| arm);
        let favourite = running.first().and_then(|(arm, search)| Some((arm, search.favourite()?)));
        if let Some((arm, point)) = favourite {
            let mean = arm.described(&point)?;
            context.nominate(DescribedCandidate { what: format!("mean of the distribution: {}", mean.what), ..mean });
        }
        done
    }
}

/// The best first; equals stay in their order.
fn sort<T>(running: &mut [T], arm: impl Fn(&T) -> &Arm) {
    running.sort_by(|a, b| arm(b).compare(arm(a)));
}

/// Runs optimisers turn by turn, and after [`TRIAL_GENERATIONS`] only that of the best method, to the end.
fn generations(
    context: &mut StrategyContext<'_, '_>,
    running: &mut Vec<(Arm, Search)>,
    objectives: usize,
    mut remaining: u64,
) -> Result<(), StopReason> {
    for generation in 0_usize.. {
        if generation == TRIAL_GENERATIONS {
            sort(running, |(arm, _)| arm);
            running.truncate(1);
        }
        let mut proposed = false;
        for (arm, search) in running.iter_mut() {
            let n = arm.generation(context, search, objectives, remaining)?;
            proposed |= n > 0;
            remaining -= n;
        }
        if !proposed {
            break;
        }
    }
    Ok(())
}

/// A method in the race.
struct Arm {
    space: SearchSpace,
    /// Whether there are others, so that words about its candidates name it.
    several: bool,
    /// Its best point so far, from which its optimiser starts.
    start: Vec<f64>,
    /// The average of its best merge so far, of those that were scored on all items.
    average: Option<f64>,
}

impl Arm {
    fn compare(&self, other: &Arm) -> Ordering {
        match (self.average, other.average) {
            (Some(a), Some(b)) => compare(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    }

    fn described(&self, point: &[f64]) -> Result<DescribedCandidate, StopReason> {
        let candidate = self.space.candidate(point).map_err(|error| StopReason::Strategy(error.chain()))?;
        Ok(DescribedCandidate { candidate, what: words(&self.space, point, self.several), weights: Vec::new() })
    }

    fn saw(&mut self, point: &[f64], average: Option<f64>) {
        if let Some(average) = average
            && self.average.is_none_or(|best| compare(average, best) == Ordering::Greater)
        {
            self.average = Some(average);
            self.start = point.to_vec();
        }
    }

    /// Scores a generation of `search`, up to `remaining` candidates; how many were scored.
    fn generation(
        &mut self,
        context: &mut StrategyContext<'_, '_>,
        search: &mut Search,
        objectives: usize,
        remaining: u64,
    ) -> Result<u64, StopReason> {
        let fail = |error: SearchError| StopReason::Strategy(error.chain());
        if remaining == 0 {
            return Ok(0);
        }
        let mut asked = search.ask();
        asked.truncate(usize::try_from(remaining).unwrap_or(usize::MAX));
        let described: Vec<DescribedCandidate> =
            asked.iter().map(|asked| self.described(&asked.point)).collect::<Result<_, StopReason>>()?;
        let several = objectives > 1;
        let best = context.found().map(|found| cutoff_below(found.average));
        let scored = context.score(&described, best.filter(|_| !several));
        for ((asked, described), &i) in asked.iter().zip(&described).zip(&scored.trials) {
            match context.trials()[i].scores.clone() {
                Some(scores) if several => {
                    let values: Vec<f64> = scores.tasks.iter().map(|task| task.value).collect();
                    if values.len() == objectives {
                        search.tell(asked.id, &values).map_err(fail)?;
                    } else {
                        search.fail(asked.id).map_err(fail)?;
                    }
                }
                Some(scores) => search.tell(asked.id, &[scores.average]).map_err(fail)?,
                None => search.fail(asked.id).map_err(fail)?,
            }
            judge(context, i, described);
            self.saw(&asked.point, context.average(i));
        }
        scored.stop.map_or(Ok(asked.len() as u64), Err)
    }
}

/// Scores points of arms, given by the number of the arm, in parallel: on all items, since arms are compared by them.
fn score(
    context: &mut StrategyContext<'_, '_>,
    arms: &mut [Arm],
    mut points: Vec<(usize, Vec<f64>)>,
    remaining: &mut u64,
) -> Result<(), StopReason> {
    points.truncate(usize::try_from(*remaining).unwrap_or(usize::MAX));
    *remaining -= points.len() as u64;
    let described: Vec<DescribedCandidate> =
        points.iter().map(|(arm, point)| arms[*arm].described(point)).collect::<Result<_, StopReason>>()?;
    let scored = context.score(&described, None);
    for (((arm, point), described), &i) in points.iter().zip(&described).zip(&scored.trials) {
        judge(context, i, described);
        arms[*arm].saw(point, context.average(i));
    }
    scored.stop.map_or(Ok(()), Err)
}

/// Accepts trial `i` if it is better than the best so far.
pub(super) fn judge(context: &mut StrategyContext<'_, '_>, i: usize, described: &DescribedCandidate) {
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

/// A point in words, after the name of its method if there are several.
fn words(space: &SearchSpace, point: &[f64], several: bool) -> String {
    let named = space.space().and_then(|space| space.describe(point).ok()).unwrap_or_default();
    let word = |(name, value): &(&str, CoordinateValue<'_>)| match value {
        CoordinateValue::Real(x) => format!("{name} {}", short(*x)),
        CoordinateValue::Integer(x) => format!("{name} {x}"),
        CoordinateValue::Category(option) => format!("{name} {option}"),
    };
    let method = several.then(|| space.method().to_string());
    method.into_iter().chain(named.iter().map(word)).collect::<Vec<_>>().join(", ")
}

impl Strategy for Evolutionary {
    fn run(&self, context: &mut StrategyContext<'_, '_>) -> Result<(), StopReason> {
        let mut weights = self.start(context)?;
        // There is nothing to search with one model; an optimiser can leave the others out itself.
        if weights.as_ref().is_some_and(|weights| weights.len() < 2) {
            weights = None;
        }
        // In the order of the zoo, so that the space does not depend on the order in which models were accepted.
        let mut models: Vec<usize> = match &weights {
            Some(weights) => weights.iter().map(|&(i, _)| i).collect(),
            None => context.order(),
        };
        models.sort_unstable();
        let refuse = |error: SpaceError| StopReason::Strategy(error.chain());
        let search = context.search();
        let path = |i: usize| search.members[i].path.clone();
        let weights: Option<Vec<(String, f64)>> =
            weights.map(|weights| weights.iter().map(|&(i, weight)| (path(i), weight)).collect());
        let spaces = search.search_spaces(&models).map_err(refuse)?;
        let several = spaces.len() > 1;
        let mut arms = Vec::new();
        for space in spaces {
            let start = match &weights {
                // Weights of an average mean nothing to a method whose weights are not shares.
                Some(weights) if space.has_shares() => space.start(weights).map_err(refuse)?,
                _ => space.equal(),
            };
            arms.push(Arm { space, several, start, average: None });
        }
        let mut remaining = self.evaluations;
        let first = arms.iter().enumerate().map(|(arm, of)| (arm, of.start.clone())).collect();
        score(context, &mut arms, first, &mut remaining)?;
        arms.retain(|arm| arm.space.space().is_some());
        sort(&mut arms, |arm| arm);
        arms.truncate(LEADING);
        if weights.is_none() {
            let scaled = |(arm, of): (usize, &Arm)| {
                let points: Vec<_> = LENGTHS.iter().filter_map(|&length| of.space.scaled(&of.start, length)).collect();
                points.into_iter().map(move |point| (arm, point))
            };
            let points = arms.iter().enumerate().flat_map(scaled).collect();
            score(context, &mut arms, points, &mut remaining)?;
            // The score of a model by itself is known.
            let best = context.order().first().map(|&i| (path(i), context.baseline(i).map(|scores| scores.average)));
            if let Some((model, alone)) = best {
                for arm in arms.iter_mut().filter(|arm| arm.space.has_shares()) {
                    if alone.is_some_and(|alone| arm.average.is_none_or(|average| alone > average)) {
                        arm.start = arm.space.start(&[(model.clone(), 1.0)]).map_err(refuse)?;
                    }
                }
            }
        }
        self.search(context, arms, remaining)
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
