//! Perfect routing: what a set of experts is worth if each task goes to the expert with the best score for it.
//!
//! [`prune_path`] is how the experts of a mixture are found. It starts with the best model of each task and repeatedly
//! drops the expert whose loss under perfect routing is least, which is backward elimination of variables (Miller,
//! *Subset Selection in Regression*, 2002). The best single model ends the path.
//!
//! Both functions take the maximum of noisy scores, which is too high. What they find has to be judged on other items:
//! a task counts with the score that *its* expert has there, not with the maximum ([`Route::outcomes`]).
//!
//! # What the rule makes of it
//! Simulated zoos (`tests/it/rule.rs`), 200 of each kind: the path from one half of the items, the decision by
//! [`decide`](crate::decision::decide) on the other half.
//!
//! Of 4, 8 or 16 equally good models in 5 or 20 tasks of 100 or 400 items, more than one is chosen in 5.1 % of cases,
//! no matter how much the models agree.
//!
//! With one specialist per task, five points better than the others, a mixture is chosen in this many of 100 cases. The
//! columns say in how many of 100 items two of the models differ.
//!
//! | tasks | items of each task | 45 | 32 | 23 | 19 | 14 | 10 |
//! |---|---|---|---|---|---|---|---|
//! | 3 | 400 | 30 | 32 | 43 | 58 | 68 | 80 |
//! | 3 | 800 | 58 | 69 | 77 | 86 | 95 | 100 |
//! | 5 | 200 | 18 | 19 | 30 | 32 | 46 | 56 |
//! | 5 | 400 | 38 | 50 | 67 | 74 | 89 | 95 |
//! | 5 | 800 | 72 | 89 | 96 | 98 | 100 | 100 |
//! | 5 | 1600 | 97 | 99 | 100 | 100 | 100 | 100 |
//! | 10 | 400 | 37 | 54 | 80 | 92 | 97 | 100 |
//! | 20 | 400 | 40 | 70 | 92 | 98 | 100 | 100 |
//! | 20 | 800 | 97 | 100 | 100 | 100 | 100 | 100 |
//!
//! How much do models differ? Of pairs within five points of each other on a task: among LoRA fine-tunes of
//! SmolLM2-135M (AG News, Rotten Tomatoes, BLiMP) in 1 to 29 % of 100 items, the median 3 %; among full fine-tunes of a
//! small base on generated tasks in 3 to 30 %, the median 20 %. So 400 items in five tasks find specialists of five
//! points among the former, but the latter need 800 items, or ten tasks.
//!
//! Cross-fitting does not help. Let each half find the path that is judged on the other half. In 5 tasks of 400 items,
//! with models that differ in 19 % of the items, the pooled differences choose a mixture in 93 instead of 76 % of
//! cases, but among equally good models also in 7 to 10 %: where the halves agree by chance on the better expert, both
//! count that as a gain, so that their errors are not independent. Twice the smaller of the two p-values keeps to 5 %
//! and reaches 86 %, but needs experts that were made without any of the items, which merges are not. Assigning tasks
//! by parts of the second half as well reaches 77 %, and exceeds 5 %. Other shares than halves are no better. What
//! helps is more items.

use crate::decision::TaskOutcome;

/// Experts, and which of them each task goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The models that are experts, in ascending order.
    pub experts: Vec<usize>,
    /// The expert of each task, as the number of the model.
    pub of_task: Vec<usize>,
}

impl Route {
    /// What the route scores: in each task the outcome of its expert. `models` has the outcomes of each model, task by
    /// task.
    pub fn outcomes<'a>(&self, models: &[Vec<TaskOutcome<'a>>]) -> Vec<TaskOutcome<'a>> {
        self.of_task.iter().enumerate().map(|(task, &expert)| models[expert][task]).collect()
    }
}

