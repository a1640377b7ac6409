//! Scores of models on a split, item by item: the basis of all choices and of their standard errors.

use crate::config::TasksConfig;
use crate::error::PipelineError;
use glue_eval::statistics::{Estimate, PairedTask, macro_average, paired_gain};
use glue_eval::{EvalError, EvalOptions, LanguageModel, Prepared, Report, Task, load_tasks, number, select};
use glue_progress::{ErrorChain, Progress};
use glue_report as report;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Loads the tasks of a run.
pub(crate) fn tasks(config: &TasksConfig, directory: &Path) -> Result<Vec<Task>, PipelineError> {
    let paths: Vec<PathBuf> = config.paths.iter().map(|path| directory.join(path)).collect();
    let tasks = load_tasks(&paths).map_err(glue_eval::EvalError::from)?;
    if config.only.is_empty() {
        return Ok(tasks);
    }
    Ok(select(tasks, &config.only).map_err(glue_eval::EvalError::from)?)
}

/// The items of `split` of all tasks, read and rendered.
pub(crate) fn prepare(
    tasks: &Arc<[Task]>,
    config: &TasksConfig,
    split: &str,
    seed: u64,
) -> Result<Prepared, PipelineError> {
    let options = EvalOptions {
        split: Some(split.into()),
        limit: config.limit,
        seed,
        allow_code_execution: config.allow_code_execution,
        ..EvalOptions::default()
    };
    Ok(Prepared::new(Arc::clone(tasks), &options, None)?)
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

    /// The scores.
    ///
    /// # Errors
    /// [`PipelineError::Run`] with the name of a model that has none.
    pub(crate) fn required(self) -> Result<ModelScores, PipelineError> {
        match self {
            Scored::Scores(scores) => Ok(scores),
            Scored::Unscored { name, reason } => Err(PipelineError::Run { model: name, error: reason.into() }),
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
    /// The main metric of each item, with the same sign.
    #[serde(with = "number::list")]
    pub(crate) items: Vec<f64>,
}

impl ModelScores {
    /// Scores `model` on all items of `prepared`. A model that computes NaN, or whose score is infinite, has no scores.
    pub(crate) fn of(
        name: &str,
        model: &dyn LanguageModel,
        prepared: &Prepared,
        progress: &dyn Progress,
    ) -> Result<Scored, PipelineError> {
        let unscored = |reason| Ok(Scored::Unscored { name: name.into(), reason });
        let scores = match prepared.evaluate(model, None, progress) {
            Err(error @ (EvalError::NotANumber { .. } | EvalError::Undefined { .. })) => {
                return unscored(error.chain());
            }
            report => ModelScores::from_report(name, &report?),
        };
        match scores.tasks.iter().find(|task| !task.value.is_finite()) {
            Some(task) => unscored(format!("task `{}`: its {} is {}", task.task, task.metric, task.value.abs())),
            None => Ok(Scored::Scores(scores)),
        }
    }

    fn from_report(name: &str, report: &Report) -> ModelScores {
        let task = |task: &glue_eval::TaskReport| {
            let main = task.main_metric();
            let sign = if main.is_none_or(|metric| metric.higher_is_better) { 1.0 } else { -1.0 };
            TaskItems {
                task: task.name.clone(),
                metric: task.main.clone(),
                value: main.map_or(0.0, |metric| sign * metric.value),
                stderr: main.and_then(|metric| metric.stderr),
                // A text without a token has weight 0.
                items: task.items.iter().map(|item| sign * item.sum / item.weight.max(f64::MIN_POSITIVE)).collect(),
            }
        };
        ModelScores { name: name.into(), tasks: report.tasks.iter().map(task).collect() }
    }

    /// Macro average and its standard error.
    fn macro_average(&self) -> Estimate {
        let task = |task: &TaskItems| Estimate { value: task.value, stderr: task.stderr };
        macro_average(&self.tasks.iter().map(task).collect::<Vec<_>>())
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
            score: report::Score { value: task.value, stderr: task.stderr, n: Some(task.items.len()) },
        };
        self.tasks.iter().map(score).collect()
    }

    /// The macro average as the report shows it.
    pub(crate) fn score(&self) -> report::Score {
        report::Score {
            value: self.average(),
            stderr: self.macro_average().stderr,
            n: Some(self.tasks.iter().map(|task| task.items.len()).sum()),
        }
    }
}

/// The gain of `new` over `old` in the macro average, and its standard error from the differences item by item.
pub(crate) fn gain(new: &ModelScores, old: &ModelScores) -> (f64, f64) {
    let tasks = new.tasks.iter().zip(&old.tasks);
    paired_gain(tasks.map(|(new, old)| PairedTask {
        difference: new.value - old.value,
        new: &new.items,
        old: &old.items,
    }))
}

/// A gain and its error in words: `+0.021 ± 0.008`.
pub(crate) fn gain_words(gain: f64, error: f64) -> String {
    format!("{gain:+.3} ± {error:.3}")
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
