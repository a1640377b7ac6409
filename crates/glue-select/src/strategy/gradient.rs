//! Coefficients learned by gradient.
//!
//! The merge is θ0 + Σ wi,g τi with a coefficient for each model i and each group g of layers. Adam minimises the loss
//! of the right answers to the search items over the coefficients alone: ∂L/∂wi,g is the sum of ⟨∂L/∂θ, τi⟩ over the
//! tensors of the group. A step reads `batch` items, spread evenly over the tasks, in an order drawn by the seed; no
//! item comes again before all items of its task came. The loss of an item is 1 − p with p the probability of the right
//! one among its choices or, where only the right continuation is known, the geometric mean of the probabilities of its
//! tokens: a smooth version of one minus the score. The log-likelihood itself is no good loss here: it is ruled by
//! items that are hopeless or of tasks with long answers, and went down on the test zoo without the score going up.
//! Tasks without a right continuation, whole texts and programs that are run, are left out of the loss, and the reason
//! of the result says which; they are part of its score as always.
//!
//! The coefficients start from the best of three merges with equal weights and of the single models. Every quarter of
//! the steps, and for the mean of the coefficients over the last quarter, which averages the noise of small batches
//! out, the merge is scored on all search items as any candidate is, and the best is the result: a loss says less than
//! the score that counts.
//!
//! AdaMerging, where this comes from, minimises the entropy of predictions on unlabelled test inputs, with coefficients
//! from 0.3 on and 500 steps of 0.001. Here there are labels, and items that are used for nothing but the search.
//!
//! Yang et al., *AdaMerging: Adaptive Model Merging for Multi-Task Learning*, arXiv 2310.02575; Kingma and Ba, *Adam*,
//! arXiv 1412.6980.

use super::evolutionary::judge;
use super::{Strategy, StrategyDef, StrategyError};
use crate::context::{DescribedCandidate, SearchContext, StrategyContext, short};
use crate::contract::LossGradient;
use crate::evaluation_log::StopReason;
use crate::race::shuffled;
use crate::space::{Choice, MethodConfig, Range, SearchSpace, SpaceConfig, SpaceError};
use glue_progress::ErrorChain;
use glue_search::{ParamSpec, Params};
use std::collections::BTreeMap;

const PARAMS: &[ParamSpec] = &[
    ParamSpec::integer("steps", "Number of steps.", 1, 100_000, 100),
    ParamSpec::number("rate", "Learning rate of Adam: about the length of a step of a coefficient.", 1e-6, 1.0, 0.01),
    ParamSpec::integer("batch", "Items of a step, spread evenly over the tasks; at least one of each.", 1, 100_000, 32),
    ParamSpec::integer(
        "layer_groups",
        "Number of contiguous groups of layers with separate coefficients, besides one for the tensors outside of the \
         layers; 0 is a group for each layer.",
        0,
        100_000,
        0,
    ),
];

/// Lengths of the merged task vector that are tried as starts; 1 is the average of the models.
const LENGTHS: [f64; 3] = [0.5, 1.0, 1.5];

/// How many times the merge is scored while it is learned.
const CHECKS: usize = 4;

/// The smallest and the greatest coefficient: from a model that is subtracted to one that counts twice.
const BOUNDS: (f64, f64) = (-1.0, 2.0);

/// Adam on the coefficients of task vectors.
pub const GRADIENT: StrategyDef = StrategyDef {
    name: "gradient",
    summary: "Learns weights of task vectors, layer by layer, by the gradient of the loss of the right answers.",
    reference: "arXiv 2310.02575",
    params: PARAMS,
    build: |search, settings| {
        let params = Params::check("strategy `gradient`", PARAMS, settings)?;
        let refuse = |reason: String| StrategyError::Refused { strategy: "gradient".into(), reason };
        if search.template.base_model.is_none() {
            return Err(refuse("it adds task vectors to a base; name one as `base`".into()));
        }
        let gradient = Gradient {
            steps: params.count("steps"),
            rate: params.number("rate"),
            batch: params.count("batch"),
            layer_groups: params.count("layer_groups"),
        };
        let all: Vec<usize> = (0..search.members.len()).collect();
        gradient.space(search, &all).map_err(|error| refuse(error.chain()))?;
        Ok(Box::new(gradient))
    },
};

