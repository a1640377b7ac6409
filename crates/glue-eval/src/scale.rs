//! Scales of scores, and what makes scores on different scales comparable.
//!
//! An accuracy is a fraction; a perplexity is not. Their mean says nothing, and the larger numbers decide it. So tasks
//! on different scales have no average unless each has a weight ([`task_weights`]), and perplexities can be converted:
//! for texts of n bytes whose log-likelihood is ℓ nats in all, −bits per byte is ℓ / (n ln 2), which depends neither on
//! the tokenizer nor on the length of the texts (Gao et al., *The Pile*, arXiv 2101.00027).
//!
//! # Contributions of items
//! A [`ComparableScore`] has a contribution of each item, whose mean is the score. For a mean they are the scores of
//! the items. Any other score is a function f of a ratio r = Σ a_i / Σ b_i, and then item i of n contributes
//!
//! f(r) + f′(r) · (a_i − r b_i) · n / Σ b_j,
//!
//! the pseudo-values of the delta method: their standard error is that of the score, and their differences between two
//! models are in the unit of the score. A long text counts for more than a short one, as it does in r.

use crate::decision::TaskOutcome;
use crate::evaluate::Prepared;
use crate::metrics::{Aggregation, Metric, Score};
use crate::report::ItemScore;
use crate::task::{Ask, Item, Task};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the main metric of a task is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scale {
    /// The mean of numbers from 0 to 1, one for each item: more is better, and the standard error is known.
    Fraction,
    /// A function of the likelihood of given texts, such as a perplexity, bits per byte or a mean log-likelihood: as
    /// bits per byte it can be compared between tasks.
    Perplexity,
    /// Anything else.
    Other,
}

/// What tasks on the scale [`Scale::Perplexity`] are measured in: the key `perplexity` of a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PerplexityUnit {
    /// The main metric of the task. The default.
    #[default]
    Reported,
    /// Bits per byte.
    BitsPerByte,
}

/// The score of a model in a task as decisions compare it: more is better. A perplexity counts with a minus sign.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparableScore {
    /// The score.
    pub value: f64,
    /// Its standard error; `None` where it is not known.
    pub stderr: Option<f64>,
    /// What each item contributes: their mean is the score. Empty for a median, and for a score that is not finite.
    pub items: Vec<f64>,
    /// Number of items.
    pub n: usize,
}

impl ComparableScore {
    /// The score, for [`decide`](crate::decision::decide).
    pub fn outcome(&self) -> TaskOutcome<'_> {
        TaskOutcome { value: self.value, items: &self.items, n: self.n }
    }

    /// The score relative to `chance`, less than 1: (x − chance) / (1 − chance), 0 for guessing and 1 for perfection
    /// ("centered accuracy" in Li et al., *DataComp-LM*, arXiv 2406.11794).
    #[must_use]
    pub fn chance_normalised(self, chance: f64) -> ComparableScore {
        let normalised = |x: f64| (x - chance) / (1.0 - chance);
        ComparableScore {
            value: normalised(self.value),
            stderr: self.stderr.map(|stderr| stderr / (1.0 - chance)),
            items: self.items.into_iter().map(normalised).collect(),
            n: self.n,
        }
    }

    /// `scores` aggregated, with more for better.
    fn new(aggregation: Aggregation, higher_is_better: bool, scores: &[Score]) -> ComparableScore {
        let estimate = aggregation.of(scores);
        let sign = if higher_is_better { 1.0 } else { -1.0 };
        let items = if estimate.value.is_finite() { aggregation.contributions(scores) } else { Vec::new() };
        ComparableScore {
            value: sign * estimate.value,
            stderr: estimate.stderr,
            items: items.into_iter().map(|x| sign * x).collect(),
            n: scores.len(),
        }
    }
}

impl Task {
    /// What its main metric is measured in.
    pub fn scale(&self) -> Scale {
        match self.main_spec() {
            Some((_, spec)) if spec.aggregation == Aggregation::Median => Scale::Other,
            Some((_, spec)) if spec.is_share() => Scale::Fraction,
            Some((_, spec)) if spec.metric.is_likelihood() => Scale::Perplexity,
            Some(_) => Scale::Other,
            None => Scale::Other,
        }
    }

    fn measured(&self) -> Measured<'_> {
        Measured { name: self.name(), scale: self.scale(), metric: self.main_metric() }
    }
}

impl Prepared {
    /// The score of a model in task `task` over `items`, which are of these prepared tasks; `None` without an item.
    ///
    /// # Panics
    /// When there is no such task, or one of the items is not of it.
    pub fn comparable(&self, task: usize, items: &[ItemScore], perplexity: PerplexityUnit) -> Option<ComparableScore> {
        let (_, spec) = self.tasks()[task].main_spec().filter(|_| !items.is_empty())?;
        if self.tasks()[task].scale() == Scale::Perplexity && perplexity == PerplexityUnit::BitsPerByte {
            let score = |item: &ItemScore| {
                Some(Score { sum: -item.loss?, weight: bytes(&self.items()[task].items[item.index])? as f64 })
            };
            let scores: Vec<Score> = items.iter().map(score).collect::<Option<_>>()?;
            return Some(ComparableScore::new(Aggregation::BitsPerByte, false, &scores));
        }
        let scores: Vec<Score> = items.iter().map(|item| Score { sum: item.sum, weight: item.weight }).collect();
        Some(ComparableScore::new(spec.aggregation, spec.higher_is_better(), &scores))
    }

