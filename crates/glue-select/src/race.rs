//! Racing: items are scored in rounds, and a candidate that can no longer win is dropped.
//!
//! A hash puts the items of each task into an order. Each round takes the next fraction of every task: rounds are
//! balanced over tasks and the same in every run. After a round, one of two rules decides:
//!
//! - *exact*: every item that was not scored counts as right. A candidate that cannot exceed the cutoff even so is
//!   dropped. Sums are taken in the order of a full evaluation, and rounding is monotone: no candidate is dropped that
//!   a full evaluation would put above the cutoff, to the last bit.
//! - *confident*: the mean over all items is predicted from those scored. If the items of the incumbent are known, it
//!   is the mean of the differences, item by item, and the cutoff is 0. A candidate below the cutoff with the given
//!   confidence is dropped. For task t with n of N items scored, mean m and variance v of those, the mean over all is
//!   predicted as (sum scored + (N−n)·m)/N with variance ((N−n)/N)²·v·(1/n + 1/(N−n)), and tasks are independent; the
//!   bound is one-sided and normal. Each task has one item at either end of the range added before m and v are taken,
//!   as Agresti and Coull (The American Statistician 52, 1998) do for a proportion, so that a few equal items do not
//!   count as certainty. The chance of error is divided by the number of looks (Bonferroni): a candidate that would
//!   have won is dropped in any of the rounds with at most that chance, as far as the normal approximation holds.
//!
//! Rank tests over all candidates, as in F-race, would make the result for one depend on which others are scored with
//! it.

use glue_eval::{ItemScore, Task};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// When a candidate is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Never: all items are scored in one round.
    Off,
    /// When it cannot exceed the cutoff with all remaining items right. The default.
    #[default]
    Exact,
    /// When it is below the incumbent with the given confidence. If a task is not scored by a fraction of its items,
    /// the exact rule holds instead.
    Confident,
}

/// How candidates are raced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaceConfig {
    /// When a candidate is dropped.
    pub rule: Rule,
    /// Fractions of the items scored by the end of each round, ascending in (0, 1]. A last round has the rest. Default:
    /// 1/8, 1/4, 1/2.
    pub fractions: Vec<f64>,
    /// Confidence of the rule of that name, in (0, 1). Default: 0.99.
    pub confidence: f64,
    /// Seed of the order of the items. Default: 0.
    pub seed: u64,
}

impl Default for RaceConfig {
    fn default() -> Self {
        Self { rule: Rule::default(), fractions: vec![0.125, 0.25, 0.5], confidence: 0.99, seed: 0 }
    }
}

/// An invalid option of a race.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`race.{key}`: expected {expected}, found {found}")]
pub struct RaceError {
    /// The key of the config.
    pub key: &'static str,
    /// What is expected.
    pub expected: &'static str,
    /// What was given.
    pub found: String,
}

impl RaceConfig {
    /// # Errors
    /// [`RaceError`] for fractions that do not ascend or a confidence out of range.
    pub fn check(&self) -> Result<(), RaceError> {
        let inside = |x: &f64| *x > 0.0 && *x <= 1.0;
        if !(self.fractions.iter().all(inside) && self.fractions.is_sorted_by(|a, b| a < b)) {
            let found = format!("{:?}", self.fractions);
            return Err(RaceError { key: "fractions", expected: "numbers above 0 and at most 1, ascending", found });
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            let found = self.confidence.to_string();
            return Err(RaceError { key: "confidence", expected: "a number above 0 and below 1", found });
        }
        Ok(())
    }

    /// The items of each round and, within, of each task, in ascending order of their numbers. `items` has those of
    /// each task, by name. Every item is in one round; a round without items is left out.
    pub fn rounds(&self, items: &[(&str, Vec<usize>)]) -> Vec<Vec<Vec<usize>>> {
        if self.rule == Rule::Off {
            return vec![items.iter().map(|(_, items)| items.clone()).collect()];
        }
        let ordered: Vec<Vec<usize>> = items.iter().map(|(task, items)| shuffled(task, items, self.seed)).collect();
        let mut begun = vec![0; items.len()];
        let mut rounds = Vec::new();
        for fraction in self.fractions.iter().copied().filter(|fraction| *fraction < 1.0).chain([1.0]) {
            let mut round = Vec::with_capacity(items.len());
            for (order, begun) in ordered.iter().zip(&mut begun) {
                let end = ((fraction * order.len() as f64).ceil() as usize).clamp(*begun, order.len());
                let mut taken = order[*begun..end].to_vec();
                taken.sort_unstable();
                round.push(taken);
                *begun = end;
            }
            if round.iter().any(|items| !items.is_empty()) {
                rounds.push(round);
            }
        }
        rounds
    }
}