struct Gradient {
    steps: usize,
    rate: f64,
    batch: usize,
    layer_groups: usize,
}

impl Gradient {
    /// The space of the coefficients: task vectors of their own length, with weights by group of layers.
    fn space(&self, search: &SearchContext<'_>, models: &[usize]) -> Result<SearchSpace, SpaceError> {
        let paths: Vec<String> = models.iter().map(|&i| search.members[i].path.clone()).collect();
        let weight = Range { min: Some(BOUNDS.0), max: Some(BOUNDS.1), ..Range::default() };
        let choices = [("weight", Choice::Range(weight)), ("lambda", Choice::Number(1.0))];
        let choices: BTreeMap<String, Choice> = choices.map(|(key, choice)| (key.to_string(), choice)).into();
        let config = SpaceConfig {
            methods: vec![MethodConfig::With([("task_arithmetic".to_string(), choices)].into())],
            layer_groups: if self.layer_groups == 0 { search.tensors.layers() } else { self.layer_groups },
            ..SpaceConfig::default()
        };
        let mut spaces = SearchSpace::all(&config, &search.template, &paths, &search.tensors, search.operators)?;
        // One method, one space.
        Ok(spaces.swap_remove(0))
    }

    /// Scores merges on all search items, and accepts one that is better than the best so far. `note` is added to what
    /// is recorded about them.
    fn check(
        &self,
        context: &mut StrategyContext<'_, '_>,
        learning: &Learning,
        points: &[(String, Vec<f64>)],
        note: &str,
    ) -> Result<Vec<Option<f64>>, StopReason> {
        let described = |(what, point): &(String, Vec<f64>)| {
            let candidate = learning.space.candidate(point).map_err(|error| StopReason::Strategy(error.chain()))?;
            let what = format!("{what}: {}", learning.words(context.search(), point));
            Ok(DescribedCandidate { candidate, what, weights: Vec::new() })
        };
        let described: Vec<DescribedCandidate> = points.iter().map(described).collect::<Result<_, StopReason>>()?;
        let scored = context.score(&described, None);
        for (described, &i) in described.iter().zip(&scored.trials) {
            judge(context, i, described);
            let trial = &context.trials()[i];
            let (verdict, reason) = (trial.verdict, format!("{}{note}", trial.reason));
            context.decide(i, verdict, reason);
        }
        let averages = scored.trials.iter().map(|&i| context.average(i)).collect();
        scored.stop.map_or(Ok(averages), Err)
    }
}

/// The coefficients and what they belong to.
struct Learning {
    models: Vec<usize>,
    space: SearchSpace,
}

impl Learning {
    /// The mean weight of each model over its groups.
    fn words(&self, search: &SearchContext<'_>, point: &[f64]) -> String {
        let per_model = point.len() / self.models.len().max(1);
        let mean = |(&i, weights): (&usize, &[f64])| {
            format!("{} {}", search.members[i].name, short(weights.iter().sum::<f64>() / weights.len() as f64))
        };
        let means: Vec<String> = self.models.iter().zip(point.chunks(per_model.max(1))).map(mean).collect();
        format!("{}{}", means.join(" + "), if per_model > 1 { " (means over layers)" } else { "" })
    }

    /// The derivative by each coefficient.
    fn slopes(&self, gradient: &LossGradient, coefficients: usize) -> Vec<f64> {
        let mut slopes = vec![0.0; coefficients];
        for (tensor, of_models) in &gradient.tensors {
            for (model, slope) in of_models.iter().enumerate() {
                if let Some(at) = self.space.weight_of(model, tensor) {
                    slopes[at] += slope;
                }
            }
        }
        slopes
    }
}

