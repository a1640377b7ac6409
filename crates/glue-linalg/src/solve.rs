//! Solving A·X = B for a matrix that is symmetric and positive definite, by a Cholesky factor.
//!
//! Golub and Van Loan, *Matrix Computations*, 4th edition, section 4.2.

use crate::error::LinalgError;
use crate::scalar::{NoResult, Scalar, check_finite, check_square, scaled};
use ndarray::{Array2, ArrayView2};

/// X with A·X = B, for n×n `a` that is symmetric and positive definite and n×k `b`. Only the lower half of `a`,
/// diagonal included, is read.
///
/// A matrix that is singular only up to rounding may be solved; the solution is as wrong as its condition makes it.
///
/// # Errors
/// [`LinalgError::NotSquare`]; [`LinalgError::RightHandSide`]; [`LinalgError::NotFinite`];
/// [`LinalgError::NotPositiveDefinite`]; [`LinalgError::NotConvergent`] when the solution overflows.
pub fn solve_positive_definite<T: Scalar>(
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
) -> Result<Array2<T>, LinalgError> {
    const NAME: &str = "solve_positive_definite";
    let n = check_square(NAME, a)?;
    if b.nrows() != n {
        return Err(LinalgError::RightHandSide { operation: NAME, expected: n, found: b.nrows() });
    }
    check_finite(NAME, a)?;
    check_finite(NAME, b)?;
    if n == 0 || b.ncols() == 0 {
        return Ok(Array2::zeros(b.dim()));
    }
    let (a, power) = scaled(a);
    let (b, b_power) = scaled(b);
    let overflow = LinalgError::NotConvergent { operation: NAME, rows: n, columns: n };
    let x = T::cholesky_solve(&a, &b).map_err(|NoResult(pivot)| match pivot {
        Some(pivot) => LinalgError::NotPositiveDefinite { operation: NAME, pivot },
        None => overflow.clone(),
    })?;
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
        let a = array![[4.0, 2.0], [2.0, 3.0]];
        let x = array![[1.0, 0.5], [-2.0, 4.0]];
        assert_near(&solve_positive_definite(a.view(), a.dot(&x).view()).unwrap(), &x, 1e-14);
        assert_eq!(solve_positive_definite(array![[4.0_f32]].view(), array![[2.0]].view()).unwrap(), array![[0.5]]);
    }

    #[test]
    fn only_the_lower_half_is_read() {
        let b = array![[2.0], [1.0]];
        let whole = solve_positive_definite(array![[4.0, 2.0], [2.0, 3.0]].view(), b.view()).unwrap();
        let half = solve_positive_definite(array![[4.0, 77.0], [2.0, 3.0]].view(), b.view()).unwrap();
        assert_eq!(whole, half);
    }

    #[test]
    fn refusals_say_which_pivot() {
        let solve = solve_positive_definite::<f64>;
        let b = array![[1.0], [1.0]];
        let zero = Array2::zeros((2, 2));
        let error = solve(zero.view(), b.view()).unwrap_err();
        assert!(matches!(error, LinalgError::NotPositiveDefinite { pivot: 0, .. }), "{error}");
        let indefinite = array![[1.0, 2.0], [2.0, 1.0]];
        let error = solve(indefinite.view(), b.view()).unwrap_err();
        assert!(matches!(error, LinalgError::NotPositiveDefinite { pivot: 1, .. }), "{error}");
        let error = solve(indefinite.view(), array![[1.0]].view()).unwrap_err();
        assert_eq!(error.to_string(), "solve_positive_definite: the right-hand side has 1 rows, the matrix 2");
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
        assert_eq!(solve_positive_definite(none.view(), Array2::zeros((0, 2)).view()).unwrap().dim(), (0, 2));
        let a = Array2::<f64>::eye(3);
        assert_eq!(solve_positive_definite(a.view(), Array2::zeros((3, 0)).view()).unwrap().dim(), (3, 0));
    }

    #[test]
    fn the_residual_is_small_even_when_the_error_is_not() {
        // Backward stability: ‖Ax - b‖ is a small multiple of ε·‖A‖·‖x‖, here with κ = 1.6e13.
        let a = hilbert(10);
        let b = a.dot(&Array2::ones((10, 1)));
        assert_near(&a.dot(&solve_positive_definite(a.view(), b.view()).unwrap()), &b, 1e-14);
    }

    proptest! {
        #[test]
        fn solutions_are_found(n in 1_usize..40, k in 1_usize..5, seed in 0_u64..500) {
            let half = random::<f64>((n, n + 5), seed);
            let a = half.dot(&half.t());
            let x = random::<f64>((n, k), seed + 1);
            // κ of such a matrix stays below 1e6; times ε and a margin of 100.
            assert_near(&solve_positive_definite(a.view(), a.dot(&x).view()).unwrap(), &x, 1e-8);
        }
    }
}
