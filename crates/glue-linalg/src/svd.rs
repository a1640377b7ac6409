//! Singular value decomposition: A = U·diag(s)·Vᵀ with orthonormal columns of U and V.
//!
//! Golub and Van Loan, *Matrix Computations*, 4th edition, sections 2.4 and 8.6; by divide and conquer: Gu and
//! Eisenstat, *A divide-and-conquer algorithm for the bidiagonal SVD*, SIAM J. Matrix Anal. Appl. 16 (1995).

use crate::error::LinalgError;
use crate::scalar::{Scalar, check_finite, scaled};
use ndarray::{Array1, Array2, ArrayView2};

/// A thin singular value decomposition of an m×n matrix, k = min(m, n).
#[derive(Debug, Clone, PartialEq)]
pub struct Svd<T> {
    /// m×k, with orthonormal columns: the left singular vectors.
    pub u: Array2<T>,
    /// k singular values, not negative, in descending order.
    pub values: Array1<T>,
    /// k×n, with orthonormal rows: the right singular vectors, transposed.
    pub vt: Array2<T>,
}

/// The thin singular value decomposition of `a`, of any shape. A pair of singular vectors is determined up to a common
/// sign, vectors of equal singular values up to a rotation among themselves.
///
/// # Errors
/// [`LinalgError::NotFinite`]; [`LinalgError::NotConvergent`], also when a singular value is beyond the range of the
/// type.
pub fn svd<T: Scalar>(a: ArrayView2<'_, T>) -> Result<Svd<T>, LinalgError> {
    const NAME: &str = "svd";
    check_finite(NAME, a)?;
    let (rows, columns) = a.dim();
    let k = rows.min(columns);
    if k == 0 {
        let (u, vt) = (Array2::zeros((rows, 0)), Array2::zeros((0, columns)));
        return Ok(Svd { u, values: Array1::zeros(0), vt });
    }
    let (a, power) = scaled(a);
    let failed = LinalgError::NotConvergent { operation: NAME, rows, columns };
    let (u, values, vt) = T::svd(&a).map_err(|_| failed.clone())?;
    let values: Array1<T> = values.into_iter().map(|s| s.max(T::zero()) * power).collect();
    if values.iter().chain(&u).chain(&vt).all(|x| x.is_finite()) { Ok(Svd { u, values, vt }) } else { Err(failed) }
}