/// The items of a task in an order that depends on nothing but their numbers, the task's name and the seed.
pub(crate) fn shuffled(task: &str, items: &[usize], seed: u64) -> Vec<usize> {
    let hash = |index: &usize| (xxh3_64_with_seed(format!("{task}\n{index}").as_bytes(), seed), *index);
    let mut ordered = items.to_vec();
    ordered.sort_by_key(hash);
    ordered
}

/// For each task, the scores of its items in the order of their numbers; `None` for items that were not scored.
pub(crate) type ItemScores = [Vec<Option<ItemScore>>];

/// Mean over tasks of the best possible main metrics, negated where less is better.
pub(crate) fn at_best(tasks: &[Task], known: &ItemScores) -> f64 {
    let task = |(task, known): (&Task, &Vec<Option<ItemScore>>)| {
        let best = task.main_at_best(known).unwrap_or(f64::NAN);
        if task.main_is_higher_better() { best } else { -best }
    };
    mean(tasks.iter().zip(known).map(task))
}

/// The mean, summed in order.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The upper bound of the average minus that of `incumbent`, or of the average itself without one, at a confidence that
/// holds for `looks` looks together. Items have scores from 0 to 1.
pub(crate) fn upper_bound(known: &ItemScores, incumbent: Option<&ItemScores>, confidence: f64, looks: usize) -> f64 {
    let (mut centre, mut variance) = (0.0, 0.0);
    for (t, items) in known.iter().enumerate() {
        let of = |i: usize, item: &Option<ItemScore>| {
            let theirs = incumbent.map_or(0.0, |incumbent| incumbent[t][i].map_or(0.0, |item| item.sum));
            item.map(|item| item.sum - theirs)
        };
        let seen: Vec<f64> = items.iter().enumerate().filter_map(|(i, item)| of(i, item)).collect();
        let (all, n) = (items.len() as f64, seen.len() as f64);
        let ends = if incumbent.is_some() { [-1.0, 1.0] } else { [0.0, 1.0] };
        let with_ends = || seen.iter().copied().chain(ends);
        let m = with_ends().sum::<f64>() / (n + 2.0);
        let v = with_ends().map(|x| (x - m).powi(2)).sum::<f64>() / (n + 1.0);
        let rest = all - n;
        centre += (seen.iter().sum::<f64>() + rest * m) / all;
        if rest > 0.0 {
            variance += (rest / all).powi(2) * v * (1.0 / n.max(1.0) + 1.0 / rest);
        }
    }
    let tasks = known.len() as f64;
    centre / tasks + upper_quantile((1.0 - confidence) / looks.max(1) as f64) * variance.sqrt() / tasks
}

