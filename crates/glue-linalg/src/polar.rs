//! The orthogonal polar factor: the matrix with orthonormal columns (or rows) that is nearest to A.
//!
//! A = Q·P with P = (AᵀA)^½ and Q = U·Vᵀ from the singular value decomposition; Q is the solution of the orthogonal
//! Procrustes problem: Higham, *Computing the polar decomposition*, SIAM J. Sci. Stat. Comput. 7 (1986); Schönemann,
//! *A generalized solution of the orthogonal Procrustes problem*, Psychometrika 31 (1966).

use crate::error::LinalgError;
use crate::scalar::{Scalar, check_finite};
use crate::svd::svd;
use ndarray::{Array2, ArrayView2};

/// U·Vᵀ of the m×n matrix `a`: with orthonormal columns for m ≥ n, orthonormal rows for m ≤ n. It maximises the sum of
/// elementwise products with `a`. Without full rank it is one of many that do.
///
/// # Errors
/// [`LinalgError::NotFinite`]; [`LinalgError::NotConvergent`].
pub fn polar_factor<T: Scalar>(a: ArrayView2<'_, T>) -> Result<Array2<T>, LinalgError> {
    check_finite("polar_factor", a)?;
    let parts = svd(a)?;
    Ok(parts.u.dot(&parts.vt))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_orthonormal_columns, random};
    use ndarray::array;

    #[test]
    fn a_rotation_is_found_under_a_stretch() {
        let (sin, cos) = 0.7_f64.sin_cos();
        let rotation = array![[cos, -sin], [sin, cos]];
        let stretch = array![[3.0, 1.0], [1.0, 2.0]];
        assert_near(&polar_factor(rotation.dot(&stretch).view()).unwrap(), &rotation, 1e-14);
    }

    #[test]
    fn tall_wide_deficient_and_empty() {
        for dim in [(9, 4), (4, 9), (6, 6), (1, 1)] {
            let q = polar_factor(random::<f64>(dim, 7).view()).unwrap();
            assert_orthonormal_columns(&if dim.0 >= dim.1 { q } else { q.t().to_owned() });
        }
        let deficient = random::<f64>((8, 2), 8).dot(&random::<f64>((2, 5), 9));
        let q = polar_factor(deficient.view()).unwrap();
        assert_orthonormal_columns(&q);
        // Σ a·q is then the sum of the singular values, which nothing orthonormal exceeds.
        let sum = crate::singular_values(deficient.view()).unwrap().sum();
        assert!(((&deficient * &q).sum() - sum).abs() < 1e-12);
        assert_eq!(polar_factor(Array2::<f32>::zeros((3, 0)).view()).unwrap().dim(), (3, 0));
    }

    #[test]
    fn idempotent() {
        let q = polar_factor(random::<f32>((7, 5), 10).view()).unwrap();
        assert_near(&polar_factor(q.view()).unwrap(), &q, 1e-5);
    }
}
