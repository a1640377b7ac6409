//! Scores of models on a split, item by item: the basis of all choices and of their standard errors.

use crate::config::{ItemUse, TasksConfig};
use crate::error::PipelineError;
use glue_eval::decision::{TaskOutcome, largest_gains};
use glue_eval::scale::{PerplexityUnit, ScaleError, task_weights};
use glue_eval::statistics::{Estimate, fraction_stderr, weighted_average};
use glue_eval::{
    EvalError, EvalOptions, LanguageModel, Overlap, Prepared, Report, Sample, Task, TaskSources, number, overlap,
};
use glue_progress::{ErrorChain, Progress};
use glue_report as report;
use glue_select::{Scores, TaskScore};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Loads the tasks of a run.
pub(crate) fn tasks(config: &TasksConfig, directory: &Path) -> Result<Vec<Task>, PipelineError> {
    let below = |paths: &[String]| paths.iter().map(|path| directory.join(path)).collect();
    let sources = TaskSources { include_path: below(&config.include_path), data: below(&config.data) };
    let found = sources.load(&config.requests(directory), &config.only).map_err(glue_eval::EvalError::from)?;
    let tasks = found.tasks;
    weights(&tasks, config)?;
    Ok(tasks)
}

/// The weights of tasks in averages.
///
/// # Errors
/// Weights that do not fit, or tasks on different scales without them.
pub(crate) fn weights(tasks: &[Task], config: &TasksConfig) -> Result<Vec<f64>, ScaleError> {
    task_weights(tasks, &config.weights, config.perplexity)
}

/// The items of a role in all tasks, read and rendered, and how their scores count.
#[derive(Debug)]
pub(crate) struct RoleItems {
    pub(crate) prepared: Prepared,
    weights: Vec<f64>,
    perplexity: PerplexityUnit,
}

impl RoleItems {
    /// For each task a hash of what is asked and how it is scored, and how scores count.
    pub(crate) fn content_hashes(&self) -> Value {
        json!([self.prepared.content_hashes(), self.weights, self.perplexity])
    }
}

/// The items of a role in all tasks. `chat` has the chat template, if prompts are put into one.
pub(crate) fn prepare(
    tasks: &Arc<[Task]>,
    config: &TasksConfig,
    role: ItemUse,
    seed: u64,
    chat: Option<&dyn LanguageModel>,
) -> Result<RoleItems, PipelineError> {
    let options = EvalOptions {
        split: Some(config.split(role).to_string()),
        splits: config.own_splits(role),
        limit: config.limit,
        seed,
        num_fewshot: config.num_fewshot,
        apply_chat_template: config.apply_chat_template,
        allow_code_execution: config.allow_code_execution,
        samples: role == ItemUse::Test,
        ..EvalOptions::default()
    };
    let prepared = Prepared::new(Arc::clone(tasks), &options, chat)?;
    Ok(RoleItems { prepared, weights: weights(tasks, config)?, perplexity: config.perplexity })
}

/// Which items of other roles are also test items, in sentences. What is wrong with items is said where they are used.
pub(crate) fn shared_with_test(tasks: &Arc<[Task]>, config: &TasksConfig, seed: u64) -> Vec<String> {
    // Examples and templates hide what is asked.
    let plain = TasksConfig { num_fewshot: Some(0), apply_chat_template: false, ..config.clone() };
    let items = |role: ItemUse| prepare(tasks, &plain, role, seed, None).ok();
    let Some(test) = items(ItemUse::Test) else { return Vec::new() };
    let of = |(role, name): (ItemUse, &str)| -> Vec<String> {
        let found = items(role).map(|items| overlap(&items.prepared, &test.prepared)).unwrap_or_default();
        let say = |Overlap { task, shared, items, .. }: Overlap| {
            format!("{shared} of the {items} {name} items of {task} are also test items.")
        };
        found.into_iter().map(say).collect()
    };
    let roles =
        [(ItemUse::Search, "search"), (ItemUse::Validation, "validation"), (ItemUse::Router, "router training")];
    roles.into_iter().flat_map(of).collect()
}

/// The scores of a model on a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelScores {
    pub(crate) name: String,
    pub(crate) tasks: Vec<TaskItems>,
}

