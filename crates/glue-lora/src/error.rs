//! What can go wrong.

use crate::factors::StoreError;
use glue_linalg::LinalgError;
use glue_merge::{MergeError, ParamError};
use glue_tensor::{AdapterError, ConvertError, FileChanged, WriteError};
use std::io;
use std::path::PathBuf;

/// Why no adapter was written. Nothing is left behind then.
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
    /// An element of a factor is beyond the range of the type that it is to be stored in.
    #[error(
        "tensor `{tensor}`: a factor holds {value}, which {} cannot hold; choose a type with a larger range, such as \
         bfloat16",
        dtype.torch_name()
    )]
    Overflow {
        /// The tensor that the factors change.
        tensor: String,
        /// The element.
        value: f32,
        /// The type.
        dtype: glue_tensor::Dtype,
    },
    /// Several errors, none of which is the cause of another.
    #[error("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// The errors, two or more.
        errors: Vec<LoraError>,
    },
    /// The operator takes another number of adapters.
    #[error(transparent)]
    Operands(Box<MergeError>),
    /// The operator uses statistics of the weights that it merges.
    #[error("{operator} uses the statistic `{statistic}` of the weights that it merges, and cores have no statistics")]
    StatisticNeeded {
        /// The operator.
        operator: &'static str,
        /// Its statistic.
        statistic: &'static str,
    },
    /// An adapter is named twice.
    #[error("{}: the adapter is named twice", path.display())]
    AdapterTwice {
        /// The adapter.
        path: PathBuf,
    },
    /// An adapter has a tensor that takes the place of one of the model.
    #[error(
        "{}: it holds the tensor `{tensor}` whole (`modules_to_save`, `bias`); what it changes is known with the base \
         alone",
        adapter.display()
    )]
    WholeTensor {
        /// The adapter.
        adapter: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An adapter scales the rows of a changed weight to norms of its own.
    #[error(
        "{}: DoRA scales the rows of `{tensor}`, a change that depends on the weights of the base and is not of low rank",
        adapter.display()
    )]
    Dora {
        /// The adapter.
        adapter: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two adapters are not for the same model.
    #[error(
        "{what} is {found_first} in {}, but {found_second} in {}: they are not for the same model", first.display(),
        second.display()
    )]
    AdaptersDiffer {
        /// What is not the same.
        what: String,
        /// An adapter.
        first: PathBuf,
        /// What it has.
        found_first: String,
        /// Another.
        second: PathBuf,
        /// What that has.
        found_second: String,
    },
    /// The operator refuses its parameters at a tensor.
    #[error("tensor `{tensor}`{}", adapter.as_ref().map_or(String::new(), |path| format!(" of {}", path.display())))]
    Params {
        /// The tensor.
        tensor: String,
        /// The adapter that a parameter is missing for, if it is missing for one.
        adapter: Option<PathBuf>,
        /// Why.
        #[source]
        error: Box<ParamError>,
    },
    /// The operator cannot merge the cores of a tensor.
    #[error("tensor `{tensor}`")]
    Merge {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        error: Box<MergeError>,
    },
    /// The merged change of every tensor is zero.
    #[error("{operator} merges the adapters to no change at all")]
    NoChange {
        /// The operator.
        operator: &'static str,
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

impl LoraError {
    /// One error for all of `errors`; `None` where there is none.
    pub(crate) fn all(mut errors: Vec<LoraError>) -> Option<LoraError> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(LoraError::Several { errors }),
        }
    }

    /// The factors of the change of `tensor` cannot be stored.
    pub(crate) fn of_factors(tensor: &str, error: StoreError) -> LoraError {
        let tensor = tensor.to_string();
        match error {
            StoreError::Convert(error) => LoraError::Convert { tensor, error },
            StoreError::Overflow { value, dtype } => LoraError::Overflow { tensor, value, dtype },
        }
    }
}
