//! What can be refused.

/// Why a search was not set up, restored, or told something.
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
    #[error("no optimiser is called `{name}`; there are {known}")]
    UnknownOptimiser {
        /// The name that was asked for.
        name: String,
        /// Those there are, in a row.
        known: String,
    },
    /// An optimiser does not have this parameter.
    #[error("{optimiser} has no parameter `{key}`; it has {known}")]
    UnknownParameter {
        /// The optimiser.
        optimiser: &'static str,
        /// The key that was given.
        key: String,
        /// Those it has, in a row.
        known: String,
    },
    /// A parameter of the wrong kind or out of range.
    #[error("{optimiser}: `{key}` must be {allowed}, found {found}")]
    Parameter {
        /// The optimiser.
        optimiser: &'static str,
        /// The parameter.
        key: &'static str,
        /// What is allowed.
        allowed: String,
        /// What was given.
        found: String,
    },
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
        /// Numbers told.
        found: usize,
    },
    /// A candidate that was never handed out.
    #[error("candidate {id} was never handed out; the last one was {last}")]
    UnknownCandidate {
        /// The id told.
        id: u64,
        /// The last id handed out, or `none`.
        last: String,
    },
    /// A candidate that was told before.
    #[error("candidate {id} was told before")]
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
