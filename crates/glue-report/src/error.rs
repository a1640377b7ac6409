//! What can be wrong with the data of a report.

/// Why a report cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A number that is not one.
    #[error("{place}: a finite number is needed, found {found}")]
    NotFinite {
        /// Where in the data it stands.
        place: String,
        /// The number.
        found: f64,
    },
    /// An amount below 0.
    #[error("{place}: an amount of 0 or more is needed, found {found}")]
    Negative {
        /// Where in the data it stands.
        place: String,
        /// The number.
        found: f64,
    },
    /// Rows or columns that do not fit the names beside them, or a number of something that is not there.
    #[error("{place}: {expected} expected, found {found}")]
    Shape {
        /// Where in the data they stand.
        place: String,
        /// How many belong there, and of what.
        expected: String,
        /// How many there are.
        found: usize,
    },
    /// A name that stands twice where it must be unique, is empty, or is kept for something else.
    #[error("{place}: the name {name:?} {problem}")]
    Name {
        /// Where in the data it stands.
        place: String,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A join of a dendrogram with a node that does not exist or is already part of another.
    #[error("dendrogram: join {join} takes node {node}, which does not exist yet or was joined before")]
    Join {
        /// Number of the join, from 0.
        join: usize,
        /// The node.
        node: usize,
    },
    /// JSON that is not that of a report.
    #[error("report.json")]
    Json(#[from] serde_json::Error),
    /// The page could not be made from its template.
    #[error("report.html")]
    Template(#[from] minijinja::Error),
}
