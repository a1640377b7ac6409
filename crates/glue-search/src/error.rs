//! What can be refused.

use crate::params::ParamError;
use crate::registry::UnknownName;

/// Why a search was not set up or restored, or did not take a result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// A space without coordinates.
    #[error("a search space needs at least one coordinate")]
    EmptySpace,
    /// A coordinate that is not one.
    #[error("coordinate `{name}`: expected {expected}, found {found}")]
    Coordinate {
        /// Its name.
        name: String,
        /// What would do.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A point with too few or too many numbers.
    #[error("a point of this space has {expected} coordinates, found {found}")]
    PointLength {
        /// Coordinates of the space.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// No optimiser has this name.
    #[error(transparent)]
    UnknownOptimiser(#[from] UnknownName),
    /// A parameter that the optimiser does not have, or a value that it does not take.
    #[error(transparent)]
    Parameter(#[from] ParamError),
    /// An optimiser cannot work on so many objectives.
    #[error("{optimiser} works on {expected}, found {found}")]
    ObjectiveCount {
        /// The optimiser.
        optimiser: &'static str,
        /// What it works on.
        expected: &'static str,
        /// Objectives of the search.
        found: usize,
    },
    /// An evaluation with too few or too many numbers.
    #[error("candidate {id}: expected {expected} objectives, found {found}")]
    ResultLength {
        /// The candidate.
        id: u64,
        /// Objectives of the search.
        expected: usize,
        /// Numbers given.
        found: usize,
    },
    /// A candidate that was never handed out.
    #[error("candidate {id} was never handed out; the last one was {last}")]
    UnknownCandidate {
        /// The id given.
        id: u64,
        /// The last id handed out, or `none`.
        last: String,
    },
    /// A second result for a candidate.
    #[error("candidate {id} has a result already")]
    ToldTwice {
        /// The id.
        id: u64,
    },
    /// A state that cannot be read.
    #[error("the state of {of} cannot be restored: {reason}")]
    State {
        /// The search, or an optimiser by name.
        of: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl SearchError {
    /// The error of a state that does not parse, for implementations of
    /// [`OptimiserDef::restore`](crate::OptimiserDef::restore).
    pub fn state(of: &str, reason: impl std::fmt::Display) -> Self {
        Self::State { of: of.into(), reason: reason.to_string() }
    }
}