/// The singular values of `a` in descending order, min(m, n) of them; faster than [`svd`].
///
/// # Errors
/// As [`svd`].
pub fn singular_values<T: Scalar>(a: ArrayView2<'_, T>) -> Result<Array1<T>, LinalgError> {
    const NAME: &str = "singular_values";
    check_finite(NAME, a)?;
    let (rows, columns) = a.dim();
    if rows.min(columns) == 0 {
        return Ok(Array1::zeros(0));
    }
    let (a, power) = scaled(a);
    let failed = LinalgError::NotConvergent { operation: NAME, rows, columns };
    let values = T::singular_values(&a).map_err(|_| failed.clone())?;
    let values: Array1<T> = values.into_iter().map(|s| s.max(T::zero()) * power).collect();
    if values.iter().all(|x| x.is_finite()) { Ok(values) } else { Err(failed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_orthonormal_columns, hilbert, random};
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    fn check<T: Scalar>(a: &Array2<T>) -> Svd<T> {
        let parts = svd(a.view()).unwrap();
        let k = a.nrows().min(a.ncols());
        assert_eq!((parts.u.dim(), parts.values.len(), parts.vt.dim()), ((a.nrows(), k), k, (k, a.ncols())));
        assert!(parts.values.iter().all(|s| *s >= T::zero()));
        assert!(parts.values.windows(2).into_iter().all(|w| w[0] >= w[1]), "{}", parts.values);
        assert_orthonormal_columns(&parts.u);
        assert_orthonormal_columns(&parts.vt.t().to_owned());
        // Backward stable: the error is a small multiple of ε·‖A‖, whatever the condition.
        let again = (&parts.u * &parts.values).dot(&parts.vt);
        let largest = parts.values.first().map_or(0.0, |s| s.wide());
        assert_near(&again, a, 50.0 * T::EPSILON.wide() * largest * (k.max(1) as f64).sqrt());
        let only = singular_values(a.view()).unwrap();
        assert_near(
            &only.insert_axis(ndarray::Axis(0)),
            &parts.values.clone().insert_axis(ndarray::Axis(0)),
            50.0 * T::EPSILON.wide() * largest,
        );
        parts
    }

    #[test]
    fn values_that_can_be_worked_out_by_hand() {
        // AᵀA = [[25, 20], [20, 25]] has the eigenvalues 45 and 5.
        let parts = check(&array![[3.0, 0.0], [4.0, 5.0]]);
        assert_near(&parts.values.insert_axis(ndarray::Axis(0)), &array![[45.0_f64.sqrt(), 5.0_f64.sqrt()]], 1e-14);
        assert_eq!(check(&array![[-2.5]]).values, array![2.5]);
        assert_eq!(check(&array![[-2.5_f32]]).values, array![2.5]);
    }

    #[test]
    fn tall_wide_and_empty() {
        for dim in [(7, 3), (3, 7), (1, 5), (5, 1), (40, 40), (130, 35), (35, 130)] {
            check(&random::<f64>(dim, 1));
            check(&random::<f32>(dim, 2));
        }
        for dim in [(0, 0), (0, 3), (3, 0)] {
            check(&Array2::<f64>::zeros(dim));
        }
        check(&Array2::<f64>::zeros((4, 3)));
    }

    #[test]
    fn views_of_any_layout() {
        let a = random::<f64>((6, 4), 3);
        let direct = svd(a.slice(ndarray::s![..;2, ..]).t()).unwrap();
        let copied = svd(a.slice(ndarray::s![..;2, ..]).t().to_owned().view()).unwrap();
        assert_eq!(direct, copied);
    }

    #[test]
    fn rank_shows_in_the_values() {
        let a = random::<f64>((20, 3), 4).dot(&random::<f64>((3, 15), 5));
        let parts = check(&a);
        assert!(parts.values[2] > 0.1);
        // ε·‖A‖ is about 1e-15.
        assert!(parts.values[3] < 1e-13, "{}", parts.values);
    }

    #[test]
    fn ill_conditioned_and_far_from_one() {
        // κ of the Hilbert matrix of order 12 is 1.7e16; its norm is 1.7953722 (Todd, 1954, gives the norms).
        let parts = check(&hilbert(12));
        assert!((parts.values[0] - 1.795_372).abs() < 1e-6, "{}", parts.values[0]);
        for scale in [1e-300, 1e-160, 1e160, 1e300] {
            let parts = check(&(array![[3.0, 0.0], [4.0, 5.0]] * scale));
            assert!((parts.values[0] / scale - 45.0_f64.sqrt()).abs() < 1e-13);
        }
        check(&(random::<f32>((9, 5), 6) * 1e-30));
        check(&(random::<f32>((9, 5), 6) * 1e30));
    }

    #[test]
    fn what_is_not_finite_is_refused_with_its_place() {
        let a = array![[1.0, 2.0], [f64::INFINITY, f64::NAN]];
        let error = svd(a.view()).unwrap_err();
        let expected = "svd: element (1, 0) of a 2×2 matrix is inf, not a finite number";
        assert_eq!(error.to_string(), expected);
        assert!(matches!(singular_values(a.view()), Err(LinalgError::NotFinite { row: 1, column: 0, .. })));
        // The norm of this is beyond the range.
        let huge = Array2::from_elem((3, 3), f64::MAX);
        assert!(matches!(svd(huge.view()), Err(LinalgError::NotConvergent { .. })));
    }

    proptest! {
        #[test]
        fn identities_hold_for_any_shape(m in 1_usize..24, n in 1_usize..24, seed in 0_u64..1000, zero_rows in 0_usize..3) {
            let mut a = random::<f64>((m, n), seed);
            for i in 0..zero_rows.min(m) {
                a.row_mut(i).fill(0.0);
            }
            check(&a);
        }
    }
}
