//! The heuristics: a merge that grows by one model at a time, as long as it does not get worse.
//!
//! With `method: linear`, the published way, the merge is an average, whose weights sum to 1. With `task_arithmetic` it
//! grows in the same way and, as the sum of weighted task vectors on the base that it also is, is then made longer: all
//! weights are multiplied by factors from 1 to 2, and the best is kept. The average is the case of 1, so that nothing
//! is lost but the evaluations.

use super::evolutionary::judge;
use super::{Strategy, StrategyError};
use crate::context::{DescribedCandidate, SearchContext, StrategyContext, compare, cutoff_below, short};
use crate::evaluation_log::StopReason;
use crate::recipe_text::weighted;
use glue_search::{ParamSpec, Params};
use std::cmp::Ordering;

/// The parameter of heuristics that can also average.
pub(super) const POINTS: ParamSpec = ParamSpec::integer(
    "points",
    "Number of weights of the current merge tried with each model, evenly spaced; 0 is a running average.",
    0,
    99,
    9,
);

/// The parameter of all heuristics for what the merge is.
pub(super) const METHOD: ParamSpec = ParamSpec::choice(
    "method",
    "What the merge is: `linear` is an average of models; `task_arithmetic` then also makes the sum of their weighted \
     task vectors on the base longer, by the best factor between 1 and 2.",
    &["linear", "task_arithmetic"],
    "linear",
);

/// How many factors are tried where a heuristic has no number of points.
const LENGTHS: usize = 9;

/// Whether `params` of `strategy` ask for task vectors, which need a base.
pub(super) fn lengthens(search: &SearchContext<'_>, strategy: &str, params: &Params) -> Result<bool, StrategyError> {
    match (params.word("method"), &search.template.base_model) {
        ("linear", _) => Ok(false),
        (_, Some(_)) => Ok(true),
        (method, None) => Err(StrategyError::Refused {
            strategy: strategy.into(),
            reason: format!("`method: {method}` adds task vectors to a base; name one as `base`"),
        }),
    }
}

/// The weights that the current merge keeps when another model is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WeightGrid {
    /// m / (m + 1) for a merge of m models: all have the same weight in the end.
    Average,
    /// i / (n + 1) for i from 1 to n; the best is kept.
    Points(usize),
}

impl WeightGrid {
    /// With `n` points, or an average for 0.
    pub(super) fn new(n: usize) -> WeightGrid {
        if n == 0 { WeightGrid::Average } else { WeightGrid::Points(n) }
    }

    /// Number of candidates for each model.
    fn len(self) -> u64 {
        match self {
            WeightGrid::Average => 1,
            WeightGrid::Points(n) => n as u64,
        }
    }

    fn of(self, m: usize) -> Vec<f64> {
        match self {
            WeightGrid::Average => vec![m as f64 / (m + 1) as f64],
            // The greatest first: among equals, the one that changes least is kept.
            WeightGrid::Points(n) => (1..=n).rev().map(|i| i as f64 / (n + 1) as f64).collect(),
        }
    }
}

/// Which of the remaining models comes next, as an index: `(current weights, remaining models)`.
pub(super) type Next = fn(&StrategyContext<'_, '_>, &[(usize, f64)], &[usize]) -> Result<usize, StopReason>;

/// Starts from the best single model and tries the others one by one.
pub(super) struct Greedy {
    pub(super) grid: WeightGrid,
    pub(super) next: Next,
    /// Whether the merge is made longer in the end.
    pub(super) lengthen: bool,
}

impl Greedy {
    /// How many factors are tried.
    fn lengths(&self) -> usize {
        match self.grid {
            _ if !self.lengthen => 0,
            WeightGrid::Average => LENGTHS,
            WeightGrid::Points(n) => n,
        }
    }
}

impl Strategy for Greedy {
    fn run(&self, context: &mut StrategyContext<'_, '_>) -> Result<(), StopReason> {
        grow(context, self.grid, self.next)?;
        let weights = context.found().map_or(Vec::new(), |found| found.weights.clone());
        if weights.len() < 2 {
            return Ok(());
        }
        let search = context.search();
        let n = self.lengths();
        let longer = |i: usize| {
            let factor = 1.0 + i as f64 / (n + 1) as f64;
            let weights: Vec<(usize, f64)> = weights.iter().map(|&(i, w)| (i, w * factor)).collect();
            let by_path: Vec<_> = weights.iter().map(|&(i, w)| (search.members[i].path.clone(), w)).collect();
            let candidate = weighted(&search.template, "task_arithmetic", &by_path, &[]);
            DescribedCandidate { candidate, what: format!("task_arithmetic, {}", search.words(&weights)), weights }
        };
        let described: Vec<DescribedCandidate> = (1..=n).map(longer).collect();
        let cutoff = context.found().map(|found| cutoff_below(found.average));
        let scored = context.score(&described, cutoff);
        for (described, &i) in described.iter().zip(&scored.trials) {
            judge(context, i, described);
        }
        scored.stop.map_or(Ok(()), Err)
    }

