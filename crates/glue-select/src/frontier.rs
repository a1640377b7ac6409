//! The size–score frontier: what is the best score for each number of models?
//!
//! A *partition* splits some of the models into groups; each group is one expert, a model as it is or a merge. Under
//! *perfect routing* every task goes to its best expert, so that a partition has a score before any mixture is built.
//! The frontier is a path of partitions, from all models that are the best at some task down to one model. Each step
//! takes one expert away, in the way that costs least:
//!
//! - an expert is *dropped*, and its tasks go to the next best one, which needs no evaluation; or
//! - two experts are *merged*: agglomerative clustering by what a merge costs. Candidates of a pair are compared by the
//!   score of the whole partition, so that a merge only has to keep what no other expert does better.
//!
//! # How evaluations are spent
//! A step is a successive halving over pairs. Every new pair gets one candidate, the most similar pairs first, if the
//! budget does not suffice for all; the better half gets two more; the best two get other weights and methods; the best
//! one is refined by a pattern search over the scales of its two groups. What was scored for a pair serves all later
//! steps. Half of what remains of a budget is spent in a step at most. Where dropping an expert costs less than one
//! standard error of the paired difference, it is dropped without trying a merge: what is within the noise cannot be
//! improved on.
//!
//! Candidates are recipes of models, not of merges: a merge of groups has a weight for each model, that in its group
//! times the scale of the group. With a base, groups are sums of task vectors, first with scale 1: task vectors that do
//! not interfere keep their effect only if they keep their length. Without a base they are averages.
//!
//! Merging experts by what it costs is known for the experts inside one model (HC-SMoE, arXiv 2410.08589; M-SMoE,
//! arXiv 2310.01334); successive halving is that of Jamieson and Talwalkar, arXiv 1502.07943.
//!
//! **Invariant:** scores on validation items are not read here: they decide between partitions afterwards.

mod pair;
#[cfg(test)]
mod tests;

use crate::context::{DescribedCandidate, short};
use crate::contract::{Candidate, Scores};
use crate::evaluation_log::{EvaluationLog, Purpose, StopReason};
use crate::recipe_text::{RecipeTemplate, alone};
use glue_eval::decision::{Gain, TaskOutcome, largest_gains};
use glue_eval::routing::assign;
use glue_merge::Registry;
use pair::{MergePoint, Pair};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A model of the zoo.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name in reports.
    pub name: String,
    /// Its path in recipes.
    pub path: String,
    /// Models of the same family, a number, can be merged with each other.
    pub family: usize,
    /// Its scores on the search items.
    pub scores: Scores,
}

/// The strategy of its merges, in journals and messages.
pub const FRONTIER: &str = "frontier";

/// The p-value above which a loss is within the noise: that of one standard error.
const NOISE: f64 = 0.16;

/// What the frontier is made from.
#[derive(Clone, Copy)]
pub struct FrontierInputs<'a> {
    /// The models that may be experts.
    pub sources: &'a [Source],
    /// What recipes of each family have in common; the base makes task vectors possible.
    pub families: &'a [RecipeTemplate],
    /// The similarity of two models of a family, by their numbers: cosines of task vectors where the base is known,
    /// else of weights. Only the order matters. `None` if it is not known.
    pub similarity: &'a dyn Fn(usize, usize) -> Option<f64>,
    /// The weight of each task; empty for equal weights.
    pub weights: &'a [f64],
    /// The merge methods.
    pub operators: &'a Registry,
    /// The source of the randomness of tests.
    pub seed: u64,
}

impl std::fmt::Debug for FrontierInputs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrontierInputs").field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// A model that is part of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Its number among the sources.
    pub model: usize,
    /// Its weight in the merge; 1 for a model alone.
    pub weight: f64,
}

/// A model, or a merge of models, that can be an expert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expert {
    /// Names of its models, joined by `+`.
    pub name: String,
    /// Its models with their weights.
    pub parts: Vec<Part>,
    /// The merge method; empty for a model alone.
    pub method: String,
    /// Its recipe.
    pub candidate: Candidate,
    /// Its scores on the search items.
    pub scores: Scores,
}

