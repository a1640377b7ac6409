//! Why a calibration failed.

use crate::statistic::Statistic;
use glue_lm::LmError;
use glue_tensor::{FileChanged, WriteError};
use std::io;
use std::path::PathBuf;

/// Why a calibration failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// No statistic is selected.
    #[error("no statistic is selected, expected one or more of activation, gram, fisher")]
    NoStatistics,
    /// There are no sequences.
    #[error("there are no sequences to gather statistics from")]
    NoSequences,
    /// A sequence cannot be used with this model.
    #[error("sequence {index}: {reason}")]
    Sequence {
        /// Its index, counted from 0.
        index: usize,
        /// Why not.
        reason: String,
    },
    /// The model is a mixture of experts, each of which sees only some tokens.
    #[error("statistics of a mixture of experts cannot be gathered, expected a dense model")]
    Mixture(#[source] Box<LmError>),
    /// A mean is infinite or NaN: the model overflows on this text.
    #[error("{statistic} of tensor `{tensor}` is not finite: the model overflows on these sequences")]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The statistic.
        statistic: Statistic,
    },
    /// The model failed.
    #[error(transparent)]
    Model(Box<LmError>),
    /// A file of the model cannot be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file of the model has changed since the model was opened.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The caller cancelled it.
    #[error("stopped")]
    Stopped,
}

impl From<LmError> for CalibrateError {
    fn from(error: LmError) -> CalibrateError {
        match error {
            error @ LmError::NotDense { .. } => CalibrateError::Mixture(Box::new(error)),
            error => CalibrateError::Model(Box::new(error)),
        }
    }
}