/// Adam with the constants of its paper.
struct Adam {
    rate: f64,
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Adam {
    fn new(rate: f64, n: usize) -> Adam {
        Adam { rate, first: vec![0.0; n], second: vec![0.0; n], steps: 0 }
    }

    /// Moves `point` against `slopes`, within bounds.
    fn step(&mut self, point: &mut [f64], slopes: &[f64], (low, high): (f64, f64)) {
        const BETA: [f64; 2] = [0.9, 0.999];
        const TINY: f64 = 1e-8;
        self.steps += 1;
        let [lack, lack_of_squares] = BETA.map(|beta| 1.0 - beta.powi(self.steps));
        for (((x, slope), first), second) in point.iter_mut().zip(slopes).zip(&mut self.first).zip(&mut self.second) {
            *first = BETA[0] * *first + (1.0 - BETA[0]) * slope;
            *second = BETA[1] * *second + (1.0 - BETA[1]) * slope * slope;
            let moved = *x - self.rate * (*first / lack) / ((*second / lack_of_squares).sqrt() + TINY);
            *x = moved.clamp(low, high);
        }
    }
}

/// Draws items, task by task: all items of a task in one order, then in another.
struct Draw {
    seed: u64,
    /// Name and number of items of each task; 0 for one that is left out.
    tasks: Vec<(String, usize)>,
    /// For each task, the rest of the current order, to be taken from its end, and how many orders there were.
    rest: Vec<(Vec<usize>, usize)>,
}

impl Draw {
    fn new(seed: u64, tasks: Vec<(String, usize)>) -> Draw {
        let rest = vec![(Vec::new(), 0); tasks.len()];
        Draw { seed, tasks, rest }
    }

    /// About `batch` items, equally many of each task and at least one, by the numbers of task and item.
    fn next(&mut self, batch: usize) -> Vec<(usize, usize)> {
        let open = self.tasks.iter().filter(|(_, n)| *n > 0).count().max(1);
        let mut items = Vec::new();
        for (task, ((name, n), (rest, orders))) in self.tasks.iter().zip(&mut self.rest).enumerate() {
            for _ in 0..(batch / open).max(1).min(*n) {
                if rest.is_empty() {
                    let all: Vec<usize> = (0..*n).collect();
                    *rest = shuffled(&format!("gradient {orders} of {name}"), &all, self.seed);
                    *orders += 1;
                }
                items.extend(rest.pop().map(|item| (task, item)));
            }
        }
        items
    }

    fn leave_out(&mut self, name: &str) {
        self.tasks.iter_mut().filter(|(task, _)| task == name).for_each(|(_, n)| *n = 0);
    }
}

impl Strategy for Gradient {
    fn run(&self, context: &mut StrategyContext<'_, '_>) -> Result<(), StopReason> {
        let refuse = |error: SpaceError| StopReason::Strategy(error.chain());
        let mut models = context.order();
        let Some(&best) = models.first() else {
            return Err(StopReason::Strategy("no model could be scored".into()));
        };
        models.sort_unstable();
        let search = context.search();
        let space = self.space(search, &models).map_err(refuse)?;
        let learning = Learning { models, space };
        let path = |i: usize| search.members[i].path.clone();
        let paths: Vec<String> = learning.models.iter().map(|&i| path(i)).collect();
        let equal = |length: f64| -> Vec<(String, f64)> {
            paths.iter().map(|path| (path.clone(), length / paths.len() as f64)).collect()
        };
        let mut starts = Vec::new();
        for length in LENGTHS {
            starts.push(("start".to_string(), learning.space.start(&equal(length)).map_err(refuse)?));
        }
        // The score of a model by itself is known.
        let alone = learning.space.start(&[(path(best), 1.0)]).map_err(refuse)?;
        let averages = self.check(context, &learning, &starts, "")?;
        let mut start: (Option<f64>, Vec<f64>) = (context.baseline(best).map(|scores| scores.average), alone);
        for ((_, point), average) in starts.into_iter().zip(averages) {
            if average >= start.0 {
                start = (average, point);
            }
        }
        let of_tasks = |scores: &crate::Scores| scores.tasks.iter().map(|task| (task.task.clone(), task.n)).collect();
        let tasks: Vec<(String, usize)> = context.baseline(best).map(of_tasks).unwrap_or_default();
        let mut draw = Draw::new(context.search().seed, tasks);
        let mut point = start.1;
        let mut adam = Adam::new(self.rate, point.len());
        let mut left_out: Vec<String> = Vec::new();
        let (mut losses, mut mean, mut averaged) = (Vec::new(), vec![0.0; point.len()], 0.0);
        for step in 1..=self.steps {
            let candidate = learning.space.candidate(&point).map_err(refuse)?;
            let gradient = context.loss_gradient(&candidate, &draw.next(self.batch))?;
            for name in &gradient.left_out {
                draw.leave_out(name);
                left_out.push(name.clone());
            }
            losses.push(gradient.loss);
            adam.step(&mut point, &learning.slopes(&gradient, mean.len()), BOUNDS);
            if CHECKS * (self.steps - step) < self.steps {
                averaged += 1.0;
                mean.iter_mut().zip(&point).for_each(|(mean, x)| *mean += (x - *mean) / averaged);
            }
            if CHECKS * step / self.steps > CHECKS * (step - 1) / self.steps {
                let loss = losses.iter().sum::<f64>() / losses.len() as f64;
                let mut note = format!("; mean loss {} in {} steps", short(loss), losses.len());
                if !left_out.is_empty() {
                    note += &format!("; not learned from, without a right continuation: {}", left_out.join(", "));
                }
                losses.clear();
                let mut points = vec![(format!("after {step} steps"), point.clone())];
                if step == self.steps {
                    points.push((format!("mean of the last {averaged} steps"), mean.clone()));
                }
                self.check(context, &learning, &points, &note)?;
            }
        }
        Ok(())
    }

