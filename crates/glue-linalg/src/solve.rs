//! Solving A·X = B for a square matrix: by LU factors with partial pivoting, or by a Cholesky factor.
//!
//! Golub and Van Loan, *Matrix Computations*, 4th edition, sections 3.4 and 4.2.

use crate::error::LinalgError;
use crate::scalar::{NoResult, Scalar, check_finite, check_square, scaled};
use ndarray::{Array2, ArrayView2};

/// X with A·X = B, for n×n `a` and n×k `b`; by elimination with row pivoting.
///
/// A matrix that is singular only up to rounding is solved, and the solution is as wrong as its condition makes it;
/// [`least_squares`](crate::least_squares) is the function for those.
///
/// # Errors
/// [`LinalgError::NotSquare`]; [`LinalgError::RightHandSide`]; [`LinalgError::NotFinite`];
/// [`LinalgError::Singular`] for a pivot of exactly zero; [`LinalgError::NotConvergent`] when the solution overflows.
pub fn solve<T: Scalar>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Result<Array2<T>, LinalgError> {
    const NAME: &str = "solve";
    let failed = |pivot| LinalgError::Singular { operation: NAME, pivot };
    solve_by(NAME, a, b, T::solve, failed)
}

/// X with A·X = B, for n×n `a` that is symmetric and positive definite and n×k `b`; by a Cholesky factor, in half the
/// time of [`solve`]. Only the lower half of `a`, diagonal included, is read.
///
/// # Errors
/// As [`solve`], with [`LinalgError::NotPositiveDefinite`] in place of `Singular`.
pub fn solve_positive_definite<T: Scalar>(
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
) -> Result<Array2<T>, LinalgError> {
    const NAME: &str = "solve_positive_definite";
    let failed = |pivot| LinalgError::NotPositiveDefinite { operation: NAME, pivot };
    solve_by(NAME, a, b, T::cholesky_solve, failed)
}

type Solver<T> = fn(&Array2<T>, &Array2<T>) -> Result<Array2<T>, NoResult>;

fn solve_by<T: Scalar>(
    operation: &'static str,
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    solver: Solver<T>,
    failed: impl Fn(usize) -> LinalgError,
) -> Result<Array2<T>, LinalgError> {
    let n = check_square(operation, a)?;
    if b.nrows() != n {
        return Err(LinalgError::RightHandSide { operation, expected: n, found: b.nrows() });
    }
    check_finite(operation, a)?;
    check_finite(operation, b)?;
    if n == 0 || b.ncols() == 0 {
        return Ok(Array2::zeros(b.dim()));
    }
    let (a, power) = scaled(a);
    let (b, b_power) = scaled(b);
    let overflow = LinalgError::NotConvergent { operation, rows: n, columns: n };
    let x = solver(&a, &b).map_err(|NoResult(pivot)| pivot.map_or(overflow.clone(), failed))?;
    let x = x.mapv(|x| x / power * b_power);
    if x.iter().all(|x| x.is_finite()) { Ok(x) } else { Err(overflow) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, hilbert, random};
    use ndarray::array;
    use proptest::prelude::*;

    #[test]
    fn a_system_worked_by_hand() {
        // Needs a row exchange: the first pivot is zero.
        let a = array![[0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [2.0, 0.0, 3.0]];
        let x = array![[1.0, -1.0], [2.0, 0.5], [3.0, 4.0]];
        assert_near(&solve(a.view(), a.dot(&x).view()).unwrap(), &x, 1e-14);
        let a = array![[4.0, 2.0], [2.0, 3.0]];
        let x = array![[1.0], [-2.0]];
        assert_near(&solve_positive_definite(a.view(), a.dot(&x).view()).unwrap(), &x, 1e-14);
        assert_eq!(solve(array![[4.0_f32]].view(), array![[2.0]].view()).unwrap(), array![[0.5]]);
    }

    #[test]
    fn only_the_lower_half_is_read_for_a_cholesky_factor() {
        let b = array![[2.0], [1.0]];
        let whole = solve_positive_definite(array![[4.0, 2.0], [2.0, 3.0]].view(), b.view()).unwrap();
        let half = solve_positive_definite(array![[4.0, 77.0], [2.0, 3.0]].view(), b.view()).unwrap();
        assert_eq!(whole, half);
    }

    #[test]
    fn refusals_say_which_pivot() {
        let b = array![[1.0], [1.0]];
        let singular = array![[1.0, 2.0], [2.0, 4.0]];
        assert_eq!(
            solve(singular.view(), b.view()).unwrap_err(),
            LinalgError::Singular { operation: "solve", pivot: 1 }
        );
        let zero = Array2::<f64>::zeros((2, 2));
        assert_eq!(solve(zero.view(), b.view()).unwrap_err(), LinalgError::Singular { operation: "solve", pivot: 0 });
        let indefinite = array![[1.0, 2.0], [2.0, 1.0]];
        let error = solve_positive_definite(indefinite.view(), b.view()).unwrap_err();
        assert!(matches!(error, LinalgError::NotPositiveDefinite { pivot: 1, .. }), "{error}");
        let error = solve(indefinite.view(), array![[1.0]].view()).unwrap_err();
        assert_eq!(error.to_string(), "solve: the right-hand side has 1 rows, the matrix 2");
        assert!(matches!(solve(array![[1.0, 2.0]].view(), b.view()), Err(LinalgError::NotSquare { .. })));
        assert!(matches!(
            solve(indefinite.view(), array![[1.0], [f64::NAN]].view()),
            Err(LinalgError::NotFinite { row: 1, .. })
        ));
        let tiny = array![[1e-200]];
        assert!(matches!(solve(tiny.view(), array![[1e200]].view()), Err(LinalgError::NotConvergent { .. })));
    }

    #[test]
    fn nothing_to_solve() {
        let none = Array2::<f64>::zeros((0, 0));
        assert_eq!(solve(none.view(), Array2::zeros((0, 2)).view()).unwrap().dim(), (0, 2));
        let a = Array2::<f64>::eye(3);
        assert_eq!(solve_positive_definite(a.view(), Array2::zeros((3, 0)).view()).unwrap().dim(), (3, 0));
    }

    #[test]
    fn the_residual_is_small_even_when_the_error_is_not() {
        // Backward stability: ‖Ax - b‖ is a small multiple of ε·‖A‖·‖x‖, here with κ = 1.6e13.
        let a = hilbert(10);
        let b = a.dot(&Array2::ones((10, 1)));
        for x in [solve(a.view(), b.view()).unwrap(), solve_positive_definite(a.view(), b.view()).unwrap()] {
            assert_near(&a.dot(&x), &b, 1e-14);
        }
    }

    proptest! {
        #[test]
        fn both_ways_agree(n in 1_usize..40, k in 1_usize..5, seed in 0_u64..500) {
            let half = random::<f64>((n, n + 5), seed);
            let a = half.dot(&half.t());
            let x = random::<f64>((n, k), seed + 1);
            let b = a.dot(&x);
            // κ of such a matrix stays below 1e6; times ε and a margin of 100.
            assert_near(&solve(a.view(), b.view()).unwrap(), &x, 1e-8);
            assert_near(&solve_positive_definite(a.view(), b.view()).unwrap(), &x, 1e-8);
        }
    }
}
