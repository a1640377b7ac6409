//! Errors in a recipe, with the names, numbers and positions that a user needs to correct it.

use glue_merge::registry::UnknownOperator;
use glue_merge::{MergeError, ParamError};
use glue_progress::ErrorChain;
use glue_tensor::tokenizer_files::{TokenizerDifference, TokenizerFilesError};
use glue_tensor::{AdapterError, CheckpointError, ConfigError, Dtype, ModelDirError, SideFileError};
use glue_yaml::{FilePosition, YamlError};
use std::path::PathBuf;

/// Something in a recipe that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: `{what}` has no effect: {why}")]
pub struct NoEffect {
    /// Where it stands.
    pub place: FilePosition,
    /// The key or the parameter.
    pub what: String,
    /// Why it has none.
    pub why: String,
}

/// Why a recipe cannot be parsed or planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// Several errors, two or more, in the order of the text.
    #[error("{}", lines(errors))]
    Several {
        /// Each of them.
        errors: Vec<RecipeError>,
    },
    /// Errors beyond those that are reported one by one.
    #[error("{count} more errors in other tensors")]
    More {
        /// Their number.
        count: usize,
    },
    /// The text is not YAML.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// The text has no document in it.
    #[error("{origin}: no recipe in it")]
    Empty {
        /// What the text was read from.
        origin: String,
    },
    /// A mapping has a key that means nothing there.
    #[error("{place}: {inside} has no key `{key}`{}", did_you_mean(nearest, known))]
    UnknownKey {
        /// Where the key stands.
        place: FilePosition,
        /// The mapping it stands in, in words.
        inside: &'static str,
        /// The key.
        key: String,
        /// The nearest key there is, if one is near.
        nearest: Option<&'static str>,
        /// All keys there are.
        known: Vec<&'static str>,
    },
    /// A key that must be there is not.
    #[error("{place}: {inside} needs {key}")]
    MissingKey {
        /// Where the mapping begins.
        place: FilePosition,
        /// The mapping, in words.
        inside: &'static str,
        /// The key or the choice of keys.
        key: &'static str,
    },
    /// Two keys that exclude each other.
    #[error("{place}: {inside} has both `{first}` and `{second}`; it takes one of them")]
    Conflict {
        /// Where the second stands.
        place: FilePosition,
        /// The mapping, in words.
        inside: &'static str,
        /// One of them.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A value that must be a mapping is something else.
    #[error("{place}: {inside} must be a mapping with {}, found {found}", known.join(", "))]
    NotAMapping {
        /// Where it stands.
        place: FilePosition,
        /// What it should be, in words.
        inside: &'static str,
        /// The keys there are.
        known: Vec<&'static str>,
        /// What was found, in words.
        found: String,
    },
    /// A value is of another kind than its key takes.
    #[error("{place}: `{key}` must be {expected}, found {found}")]
    WrongValue {
        /// Where the value stands.
        place: FilePosition,
        /// The key.
        key: String,
        /// What it takes, in words.
        expected: String,
        /// What was found, in words.
        found: String,
    },
    /// Something of the dialect that is not available.
    #[error("{place}: {what} is not available yet")]
    Unavailable {
        /// Where it stands.
        place: FilePosition,
        /// What it is.
        what: String,
    },
    /// No operator has the name given.
    #[error("{place}")]
    UnknownOperator {
        /// Where the name stands.
        place: FilePosition,
        /// The name, and the nearest there is.
        #[source]
        error: UnknownOperator,
    },
    /// A parameter is unknown, out of range, or given where it cannot be.
    #[error("{place}")]
    Param {
        /// Where the parameter stands.
        place: FilePosition,
        /// What is wrong with it.
        #[source]
        error: Box<ParamError>,
    },
    /// The operator takes another number of models, or has no base.
    #[error("{place}")]
    Operands {
        /// Where the models are listed.
        place: FilePosition,
        /// What is expected and found.
        #[source]
        error: Box<MergeError>,
    },
    /// The parameters that hold for a tensor do not make a merge.
    #[error("{place}: tensor `{tensor}`")]
    Tensor {
        /// Where the operator is named.
        place: FilePosition,
        /// The tensor.
        tensor: String,
        /// What the operator says.
        #[source]
        error: Box<MergeError>,
    },
    /// A parameter that every model needs is missing for one.
    #[error("{place}: tensor `{tensor}`: {operator} needs `{key}` for every model; it is missing for `{model}`")]
    ParamMissing {
        /// Where the operator is named.
        place: FilePosition,
        /// The tensor.
        tensor: String,
        /// The operator.
        operator: &'static str,
        /// The parameter.
        key: &'static str,
        /// The model.
        model: Box<str>,
    },
    /// A model cannot be opened.
    #[error("{place}")]
    Open {
        /// Where the model is named.
        place: FilePosition,
        /// What is wrong with it.
        #[source]
        error: Box<ModelDirError>,
    },
    /// An adapter cannot be opened, or was made for another model than the one it is written with.
    #[error("{place}")]
    Adapter {
        /// Where the model is named.
        place: FilePosition,
        /// What is wrong with it.
        #[source]
        error: Box<AdapterError>,
    },
    /// The statistics of a model cannot be opened.
    #[error("{place}: statistics of `{model}`")]
    Statistics {
        /// Where their path stands.
        place: FilePosition,
        /// The model.
        model: String,
        /// What is wrong with them.
        #[source]
        error: Box<CheckpointError>,
    },
    /// A model is given two different statistics.
    #[error("{place}: `{model}` has the statistics `{second}` here, but `{first}` elsewhere")]
    StatisticsTwice {
        /// Where the second path stands.
        place: FilePosition,
        /// The model.
        model: String,
        /// One path.
        first: String,
        /// The other.
        second: String,
    },
    /// Statistics are given that the operator has no use for.
    #[error("{place}: `{key}` is given, but `{operator}` uses {uses}")]
    StatisticsUnused {
        /// Where they are given.
        place: FilePosition,
        /// The key.
        key: &'static str,
        /// The operator.
        operator: &'static str,
        /// The statistics that it uses, in words.
        uses: String,
    },
    /// The operator needs statistics of a model, and none are given.
    #[error("{place}: `{operator}` needs the statistic `{statistic}` of `{model}`, but `{key}` is not given for it")]
    StatisticsMissing {
        /// Where the model is named, or the operator.
        place: FilePosition,
        /// The operator.
        operator: &'static str,
        /// Name of the statistic.
        statistic: &'static str,
        /// The model.
        model: String,
        /// The key that gives them.
        key: &'static str,
    },
    /// The statistics that are given do not have that of any tensor.
    #[error("{place}: `{operator}` needs the statistic `{statistic}`, but {paths} of no tensor that is merged")]
    NoStatistic {
        /// Where the operator is named.
        place: FilePosition,
        /// The operator.
        operator: &'static str,
        /// Name of the statistic.
        statistic: &'static str,
        /// The statistics that were looked at, and that they have it.
        paths: String,
    },
    /// A tensor has a statistic in one model and not in another.
    #[error(
        "the statistics of `{present}` have the `{statistic}` of tensor `{tensor}`, but {}",
        without(missing, path, looked_for)
    )]
    StatisticGap {
        /// Name of the tensor in the output.
        tensor: String,
        /// Name of the statistic.
        statistic: &'static str,
        /// A model whose statistics have it.
        present: Box<str>,
        /// A model whose statistics lack it.
        missing: Box<str>,
        /// The path of those; `None` where none are given.
        path: Option<Box<str>>,
        /// What was looked for there.
        looked_for: Box<str>,
    },
    /// A statistic is not of the shape or the type that its tensor asks for.
    #[error("`{name}` in the statistics {path} is {found}, but must be {expected} for tensor `{tensor}`")]
    StatisticShape {
        /// Name of the statistic's tensor.
        name: String,
        /// The statistics it is in.
        path: String,
        /// Name of the tensor in the output.
        tensor: String,
        /// Type and shape, in words.
        expected: Box<str>,
        /// Type and shape found, in words.
        found: Box<str>,
    },
    /// The weights of a model are quantised by a method that merging would break.
    #[error("{place}: model `{model}` is quantised ({method}); its numbers mean nothing without their scales")]
    Quantised {
        /// Where the model is named.
        place: FilePosition,
        /// The model.
        model: String,
        /// The method its configuration names.
        method: String,
    },
    /// Models listed as wholes have different numbers of layers.
    #[error(
        "{place}: `{second}` has {second_layers} layers, but `{first}` has {first_layers}; `models` merges layer by layer"
    )]
    LayerCounts {
        /// Where the second is named.
        place: FilePosition,
        /// A model.
        first: String,
        /// Its number of layers.
        first_layers: usize,
        /// Another model.
        second: String,
        /// Its number of layers.
        second_layers: usize,
    },
    /// The same tensors are listed twice.
    #[error("{place}: `{model}` is listed twice")]
    ModelTwice {
        /// Where it is listed again.
        place: FilePosition,
        /// The model.
        model: String,
    },
    /// A range of layers goes beyond those of its model.
    #[error("{place}: `layer_range` is [{start}, {end}], but model `{model}` has {layers} layers")]
    LayerRange {
        /// Where the range stands.
        place: FilePosition,
        /// The model.
        model: String,
        /// First layer.
        start: usize,
        /// One beyond the last layer.
        end: usize,
        /// How many layers the model has.
        layers: usize,
    },
    /// The sources of a slice have ranges of different lengths.
    #[error(
        "{place}: the sources of a slice must have equally many layers, but `{first}` has {first_layers} and `{second}` \
         has {second_layers}"
    )]
    SliceLengths {
        /// Where the second range stands.
        place: FilePosition,
        /// A source.
        first: String,
        /// Its number of layers.
        first_layers: usize,
        /// Another source.
        second: String,
        /// Its number of layers.
        second_layers: usize,
    },
    /// A tensor is in one model and not in another.
    #[error("tensor `{tensor}` is in `{present}`, but not in `{missing}`{}", under_other_name(tensor, looked_for))]
    TensorMissing {
        /// Its name in the output.
        tensor: String,
        /// Its name in the model that lacks it.
        looked_for: String,
        /// A model that has it.
        present: String,
        /// A model that lacks it.
        missing: String,
    },
    /// A tensor has another shape in another model.
    #[error("tensor `{tensor}` is {first_shape:?} in `{first}`, but {second_shape:?} in `{second}`")]
    ShapesDiffer {
        /// Its name in the output.
        tensor: String,
        /// A model.
        first: String,
        /// The shape there.
        first_shape: Box<[usize]>,
        /// Another model.
        second: String,
        /// The shape there.
        second_shape: Box<[usize]>,
        /// Whether it has a row for each token.
        vocabulary: bool,
    },
    /// A tensor holds floating-point numbers in one model and other elements in another.
    #[error("tensor `{tensor}` is {first_dtype} in `{first}`, but {second_dtype} in `{second}`")]
    DtypesDiffer {
        /// Its name in the output.
        tensor: String,
        /// A model.
        first: String,
        /// The type there.
        first_dtype: Dtype,
        /// Another model.
        second: String,
        /// The type there.
        second_dtype: Dtype,
    },
    /// A tensor has numbers of a type that can be copied, as `passthrough` does, but not merged.
    #[error("tensor `{tensor}` of `{model}` is {dtype}, which can be copied but not merged")]
    CopyOnly {
        /// Its name in the output.
        tensor: String,
        /// The first model that has it.
        model: String,
        /// Its type.
        dtype: Dtype,
    },
    /// No part of the recipe covers a tensor.
    #[error("{place}: no module covers tensor `{tensor}` of `{model}`")]
    Uncovered {
        /// Where the modules stand.
        place: FilePosition,
        /// The tensor.
        tensor: String,
        /// The model it is in.
        model: String,
    },
    /// A part of the recipe covers no tensor.
    #[error("{place}: no tensor of `{model}` has a name that starts with `{module}.`")]
    EmptyModule {
        /// Where the module stands.
        place: FilePosition,
        /// Its name.
        module: String,
        /// The model whose tensors were looked at.
        model: String,
    },
    /// Two parts of the recipe write the same tensor.
    #[error("tensor `{tensor}` would be written twice")]
    TensorTwice {
        /// Its name.
        tensor: String,
    },
    /// One tokenizer is asked for, and the models have different vocabularies.
    #[error(
        "{place}: one tokenizer for all models needs equal vocabularies, but those of `{first}` and `{second}` differ: \
         {why}"
    )]
    Vocabularies {
        /// Where the tokenizer is asked for.
        place: FilePosition,
        /// A model.
        first: String,
        /// Another model.
        second: String,
        /// The first difference.
        why: Box<TokenizerDifference>,
    },
    /// Embeddings are cut, and the tokenizer of the output has a token without a row.
    #[error("{place}: the tokenizer of `{model}` has a token with id {id}, but embeddings are cut to {rows} rows")]
    TokenCut {
        /// Where the tokenizer is asked for.
        place: FilePosition,
        /// The model that it is of.
        model: String,
        /// The highest id.
        id: u32,
        /// Rows of the output's embedding.
        rows: usize,
    },
    /// The model that the tokenizer should come from has none.
    #[error("{place}: model `{model}` has no tokenizer files")]
    NoTokenizer {
        /// Where it is named.
        place: FilePosition,
        /// The model.
        model: String,
    },
    /// Tokenizer files cannot be read.
    #[error(transparent)]
    TokenizerFiles(#[from] TokenizerFilesError),
    /// A file that the output gets a copy of cannot be read, or is a link that leads out of its model.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// A chat template is given by a path that cannot be read.
    #[error("{place}: {}", path.display())]
    ChatTemplate {
        /// Where it is given.
        place: FilePosition,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The configuration of the output cannot be made.
    #[error("the configuration of `{model}` cannot serve the output")]
    Config {
        /// The model it comes from.
        model: String,
        /// What is wrong with it.
        #[source]
        error: ConfigError,
    },
    /// Two stages have the same name.
    #[error("{place}: stage `{name}` is already defined at line {first_line}")]
    StageTwice {
        /// Where the second is named.
        place: FilePosition,
        /// The name.
        name: String,
        /// Line of the first.
        first_line: u64,
    },
    /// Stages need the output of each other, or one its own.
    #[error(
        "{place}: no stage can be the first of those that need each other: {}",
        stages.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" needs ")
    )]
    StageCycle {
        /// Where the first of them is named.
        place: FilePosition,
        /// Their names, each before the one that it needs; the first again at the end.
        stages: Vec<String>,
    },
    /// More than one document has no name.
    #[error("{place}: {found}; one document may have none, which is the output")]
    StageOutput {
        /// The document.
        place: FilePosition,
        /// What is wrong with it.
        found: String,
    },
    /// Experts that cannot be matched.
    #[error("{place}: `align_experts`: {reason}")]
    AlignExperts {
        /// Where the key stands.
        place: FilePosition,
        /// Why.
        reason: String,
    },
}