/// For each task the expert with the highest score, the first of equals. `experts` has the scores of each expert, task
/// by task; more is better. No tasks without an expert.
///
/// # Panics
/// If experts have different numbers of tasks.
pub fn assign(experts: &[&[f64]]) -> Vec<usize> {
    let tasks = experts.first().map_or(0, |scores| scores.len());
    assert!(experts.iter().all(|scores| scores.len() == tasks), "the same tasks for all experts");
    let best = |task: usize| {
        let better = |best: usize, e: usize| if experts[e][task] > experts[best][task] { e } else { best };
        (0..experts.len()).reduce(better).unwrap_or(0)
    };
    (0..tasks).map(best).collect()
}

/// Candidates for a mixture, from the best model of each task down to one model: at each step the expert is dropped
/// whose loss in the weighted average under perfect routing is least, the last of equals. The last candidate is the
/// single model with the best average of all, whether or not it is an expert of a larger one. Empty without a model.
///
/// `models` has the scores of each model, task by task; more is better. `weights` has the weight of each task, of any
/// scale; empty for equal weights.
///
/// # Panics
/// If models have different numbers of tasks, or weights do not fit.
pub fn prune_path(models: &[Vec<f64>], weights: &[f64]) -> Vec<Route> {
    let Some(tasks) = models.first().map(Vec::len) else { return Vec::new() };
    assert!(weights.is_empty() || weights.len() == tasks, "a weight for each task");
    let weight = |task: usize| weights.get(task).copied().unwrap_or(1.0);
    let route = |experts: Vec<usize>| {
        let scores: Vec<&[f64]> = experts.iter().map(|&model| &models[model][..]).collect();
        let of_task: Vec<usize> = assign(&scores).into_iter().map(|expert| experts[expert]).collect();
        let value: f64 = of_task.iter().enumerate().map(|(task, &model)| weight(task) * models[model][task]).sum();
        (Route { experts, of_task }, value)
    };
    let best = |routes: &mut dyn Iterator<Item = (Route, f64)>| {
        routes.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(route, _)| route)
    };
    let mut experts = route((0..models.len()).collect()).0.of_task;
    experts.sort_unstable();
    experts.dedup();
    let mut path = Vec::new();
    let mut next = Some(route(experts).0);
    while let Some(current) = next.filter(|route| route.experts.len() > 1) {
        let without =
            |&dropped: &usize| route(current.experts.iter().copied().filter(|&expert| expert != dropped).collect());
        next = best(&mut current.experts.iter().rev().map(without));
        path.push(current);
    }
    path.extend(best(&mut (0..models.len()).map(|model| route(vec![model]))));
    path
}

#[cfg(test)]
mod tests {
    //! By hand.
    use super::*;

    #[test]
    fn each_task_goes_to_its_best_expert_and_the_least_useful_is_dropped() {
        let models = [
            vec![0.5, 0.5, 0.5, 0.5], // the best average, and the best in nothing
            vec![0.9, 0.1, 0.1, 0.2],
            vec![0.1, 0.8, 0.1, 0.2],
            vec![0.1, 0.2, 0.6, 0.6],
        ];
        let scores: Vec<&[f64]> = models.iter().map(Vec::as_slice).collect();
        assert_eq!(assign(&scores), [1, 2, 3, 3]);
        assert_eq!(assign(&[&[0.3, 0.3], &[0.3, 0.4]]), [0, 1]);
        // Without expert 1: 0.1 + 0.8 + 1.2; without 2: 0.9 + 0.2 + 1.2; without 3: 0.9 + 0.8 + 0.1 + 0.2.
        let found: Vec<_> = prune_path(&models, &[]).into_iter().map(|route| (route.experts, route.of_task)).collect();
        let expected = [(vec![1, 2, 3], vec![1, 2, 3, 3]), (vec![1, 3], vec![1, 3, 3, 3]), (vec![0], vec![0, 0, 0, 0])];
        assert_eq!(found, expected);
        // Where only the second task counts, its expert is all that is needed.
        assert_eq!(prune_path(&models, &[0.0, 1.0, 0.0, 0.0])[1].experts, [1, 2]);
        assert_eq!(prune_path(&models, &[0.0, 1.0, 0.0, 0.0])[2].experts, [2]);
        assert_eq!(prune_path(&[], &[]), []);
    }
}
