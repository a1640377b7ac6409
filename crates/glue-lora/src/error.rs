//! What can go wrong.

use glue_linalg::LinalgError;
use glue_tensor::{AdapterError, ConvertError, FileChanged, WriteError};
use std::io;
use std::path::PathBuf;

/// Why no adapter was extracted. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// An option is out of its range.
    #[error("{option} must be {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its range.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// No matrix belongs to a module in the options.
    #[error("no matrix in {} belongs to a module called `{module}`, or whose name ends in `.{module}`", path.display())]
    NoSuchModule {
        /// The module.
        module: String,
        /// The base.
        path: PathBuf,
    },
    /// A tensor is in one model and not in the other.
    #[error("tensor `{tensor}` is in {}, but not in {}", present.display(), missing.display())]
    TensorMissing {
        /// The tensor.
        tensor: String,
        /// The model that has it.
        present: PathBuf,
        /// The model that lacks it.
        missing: PathBuf,
    },
    /// A tensor has another shape in the other model.
    #[error("tensor `{tensor}` is {base:?} in the base, but {fine:?} in the fine-tuned model")]
    ShapesDiffer {
        /// The tensor.
        tensor: String,
        /// Its shape in the base.
        base: Vec<usize>,
        /// Its shape in the fine-tuned model.
        fine: Vec<usize>,
    },
    /// A tensor holds floating-point numbers in one model only.
    #[error("tensor `{tensor}` holds {base} in the base, but {fine} in the fine-tuned model")]
    DtypesDiffer {
        /// The tensor.
        tensor: String,
        /// Its type in the base.
        base: glue_tensor::Dtype,
        /// Its type in the fine-tuned model.
        fine: glue_tensor::Dtype,
    },
    /// A weight is NaN or infinite.
    #[error("tensor `{tensor}` of {} holds values that are not finite", model.display())]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The model.
        model: PathBuf,
    },
    /// The models differ in none of the matrices to be extracted.
    #[error(
        "the two models do not differ in any matrix to be extracted{}",
        if others.is_empty() { String::new() } else { format!("; they do in {}", others.join(", ")) }
    )]
    NoDifference {
        /// Other tensors that differ; the first of them.
        others: Vec<String>,
    },
    /// A matrix could not be decomposed.
    #[error("tensor `{tensor}`")]
    Linalg {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        error: LinalgError,
    },
    /// A tensor cannot be widened, or factors cannot be narrowed.
    #[error("tensor `{tensor}`")]
    Convert {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        error: ConvertError,
    },
    /// The configuration of the adapter is invalid.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The temporary file with the factors cannot be written or read.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file of a model has changed since the model was opened.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The caller cancelled it.
    #[error("stopped; nothing was written")]
    Stopped,
}
