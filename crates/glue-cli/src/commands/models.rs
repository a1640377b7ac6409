//! Opening a model to run it.

use crate::failure::Failure;
use glue_lm::{AnyTextModel, LmError, Model, TextError, TextModel};
use glue_tensor::CheckpointError;
use glue_tensor::model_dir::ModelDirError;
use std::path::Path;

/// The model in the directory at `path`.
pub(crate) fn open(path: &Path) -> Result<Model, Failure> {
    Model::open(path).map_err(|error| cannot_run(path, error))
}

/// The model in the directory at `path`, with its tokenizer.
pub(crate) fn open_with_tokenizer(path: &Path) -> Result<TextModel, Failure> {
    TextModel::open(path).map_err(|error| cannot_read(path, error))
}

/// The model in the directory at `path` with its tokenizer, or the whole models that are mixed there.
pub(crate) fn open_any(path: &Path) -> Result<AnyTextModel, Failure> {
    AnyTextModel::open(path).map_err(|error| cannot_read(path, error))
}

fn cannot_read(path: &Path, error: TextError) -> Failure {
    match error {
        TextError::Model(error) => cannot_run(path, error),
        error => Failure::failed(error).context(format!("cannot run {}", path.display())),
    }
}

/// A path that does not exist is wrong usage; a broken model is a failure.
fn cannot_run(path: &Path, error: LmError) -> Failure {
    let absent = matches!(
        error,
        LmError::ModelDir(
            ModelDirError::NotFound { .. }
                | ModelDirError::WithAdapter { .. }
                | ModelDirError::Checkpoint(CheckpointError::NotFound { .. })
        )
    );
    let hint = match &error {
        LmError::Unsupported { key, .. } if key == "whole" => Some("use glue generate or glue eval, which can run it"),
        LmError::Unsupported { .. } => Some("a model that cannot be run can still be merged"),
        LmError::MissingTensor { .. } | LmError::Shape { .. } | LmError::UnexpectedTensor { .. } => {
            Some("glue inspect shows the tensors of the checkpoint and the values in config.json")
        }
        _ => None,
    };
    let failure = if absent { Failure::refused(error) } else { Failure::failed(error) };
    failure.context(format!("cannot run {}", path.display())).hint(hint)
}