/// Where a parameter can be given.
const MISSING_HINT: &str = "a value under the top-level `parameters` applies where nothing more specific is given; in a list of \
                            filters, an entry without `filter` matches every tensor";

impl RecipeError {
    /// All of `errors` as one; `None` if there are none.
    pub(crate) fn all(mut errors: Vec<RecipeError>) -> Option<RecipeError> {
        if errors.len() > 1 { Some(Self::Several { errors }) } else { errors.pop() }
    }

    /// Where in the recipe it is, where it is at one place.
    pub fn place(&self) -> Option<&FilePosition> {
        match self {
            Self::UnknownKey { place, .. }
            | Self::MissingKey { place, .. }
            | Self::Conflict { place, .. }
            | Self::NotAMapping { place, .. }
            | Self::WrongValue { place, .. }
            | Self::Unavailable { place, .. }
            | Self::UnknownOperator { place, .. }
            | Self::Param { place, .. }
            | Self::Operands { place, .. }
            | Self::Tensor { place, .. }
            | Self::ParamMissing { place, .. }
            | Self::Open { place, .. }
            | Self::Adapter { place, .. }
            | Self::Statistics { place, .. }
            | Self::StatisticsTwice { place, .. }
            | Self::StatisticsUnused { place, .. }
            | Self::StatisticsMissing { place, .. }
            | Self::NoStatistic { place, .. }
            | Self::Quantised { place, .. }
            | Self::LayerCounts { place, .. }
            | Self::ModelTwice { place, .. }
            | Self::LayerRange { place, .. }
            | Self::SliceLengths { place, .. }
            | Self::Uncovered { place, .. }
            | Self::EmptyModule { place, .. }
            | Self::Vocabularies { place, .. }
            | Self::TokenCut { place, .. }
            | Self::NoTokenizer { place, .. }
            | Self::ChatTemplate { place, .. }
            | Self::StageTwice { place, .. }
            | Self::StageCycle { place, .. }
            | Self::StageOutput { place, .. } => Some(place),
            _ => None,
        }
    }

