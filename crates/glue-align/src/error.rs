//! What can go wrong.

use crate::permutation::PermutationError;
use glue_tensor::{ConvertError, FileChanged, SideFileError, WriteError};
use std::io;
use std::path::PathBuf;

/// Why a model cannot be aligned, or permutations cannot be applied to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlignError {
    /// The configuration lacks a number that determines the structure of the model.
    #[error("the configuration does not say `{key}`, which determines the symmetries of the model")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// The configuration asks for something that breaks the symmetry.
    #[error("`{key}` is {found} in the configuration, under which {what} cannot be permuted")]
    BreaksSymmetry {
        /// The key.
        key: &'static str,
        /// Its value, as JSON.
        found: String,
        /// What cannot be permuted.
        what: &'static str,
    },
    /// A tensor whose role in the model is unknown, and with it how it would have to be permuted.
    #[error("tensor `{tensor}` of shape {shape:?} is not one whose symmetries are known")]
    UnknownTensor {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor's shape contradicts the configuration or the other tensors of its layer.
    #[error("tensor `{tensor}` should have shape {expected}, but has {found:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The shape expected, with the names of its extents.
        expected: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor is missing that must be permuted together with others.
    #[error("tensor `{tensor}` is missing, though the model has `{beside}`")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// A tensor of the group that is present.
        beside: String,
    },
    /// The model has nothing that could be permuted.
    #[error("nothing that was asked for can be permuted in this model: {asked}")]
    NoGroups {
        /// The kinds asked for.
        asked: String,
    },
    /// Reference and model differ in their tensors or groups.
    #[error(
        "{what}: {reference} in the reference, {model} in the model; only models of the same shapes can be aligned"
    )]
    Differ {
        /// What differs: a tensor or a group.
        what: String,
        /// What the reference has.
        reference: String,
        /// What the model has.
        model: String,
    },
    /// A tensor that should hold floating-point numbers does not.
    #[error("tensor `{tensor}`")]
    Convert {
        /// The tensor.
        tensor: String,
        /// Why it cannot be widened.
        #[source]
        error: ConvertError,
    },
    /// A tensor holds an infinity or NaN, with which there is no best assignment.
    #[error("tensor `{tensor}` of the {of} holds values that are not finite")]
    NotFinite {
        /// The tensor or the group.
        tensor: String,
        /// `reference`, `model` or `activations`.
        of: &'static str,
    },
    /// A group has more units than a matrix of gains may have.
    #[error("group `{group}` has {units} units; the limit is {limit}, where its matrix of gains takes {bytes} bytes")]
    TooManyUnits {
        /// The group.
        group: String,
        /// Its units.
        units: usize,
        /// The limit in the options.
        limit: usize,
        /// Bytes of the matrix.
        bytes: u128,
    },
    /// A group's permutation is missing, is of another length, or is of a group that the model does not have.
    #[error("permutation of group `{group}`: expected {expected}, found {found}")]
    Group {
        /// The group.
        group: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A list of numbers is not a permutation.
    #[error("group `{group}`")]
    Permutation {
        /// The group.
        group: String,
        /// Why.
        #[source]
        error: PermutationError,
    },
    /// Activations have another number of units than the group they are for, or reference and model disagree.
    #[error("activations of `{group}`: expected {expected}, found {found}")]
    Activations {
        /// The group.
        group: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The source of the activations failed.
    #[error("no activations")]
    Source {
        /// Why.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The solver found no assignment. This is a defect of the solver; there is no result then.
    #[error("no assignment was found for {units} units: {message}")]
    Assignment {
        /// Units on each side.
        units: usize,
        /// What the solver said.
        message: String,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file beside the weights cannot be read.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file to be copied to the output cannot be read, or is a link that leads out of its model.
    #[error(transparent)]
    SideFile(#[from] SideFileError),
    /// A file of a model has changed since the model was opened.
    #[error(transparent)]
    Changed(#[from] FileChanged),
    /// The caller cancelled it.
    #[error("stopped; nothing was written")]
    Stopped,
}