/// The number that a normal variable exceeds with probability `p`, at most 1/2: formula 26.2.23 of Abramowitz and
/// Stegun (Handbook of Mathematical Functions, 1964), plus its maximum error, 4.5e-4.
fn upper_quantile(p: f64) -> f64 {
    let t = (-2.0 * p.min(0.5).ln()).sqrt();
    let ratio =
        (2.515_517 + t * (0.802_853 + t * 0.010_328)) / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    t - ratio + 4.5e-4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_grow_and_are_balanced() {
        let race = RaceConfig::default();
        let items = [("a", (0..100).collect()), ("b", (10..50).collect::<Vec<_>>()), ("c", vec![7])];
        let rounds = race.rounds(&items);
        let counts: Vec<Vec<usize>> = rounds.iter().map(|round| round.iter().map(Vec::len).collect()).collect();
        assert_eq!(counts, [[13, 5, 1], [12, 5, 0], [25, 10, 0], [50, 20, 0]]);
        for (t, (_, items)) in items.iter().enumerate() {
            let mut all: Vec<usize> = rounds.iter().flat_map(|round| round[t].clone()).collect();
            all.sort_unstable();
            assert_eq!(all, *items);
        }
        // Interleaved: the first round reaches into every quarter of the items.
        assert!((0..4).all(|q| rounds[0][0].iter().any(|i| i / 25 == q)), "{:?}", rounds[0][0]);
        assert_eq!(rounds, race.rounds(&items));
        assert_ne!(rounds, RaceConfig { seed: 1, ..race.clone() }.rounds(&items));
        let off = RaceConfig { rule: Rule::Off, ..race };
        assert_eq!(off.rounds(&items), [items.map(|(_, items)| items).to_vec()]);
    }

    #[test]
    fn fractions_and_confidence_are_checked() {
        let check = |fractions: &[f64], confidence, expected: &str| {
            let race = RaceConfig { fractions: fractions.to_vec(), confidence, ..RaceConfig::default() };
            assert_eq!(race.check().map_err(|e| e.to_string()).err().unwrap_or_default(), expected);
        };
        check(&[], 0.9, "");
        check(&[0.5, 1.0], 0.9, "");
        check(
            &[0.5, 0.5],
            0.9,
            "`race.fractions`: expected numbers above 0 and at most 1, ascending, found [0.5, 0.5]",
        );
        check(&[0.0], 0.9, "`race.fractions`: expected numbers above 0 and at most 1, ascending, found [0.0]");
        check(&[0.5], 1.0, "`race.confidence`: expected a number above 0 and below 1, found 1");
    }

    #[test]
    fn quantiles_are_not_below_those_of_the_tables() {
        for (p, z) in [(0.5, 0.0), (0.05, 1.644_854), (0.01, 2.326_348), (0.001, 3.090_232)] {
            let found = upper_quantile(p);
            // Twice the maximum error of the formula, which may have either sign.
            assert!(found >= z && found < z + 9.1e-4, "{p}: {found}");
        }
    }

    /// Runs races of candidates that are right with chance `p` against incumbents that are with chance 0.6. Returns how
    /// many would have won, how many of those were dropped, and how many were dropped in all.
    fn simulate(p: f64, trials: usize) -> (usize, usize, usize) {
        const ITEMS: usize = 80;
        let race = RaceConfig { rule: Rule::Confident, confidence: 0.9, ..RaceConfig::default() };
        let items: Vec<(&str, Vec<usize>)> = ["a", "b", "c"].iter().map(|task| (*task, (0..ITEMS).collect())).collect();
        let rounds = race.rounds(&items);
        let looks = rounds.len() - 1;
        let mut random = glue_search::Random::new(3, 0);
        let mut draw = |p: f64| -> Vec<Vec<Option<ItemScore>>> {
            let mut item = |index| {
                let sum = f64::from(u8::from(random.uniform() < p));
                Some(ItemScore { index, sum, weight: 1.0, loss: None })
            };
            (0..3).map(|_| (0..ITEMS).map(&mut item).collect()).collect()
        };
        let (mut winners, mut lost, mut dropped) = (0, 0, 0);
        for _ in 0..trials {
            let (mine, theirs) = (draw(p), draw(0.6));
            let total = |of: &ItemScores| of.iter().flatten().flatten().map(|item| item.sum).sum::<f64>();
            let wins = total(&mine) > total(&theirs);
            let mut known = vec![vec![None; ITEMS]; 3];
            let out = rounds[..looks].iter().any(|round| {
                for (t, items) in round.iter().enumerate() {
                    items.iter().for_each(|&i| known[t][i] = mine[t][i]);
                }
                upper_bound(&known, Some(&theirs), race.confidence, looks) < 0.0
            });
            winners += usize::from(wins);
            lost += usize::from(wins && out);
            dropped += usize::from(out);
        }
        (winners, lost, dropped)
    }

    #[test]
    fn winners_are_lost_no_more_often_than_stated_and_losers_go() {
        for p in [0.55, 0.6, 0.65] {
            let (winners, lost, _) = simulate(p, 1000);
            assert!(winners > 50 && lost as f64 <= 0.1 * winners as f64, "{lost} of {winners} at {p}");
        }
        let (_, _, dropped) = simulate(0.35, 300);
        assert!(dropped > 270, "{dropped} of 300");
    }
}
