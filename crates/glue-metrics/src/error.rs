//! What can go wrong, each with the model and tensor it went wrong in.

use glue_tensor::convert::ConvertError;
use glue_tensor::tokenizer_files::TokenizerFilesError;
use std::io;

/// Why models cannot be compared or clustered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The list of models is empty.
    #[error("no models to compare")]
    NoModels,
    /// Two models have the same name.
    #[error("two models are called `{name}`")]
    DuplicateModel {
        /// The name.
        name: String,
    },
    /// An unknown name.
    #[error("unknown {what} `{name}`, expected one of {known}")]
    Unknown {
        /// What is named, such as `metric`.
        what: &'static str,
        /// The name given.
        name: String,
        /// The known names, separated by commas.
        known: String,
    },
    /// The metric compares deltas, and no base is given.
    #[error("metric `{metric}` compares deltas from a base, and no base is given")]
    BaseMissing {
        /// The metric.
        metric: &'static str,
    },
    /// A base is given to a metric that does not use it.
    #[error("metric `{metric}` does not use a base, but `{base}` is given; {with_base} do")]
    BaseUnused {
        /// The metric.
        metric: &'static str,
        /// The base.
        base: String,
        /// Metrics that use a base, separated by commas.
        with_base: String,
    },
    /// The base has the tensors of none of the models.
    #[error("base `{base}` does not have the tensors of any model: compared with `{model}`, {difference}")]
    BaseShape {
        /// The base.
        base: String,
        /// The first model.
        model: String,
        /// The first difference.
        difference: String,
    },
    /// No tensor of any model is selected.
    #[error("no tensor is selected by {selection}; `{model}` has {tensors} tensors, such as `{example}`")]
    NothingSelected {
        /// The selection in words.
        selection: String,
        /// The first model.
        model: String,
        /// Tensors it has.
        tensors: usize,
        /// The first of them.
        example: String,
    },
    /// A selected matrix holds integers, as a quantised model's does.
    #[error("`{tensor}` of `{model}` is of type {dtype}; only floating-point weights can be compared")]
    NotFloat {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: String,
    },
    /// A weight is NaN or infinite.
    #[error("`{tensor}` of `{model}` holds a NaN or an infinity in elements {first} to {last}")]
    NotFinite {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// First element of the stretch looked at, in row-major order.
        first: usize,
        /// Last element of it.
        last: usize,
    },
    /// Weights are so large that their products overflow.
    #[error("`{tensor}`: products of weights exceed the range of f32 (magnitudes above 1e18)")]
    Overflow {
        /// The tensor.
        tensor: String,
    },
    /// The header and the data of a tensor disagree.
    #[error("`{tensor}` of `{model}`")]
    Convert {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// What the conversion says.
        #[source]
        error: ConvertError,
    },
    /// A file of weights cannot be read, or ends before its header says.
    #[error("`{tensor}` of `{model}`")]
    Read {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The sampled fraction is not in (0, 1].
    #[error("the sampled fraction is {fraction}; it must be above 0 and at most 1")]
    Sample {
        /// The fraction given.
        fraction: f64,
    },
    /// A threshold outside the range of the figures.
    #[error("threshold {threshold}: expected {expected}")]
    Threshold {
        /// The threshold given.
        threshold: f64,
        /// The range of the figures.
        expected: &'static str,
    },
    /// A matrix is not square, not symmetric, or does not fit its names.
    #[error("not a matrix of similarities: {message}")]
    Matrix {
        /// What is wrong.
        message: String,
    },
    /// A tokenizer's files cannot be read.
    #[error("tokenizer of `{model}`")]
    Tokenizer {
        /// The model.
        model: String,
        /// What is wrong.
        #[source]
        error: TokenizerFilesError,
    },
    /// The caller cancelled it.
    #[error("stopped")]
    Stopped,
}
