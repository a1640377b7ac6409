//! Finalists: the merges that are scored on the validation items, and the rule by which one of them is chosen.
//!
//! The best of hundreds of noisy scores is mostly luck. A strategy therefore hands on several candidates, its
//! [`FINALISTS`] best by search score and those that it [nominates](crate::context::StrategyContext::nominate), such as
//! the mean of an optimiser's final distribution. They are scored on validation items, which the search never saw, and
//! [`glue_eval::decision`] decides: the incumbent is the best single model by search score, the challengers are all
//! finalists, and a merge of fewer models is simpler.

use crate::context::{TrialRecord, Verdict, compare, short};
use crate::contract::Scores;
use crate::summary::{Row, RulingRow};
use glue_eval::decision::{ALPHA, Comparison, Contender, Gain, Ruling, TaskOutcome, decide};
use glue_merge::Registry;
use glue_recipe::Recipe;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

/// Number of finalists of a strategy by search score.
pub const FINALISTS: usize = 5;

/// Maximum number of accepted candidates of a strategy that are scored on validation items.
const MAX_ACCEPTED: usize = 20;

/// A merge that may be the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// The strategy that found it first.
    pub strategy: String,
    /// Number of models that it merges.
    pub models: usize,
    /// What it is, and its scores. Without search scores if only the strategy's distribution says that it is good.
    #[serde(flatten)]
    pub row: Row,
}

/// The best trials of a strategy, as indices, best first: distinct recipes that are not in `known`, the recipes of
/// single models. Those that were scored on all items come first, then estimates, then what was dropped.
pub(crate) fn best_trials(trials: &[TrialRecord], known: &HashSet<String>) -> Vec<usize> {
    let mut best = ranked(trials, known);
    best.truncate(FINALISTS);
    best
}

/// The trials of a strategy whose scores are estimates that deserve all items, as indices, best first: one in fifty,
/// and as many as there are finalists at least.
pub(crate) fn leading(trials: &[TrialRecord], known: &HashSet<String>) -> Vec<usize> {
    let is_estimate = |i: &usize| trials[*i].scores.as_ref().is_some_and(|scores| scores.stderr.is_some());
    let mut leading: Vec<usize> = ranked(trials, known).into_iter().filter(is_estimate).collect();
    leading.truncate(trials.len().div_ceil(50).max(FINALISTS));
    leading
}

/// Trials with scores, as indices, best first: distinct recipes that are not in `known`.
fn ranked(trials: &[TrialRecord], known: &HashSet<String>) -> Vec<usize> {
    let mut seen: HashSet<&str> = HashSet::new();
    let mut best: Vec<(usize, &Scores)> = trials
        .iter()
        .enumerate()
        .filter_map(|(i, trial)| Some((i, trial.scores.as_ref()?)))
        .filter(|(i, _)| !known.contains(&trials[*i].recipe))
        .collect();
    let class = |scores: &Scores| (scores.dropped, scores.stderr.is_some());
    best.sort_by(|(_, a), (_, b)| class(a).cmp(&class(b)).then(compare(b.average, a.average)));
    best.retain(|(i, _)| seen.insert(&trials[*i].recipe));
    best.into_iter().map(|(i, _)| i).collect()
}

/// Up to [`MAX_ACCEPTED`] of the trials that were accepted, as indices, evenly spread, with the first and the last.
pub(crate) fn accepted(trials: &[TrialRecord]) -> Vec<usize> {
    let all: Vec<usize> = (0..trials.len()).filter(|&i| trials[i].verdict == Verdict::Accepted).collect();
    match all.len() {
        n if n <= MAX_ACCEPTED => all,
        n => (0..MAX_ACCEPTED).map(|k| all[k * (n - 1) / (MAX_ACCEPTED - 1)]).collect(),
    }
}