impl Expert {
    /// The merge in words, such as `task_arithmetic: news 1, mood 0.7`; empty for a model alone.
    pub fn words(&self, sources: &[Source]) -> String {
        if self.method.is_empty() {
            return String::new();
        }
        let part = |part: &Part| format!("{} {}", sources[part.model].name, short(part.weight));
        format!("{}: {}", self.method, self.parts.iter().map(part).collect::<Vec<_>>().join(", "))
    }
}

/// How a partition came from the one before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// All models that are the best at some task.
    Start,
    /// An expert was dropped.
    Dropped {
        /// Its number.
        expert: usize,
    },
    /// Two experts were merged.
    Merged {
        /// The first.
        first: usize,
        /// The second.
        second: usize,
    },
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// The numbers of its experts.
    pub experts: Vec<usize>,
    /// How it came to be.
    pub step: Step,
}

/// A candidate that was scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What it is, in words.
    pub what: String,
    /// Its average on the search items; `None` if it could not be scored.
    pub average: Option<f64>,
    /// The score of the partition with it, or why it could not be scored.
    pub reason: String,
}

/// The path of partitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// All experts, the sources first, by their numbers.
    pub experts: Vec<Expert>,
    /// The partitions, by descending number of experts.
    pub path: Vec<Partition>,
    /// Every merge that was scored, in order.
    pub trials: Vec<Trial>,
    /// Why not all pairs were tried, in words; `None` if they were.
    pub ended: Option<String>,
}

impl Frontier {
    /// For each task the expert of `partition` that is the best at it on the search items; the first of equals.
    pub fn routing(&self, partition: &[usize]) -> Vec<usize> {
        let scores: Vec<&Scores> = partition.iter().map(|&expert| &self.experts[expert].scores).collect();
        route(&scores).into_iter().map(|at| partition[at]).collect()
    }
}

/// For each task the position of the best; the first of equals.
fn route(scores: &[&Scores]) -> Vec<usize> {
    let values: Vec<Vec<f64>> =
        scores.iter().map(|scores| scores.tasks.iter().map(|task| task.value).collect()).collect();
    assign(&values.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// The weighted mean over tasks of the best of `scores`.
fn oracle(scores: &[&Scores], weights: &[f64]) -> f64 {
    let routing = route(scores);
    let weight = |t: usize| weights.get(t).copied().unwrap_or(1.0);
    let sum: f64 = routing.iter().enumerate().map(|(t, &at)| weight(t) * scores[at].tasks[t].value).sum();
    sum / (0..routing.len()).map(weight).sum::<f64>()
}

/// Scores of a task as the decision rule takes them.
fn outcomes<'a>(scores: &[&'a Scores]) -> Vec<TaskOutcome<'a>> {
    let task = |(t, at): (usize, usize)| {
        let task = &scores[at].tasks[t];
        TaskOutcome { value: task.value, items: &task.items, n: task.n }
    };
    route(scores).into_iter().enumerate().map(task).collect()
}

/// Walks from all useful models down to one. Evaluations go through `log`, which keeps them.
///
/// # Errors
/// [`StopReason`], except for a budget that is used up: then the rest of the path is made of what is known.
pub fn frontier(inputs: &FrontierInputs<'_>, log: &mut EvaluationLog<'_>) -> Result<Frontier, StopReason> {
    let sole = |(i, source): (usize, &Source)| Expert {
        name: source.name.clone(),
        parts: vec![Part { model: i, weight: 1.0 }],
        method: String::new(),
        candidate: alone(&inputs.families[source.family], &source.path),
        scores: source.scores.clone(),
    };
    let experts: Vec<Expert> = inputs.sources.iter().enumerate().map(sole).collect();
    let mut walk = Walk { inputs, log, experts, pairs: BTreeMap::new(), trials: Vec::new(), ended: None };
    let mut state = walk.useful();
    let mut path = vec![Partition { experts: state.clone(), step: Step::Start }];
    while state.len() > 1 {
        let step = walk.step(&state)?;
        state = walk.after(&state, &step);
        path.push(Partition { experts: state.clone(), step });
    }
    Ok(Frontier { experts: walk.experts, path, trials: walk.trials, ended: walk.ended })
}

struct Walk<'s, 'a> {
    inputs: &'s FrontierInputs<'s>,
    log: &'s mut EvaluationLog<'a>,
    experts: Vec<Expert>,
    /// What is known of pairs of experts.
    pairs: BTreeMap<(usize, usize), Pair>,
    trials: Vec<Trial>,
    ended: Option<String>,
}

