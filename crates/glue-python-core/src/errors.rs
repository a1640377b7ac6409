//! Errors as Python exceptions: the message is glue's own, with causes and hint.

use glue_merge::MergeError;
use glue_progress::ErrorChain;
use glue_recipe::engine::EngineError;
use glue_recipe::{RecipeError, RunError};
use glue_tensor::{CheckpointError, ModelDirError, WriteError};
use pyo3::PyErr;
use pyo3::exceptions::{
    PyFileExistsError, PyFileNotFoundError, PyKeyboardInterrupt, PyNotADirectoryError, PyOSError, PyValueError,
};
use std::error::Error;
use std::io;

/// What a recipe or its models are refused for: `FileNotFoundError` if a model is not there, `OSError` if the system
/// failed, otherwise `ValueError`.
pub(crate) fn of_recipe(error: &RecipeError) -> PyErr {
    let first = match error {
        RecipeError::Several { errors } => errors.first().unwrap_or(error),
        single => single,
    };
    let is_missing = match first {
        RecipeError::Open { error, .. } => matches!(**error, ModelDirError::NotFound { .. }),
        RecipeError::Statistics { error, .. } => matches!(**error, CheckpointError::NotFound { .. }),
        _ => false,
    };
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    let message = error.chain() + &hint;
    if is_missing { PyFileNotFoundError::new_err(message) } else { of_chain(first, message) }
}

/// Why a plan could not be run.
pub(crate) fn of_run(error: &RunError) -> PyErr {
    let message = error.chain();
    match error {
        RunError::Stopped => PyKeyboardInterrupt::new_err(message),
        RunError::Write(WriteError::NotEmpty { .. }) => PyFileExistsError::new_err(
            message + "\nhint: choose another directory; `overwrite=True` replaces a merged model",
        ),
        RunError::Write(WriteError::NotADirectory { .. }) => PyNotADirectoryError::new_err(message),
        RunError::Write(_) | RunError::Changed(_) => PyOSError::new_err(message),
        other => of_chain(other, message),
    }
}

/// Why tensors could not be merged.
pub(crate) fn of_engine(error: &EngineError) -> PyErr {
    match error {
        EngineError::Stopped => PyKeyboardInterrupt::new_err(error.chain()),
        other => of_chain(other, other.chain()),
    }
}

/// What an operator refuses.
pub(crate) fn of_merge(error: &MergeError) -> PyErr {
    PyValueError::new_err(error.chain())
}

/// What the system said of a file.
pub(crate) fn of_io(error: &io::Error, message: String) -> PyErr {
    match error.kind() {
        io::ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
        io::ErrorKind::InvalidData => PyValueError::new_err(message),
        _ => PyOSError::new_err(message),
    }
}

/// `OSError` and its kin where the system is the cause, otherwise `ValueError`.
fn of_chain(error: &(dyn Error + 'static), message: String) -> PyErr {
    let mut causes = std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source());
    match causes.find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(cause) => of_io(cause, message),
        None => PyValueError::new_err(message),
    }
}
