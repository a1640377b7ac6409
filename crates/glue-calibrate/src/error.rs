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
    /// The model is a mixture in the native format, some of whose parts see only some tokens.
    #[error(
        "statistics of a mixture in the native format cannot be gathered, expected a dense model or one of a family \
         with experts, such as Mixtral"
    )]
    Mixture(#[source] Box<LmError>),
    /// There are no gradients of mixtures of experts.
    #[error("the statistic fisher of a mixture of experts cannot be gathered, expected a dense model")]
    FisherOfMixture(#[source] Box<LmError>),
    /// Models that are merged layer by layer do not have the same layers.
    #[error(
        "models of {first} and of {found} cannot be merged layer by layer, expected the same number of layers and the \
         same hidden size"
    )]
    Layers {
        /// Layers and hidden size of the first model.
        first: String,
        /// Those of another one.
        found: String,
    },
    /// A layer cannot be merged.
    #[error("{} cannot be merged", layer.map_or("the embedding".to_owned(), |layer| format!("layer {layer}")))]
    Merge {
        /// The layer, counted from 0; `None` for the embedding.
        layer: Option<usize>,
        /// Why not.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Residual streams that do not fit into memory cannot be kept in a file.
    #[error("residual streams cannot be kept in a file in {}", directory.display())]
    Spool {
        /// Where the file is.
        directory: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
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
            error @ LmError::NotDense { .. } => CalibrateError::FisherOfMixture(Box::new(error)),
            error @ LmError::NativeMixture { .. } => CalibrateError::Mixture(Box::new(error)),
            error => CalibrateError::Model(Box::new(error)),
        }
    }
}