/// The best way to drop an expert.
struct Drop {
    expert: usize,
    /// The score of the partition without it.
    value: f64,
    /// What it loses, with the paired standard error and the p-value of that.
    loss: Gain,
}

impl Walk<'_, '_> {
    fn scores(&self, experts: &[usize]) -> Vec<&Scores> {
        experts.iter().map(|&expert| &self.experts[expert].scores).collect()
    }

    /// The models that are the best at some task. Of models that are equally good there, the one with the highest
    /// average counts.
    fn useful(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.experts.len()).collect();
        order.sort_by(|&a, &b| {
            let average = |i: usize| self.experts[i].scores.average;
            crate::context::compare(average(b), average(a)).then(a.cmp(&b))
        });
        let mut useful: Vec<usize> = route(&self.scores(&order)).into_iter().map(|at| order[at]).collect();
        useful.sort_unstable();
        useful.dedup();
        useful
    }

    /// The expert whose loss costs least; the last of equals.
    fn drop(&self, state: &[usize]) -> Option<Drop> {
        let weights = self.inputs.weights;
        let all = self.scores(state);
        let without = |i: usize| {
            let mut rest = all.clone();
            rest.remove(i);
            (i, oracle(&rest, weights))
        };
        let best = (0..state.len()).map(without).reduce(|best, other| if other.1 >= best.1 { other } else { best });
        let (i, value) = best?;
        let mut rest = all.clone();
        rest.remove(i);
        let gain = largest_gains(&outcomes(&rest), &[outcomes(&all)], weights, self.inputs.seed)[0];
        Some(Drop { expert: state[i], value, loss: gain })
    }

    /// The cheapest step from `state`, which has two experts or more.
    fn step(&mut self, state: &[usize]) -> Result<Step, StopReason> {
        let Some(drop) = self.drop(state) else { return Ok(Step::Dropped { expert: state[0] }) };
        let dropped = Step::Dropped { expert: drop.expert };
        if drop.loss.p > NOISE {
            return Ok(dropped);
        }
        self.try_pairs(state, &drop)?;
        let mut best: Option<((usize, usize), f64)> = None;
        for pair in self.open_pairs(state) {
            if let Some(value) = self.pairs.get(&pair).and_then(|known| self.value(state, pair, known))
                && best.is_none_or(|(_, best)| value > best)
            {
                best = Some((pair, value));
            }
        }
        Ok(match best {
            // Of equals, fewer merges.
            Some(((first, second), value)) if value > drop.value => Step::Merged { first, second },
            _ => dropped,
        })
    }

    /// Pairs of experts that can be merged, by descending similarity.
    fn open_pairs(&self, state: &[usize]) -> Vec<(usize, usize)> {
        let family = |expert: usize| self.inputs.sources[self.experts[expert].parts[0].model].family;
        let mut pairs = Vec::new();
        for (at, &first) in state.iter().enumerate() {
            pairs.extend(state[at + 1..].iter().filter(|&&other| family(other) == family(first)).map(|&b| (first, b)));
        }
        let similarity = |(a, b): (usize, usize)| {
            let mut all = Vec::new();
            for one in &self.experts[a].parts {
                all.extend(self.experts[b].parts.iter().map(|two| (self.inputs.similarity)(one.model, two.model)));
            }
            let known: Vec<f64> = all.into_iter().flatten().collect();
            if known.is_empty() { f64::NEG_INFINITY } else { known.iter().sum::<f64>() / known.len() as f64 }
        };
        let mut ranked: Vec<((usize, usize), f64)> = pairs.into_iter().map(|pair| (pair, similarity(pair))).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.into_iter().map(|(pair, _)| pair).collect()
    }

    /// The score of the partition with the best known merge of a pair in its place.
    fn value(&self, state: &[usize], pair: (usize, usize), known: &Pair) -> Option<f64> {
        self.best(state, pair, known).map(|(_, value)| value)
    }

    /// The best known merge of a pair for a partition, and the score of the partition with it. Of equals, the one with
    /// the higher average of its own, then the first.
    fn best(&self, state: &[usize], (a, b): (usize, usize), known: &Pair) -> Option<(usize, f64)> {
        let others: Vec<usize> = state.iter().copied().filter(|&expert| expert != a && expert != b).collect();
        let mut best: Option<(usize, f64, f64)> = None;
        for (i, scores) in known.scored.iter().enumerate().filter_map(|(i, (_, scores))| Some((i, scores.as_ref()?))) {
            let mut all = self.scores(&others);
            all.push(scores);
            let value = oracle(&all, self.inputs.weights);
            let better = |(_, best, average): (usize, f64, f64)| match crate::context::compare(value, best) {
                std::cmp::Ordering::Equal => crate::context::compare(scores.average, average).is_gt(),
                order => order.is_gt(),
            };
            if best.is_none_or(better) {
                best = Some((i, value, scores.average));
            }
        }
        best.map(|(i, value, _)| (i, value))
    }

    /// Spends evaluations on the pairs of `state`.
    fn try_pairs(&mut self, state: &[usize], drop: &Drop) -> Result<(), StopReason> {
        let open = self.open_pairs(state);
        let budget = self.log.status().remaining;
        let mut allowed = budget.map_or(usize::MAX, |left| (left as usize).div_ceil(2));
        // One candidate for each pair that is new, the most similar first.
        let new: Vec<(usize, usize)> = open.iter().copied().filter(|pair| !self.pairs.contains_key(pair)).collect();
        // Something is kept for the better ones.
        let first = new.len().min((allowed / 2).max(1));
        if first < new.len() {
            self.ended = Some(format!("the budget left room for {first} of {} new pairs in one step", new.len()));
        }
        let wanted: Vec<_> = new[..first].iter().map(|&pair| (pair, self.pair(pair).first())).collect();
        self.score(wanted, &mut allowed, state)?;
        for fraction in [2, 4] {
            let ranked = self.ranked(state, &open);
            let kept = ranked.len().div_ceil(fraction).max(2).min(ranked.len());
            let wanted = ranked[..kept].iter().flat_map(|&pair| {
                let known = self.pair(pair);
                let best = self.best(state, pair, &known).map(|(i, _)| i);
                known.more(fraction == 4, best).into_iter().map(move |point| (pair, point)).collect::<Vec<_>>()
            });
            let wanted: Vec<_> = wanted.collect();
            self.score(wanted, &mut allowed, state)?;
        }
        // The best one is refined, unless dropping is clearly better.
        let Some(&pair) = self.ranked(state, &open).first() else { return Ok(()) };
        let mut step = 0.25;
        for _ in 0..3 {
            let known = self.pair(pair);
            let Some((best, value)) = self.best(state, pair, &known) else { break };
            if value < drop.value - drop.loss.stderr.unwrap_or(0.0) {
                break;
            }
            let wanted = known.around(best, step).into_iter().map(|point| (pair, point)).collect();
            self.score(wanted, &mut allowed, state)?;
            let improved = self.value(state, pair, &self.pair(pair)).is_some_and(|now| now > value);
            if !improved {
                step /= 2.0;
            }
        }
        Ok(())
    }

    /// What is known of a pair.
    fn pair(&self, pair: (usize, usize)) -> Pair {
        let template = &self.inputs.families[self.inputs.sources[self.experts[pair.0].parts[0].model].family];
        let methods = pair::methods(template.base_model.is_some(), self.inputs.operators);
        self.pairs.get(&pair).cloned().unwrap_or_else(|| Pair::new(methods))
    }

    /// Pairs with a score, the best first.
    fn ranked(&self, state: &[usize], open: &[(usize, usize)]) -> Vec<(usize, usize)> {
        let value = |pair: &(usize, usize)| self.value(state, *pair, self.pairs.get(pair)?);
        let mut ranked: Vec<((usize, usize), f64)> =
            open.iter().filter_map(|pair| Some((*pair, value(pair)?))).collect();
        // Stable: more similar pairs come first among equals.
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.into_iter().map(|(pair, _)| pair).collect()
    }

    /// Scores merges, as many as are allowed.
    fn score(
        &mut self,
        mut wanted: Vec<((usize, usize), MergePoint)>,
        allowed: &mut usize,
        state: &[usize],
    ) -> Result<(), StopReason> {
        wanted.truncate(*allowed);
        if wanted.is_empty() {
            return Ok(());
        }
        *allowed -= wanted.len();
        let describe = |(pair, point): &((usize, usize), MergePoint)| DescribedCandidate {
            candidate: self.candidate(*pair, point).0,
            what: self.describe(*pair, point),
            weights: Vec::new(),
        };
        let described: Vec<DescribedCandidate> = wanted.iter().map(describe).collect();
        // What a pair loses shows in the tasks of its members, not in an average: there is nothing to race against.
        let batch = self.log.score(FRONTIER, &described, Purpose::Search(None));
        for ((pair, point), outcome) in wanted.into_iter().zip(batch.outcomes) {
            let mut known = self.pair(pair);
            let what = self.describe(pair, &point);
            let trial = match outcome {
                Ok(scores) => {
                    let average = Some(scores.average);
                    known.scored.push((point, Some(scores)));
                    let value = self.value(state, pair, &known).unwrap_or(f64::NAN);
                    let reason = format!("{} experts with perfect routing: {}", state.len() - 1, short(value));
                    Trial { what, average, reason }
                }
                Err(error) => {
                    known.scored.push((point, None));
                    Trial { what, average: None, reason: error.message }
                }
            };
            self.trials.push(trial);
            self.pairs.insert(pair, known);
        }
        match batch.stop {
            Some(stop) if stop.budget().is_some() => {
                self.ended = Some(stop.to_string());
                *allowed = 0;
                Ok(())
            }
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }

    /// The parts of the merge of a pair at a point.
    fn parts(&self, (a, b): (usize, usize), point: &MergePoint) -> Vec<Part> {
        let scaled = |expert: usize, scale: f64| {
            let expert = &self.experts[expert];
            let sum: f64 = expert.parts.iter().map(|part| part.weight).sum();
            // The weights of an average are shares.
            let scale = if point.method.is_average && sum > 0.0 { scale / sum } else { scale };
            let part = move |part: &Part| Part { weight: (part.weight * scale * 1e4).round() / 1e4, ..*part };
            expert.parts.iter().map(part).collect::<Vec<_>>()
        };
        let mut parts = scaled(a, point.scales[0]);
        for part in scaled(b, point.scales[1]) {
            match parts.iter_mut().find(|known| known.model == part.model) {
                Some(known) => known.weight += part.weight,
                None => parts.push(part),
            }
        }
        parts.sort_by_key(|part| part.model);
        parts
    }

    fn candidate(&self, pair: (usize, usize), point: &MergePoint) -> (Candidate, Vec<Part>) {
        let parts = self.parts(pair, point);
        let sources = self.inputs.sources;
        let template = &self.inputs.families[sources[parts[0].model].family];
        let weights: Vec<(String, f64)> =
            parts.iter().map(|part| (sources[part.model].path.clone(), part.weight)).collect();
        (pair::recipe(template, &point.method, &weights), parts)
    }

    fn describe(&self, pair: (usize, usize), point: &MergePoint) -> String {
        let (candidate, parts) = self.candidate(pair, point);
        self.expert(candidate, parts, point, Scores { tasks: Vec::new(), average: 0.0, stderr: None, dropped: false })
            .words(self.inputs.sources)
    }

    fn expert(&self, candidate: Candidate, parts: Vec<Part>, point: &MergePoint, scores: Scores) -> Expert {
        let names: Vec<&str> = parts.iter().map(|part| self.inputs.sources[part.model].name.as_str()).collect();
        Expert { name: names.join("+"), method: point.method.name.into(), parts, candidate, scores }
    }

    /// The partition after a step.
    fn after(&mut self, state: &[usize], step: &Step) -> Vec<usize> {
        let without =
            |gone: &[usize]| state.iter().copied().filter(|expert| !gone.contains(expert)).collect::<Vec<_>>();
        match *step {
            Step::Start => state.to_vec(),
            Step::Dropped { expert } => without(&[expert]),
            Step::Merged { first, second } => {
                let known = self.pair((first, second));
                let best = self.best(state, (first, second), &known);
                let merged = best.and_then(|(i, _)| known.scored.get(i)).cloned();
                let mut rest = without(&[first, second]);
                if let Some((point, Some(scores))) = merged {
                    let (candidate, parts) = self.candidate((first, second), &point);
                    self.experts.push(self.expert(candidate, parts, &point, scores));
                    rest.push(self.experts.len() - 1);
                }
                rest
            }
        }
    }
}
