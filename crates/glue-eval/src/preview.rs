//! What an evaluation would ask, without a model.

use crate::error::EvalError;
use crate::evaluate::EvalOptions;
use crate::task::{Ask, Kind, Task};
use std::path::PathBuf;

/// What an evaluation would ask in one task.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preview {
    /// The name of the task.
    pub name: String,
    /// Where it is described.
    pub path: PathBuf,
    /// What it asks for.
    pub kind: Kind,
    /// The name of the metric that stands for it in an average.
    pub main: String,
    /// The split, or share, that would be scored.
    pub split: String,
    /// Its items, within the limit.
    pub items: usize,
    /// What the model would be asked: a log-likelihood for each choice, or an answer for each repetition.
    pub requests: usize,
    /// Examples in each prompt.
    pub num_fewshot: usize,
}

/// Reads and renders all items as [`evaluate`](crate::evaluate()) would, without a chat template, and counts them.
///
/// # Errors
/// [`EvalError`]: a task or an item that is not sound.
pub fn preview(tasks: &[Task], options: &EvalOptions) -> Result<Vec<Preview>, EvalError> {
    options.check_splits(tasks)?;
    let python = options.python();
    let one = |task: &Task| {
        let items = task.items(&options.of_items(task, None, python.as_ref()))?;
        let requests = items.items.iter().map(|item| match &item.ask {
            Ask::Choose { choices, .. } => choices.len(),
            Ask::Continue { .. } | Ask::Roll { .. } => 1,
            Ask::Generate { settings, .. } => settings.repeats,
        });
        Ok(Preview {
            name: task.name().to_owned(),
            path: task.path().to_path_buf(),
            kind: task.kind(),
            main: task.main_metric().to_owned(),
            requests: requests.sum(),
            items: items.items.len(),
            split: items.split,
            num_fewshot: items.num_fewshot,
        })
    };
    tasks.iter().map(one).collect()
}
