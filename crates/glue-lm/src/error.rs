//! What can go wrong when a model is opened or run.

use crate::weight::WeightError;
use glue_tensor::ConfigError;
use glue_tensor::model_dir::ModelDirError;

/// Why a model cannot be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LmError {
    /// The model directory cannot be opened.
    #[error(transparent)]
    ModelDir(#[from] ModelDirError),
    /// The configuration is malformed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration of a mixture is wrong.
    #[error(transparent)]
    Mixture(#[from] glue_mixture::MixError),
    /// The configuration asks for something that this runtime does not compute.
    #[error("`{key}` in the configuration is {value}, which is not supported: {reason}")]
    Unsupported {
        /// The key, with a dot between it and the key it stands under, if any.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What is supported, or why this is not.
        reason: String,
    },
    /// The configuration lacks a key that has no default.
    #[error("`{key}` is missing from the configuration")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key of the configuration holds a value that makes no sense.
    #[error("`{key}` in the configuration should be {expected}, but is {found}")]
    BadValue {
        /// The key, with a dot between it and the key it stands under, if any.
        key: String,
        /// What it should hold.
        expected: String,
        /// What it holds, as JSON.
        found: String,
    },
    /// The configuration asks for a tensor that the checkpoint lacks.
    #[error("tensor `{name}` of shape {expected:?} is missing from the checkpoint")]
    MissingTensor {
        /// The tensor.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("tensor `{name}` should have shape {expected:?} by the configuration, but has {found:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// The checkpoint holds a tensor that the configuration has no use for, so that it would be dropped in silence.
    #[error("tensor `{name}` is in the checkpoint, but {reason}")]
    UnexpectedTensor {
        /// The tensor.
        name: String,
        /// Why it is not used.
        reason: String,
    },
    /// A tensor cannot be used as a weight.
    #[error("tensor `{name}`")]
    Weight {
        /// The tensor.
        name: String,
        /// What is wrong.
        #[source]
        error: WeightError,
    },
    /// A token has no row in the embedding.
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    Token {
        /// The token.
        token: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// Hidden states of a layer that does not exist were asked for.
    #[error("hidden states {index} were asked for; there are 0 (embeddings) to {last} (after the final norm)")]
    HiddenIndex {
        /// The index given.
        index: usize,
        /// The largest index there is.
        last: usize,
    },
    /// Logits of a row that is not in the pass were asked for.
    #[error("logits of pending token {index} of {branch} were asked for, which has {pending} pending tokens")]
    NoSuchRow {
        /// The branch.
        branch: String,
        /// The index given.
        index: usize,
        /// Pending tokens of that branch.
        pending: usize,
    },
    /// Tokens after an empty root were handed to a model that routes samples by their prompts.
    #[error(
        "a root without tokens was run; this model chooses experts by the prompt, which is what stands in the root"
    )]
    NoPrompt,
    /// Gates handed in for training do not fit the model.
    #[error("gate {index}: {reason}")]
    Gate {
        /// Its number, counted from 0.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// A tree filled by one model was handed to another.
    #[error("the tree holds keys and values of a model with {found} layers, and this one has {expected}")]
    ForeignTree {
        /// Layers of this model, those of each expert counted.
        expected: usize,
        /// Layers the tree holds.
        found: usize,
    },
    /// Something that is there for dense models alone was asked of a mixture.
    #[error("{what} are there for dense models; this one chooses among experts")]
    NotDense {
        /// What was asked for.
        what: &'static str,
    },
    /// Something that is there for keys and values of each head alone was asked of multi-head latent attention.
    #[error("{what} are not there for models whose keys and values are made of a latent vector")]
    LatentKeys {
        /// What was asked for.
        what: &'static str,
    },
    /// Something that is there for matrices stored [out, in] alone was asked of other experts.
    #[error("{what} are not there for experts that are stored with their inputs first, or packed")]
    OtherLayout {
        /// What was asked for.
        what: &'static str,
    },
    /// Something that mixtures in the native format do not have was asked of one.
    #[error("{what} are not there for a mixture in the native format")]
    NativeMixture {
        /// What was asked for.
        what: &'static str,
    },
    /// A layer that does not exist was to be run.
    #[error("layer {layer} was to be run; there are 0 to {last}")]
    NoSuchLayer {
        /// The layer given.
        layer: usize,
        /// The last there is.
        last: usize,
    },
    /// Residual streams that were handed in are not those of the tokens.
    #[error(
        "residual streams hold {found} numbers, expected {expected}: a row of the hidden size for each pending token"
    )]
    States {
        /// Pending tokens times the hidden size.
        expected: usize,
        /// Numbers handed in.
        found: usize,
    },
    /// A request to score cannot be scored.
    #[error("request {index}: {reason}")]
    Request {
        /// Its number, counted from 0.
        index: usize,
        /// Why not.
        reason: String,
    },
    /// A request to score is longer than the model's positions.
    #[error("request {index} takes {length} positions, and the model has {max_positions}")]
    TooLong {
        /// Its number, counted from 0.
        index: usize,
        /// Positions it takes: all its tokens but the last, which is only predicted.
        length: usize,
        /// `max_position_embeddings` of the model.
        max_positions: usize,
    },
    /// A padded batch contradicts itself.
    #[error("padded batch: {reason}")]
    Batch {
        /// What is wrong.
        reason: String,
    },
    /// The caller asked to end, by a [`CancelToken`](glue_progress::CancelToken).
    #[error("cancelled")]
    Cancelled,
    /// An operation on activations failed.
    #[error("computation")]
    Compute(#[from] candle_core::Error),
}
