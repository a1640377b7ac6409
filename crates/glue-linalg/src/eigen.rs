//! Eigenvalues and eigenvectors of a symmetric matrix: A = Q·diag(λ)·Qᵀ with orthonormal columns of Q.
//!
//! Golub and Van Loan, *Matrix Computations*, 4th edition, chapter 8: tridiagonal form, then divide and conquer.

use crate::error::LinalgError;
use crate::scalar::{Scalar, check_finite, check_square, scaled};
use ndarray::{Array1, Array2, ArrayView2};

/// The eigenvalues and eigenvectors of a symmetric n×n matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct SymmetricEigen<T> {
    /// n eigenvalues in ascending order.
    pub values: Array1<T>,
    /// n×n, with orthonormal columns: column i belongs to eigenvalue i.
    pub vectors: Array2<T>,
}

/// The eigenvalues and eigenvectors of the symmetric matrix whose lower half, diagonal included, is that of `a`; the
/// upper half is taken for its mirror image. An eigenvector is determined up to its sign, eigenvectors of equal
/// eigenvalues up to a rotation among themselves.
///
/// # Errors
/// [`LinalgError::NotSquare`]; [`LinalgError::NotFinite`]; [`LinalgError::NotConvergent`], also when an eigenvalue is
/// beyond the range of the type.
pub fn symmetric_eigen<T: Scalar>(a: ArrayView2<'_, T>) -> Result<SymmetricEigen<T>, LinalgError> {
    const NAME: &str = "symmetric_eigen";
    let n = check_square(NAME, a)?;
    check_finite(NAME, a)?;
    if n == 0 {
        return Ok(SymmetricEigen { values: Array1::zeros(0), vectors: Array2::zeros((0, 0)) });
    }
    let (a, power) = scaled(a);
    let failed = LinalgError::NotConvergent { operation: NAME, rows: n, columns: n };
    let (values, vectors) = T::eigen(&a).map_err(|_| failed.clone())?;
    let values: Array1<T> = values.into_iter().map(|x| x * power).collect();
    if values.iter().chain(&vectors).all(|x| x.is_finite()) {
        Ok(SymmetricEigen { values, vectors })
    } else {
        Err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_orthonormal_columns, hilbert, random};
    use ndarray::{Axis, array};
    use proptest::prelude::*;

    fn check<T: Scalar>(a: &Array2<T>) -> SymmetricEigen<T> {
        let parts = symmetric_eigen(a.view()).unwrap();
        assert!(parts.values.windows(2).into_iter().all(|w| w[0] <= w[1]), "{}", parts.values);
        assert_orthonormal_columns(&parts.vectors);
        let again = (&parts.vectors * &parts.values).dot(&parts.vectors.t());
        let largest = parts.values.iter().fold(0.0, |m: f64, x| m.max(x.wide().abs()));
        assert_near(&again, a, 50.0 * T::EPSILON.wide() * largest * (a.nrows().max(1) as f64).sqrt());
        parts
    }

    fn symmetric<T: Scalar>(n: usize, seed: u64) -> Array2<T> {
        let a = random::<T>((n, n), seed);
        &a + &a.t()
    }

    #[test]
    fn values_that_can_be_worked_out_by_hand() {
        // λ² - 4λ + 3 = 0.
        assert_near(&check(&array![[2.0, 1.0], [1.0, 2.0]]).values.insert_axis(Axis(0)), &array![[1.0, 3.0]], 1e-14);
        assert_eq!(check(&array![[-7.0]]).values, array![-7.0]);
        assert_eq!(check(&Array2::<f64>::zeros((0, 0))).values.len(), 0);
        // The second difference on n points has the eigenvalues 2 - 2·cos(iπ/(n+1)).
        let n = 50;
        let a = Array2::from_shape_fn((n, n), |(i, j)| match i.abs_diff(j) {
            0 => 2.0,
            1 => -1.0,
            _ => 0.0,
        });
        let expected = Array2::from_shape_fn((1, n), |(_, i)| {
            2.0 - 2.0 * (std::f64::consts::PI * (i + 1) as f64 / (n + 1) as f64).cos()
        });
        assert_near(&check(&a).values.insert_axis(Axis(0)), &expected, 1e-13);
    }

    #[test]
    fn equal_small_and_large_eigenvalues() {
        check(&Array2::<f64>::eye(30));
        check(&hilbert(12));
        check(&(symmetric::<f64>(9, 1) * 1e-200));
        check(&(symmetric::<f64>(9, 1) * 1e200));
        check(&symmetric::<f32>(33, 2));
        check(&symmetric::<f64>(200, 3));
    }

    #[test]
    fn only_the_lower_half_is_read() {
        let a = symmetric::<f64>(12, 4);
        let mut lower = a.clone();
        for i in 0..12 {
            for j in i + 1..12 {
                lower[(i, j)] = 99.0;
            }
        }
        let (whole, half) = (check(&a), symmetric_eigen(lower.view()).unwrap());
        assert_near(&whole.values.insert_axis(Axis(0)), &half.values.insert_axis(Axis(0)), 1e-13);
    }

    #[test]
    fn refusals() {
        let error = symmetric_eigen(Array2::<f64>::zeros((2, 3)).view()).unwrap_err();
        assert_eq!(error.to_string(), "symmetric_eigen: expected a square matrix, found 2×3");
        let error = symmetric_eigen(array![[1.0, 0.0], [0.0, f32::NAN]].view()).unwrap_err();
        assert!(matches!(error, LinalgError::NotFinite { row: 1, column: 1, .. }));
    }

    proptest! {
        #[test]
        fn identities_hold_for_any_order(n in 1_usize..40, seed in 0_u64..1000) {
            check(&symmetric::<f64>(n, seed));
        }
    }
}