/// Number of different models that a recipe merges, the base aside; 0 for a text that is no recipe.
pub(crate) fn models_merged(recipe: &str, operators: &Registry) -> usize {
    let Some(recipe) = Recipe::parse(recipe, "finalist", operators).ok().and_then(|mut recipes| recipes.pop()) else {
        return 0;
    };
    let base = recipe.base.as_ref().map(|base| base.value.as_str());
    let models: HashSet<&str> =
        recipe.models().map(|model| model.value.as_str()).filter(|model| Some(*model) != base).collect();
    models.len()
}

/// The scores of a model as the rule takes them, in the order of the tasks of `reference`; `None` if one is missing.
pub(crate) fn outcomes<'a>(reference: &Scores, of: &'a Scores) -> Option<Vec<TaskOutcome<'a>>> {
    let find = |task: &crate::contract::TaskScore| {
        let task = of.tasks.iter().find(|other| other.task == task.task)?;
        Some(TaskOutcome { value: task.value, items: &task.items, n: task.n })
    };
    reference.tasks.iter().map(find).collect()
}

/// The weights of tasks in averages, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskWeights(pub BTreeMap<String, f64>);

impl TaskWeights {
    /// Those of the tasks of some scores, in their order; empty for equal weights.
    pub fn of(&self, scores: Option<&Scores>) -> Vec<f64> {
        let tasks = scores.iter().flat_map(|scores| &scores.tasks);
        let weight = |task: &crate::contract::TaskScore| self.0.get(&task.task).copied().unwrap_or(1.0);
        if self.0.is_empty() { Vec::new() } else { tasks.map(weight).collect() }
    }
}

/// Which finalist is the result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Choice {
    /// Its index.
    pub(crate) best: usize,
    /// Whether it is significantly better than the best single model; `None` if the rule could not be applied.
    pub(crate) significant: Option<bool>,
    /// Why, in whole sentences.
    pub(crate) reason: String,
    /// The comparisons that led to it.
    pub(crate) ruling: Vec<RulingRow>,
}

impl Choice {
    /// Where no merge could be scored.
    pub(crate) fn without_finalists(single: &Row) -> Choice {
        let reason = format!("No merge could be scored; the best single model is {}.", single.name);
        Choice { best: 0, significant: None, reason, ruling: Vec::new() }
    }
}

/// Chooses among finalists, of which there is at least one. `single` is the best single model by search score.
pub(crate) fn choose(single: &Row, finalists: &[Finalist], weights: &TaskWeights, seed: u64) -> Choice {
    let mut of_finalists = Vec::new();
    let mut contenders = Vec::new();
    let held = single.validation.as_ref().filter(|held| !held.dropped);
    for (i, finalist) in finalists.iter().enumerate() {
        let tasks = held.zip(finalist.row.validation.as_ref()).and_then(|(held, scores)| outcomes(held, scores));
        if let Some(tasks) = tasks {
            of_finalists.push(i);
            contenders.push(Contender { complexity: (1, finalist.models as u64), tasks });
        }
    }
    let incumbent = held.and_then(|held| Some(Contender { complexity: (0, 1), tasks: outcomes(held, held)? }));
    let Some(incumbent) = incumbent.filter(|_| !contenders.is_empty()) else {
        return without_validation(single, finalists);
    };
    let Ruling { winner, comparisons } = decide(&incumbent, &contenders, &weights.of(held), ALPHA, seed);
    let name = |j: usize| finalists[of_finalists[j]].row.name.as_str();
    let row = |comparison: &Comparison| RulingRow {
        question: "Which merge is the result?".into(),
        incumbent: comparison.incumbent.map_or(single.name.as_str(), name).into(),
        challenger: name(comparison.challenger).into(),
        gain: comparison.gain.value,
        stderr: comparison.gain.stderr,
        p: comparison.gain.p,
        challengers: comparison.challengers,
        accepted: comparison.significant,
    };
    let ruling = comparisons.iter().map(row).collect();
    // The first comparisons are those of each challenger with the single model.
    let gain = |j: usize| comparisons[j].gain;
    let highest = |j: usize, k: usize| match compare(gain(k).value, gain(j).value) {
        Ordering::Greater => k,
        Ordering::Equal if contenders[k].complexity < contenders[j].complexity => k,
        _ => j,
    };
    let best = winner.unwrap_or_else(|| (1..contenders.len()).fold(0, highest));
    let words = gain_words(&gain(best), contenders.len());
    let reason = match winner {
        Some(_) if comparisons.len() > contenders.len() && comparisons.last().is_some_and(|last| !last.significant) => {
            format!(
                "It is significantly better than the best single model, {}, on the validation items: {words}. It is the \
                 simplest merge that no other significantly beats.",
                single.name
            )
        }
        Some(_) => format!(
            "It is significantly better than the best single model, {}, on the validation items: {words}.",
            single.name
        ),
        None => format!(
            "No merge is significantly better than the best single model, {}, on the validation items: the best of them \
             gains {words}. It is written as the result all the same.",
            single.name
        ),
    };
    Choice { best: of_finalists[best], significant: Some(winner.is_some()), reason, ruling }
}

