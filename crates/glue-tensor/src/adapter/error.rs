//! Why an adapter cannot be used.

use crate::checkpoint::CheckpointError;
use crate::dtype::Dtype;
use crate::hub::download_hint;
use std::io;
use std::path::{Path, PathBuf};

use super::{CONFIG_FILE, PREFIX, WEIGHTS_FILE};

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// Nothing is at the path.
    #[error(
        "{}: no such directory{}; an adapter is a directory with {CONFIG_FILE} and {WEIGHTS_FILE}",
        path.display(), download_hint(path)
    )]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The path is a file.
    #[error("{}: an adapter is a directory with {CONFIG_FILE} and {WEIGHTS_FILE}, and this is a file", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The directory has no configuration of an adapter.
    #[error("{}: no {CONFIG_FILE} in the directory, so it holds no adapter", path.display())]
    NoConfig {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has no weights that can be read.
    #[error(
        "{}: no {WEIGHTS_FILE} in the directory; save the adapter with PEFT: \
         `save_pretrained(OUT, safe_serialization=True)`",
        path.display()
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused an operation.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The configuration is not a JSON object.
    #[error("{}: not a JSON object: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A key of the configuration is missing or holds something else than it should.
    #[error("{}: `{key}` should be {expected}, but is {found}", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds, as JSON.
        found: String,
    },
    /// The configuration asks for something whose effect on the weights is not a sum of low-rank products.
    #[error("{}: `{key}` is {found}: {why}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it holds, as JSON.
        found: String,
        /// What that means.
        why: &'static str,
    },
    /// A key of `rank_pattern` or `alpha_pattern` is no regular expression, or one that takes too long.
    #[error("{}: `{pattern}` in `{key}` cannot be matched: {message}", path.display())]
    Pattern {
        /// The file.
        path: PathBuf,
        /// `rank_pattern` or `alpha_pattern`.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// The weights cannot be opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The adapter changes nothing.
    #[error("{}: no tensor in it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A tensor whose meaning is not known.
    #[error(
        "{}: tensor `{tensor}` is neither a factor (`{PREFIX}MODULE.lora_A.weight`, `lora_B.weight`, `lora_embedding_A`, \
         `lora_embedding_B`) nor a whole tensor of the model; adapters of other kinds cannot be applied",
        path.display()
    )]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two tensors would change the same tensor of the model in the same way.
    #[error("{}: `{first}` and `{second}` are for the same tensor", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// A tensor.
        first: String,
        /// Another.
        second: String,
    },
    /// One factor is there without the other.
    #[error("{}: `{present}` is there, but {missing}, the other factor, is not", path.display())]
    MissingFactor {
        /// The file.
        path: PathBuf,
        /// The factor that is there.
        present: String,
        /// `A` or `B`.
        missing: &'static str,
    },
    /// The norms of DoRA are missing, not asked for, of another shape, or where they are not supported.
    #[error("{}: `{tensor}`: {message}", path.display())]
    Dora {
        /// The file.
        path: PathBuf,
        /// The norms, or a factor of their module.
        tensor: String,
        /// What is wrong.
        message: &'static str,
    },
    /// The factors of a module do not go with the parameters that have some.
    #[error(
        "{}: `{module}` has factors of {found} parameters, but `target_parameters` names {parameters:?} of it",
        path.display()
    )]
    Parameters {
        /// The file.
        path: PathBuf,
        /// The module.
        module: String,
        /// The parameters that are named.
        parameters: Vec<String>,
        /// How many have factors.
        found: usize,
    },
    /// A factor is no matrix, or not of the rank that the configuration says.
    #[error("{}: `{tensor}` should have shape {expected} with rank {rank}, but has {found:?}", path.display())]
    FactorShape {
        /// The file.
        path: PathBuf,
        /// The factor.
        tensor: String,
        /// Its shape in words.
        expected: &'static str,
        /// The rank by the configuration.
        rank: usize,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor that should hold floating-point numbers does not.
    #[error("{}: tensor `{tensor}` holds {found}, not floating-point numbers", path.display())]
    NotFloat {
        /// The checkpoint or the adapter's file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Dtype,
    },
    /// The model lacks a tensor that the adapter changes.
    #[error(
        "{}: made for another model: `{tensor}` changes `{looked_for}`, which {} does not have", path.display(),
        model.display()
    )]
    NotInModel {
        /// The adapter.
        path: PathBuf,
        /// The tensor of the adapter.
        tensor: String,
        /// The name looked for in the model.
        looked_for: String,
        /// The model.
        model: PathBuf,
    },
    /// A tensor of the model has another shape than the adapter was made for.
    #[error(
        "{}: made for another model: it changes `{tensor}` of shape {expected:?}, which is {found:?} in {}",
        path.display(), model.display()
    )]
    ShapeInModel {
        /// The adapter.
        path: PathBuf,
        /// The tensor of the model.
        tensor: String,
        /// The shape that goes with the adapter.
        expected: Box<[usize]>,
        /// The shape in the model.
        found: Box<[usize]>,
        /// The model.
        model: PathBuf,
    },
}

impl AdapterError {
    /// The same, found in the file or directory `path` where it names none yet.
    pub(super) fn at(mut self, at: &Path) -> AdapterError {
        if let AdapterError::Pattern { path, .. } = &mut self
            && path.as_os_str().is_empty()
        {
            *path = at.to_path_buf();
        }
        self
    }
}
