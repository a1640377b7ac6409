//! Soup of category experts (SoCE).
//!
//! Tasks are the categories. Two of them are weakly correlated if the Pearson correlation ρ of the models' scores,
//! each model scored alone, has |ρ| below `threshold`; a task that is weakly correlated with any other is one that a
//! specialist may decide. For each of these the model with the best score is the expert. The experts are averaged with
//! every combination of weights that are multiples of a step and sum to 1, 0.1 to 0.9 by default, and the best average
//! is the result.
//!
//! The published method has these four steps: correlations, experts, the grid of weights, the average. It names no
//! threshold for all cases, nor a limit: with many experts the grid grows beyond use. Here `evaluations` is the limit,
//! and combinations near equal weights come first. Two models correlate perfectly on any two tasks, and few models do
//! often by chance: with fewer than about five models the choice of tasks says little, though the experts are still
//! those of the tasks. A task on which all models score the same has no expert.
//!
//! Maiti et al., *Souper-Model: How Simple Arithmetic Unlocks State-of-the-Art LLM Performance*, arXiv 2511.13254.

use super::evolutionary::judge;
use super::greedy::alone;
use super::{Strategy, StrategyDef};
use crate::context::{DescribedCandidate, StrategyContext, Verdict, compare, cutoff_below, short};
use crate::evaluation_log::StopReason;
use glue_search::{ParamSpec, Params};
use std::cmp::Ordering;

const PARAMS: &[ParamSpec] = &[
    ParamSpec::number(
        "threshold",
        "Correlation of two tasks, regardless of its sign, below which they are weakly correlated.",
        0.0,
        1.0,
        0.5,
    ),
    ParamSpec::integer("parts", "Number of equal parts that weights are made of: 10 are 0.1 to 0.9.", 2, 20, 10),
    ParamSpec::integer("evaluations", "Maximum number of combinations of weights.", 1, 100_000, 100),
];

/// Weighted averages of the best models of weakly correlated tasks.
pub const SOCE: StrategyDef = StrategyDef {
    name: "soce",
    summary: "Averages the best models of weakly correlated tasks, with the best weights on a grid.",
    reference: "arXiv 2511.13254",
    params: PARAMS,
    build: |_, settings| {
        let params = Params::check("strategy `soce`", PARAMS, settings)?;
        let (threshold, evaluations) = (params.number("threshold"), params.count("evaluations"));
        Ok(Box::new(Soce { threshold, parts: params.count("parts"), evaluations }))
    },
};

struct Soce {
    threshold: f64,
    parts: usize,
    evaluations: usize,
}

/// Pearson's correlation; `None` if one of the lists is constant.
fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    let (of_a, of_b) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - of_a, b - of_b)).sum::<f64>();
    let (both, aa, bb) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    (aa > 0.0 && bb > 0.0).then(|| both / (aa * bb).sqrt())
}

/// The tasks that are weakly correlated with another one, given the scores of the models for each task.
fn weakly_correlated(tasks: &[Vec<f64>], threshold: f64) -> Vec<usize> {
    let weak = |&t: &usize| {
        let others = (0..tasks.len()).filter(|&other| other != t);
        others.filter_map(|other| pearson(&tasks[t], &tasks[other])).any(|rho| rho.abs() < threshold)
    };
    (0..tasks.len()).filter(weak).collect()
}

/// All ways to give `parts` equal parts to `n` receivers, at least one to each; equal shares first.
fn compositions(parts: usize, n: usize) -> Vec<Vec<usize>> {
    fn extend(left: usize, n: usize, begun: &mut Vec<usize>, all: &mut Vec<Vec<usize>>) {
        if n == 1 {
            all.push(begun.iter().copied().chain([left]).collect());
            return;
        }
        for part in 1..=left + 1 - n {
            begun.push(part);
            extend(left - part, n - 1, begun, all);
            begun.pop();
        }
    }
    let mut all = Vec::new();
    if n >= 1 && parts >= n {
        extend(parts, n, &mut Vec::new(), &mut all);
    }
    // Stable: the first of equals as they were made.
    all.sort_by_key(|shares| shares.iter().map(|share| share * share).sum::<usize>());
    all
}

