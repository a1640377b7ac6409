//! Why a mixture cannot be described, planned, written or read.

use crate::config::GateMode;
use glue_tensor::checkpoint::CheckpointError;
use glue_tensor::config::ConfigError;
use glue_tensor::tokenizer_files::TokenizerFilesError;
use glue_tensor::{FileChanged, ModelDirError, SideFileError, WriteError};
use glue_yaml::{Place, YamlError};
use std::path::PathBuf;

/// Why a mixture cannot be described, planned, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MixError {
    /// The text is not YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// The text does not hold exactly one document.
    #[error("{origin}: a mixture is described by one document; there are {found}")]
    Documents {
        /// What the text was read from.
        origin: String,
        /// How many there are.
        found: usize,
    },
    /// A mapping has a key that means nothing there.
    #[error("{place}: {inside} has no key `{key}`; it has {}", known.join(", "))]
    UnknownKey {
        /// Where the key stands.
        place: Place,
        /// The mapping, in words.
        inside: &'static str,
        /// The key.
        key: String,
        /// All keys there are.
        known: Vec<&'static str>,
    },
    /// A key that must be there is not.
    #[error("{place}: {inside} needs `{key}`")]
    MissingKey {
        /// Where the mapping begins.
        place: Place,
        /// The mapping, in words.
        inside: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A value is of another kind or range than its key takes.
    #[error("{place}: `{key}` must be {expected}, found {found}")]
    WrongValue {
        /// Where the value stands.
        place: Place,
        /// The key.
        key: String,
        /// What it takes, in words.
        expected: String,
        /// What was found, in words.
        found: String,
    },
    /// Two keys ask for what cannot be had together.
    #[error("{place}: `{key}` {why}")]
    Conflict {
        /// Where the value stands.
        place: Place,
        /// The key.
        key: &'static str,
        /// Why it cannot stand here.
        why: String,
    },
    /// An expert has no prompts and the mode needs them.
    #[error("{place}: expert `{expert}` has no `positive_prompts`, which `gate_mode: {mode}` needs")]
    NoPrompts {
        /// Where the expert stands.
        place: Place,
        /// The expert.
        expert: String,
        /// The mode.
        mode: GateMode,
    },
    /// All experts have the same prompts, so that no gate could tell them apart.
    #[error("{place}: all experts have the same prompts; a gate could not tell them apart")]
    SamePrompts {
        /// Where the experts stand.
        place: Place,
    },
    /// A model cannot be opened.
    #[error("{place}")]
    Open {
        /// Where the model is named.
        place: Place,
        /// What is wrong with it.
        #[source]
        error: Box<ModelDirError>,
    },
    /// A key of a model's configuration makes it unfit.
    #[error("{}: `{key}` is {found}, but {expected}", path.display())]
    Unfit {
        /// Directory of the model.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it holds, as JSON.
        found: String,
        /// What it should hold, in words.
        expected: String,
    },
    /// A tensor is in the base and not in an expert.
    #[error("tensor `{tensor}` is in the base {}, but not in expert {}", base.display(), expert.display())]
    TensorMissing {
        /// Its name.
        tensor: String,
        /// Directory of the base.
        base: PathBuf,
        /// Directory of the expert.
        expert: PathBuf,
    },
    /// An expert has a tensor that the base has not, in a part that is mixed.
    #[error("tensor `{tensor}` is in expert {}, but not in the base {}", expert.display(), base.display())]
    TensorExtra {
        /// Its name.
        tensor: String,
        /// Directory of the base.
        base: PathBuf,
        /// Directory of the expert.
        expert: PathBuf,
    },
    /// A tensor of an expert has another shape than the base's.
    #[error(
        "tensor `{tensor}` is {found:?} in expert {}, but {expected:?} in the base {}", expert.display(), base.display()
    )]
    Shape {
        /// Its name.
        tensor: String,
        /// Directory of the base.
        base: PathBuf,
        /// The shape there.
        expected: Box<[usize]>,
        /// Directory of the expert.
        expert: PathBuf,
        /// The shape there.
        found: Box<[usize]>,
    },
    /// A model has no tensor whose name begins as those of a mixed part must.
    #[error("no tensor of {} has a name that begins with `{prefix}`", path.display())]
    NoTensors {
        /// Directory of the model.
        path: PathBuf,
        /// What was looked for.
        prefix: String,
    },
    /// A tensor does not hold floating-point numbers.
    #[error("tensor `{tensor}` of {} holds {dtype}, which is not mixed", path.display())]
    NotFloat {
        /// Its name.
        tensor: String,
        /// Directory of the model.
        path: PathBuf,
        /// The type.
        dtype: glue_tensor::Dtype,
    },
    /// A tensor whose values are changed or converted holds a NaN, an infinity, or what becomes one.
    #[error("tensor `{tensor}` of {} holds a value that is not finite, or that the type of the output cannot hold", path.display())]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Directory of the model.
        path: PathBuf,
    },
    /// A model whose prompts must be read has no tokenizer.
    #[error("{place}: model {} has no tokenizer, and {needed}", path.display())]
    NoTokenizer {
        /// Where the model is named.
        place: Place,
        /// Directory of the model.
        path: PathBuf,
        /// What it is needed for, in words.
        needed: &'static str,
    },
    /// An expert that shares the base's embeddings gives its tokens other ids.
    #[error("{place}: the tokenizer of expert {} differs from that of the base: {why}", expert.display())]
    Tokenizers {
        /// Where the expert is named.
        place: Place,
        /// Directory of the expert.
        expert: PathBuf,
        /// The first difference.
        why: String,
    },
    /// The form asked for cannot hold the mixture.
    #[error("{form} cannot hold this mixture: {why}")]
    Form {
        /// The form, as `format` names it.
        form: &'static str,
        /// Why.
        why: String,
    },
    /// There are not as many gates as are needed, or of another size or kind.
    #[error("{what}: {expected} expected, found {found}")]
    Gates {
        /// What is counted or measured.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A gate holds a value that is not finite, or that the output's type does not hold.
    #[error("{gate}: value {value} cannot be stored as {dtype}")]
    GateValue {
        /// The tensor of the gate.
        gate: String,
        /// The value.
        value: f32,
        /// The type.
        dtype: glue_tensor::Dtype,
    },
    /// The mixture lacks a tensor of a gate.
    #[error("{}: gate tensor `{tensor}` is missing", path.display())]
    GateMissing {
        /// Directory of the mixture.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The gates stand in one file with other tensors, so that they cannot be replaced by themselves.
    #[error("{}: the gates stand in one file with `{tensor}`; they can only be replaced in a file of their own", file.display())]
    GatesNotApart {
        /// The file.
        file: PathBuf,
        /// A tensor that is no gate.
        tensor: String,
    },
    /// The directory holds no mixture.
    #[error("{}: not a mixture of experts (`model_type` is {model_type})", path.display())]
    NotAMixture {
        /// The directory.
        path: PathBuf,
        /// What its configuration says, as JSON.
        model_type: String,
    },
    /// A key of the configuration of a mixture is missing or malformed.
    #[error("`{key}` in the configuration of the mixture: {message}")]
    Spec {
        /// The key.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A configuration cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Tokenizer files cannot be read.
    #[error(transparent)]
    TokenizerFiles(#[from] TokenizerFilesError),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that the output gets a copy of cannot be read, or is a link that leads out of its model.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// A file of an input is not what it was when the mixture was planned.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The caller cancelled it.
    #[error("stopped; nothing was written")]
    Stopped,
}

impl MixError {
    /// What the user can do about it, where there is something beyond what the error says.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Shape { .. } | Self::TensorMissing { .. } | Self::TensorExtra { .. } | Self::Tokenizers { .. } => {
                "models that differ in shape or vocabulary can be mixed whole: `level: model` with `whole: true`".into()
            }
            Self::NoPrompts { .. } => {
                "give each expert prompts that should go to it; or let the items of tasks give them, by `tasks` or --tasks; or \
                 use `gate_mode: random` and train the gates"
                    .into()
            }
            Self::Open { error, .. } if matches!(**error, ModelDirError::NotFound { .. }) => {
                "model paths are relative to the working directory; nothing is downloaded".into()
            }
            Self::Form { .. } => "`format: native` holds every mixture".into(),
            _ => return None,
        })
    }

    /// Whether the description must be changed, rather than something on this machine.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Open { error, .. } => matches!(
                **error,
                ModelDirError::NotFound { .. } | ModelDirError::NotADirectory { .. } | ModelDirError::NoConfig { .. }
            ),
            Self::TokenizerFiles(_)
            | Self::Config(_)
            | Self::Checkpoint(_)
            | Self::Write(_)
            | Self::Read { .. }
            | Self::NotFinite { .. }
            | Self::Changed(_)
            | Self::Stopped => false,
            Self::SideFile(error) => matches!(error, SideFileError::LeadsOut { .. }),
            _ => true,
        }
    }
}