/// The result of scoring a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scored {
    /// Its scores, all of them finite.
    Scores(ModelScores),
    /// It has none, because it computes NaN or an infinite score.
    Unscored {
        /// Its name.
        name: String,
        /// What was found.
        reason: String,
    },
}

impl Scored {
    /// The scores, if there are any.
    pub(crate) fn scores(&self) -> Option<&ModelScores> {
        match self {
            Scored::Scores(scores) => Some(scores),
            Scored::Unscored { .. } => None,
        }
    }

    /// Name and reason of a model without scores.
    pub(crate) fn unscored(&self) -> Option<(&str, &str)> {
        match self {
            Scored::Scores(_) => None,
            Scored::Unscored { name, reason } => Some((name, reason)),
        }
    }
}

/// The scores of a model on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TaskItems {
    pub(crate) task: String,
    pub(crate) metric: String,
    /// Negated where less is better: more is always better.
    #[serde(with = "number")]
    pub(crate) value: f64,
    #[serde(with = "number::optional")]
    pub(crate) stderr: Option<f64>,
    /// What each item contributes: their mean is the score.
    #[serde(with = "number::list")]
    pub(crate) items: Vec<f64>,
    /// Number of items.
    pub(crate) n: usize,
    /// The weight of the task in averages.
    pub(crate) weight: f64,
}

/// The scores of a model of the zoo by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// On the search items.
    pub(crate) search: Scored,
    /// On the validation items; `None` if it has no scores.
    pub(crate) validation: Option<ModelScores>,
}

impl Baseline {
    /// The scores on the search items, if the model could be scored on all items that decide.
    pub(crate) fn scores(&self) -> Option<&ModelScores> {
        self.search.scores().filter(|_| self.validation.is_some())
    }
}

impl TaskItems {
    /// As the decision rule takes it.
    pub(crate) fn outcome(&self) -> TaskOutcome<'_> {
        TaskOutcome { value: self.value, items: &self.items, n: self.n }
    }
}