    /// For each task the score that guessing has: in a task whose main metric is an accuracy of choices, the mean over
    /// its items of right choices / choices. `None` for other tasks, and where every choice is right.
    pub fn chances(&self) -> Vec<Option<f64>> {
        let chance = |(task, items): (&Task, &[Item])| {
            let (_, spec) = task.main_spec()?;
            let guessed =
                matches!(spec.metric, Metric::Acc | Metric::AccNorm | Metric::AccBytes | Metric::AccMutualInfo);
            let of_item = |item: &Item| match &item.ask {
                Ask::Choose { choices, gold, .. } => Some(gold.len() as f64 / choices.len() as f64),
                _ => None,
            };
            let sum: f64 = items.iter().filter(|_| guessed).map(of_item).sum::<Option<f64>>()?;
            Some(sum / items.len() as f64).filter(|chance| guessed && *chance < 1.0)
        };
        self.tasks().iter().zip(self.items().iter().map(|items| &items.items[..])).map(chance).collect()
    }
}

/// Bytes of the text whose likelihood is measured.
fn bytes(item: &Item) -> Option<usize> {
    match &item.ask {
        Ask::Roll { text } => Some(text.len()),
        Ask::Continue { continuation, .. } => Some(continuation.len()),
        Ask::Choose { .. } | Ask::Generate { .. } => None,
    }
}

/// Why tasks have no weights, or no average.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScaleError {
    /// Tasks are on different scales, and not all of them have a weight.
    #[error("tasks on different scales have no common average: {}; {}", groups(scales), remedy(scales))]
    Mixed {
        /// For each scale its name, and the tasks on it.
        scales: Vec<(String, Vec<String>)>,
    },
    /// A weight is given for a task that is not there.
    #[error("a weight is given for the task `{name}`; tasks are {}", known.join(", "))]
    UnknownTask {
        /// The name.
        name: String,
        /// The tasks there are.
        known: Vec<String>,
    },
    /// A weight is no finite number from 0 up.
    #[error("the weight of the task `{name}` should be a number from 0 up, but is {found}")]
    Weight {
        /// The task.
        name: String,
        /// The weight.
        found: f64,
    },
    /// The weights are all 0.
    #[error("the weights of all tasks are 0")]
    NoWeight,
}

fn groups(scales: &[(String, Vec<String>)]) -> String {
    let group = |(scale, tasks): &(String, Vec<String>)| format!("{scale} ({})", tasks.join(", "));
    scales.iter().map(group).collect::<Vec<_>>().join("; ")
}

fn remedy(scales: &[(String, Vec<String>)]) -> String {
    let tasks: Vec<String> = scales.iter().flat_map(|(_, tasks)| tasks).map(|task| format!("{task}: 1")).collect();
    format!("give every task a weight, as in `weights: {{{}}}`, or score them apart", tasks.join(", "))
}

/// A task's place in an average: its name, its scale, and the name of its main metric.
pub(crate) struct Measured<'a> {
    pub(crate) name: &'a str,
    pub(crate) scale: Scale,
    pub(crate) metric: &'a str,
}

/// Refuses tasks on more than one scale.
pub(crate) fn check_scales<'a>(
    tasks: impl Iterator<Item = Measured<'a>>,
    perplexity: PerplexityUnit,
) -> Result<(), ScaleError> {
    let mut scales: Vec<(String, Vec<String>)> = Vec::new();
    for task in tasks {
        let unit = match (task.scale, perplexity) {
            (Scale::Fraction, _) => "fractions",
            (Scale::Perplexity, PerplexityUnit::BitsPerByte) => "bits per byte",
            _ => task.metric,
        };
        match scales.iter_mut().find(|(other, _)| other == unit) {
            Some((_, tasks)) => tasks.push(task.name.into()),
            None => scales.push((unit.into(), vec![task.name.into()])),
        }
    }
    if scales.len() > 1 { Err(ScaleError::Mixed { scales }) } else { Ok(()) }
}

/// The weight of each task in an average, from those that a config gives by name: 1 for a task that it does not name.
/// Where tasks are on different scales it has to name all of them.
///
/// # Errors
/// [`ScaleError`].
pub fn task_weights(
    tasks: &[Task],
    weights: &BTreeMap<String, f64>,
    perplexity: PerplexityUnit,
) -> Result<Vec<f64>, ScaleError> {
    if let Some(name) = weights.keys().find(|name| tasks.iter().all(|task| task.name() != *name)) {
        let known = tasks.iter().map(|task| task.name().to_owned()).collect();
        return Err(ScaleError::UnknownTask { name: name.clone(), known });
    }
    if let Some((name, &found)) = weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
        return Err(ScaleError::Weight { name: name.clone(), found });
    }
    if tasks.iter().any(|task| !weights.contains_key(task.name())) {
        check_scales(tasks.iter().map(Task::measured), perplexity)?;
    }
    let found: Vec<f64> = tasks.iter().map(|task| weights.get(task.name()).copied().unwrap_or(1.0)).collect();
    if found.iter().sum::<f64>() > 0.0 || found.is_empty() { Ok(found) } else { Err(ScaleError::NoWeight) }
}
