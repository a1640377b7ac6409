//! Losses of answers by models that stand alone, each with its own tokenizer.

use crate::error::RouterError;
use crate::error::check_cancelled;
use crate::items::Item;
use glue_eval::{LanguageModel, LocalModel, LogLikelihoodRequest};
use glue_progress::{Progress, Unit};
use ndarray::Array2;
use std::path::PathBuf;

/// The loss of each item's answer in nats by each of `models`, names and directories, [items, models]; 0 without an answer.
/// One model after the other is opened.
///
/// # Errors
/// [`RouterError::Expert`] for a model that does not open or does not score; [`RouterError::Stopped`].
pub(crate) fn losses_of_models(
    items: &[Item],
    models: &[(String, PathBuf)],
    progress: &dyn Progress,
) -> Result<Array2<f64>, RouterError> {
    let mut losses = Array2::zeros((items.len(), models.len()));
    let (mut places, mut requests) = (Vec::new(), Vec::new());
    for (row, item) in items.iter().enumerate() {
        if let Some(continuation) = item.answer.as_deref() {
            places.push(row);
            requests.push(LogLikelihoodRequest { context: &item.prompt, continuation });
        }
    }
    for (column, (name, directory)) in models.iter().enumerate() {
        check_cancelled(progress)?;
        let failed = |error| RouterError::Expert { expert: name.clone(), error };
        let model = LocalModel::open(directory).map_err(failed)?;
        progress.begin(&format!("scoring answers by {name}"), Unit::Requests, Some(requests.len() as u64));
        let scores = model.loglikelihoods(&requests, &|n| progress.advance(n as u64)).map_err(failed)?;
        for (&row, score) in places.iter().zip(scores) {
            losses[[row, column]] = -score.logprob;
        }
    }
    Ok(losses)
}