/// A gain in words: `+0.031 ± 0.010 (p = 0.002, corrected for 11 finalists)`.
fn gain_words(gain: &Gain, finalists: usize) -> String {
    let stderr = gain.stderr.map_or(String::new(), |stderr| format!(" ± {}", short(stderr)));
    let of = if finalists == 1 { String::new() } else { format!(", corrected for {finalists} finalists") };
    format!("{:+.4}{stderr} (p = {}{of})", gain.value, short(gain.p))
}

/// The best on the search items, as the rule cannot be applied.
fn without_validation(single: &Row, finalists: &[Finalist]) -> Choice {
    let best =
        (1..finalists.len()).fold(0, |best, i| if finalists[i].row.is_above(&finalists[best].row) { i } else { best });
    let number = |row: &Row| row.search.as_ref().map_or("unknown".into(), |scores| short(scores.average));
    let reason = format!(
        "It has the highest average on the search items, {}; the best single model, {}, has {}. Without scores on \
         validation items it is not known whether it is better: these averages were searched for.",
        number(&finalists[best].row),
        single.name,
        number(single)
    );
    Choice { best, significant: None, reason, ruling: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::TaskScore;

    /// Scores on one task with these items.
    fn scores(items: &[f64]) -> Scores {
        let average = items.iter().sum::<f64>() / items.len() as f64;
        let n = items.len();
        let task = TaskScore { task: "t".into(), metric: "acc".into(), value: average, n, items: items.to_vec() };
        Scores { tasks: vec![task], average, stderr: None, dropped: false }
    }

    /// Ones at `from..to` of 200 items, and wherever `rest` says.
    fn items(from: usize, to: usize) -> Scores {
        scores(&(0..200).map(|i| f64::from(u8::from((from..to).contains(&i)))).collect::<Vec<_>>())
    }

    fn row(name: &str, search: f64, validation: Option<Scores>) -> Row {
        let search = Some(Scores { tasks: vec![], average: search, stderr: None, dropped: false });
        Row { name: name.into(), what: name.into(), recipe: name.into(), search, validation, proxy: None, gap: None }
    }

    fn finalist(name: &str, models: usize, search: f64, validation: Option<Scores>) -> Finalist {
        Finalist { strategy: "s".into(), models, row: row(name, search, validation) }
    }

    #[test]
    fn the_rule_decides_and_says_what_it_found() {
        let single = row("a-math", 0.7, Some(items(0, 100)));
        // The luckiest on the search items loses; of two that gain the same, the merge of fewer models wins.
        let (lucky, wide, narrow) = (
            finalist("lucky", 2, 0.9, Some(items(0, 90))),
            finalist("wide", 4, 0.8, Some(items(0, 131))),
            finalist("narrow", 2, 0.75, Some(items(0, 130))),
        );
        let choice = choose(&single, &[lucky.clone(), wide.clone(), narrow], &TaskWeights::default(), 3);
        assert_eq!((choice.best, choice.significant), (2, Some(true)));
        assert!(
            choice.reason.contains("significantly better than the best single model, a-math")
                && choice.reason.contains("+0.1500 ± ")
                && choice.reason.contains("the simplest merge that no other significantly beats"),
            "{}",
            choice.reason
        );
        assert_eq!(choice.ruling.len(), 4);
        let last = choice.ruling.last().expect("rows");
        assert_eq!((last.incumbent.as_str(), last.challenger.as_str(), last.accepted), ("narrow", "wide", false));
        // Nothing gained: the best merge is the result, and the reason is honest.
        let slight = finalist("slight", 2, 0.8, Some(items(0, 102)));
        let choice = choose(&single, &[lucky, slight], &TaskWeights::default(), 3);
        assert_eq!((choice.best, choice.significant), (1, Some(false)));
        assert!(
            choice.reason.starts_with("No merge is significantly better than the best single model, a-math")
                && choice.reason.contains("+0.0100 ± 0.00"),
            "{}",
            choice.reason
        );
        assert!(choice.ruling.iter().all(|row| !row.accepted && row.challengers == 2));
        // Without validation items there is no rule.
        let choice =
            choose(&row("a-math", 0.7, None), &[finalist("b", 2, 0.71, None), wide], &TaskWeights::default(), 3);
        assert_eq!((choice.best, choice.significant, choice.ruling.len()), (1, None, 0));
        assert!(choice.reason.contains("it is not known whether it is better"), "{}", choice.reason);
    }

    #[test]
    fn trials_are_distinct_and_full_ones_come_first() {
        let trial = |recipe: &str, average: f64, dropped: bool, verdict: Verdict| TrialRecord {
            strategy: "s".into(),
            what: recipe.into(),
            weights: vec![],
            verdict,
            reason: String::new(),
            scores: Some(Scores { tasks: vec![], average, stderr: None, dropped }),
            validation: None,
            recipe: recipe.into(),
        };
        let mut trials = vec![
            trial("single", 0.9, false, Verdict::Accepted),
            trial("a", 0.5, false, Verdict::Accepted),
            trial("dropped", 0.7, true, Verdict::Rejected),
            trial("b", 0.8, false, Verdict::Accepted),
            trial("a", 0.5, false, Verdict::Accepted),
        ];
        trials.push(TrialRecord { scores: None, ..trial("failed", 0.0, false, Verdict::Failed) });
        let known = HashSet::from(["single".to_string()]);
        assert_eq!(best_trials(&trials, &known), [3, 1, 2]);
        assert_eq!(accepted(&trials), [0, 1, 3, 4]);
        // Estimates come after what was scored on all items, and one in fifty of them is scored again.
        let estimate = |i: usize| {
            let mut trial = trial(&format!("e{i}"), 0.9 + 1e-4 * i as f64, false, Verdict::Accepted);
            trial.scores.as_mut().expect("scores").stderr = Some(0.02);
            trial
        };
        let estimated: Vec<TrialRecord> = trials.iter().cloned().chain((0..194).map(estimate)).collect();
        assert_eq!(best_trials(&estimated, &known), [3, 1, 199, 198, 197]);
        assert_eq!(leading(&estimated, &known), [199, 198, 197, 196, 195]);
        let more: Vec<TrialRecord> = estimated.iter().cloned().chain((194..600).map(estimate)).collect();
        assert_eq!(leading(&more, &known).len(), 13);
        assert_eq!((leading(&estimated[..20], &known).len(), leading(&trials, &known).len()), (5, 0));
        let many: Vec<TrialRecord> = (0..77).map(|_| trial("x", 0.5, false, Verdict::Accepted)).collect();
        let spread = accepted(&many);
        assert_eq!((spread.len(), spread[0], spread[19]), (20, 0, 76));
        assert!(spread.is_sorted_by(|a, b| a < b));
        assert_eq!(best_trials(&many, &known), [0]);
    }

    #[test]
    fn models_are_counted_without_the_base() {
        let operators = Registry::builtin();
        let recipe = "merge_method: task_arithmetic\nbase_model: base\nmodels:\n- model: a\n  parameters: {weight: 0.5}\n\
                      - model: b\n  parameters: {weight: 0.5}\n- model: base\n";
        assert_eq!((models_merged(recipe, &operators), models_merged("x", &operators)), (2, 0));
    }
}