    /// What the user can do about it, where there is something beyond what the error says.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TensorMissing { tensor, .. } => format!(
                "`on_missing: base` takes the base's `{tensor}` for a model that lacks it, `on_missing: skip` leaves \
                 the tensor out of the output"
            ),
            Self::ShapesDiffer { vocabulary: true, .. } => {
                "the vocabularies have different sizes, and aligning them is not available yet; where equal ids are \
                 equal tokens, `on_vocabulary: truncate` merges the rows that all models have; otherwise bring the \
                 models to one vocabulary first, for example with `resize_token_embeddings` of transformers"
                    .into()
            }
            Self::TokenCut { .. } => "`tokenizer_source` chooses the model that the tokenizer comes from".into(),
            Self::ShapesDiffer { .. } => "models of different architectures or widths cannot be merged tensor by \
                                          tensor"
                .into(),
            Self::Vocabularies { .. } => {
                "without `tokenizer_source` the tokenizer of the base, or of the first model, is copied unchanged"
                    .into()
            }
            Self::LayerCounts { .. } => "`slices` with `layer_range` chooses layers from each model".into(),
            Self::LayerRange { .. } => "ranges count from 0 and exclude their end".into(),
            Self::Quantised { .. } => "merge the unquantised checkpoints, then quantise the result".into(),
            Self::EmptyModule { .. } => {
                "a module is called by what the names of its tensors start with, or `text_decoder`, `vision_tower` or \
                 `multi_modal_projector`"
                    .into()
            }
            Self::Uncovered { .. } => "a module called `default` covers all that the others leave".into(),
            Self::Statistics { error, .. } if !matches!(**error, CheckpointError::NotFound { .. }) => return None,
            Self::Statistics { .. } | Self::StatisticsMissing { .. } | Self::NoStatistic { .. } => {
                "`glue calibrate` measures the statistics of a model and writes them".into()
            }
            Self::StatisticGap { .. } => "statistics of all models must be made with the same options".into(),
            Self::StatisticShape { .. } => "statistics belong to the model that they were measured on".into(),
            Self::Open { error, .. } if matches!(**error, ModelDirError::NotFound { .. }) => {
                "model paths are relative to the working directory; nothing is downloaded".into()
            }
            Self::Adapter { error, .. } if matches!(**error, AdapterError::NotFound { .. }) => {
                "the path after a plus sign is that of an adapter, relative to the working directory; nothing is \
                 downloaded"
                    .into()
            }
            Self::Operands { error, .. } if matches!(**error, MergeError::BaseMissing { .. }) => {
                "name it with `base_model: PATH` at the top of the recipe".into()
            }
            Self::ParamMissing { .. } => MISSING_HINT.into(),
            Self::Tensor { error, .. } if matches!(**error, MergeError::Param(ParamError::Missing { .. })) => {
                MISSING_HINT.into()
            }
            _ => return None,
        })
    }

    /// Whether the recipe must be changed, rather than something on this machine.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Several { errors } => errors.iter().any(Self::is_usage),
            Self::Statistics { error, .. } => matches!(**error, CheckpointError::NotFound { .. }),
            Self::SideFile(error) => matches!(error, SideFileError::LeadsOut { .. }),
            Self::TokenizerFiles(_) | Self::ChatTemplate { .. } | Self::Config { .. } => false,
            Self::Open { error, .. } => matches!(
                **error,
                ModelDirError::NotFound { .. }
                    | ModelDirError::NotADirectory { .. }
                    | ModelDirError::NoConfig { .. }
                    | ModelDirError::IsAdapter { .. }
            ),
            Self::Adapter { error, .. } => {
                !matches!(**error, AdapterError::Io { .. } | AdapterError::Json { .. } | AdapterError::Checkpoint(_))
            }
            _ => true,
        }
    }
}

fn lines(errors: &[RecipeError]) -> String {
    errors.iter().map(|error| error.chain()).collect::<Vec<_>>().join("\n")
}

fn did_you_mean(nearest: &Option<&'static str>, known: &[&'static str]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; it has {}", known.join(", ")),
    }
}

fn without(missing: &str, path: &Option<Box<str>>, looked_for: &str) -> String {
    match path {
        Some(path) => format!("those of `{missing}` ({path}) have no `{looked_for}`"),
        None => format!("`{missing}` is given none"),
    }
}

fn under_other_name(tensor: &str, looked_for: &str) -> String {
    if tensor == looked_for { String::new() } else { format!(" (looked for as `{looked_for}`)") }
}