    fn evaluations(&self, models: usize) -> u64 {
        models.saturating_sub(1) as u64 * self.grid.len() + self.lengths() as u64
    }
}

/// Starts from the best single model and tries the others in the order of `next`. A model is accepted when the merge is
/// at least as good with it as without.
pub(super) fn grow(context: &mut StrategyContext<'_, '_>, grid: WeightGrid, next: Next) -> Result<(), StopReason> {
    let mut remaining = context.order();
    if remaining.is_empty() {
        return Err(StopReason::Strategy("no model could be scored".into()));
    }
    let first = remaining.remove(0);
    let mut current = vec![(first, 1.0)];
    let start = alone(context, first);
    let scored = context.score(std::slice::from_ref(&start), None);
    if let Some(&i) = scored.trials.first() {
        let average = context.average(i).unwrap_or(f64::NAN);
        context.accept(i, &start, format!("start: the best single model, {}", short(average)));
    }
    if let Some(stop) = scored.stop {
        return Err(stop);
    }
    while !remaining.is_empty() {
        let best = context.found().map_or(f64::NEG_INFINITY, |found| found.average);
        let at = next(context, &current, &remaining)?;
        let model = remaining.remove(at);
        let mixed = |kept: f64| -> Vec<(usize, f64)> {
            current.iter().map(|&(i, w)| (i, w * kept)).chain([(model, 1.0 - kept)]).collect()
        };
        let described: Vec<DescribedCandidate> =
            grid.of(current.len()).into_iter().map(|kept| context.linear(mixed(kept))).collect();
        let scored = context.score(&described, Some(cutoff_below(best)));
        let chosen = best_of(context, &scored.trials).filter(|&at| {
            context.average(scored.trials[at]).is_some_and(|average| compare(average, best) != Ordering::Less)
        });
        for (at, &i) in scored.trials.iter().enumerate() {
            match chosen {
                Some(chosen) if chosen == at => {
                    let average = context.average(i).unwrap_or(f64::NAN);
                    let name = &context.search().members[model].name;
                    let reason = format!("accepted {name}: {} >= {} (best so far)", short(average), short(best));
                    context.accept(i, &described[at], reason);
                }
                Some(chosen) => {
                    let better = context.average(scored.trials[chosen]).unwrap_or(best);
                    context.reject(i, better);
                }
                None => context.reject(i, best),
            }
        }
        if let Some(chosen) = chosen {
            current.clone_from(&described[chosen].weights);
        }
        if let Some(stop) = scored.stop {
            return Err(stop);
        }
    }
    Ok(())
}

/// A model alone, by the recipe of its baseline.
pub(super) fn alone(context: &StrategyContext<'_, '_>, i: usize) -> DescribedCandidate {
    let search = context.search();
    let candidate = crate::recipe_text::alone(&search.template, &search.members[i].path);
    DescribedCandidate { candidate, what: search.words(&[(i, 1.0)]), weights: vec![(i, 1.0)] }
}

/// The index of the highest average; the first among equals.
fn best_of(context: &StrategyContext<'_, '_>, trials: &[usize]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, &i) in trials.iter().enumerate() {
        if let Some(average) = context.average(i)
            && best.is_none_or(|(_, found)| compare(average, found) == Ordering::Greater)
        {
            best = Some((at, average));
        }
    }
    best.map(|(at, _)| at)
}

/// The next in the order of baselines.
pub(super) fn by_score(_: &StrategyContext<'_, '_>, _: &[(usize, f64)], _: &[usize]) -> Result<usize, StopReason> {
    Ok(0)
}

/// The model most similar to the current merge; the better one among equals.
pub(super) fn most_similar(
    context: &StrategyContext<'_, '_>,
    current: &[(usize, f64)],
    remaining: &[usize],
) -> Result<usize, StopReason> {
    by_similarity(context, current, remaining, 1.0)
}

/// The model least similar to the current merge; the better one among equals.
pub(super) fn least_similar(
    context: &StrategyContext<'_, '_>,
    current: &[(usize, f64)],
    remaining: &[usize],
) -> Result<usize, StopReason> {
    by_similarity(context, current, remaining, -1.0)
}

fn by_similarity(
    context: &StrategyContext<'_, '_>,
    current: &[(usize, f64)],
    remaining: &[usize],
    sign: f64,
) -> Result<usize, StopReason> {
    let mut chosen = (0, f64::NEG_INFINITY);
    for (at, &model) in remaining.iter().enumerate() {
        let worth = sign * context.similarity(current, model)?;
        if worth > chosen.1 {
            chosen = (at, worth);
        }
    }
    Ok(chosen.0)
}
