//! Why a GGUF file cannot be written or read.

use glue_tensor::checkpoint::CheckpointError;
use glue_tensor::tokenizer_files::TokenizerFilesError;
use glue_tensor::{ConvertError, FileChanged, ModelDirError, SideFileError, WriteError};
use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why an export or an import was refused, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The system refused to read a file.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file is not a valid GGUF file.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        message: String,
    },
    /// There is something at the output already.
    #[error("{}: exists already; remove it, or allow it to be replaced", path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The family of a model is not one that can be exported or imported.
    #[error("{}: {found} cannot be converted; the families that can are {known}", path.display())]
    Family {
        /// The model.
        path: PathBuf,
        /// Its `model_type` or its GGUF architecture.
        found: String,
        /// Those that can be converted.
        known: String,
    },
    /// The configuration says something that the other side cannot express.
    #[error("{}: `{key}`: {message}", path.display())]
    Config {
        /// The model.
        path: PathBuf,
        /// The key of `config.json`, or of the GGUF file.
        key: String,
        /// What was expected and what was found.
        message: String,
    },
    /// A tensor is missing, unknown, or has the wrong shape or values.
    #[error("{}: tensor `{tensor}`: {message}", path.display())]
    Tensor {
        /// The model.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was expected and what was found.
        message: String,
    },
    /// The tokenizer cannot be converted.
    #[error("{}: {message}", path.display())]
    Vocabulary {
        /// The file that describes the tokenizer.
        path: PathBuf,
        /// What was expected and what was found.
        message: String,
    },
    /// The model directory cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelDirError),
    /// The weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer files cannot be read.
    #[error(transparent)]
    TokenizerFiles(#[from] TokenizerFilesError),
    /// A file to be copied cannot be.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// An input changed while it was read.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Values cannot be converted between two types.
    #[error("tensor `{tensor}`")]
    Convert {
        /// The tensor.
        tensor: String,
        /// Why not.
        #[source]
        error: ConvertError,
    },
    /// The quantisation of a block of values failed.
    #[error("tensor `{tensor}`: {message}")]
    Quantise {
        /// The tensor.
        tensor: String,
        /// Why.
        message: String,
    },
    /// The values to be exported cannot be had.
    #[error(transparent)]
    Source(Box<dyn Error + Send + Sync>),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}
