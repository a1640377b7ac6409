//! What can go wrong in a merge, with the names and numbers that a user needs to fix it.

use crate::registry::UnknownOperator;
use std::error::Error;
use std::fmt;

/// An error of the caller's own: of a file being read, of a sink being written.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a tensor cannot be merged.
#[derive(Debug)]
#[non_exhaustive]
pub enum MergeError {
    /// The operator takes another number of models.
    InputCount {
        /// Name of the operator.
        operator: &'static str,
        /// What it takes, in words: "exactly 2 models".
        expected: String,
        /// How many there are, the base not counted.
        found: usize,
    },
    /// The operator measures differences from a base, and there is none.
    BaseMissing {
        /// Name of the operator.
        operator: &'static str,
    },
    /// No operator has the name asked for.
    Unknown(UnknownOperator),
    /// A parameter is unknown, missing or out of range.
    Param(ParamError),
    /// The operator cannot work on a tensor of this shape.
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What the operator needs.
        expected: String,
    },
    /// An input has another number of elements than the tensor that is made from it.
    Length {
        /// Name of the tensor.
        tensor: String,
        /// Number of elements of the tensor.
        expected: usize,
        /// Number of elements of the input.
        found: usize,
    },
    /// The operator cannot do without a statistic of this tensor.
    StatisticMissing {
        /// Name of the operator.
        operator: &'static str,
        /// Name of the tensor.
        tensor: String,
        /// Name of the statistic.
        statistic: &'static str,
    },
    /// The statistics are not those that the operator declares.
    Statistics {
        /// Name of the tensor.
        tensor: String,
        /// What the operator wants, in words.
        expected: String,
        /// What was found, in words.
        found: String,
    },
    /// The arithmetic came to no result, as when an iteration does not converge.
    NoResult {
        /// Name of the tensor.
        tensor: String,
        /// What happened.
        reason: BoxError,
    },
    /// An operator or an executor did not keep its contract: a defect of the program, not of the models.
    Contract {
        /// What it did.
        reason: String,
    },
    /// Reading an input or writing the result failed.
    Io(BoxError),
    /// The caller stopped the merge.
    Stopped,
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InputCount { operator, expected, found } => {
                write!(f, "{operator} merges {expected}, found {found}")
            }
            Self::BaseMissing { operator } => {
                write!(f, "{operator} needs a base model, none is given")
            }
            Self::Unknown(e) => e.fmt(f),
            Self::Param(e) => e.fmt(f),
            Self::Shape { tensor, shape, expected } => {
                write!(f, "tensor {tensor} has shape {shape:?}, expected {expected}")
            }
            Self::Length { tensor, expected, found } => {
                write!(f, "an input of tensor {tensor} has {found} elements, expected {expected}")
            }
            Self::StatisticMissing { operator, tensor, statistic } => {
                write!(f, "{operator} needs the statistic `{statistic}` of tensor {tensor}, and there is none")
            }
            Self::Statistics { tensor, expected, found } => {
                write!(f, "statistics of tensor {tensor}: expected {expected}, found {found}")
            }
            Self::NoResult { tensor, .. } => write!(f, "tensor {tensor} cannot be merged"),
            Self::Contract { reason } => write!(f, "internal error: {reason}"),
            Self::Io(e) => e.fmt(f),
            Self::Stopped => f.write_str("the merge was stopped"),
        }
    }
}

impl Error for MergeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Param(e) => e.source(),
            Self::Io(e) => e.source(),
            Self::NoResult { reason, .. } => Some(&**reason),
            _ => None,
        }
    }
}

impl From<UnknownOperator> for MergeError {
    fn from(e: UnknownOperator) -> Self {
        Self::Unknown(e)
    }
}

impl From<ParamError> for MergeError {
    fn from(e: ParamError) -> Self {
        Self::Param(e)
    }
}

/// Why the settings of an operator are refused.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ParamError {
    /// No parameter of that name.
    Unknown {
        /// Name of the operator.
        operator: &'static str,
        /// The name that was given.
        key: String,
        /// The nearest name the operator knows, if one is near.
        nearest: Option<&'static str>,
        /// All names it knows.
        known: Vec<&'static str>,
    },
    /// A parameter without a default is not given.
    Missing {
        /// Name of the operator.
        operator: &'static str,
        /// Name of the parameter.
        key: &'static str,
        /// Position of the model it is missing for; `None` for one that holds for the whole tensor.
        input: Option<usize>,
    },
    /// The value is of the wrong kind or out of range.
    Refused {
        /// Name of the operator.
        operator: &'static str,
        /// Name of the parameter.
        key: &'static str,
        /// What is allowed, in words.
        allowed: String,
        /// What was found.
        found: String,
    },
    /// A parameter that holds for the whole tensor was given for one model.
    NotPerInput {
        /// Name of the operator.
        operator: &'static str,
        /// Name of the parameter.
        key: &'static str,
    },
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { operator, key, nearest, known } => {
                write!(f, "{operator} has no parameter `{key}`")?;
                match nearest {
                    Some(n) => write!(f, "; did you mean `{n}`?"),
                    None if known.is_empty() => write!(f, "; it has none"),
                    None => write!(f, "; it has {}", known.join(", ")),
                }
            }
            Self::Missing { operator, key, input: Some(i) } => {
                write!(f, "{operator} needs `{key}` for every model; it is missing for model {}", i + 1)
            }
            Self::Missing { operator, key, input: None } => write!(f, "{operator} needs the parameter `{key}`"),
            Self::Refused { operator, key, allowed, found } => {
                write!(f, "{operator}: `{key}` must be {allowed}, found {found}")
            }
            Self::NotPerInput { operator, key } => {
                write!(f, "{operator}: `{key}` holds for the whole merge and cannot differ between models")
            }
        }
    }
}

impl Error for ParamError {}