impl Strategy for Soce {
    fn run(&self, context: &mut StrategyContext<'_, '_>) -> Result<(), StopReason> {
        let order = context.order();
        let Some(&first) = order.first() else {
            return Err(StopReason::Strategy("no model could be scored".into()));
        };
        let start = alone(context, first);
        let scored = context.score(std::slice::from_ref(&start), None);
        if let Some(&i) = scored.trials.first() {
            let average = context.average(i).unwrap_or(f64::NAN);
            context.accept(i, &start, format!("start: the best single model, {}", short(average)));
        }
        if let Some(stop) = scored.stop {
            return Err(stop);
        }
        let baselines: Vec<&crate::Scores> = order.iter().filter_map(|&i| context.baseline(i)).collect();
        let n_tasks = baselines.iter().map(|scores| scores.tasks.len()).min().unwrap_or(0);
        let tasks: Vec<Vec<f64>> =
            (0..n_tasks).map(|t| baselines.iter().map(|scores| scores.tasks[t].value).collect()).collect();
        // The experts by descending number of tasks, the best model first among equals.
        let mut experts: Vec<(usize, usize)> = Vec::new();
        for t in weakly_correlated(&tasks, self.threshold) {
            let of = &tasks[t];
            let best =
                (0..of.len()).fold(0, |best, i| if compare(of[i], of[best]) == Ordering::Greater { i } else { best });
            match experts.iter_mut().find(|(i, _)| *i == best) {
                Some((_, count)) => *count += 1,
                None => experts.push((best, 1)),
            }
        }
        experts.sort_by_key(|&(i, count)| (std::cmp::Reverse(count), i));
        experts.truncate(self.parts);
        if experts.len() < 2 {
            let reason = match experts.first() {
                None => format!("no two tasks have a correlation below {}", short(self.threshold)),
                Some(&(i, _)) => {
                    let name = &context.search().members[order[i]].name;
                    format!("{name} is the best model of every weakly correlated task")
                }
            };
            for &i in &scored.trials {
                let reason = format!("{}; nothing to average: {reason}", context.trials()[i].reason);
                context.decide(i, Verdict::Accepted, reason);
            }
            return Ok(());
        }
        let described: Vec<DescribedCandidate> = compositions(self.parts, experts.len())
            .into_iter()
            .take(self.evaluations)
            .map(|shares| {
                let share = |(&(i, _), share): (&(usize, usize), usize)| (order[i], share as f64 / self.parts as f64);
                context.linear(experts.iter().zip(shares).map(share).collect())
            })
            .collect();
        let best = context.found().map_or(f64::NEG_INFINITY, |found| found.average);
        let scored = context.score(&described, Some(cutoff_below(best)));
        for (described, &i) in described.iter().zip(&scored.trials) {
            judge(context, i, described);
        }
        scored.stop.map_or(Ok(()), Err)
    }

    fn evaluations(&self, models: usize) -> u64 {
        let most = (2..=models.min(self.parts)).map(|n| compositions(self.parts, n).len()).max().unwrap_or(0);
        most.min(self.evaluations) as u64
    }
}

#[cfg(test)]
mod tests {
    //! The parts by hand.
    use super::*;

    #[test]
    fn correlations_by_hand() {
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), Some(1.0));
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[1.0, 0.0, 1.0]), Some(0.0));
        assert_eq!(pearson(&[1.0, 2.0], &[5.0, 5.0]), None);
    }

    #[test]
    fn a_task_counts_if_it_is_weakly_correlated_with_any_other() {
        // The first two go together, the third is against them, the fourth has nothing to do with any; all score the
        // same in the last.
        let tasks = [
            vec![0.0, 1.0, 2.0, 3.0],
            vec![0.0, 2.0, 4.0, 6.0],
            vec![3.0, 2.0, 1.0, 0.0],
            vec![1.0, 0.0, 0.0, 1.0],
            vec![7.0; 4],
        ];
        assert_eq!(weakly_correlated(&tasks, 0.5), [0, 1, 2, 3]);
        assert_eq!(weakly_correlated(&tasks[..3], 0.5), [0; 0]);
        assert_eq!(weakly_correlated(&tasks, 0.0), [0; 0]);
    }

    #[test]
    fn shares_are_all_there_equal_ones_first() {
        let found = compositions(4, 2);
        assert_eq!(found, [[2, 2], [1, 3], [3, 1]]);
        assert_eq!([compositions(10, 3).len(), compositions(10, 5).len(), compositions(3, 4).len()], [36, 126, 0]);
        assert!(compositions(10, 4).iter().all(|shares| shares.iter().sum::<usize>() == 10));
    }
}