/// The standard error of the mean of some items; `None` for fewer than two.
fn mean_stderr(items: &[f64]) -> Option<f64> {
    let n = items.len() as f64;
    let mean = items.iter().sum::<f64>() / n;
    (n > 1.0).then(|| (items.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt())
}

impl ModelScores {
    /// What a scorer of merges found.
    pub(crate) fn of_merge(name: &str, scores: &Scores, weights: &BTreeMap<String, f64>) -> ModelScores {
        let task = |task: &TaskScore| TaskItems {
            n: task.n,
            weight: weights.get(&task.task).copied().unwrap_or(1.0),
            task: task.task.clone(),
            metric: task.metric.clone(),
            value: task.value,
            stderr: mean_stderr(&task.items).or(fraction_stderr(task.value, task.n)),
            items: task.items.clone(),
        };
        ModelScores { name: name.into(), tasks: scores.tasks.iter().map(task).collect() }
    }

    /// As a scorer of merges gives it.
    pub(crate) fn as_of_merge(&self) -> Scores {
        let task = |task: &TaskItems| TaskScore {
            task: task.task.clone(),
            metric: task.metric.clone(),
            value: task.value,
            n: task.n,
            items: task.items.clone(),
        };
        Scores { tasks: self.tasks.iter().map(task).collect(), average: self.average(), stderr: None, dropped: false }
    }

    /// As the decision rule takes it.
    pub(crate) fn outcomes(&self) -> Vec<TaskOutcome<'_>> {
        self.tasks.iter().map(TaskItems::outcome).collect()
    }

    /// The weights of the tasks.
    pub(crate) fn weights(&self) -> Vec<f64> {
        self.tasks.iter().map(|task| task.weight).collect()
    }

    /// Scores `model` on all of `items`. A model that computes NaN, or whose score is infinite, has no scores.
    pub(crate) fn of(
        name: &str,
        model: &dyn LanguageModel,
        items: &RoleItems,
        progress: &dyn Progress,
    ) -> Result<Scored, PipelineError> {
        Ok(ModelScores::with_samples(name, model, items, progress)?.0)
    }

    /// The same with the record of each item, if the items were prepared for that.
    pub(crate) fn with_samples(
        name: &str,
        model: &dyn LanguageModel,
        items: &RoleItems,
        progress: &dyn Progress,
    ) -> Result<(Scored, Vec<Sample>), PipelineError> {
        let unscored = |reason| Ok((Scored::Unscored { name: name.into(), reason }, Vec::new()));
        let (scores, samples) = match items.prepared.evaluate(model, None, progress) {
            Err(error @ (EvalError::NotANumber { .. } | EvalError::Undefined { .. })) => {
                return unscored(error.chain());
            }
            report => {
                let report = report?;
                (ModelScores::from_report(name, &report, items), report.samples)
            }
        };
        match scores.tasks.iter().find(|task| !task.value.is_finite()) {
            Some(task) => unscored(format!("task `{}`: its {} is {}", task.task, task.metric, task.value.abs())),
            None => Ok((Scored::Scores(scores), samples)),
        }
    }

    fn from_report(name: &str, report: &Report, items: &RoleItems) -> ModelScores {
        let task = |(t, task): (usize, &glue_eval::TaskReport)| {
            let score = items.prepared.comparable(t, &task.items, items.perplexity);
            let (value, stderr, contributions) = match score {
                Some(score) => (score.value, score.stderr, score.items),
                None => (f64::NAN, None, Vec::new()),
            };
            TaskItems {
                task: task.name.clone(),
                metric: task.main.clone(),
                value,
                stderr,
                items: contributions,
                n: task.items.len(),
                weight: items.weights[t],
            }
        };
        ModelScores { name: name.into(), tasks: report.tasks.iter().enumerate().map(task).collect() }
    }

    /// Macro average and its standard error.
    fn macro_average(&self) -> Estimate {
        let task = |task: &TaskItems| Estimate { value: task.value, stderr: task.stderr };
        weighted_average(&self.tasks.iter().map(task).collect::<Vec<_>>(), &self.weights())
    }

    /// Macro average over tasks; 0 without a task.
    pub(crate) fn average(&self) -> f64 {
        if self.tasks.is_empty() { 0.0 } else { self.macro_average().value }
    }

    /// The value of one task.
    pub(crate) fn task(&self, name: &str) -> Option<&TaskItems> {
        self.tasks.iter().find(|task| task.task == name)
    }

    /// As the report shows it.
    pub(crate) fn scores(&self) -> Vec<report::TaskScore> {
        let score = |task: &TaskItems| report::TaskScore {
            task: task.task.clone(),
            score: report::Score { value: task.value, stderr: task.stderr, n: Some(task.n) },
        };
        self.tasks.iter().map(score).collect()
    }

    /// The macro average as the report shows it.
    pub(crate) fn score(&self) -> report::Score {
        report::Score {
            value: self.average(),
            stderr: self.macro_average().stderr,
            n: Some(self.tasks.iter().map(|task| task.n).sum()),
        }
    }
}

/// The gain of `new` over `old` in the average, and its standard error from the differences item by item; 0 where that
/// is not known.
pub(crate) fn gain(new: &ModelScores, old: &ModelScores) -> (f64, f64) {
    let gain = largest_gains(&old.outcomes(), &[new.outcomes()], &old.weights(), 0)[0];
    (gain.value, gain.stderr.unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(items: &[&[f64]]) -> ModelScores {
        let task = |(i, items): (usize, &&[f64])| TaskItems {
            task: i.to_string(),
            metric: "acc".into(),
            value: items.iter().sum::<f64>() / items.len() as f64,
            stderr: Some(0.1),
            items: items.to_vec(),
            n: items.len(),
            weight: 1.0,
        };
        ModelScores { name: "m".into(), tasks: items.iter().enumerate().map(task).collect() }
    }

    #[test]
    fn gains_are_paired() {
        let old = scores(&[&[0.0, 1.0, 0.0, 1.0], &[1.0, 1.0]]);
        let new = scores(&[&[1.0, 1.0, 0.0, 1.0], &[1.0, 1.0]]);
        let (gain_of, error) = gain(&new, &old);
        // One task differs in one item of four; the statistics themselves are tested where they are.
        assert_eq!(gain_of, 0.125);
        assert!((error - 0.125).abs() < 1e-12, "{error}");
    }

    #[test]
    fn averages_are_over_tasks() {
        let score = scores(&[&[1.0, 0.0], &[1.0, 1.0, 1.0]]).score();
        assert_eq!((score.value, score.n), (0.75, Some(5)));
        assert!((score.stderr.unwrap() - 0.02_f64.sqrt() / 2.0).abs() < 1e-12);
    }
}