    fn evaluations(&self, _: usize) -> u64 {
        (LENGTHS.len() + CHECKS.min(self.steps) + 1) as u64
    }
}

#[cfg(test)]
mod tests {
    //! The parts by hand.
    use super::*;

    #[test]
    fn adam_by_hand() {
        let mut adam = Adam::new(0.1, 2);
        let mut point = [0.0, 1.95];
        // The first step is as long as the rate, whatever the slope; bounds hold.
        adam.step(&mut point, &[4.0, -1e-3], BOUNDS);
        assert!((point[0] + 0.1).abs() < 1e-8 && point[1] == 2.0, "{point:?}");
        // first = 0.9 · 0.4 - 0.1 · 2 = 0.16 over 0.19; second = 0.999 · 0.016 + 0.001 · 4 = 0.019984 over 0.001999.
        adam.step(&mut point, &[-2.0, 0.0], BOUNDS);
        let expected = -0.1 - 0.1 * (0.16 / 0.19) / (0.019984_f64 / 0.001999).sqrt();
        assert!((point[0] - expected).abs() < 1e-7, "{point:?}");
    }

    #[test]
    fn items_come_again_when_all_have_come() {
        let mut draw = Draw::new(7, vec![("a".into(), 5), ("b".into(), 2), ("c".into(), 9)]);
        draw.leave_out("c");
        let drawn: Vec<Vec<(usize, usize)>> = (0..5).map(|_| draw.next(4)).collect();
        let of = |task: usize| -> Vec<usize> {
            drawn.iter().flatten().filter(|(t, _)| *t == task).map(|(_, item)| *item).collect()
        };
        let sorted = |items: &[usize]| {
            let mut items = items.to_vec();
            items.sort_unstable();
            items
        };
        let (a, b) = (of(0), of(1));
        assert_eq!((sorted(&a[..5]), sorted(&a[5..])), (vec![0, 1, 2, 3, 4], vec![0, 1, 2, 3, 4]));
        assert_ne!(a[..5], a[5..], "the second order is another one");
        assert!(b.chunks(2).all(|pair| sorted(pair) == [0, 1]) && of(2).is_empty());
        assert_ne!(Draw::new(8, vec![("a".into(), 50)]).next(50), Draw::new(7, vec![("a".into(), 50)]).next(50));
        // At least one of each task, and no more than there are.
        assert_eq!(Draw::new(0, vec![("a".into(), 5), ("b".into(), 2)]).next(1).len(), 2);
        assert_eq!(Draw::new(0, vec![("a".into(), 5), ("b".into(), 2)]).next(99).len(), 7);
    }
}
