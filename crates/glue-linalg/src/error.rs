//! What can be refused.

/// Why a matrix was not decomposed or a system not solved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinalgError {
    /// An element is not a number or infinite.
    #[error("{operation}: element ({row}, {column}) of a {rows}×{columns} matrix is {value}, not a finite number")]
    NotFinite {
        /// The function.
        operation: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
        /// Row of the first such element.
        row: usize,
        /// Column of the first such element.
        column: usize,
        /// The element.
        value: f64,
    },
    /// A matrix has to be square.
    #[error("{operation}: expected a square matrix, found {rows}×{columns}")]
    NotSquare {
        /// The function.
        operation: &'static str,
        /// Rows found.
        rows: usize,
        /// Columns found.
        columns: usize,
    },
    /// The right-hand side does not belong to the matrix.
    #[error("{operation}: the right-hand side has {found} rows, the matrix {expected}")]
    RightHandSide {
        /// The function.
        operation: &'static str,
        /// Rows of the matrix.
        expected: usize,
        /// Rows of the right-hand side.
        found: usize,
    },
    /// Two matrices cannot be multiplied.
    #[error("{operation}: the matrix on the left has {left} columns, the one on the right {right} rows")]
    InnerDimension {
        /// The function.
        operation: &'static str,
        /// Columns of the left matrix.
        left: usize,
        /// Rows of the right matrix.
        right: usize,
    },
    /// A Cholesky factor does not exist.
    #[error("{operation}: the matrix is not positive definite: pivot {pivot} is not positive")]
    NotPositiveDefinite {
        /// The function.
        operation: &'static str,
        /// Which pivot, from 0.
        pivot: usize,
    },
    /// An iteration did not come to an end, or a result is beyond the range of the type.
    #[error("{operation}: no result for a {rows}×{columns} matrix: the iteration did not converge or overflowed")]
    NotConvergent {
        /// The function.
        operation: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        columns: usize,
    },
}
