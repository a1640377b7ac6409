//! Least squares: of all X that make ‖A·X - B‖ least, the one with the least ‖X‖.
//!
//! X = V·diag(1/sᵢ where sᵢ > c·s₁, else 0)·Uᵀ·B, by the singular value decomposition: Golub and Van Loan, *Matrix
//! Computations*, 4th edition, section 5.5.

use crate::error::LinalgError;
use crate::scalar::Scalar;
use crate::svd::svd;
use ndarray::{Array2, ArrayView2, Axis};

/// The least-squares solution of least norm, n×k, for m×n `a` of any rank and m×k `b`.
///
/// Singular values below `cutoff` times the largest count as zero; `None` is max(m, n)·ε, the rounding of the
/// decomposition.
///
/// # Errors
/// [`LinalgError::RightHandSide`]; [`LinalgError::NotFinite`]; [`LinalgError::NotConvergent`].
pub fn least_squares<T: Scalar>(
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    cutoff: Option<T>,
) -> Result<Array2<T>, LinalgError> {
    const NAME: &str = "least_squares";
    let (m, n) = a.dim();
    if b.nrows() != m {
        return Err(LinalgError::RightHandSide { operation: NAME, expected: m, found: b.nrows() });
    }
    crate::scalar::check_finite(NAME, a)?;
    crate::scalar::check_finite(NAME, b)?;
    let parts = svd(a)?;
    let cutoff = cutoff.unwrap_or(T::of(m.max(n) as f64) * T::EPSILON);
    let least = parts.values.first().map_or(T::zero(), |s| *s * cutoff);
    let mut coefficients = parts.u.t().dot(&b);
    for (mut row, s) in coefficients.axis_iter_mut(Axis(0)).zip(&parts.values) {
        if *s > least && *s > T::zero() {
            row /= *s;
        } else {
            row.fill(T::zero());
        }
    }
    let x = parts.vt.t().dot(&coefficients);
    if x.iter().all(|x| x.is_finite()) {
        Ok(x)
    } else {
        Err(LinalgError::NotConvergent { operation: NAME, rows: m, columns: n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, random};
    use ndarray::array;

    #[test]
    fn a_line_through_points() {
        // y = 1 + 2x through (0,1), (1,3), (2,5), and one point off it by as much on both sides.
        let a = array![[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 1.0], [1.0, 1.0]];
        let b = array![[1.0], [3.0], [5.0], [4.0], [2.0]];
        assert_near(&least_squares(a.view(), b.view(), None).unwrap(), &array![[1.0], [2.0]], 1e-14);
    }

    #[test]
    fn the_least_norm_among_many() {
        // x + y = 2 has the solution of least norm (1, 1), also when said twice.
        let x = least_squares(array![[1.0, 1.0], [1.0, 1.0]].view(), array![[2.0], [2.0]].view(), None).unwrap();
        assert_near(&x, &array![[1.0], [1.0]], 1e-14);
        let x = least_squares(array![[1.0, 1.0]].view(), array![[2.0]].view(), None).unwrap();
        assert_near(&x, &array![[1.0], [1.0]], 1e-14);
        assert_near(
            &least_squares(Array2::<f64>::zeros((2, 3)).view(), array![[1.0], [2.0]].view(), None).unwrap(),
            &Array2::zeros((3, 1)),
            0.0,
        );
    }

    #[test]
    fn a_cutoff_drops_directions() {
        let a = array![[1.0, 0.0], [0.0, 1e-6]];
        let b = array![[1.0], [1.0]];
        assert_near(&least_squares(a.view(), b.view(), None).unwrap(), &array![[1.0], [1e6]], 1e-8);
        assert_near(&least_squares(a.view(), b.view(), Some(1e-3)).unwrap(), &array![[1.0], [0.0]], 1e-14);
    }

    #[test]
    fn the_residual_is_orthogonal_to_the_columns() {
        let (a, b) = (random::<f64>((30, 6), 1), random::<f64>((30, 2), 2));
        let x = least_squares(a.view(), b.view(), None).unwrap();
        assert_near(&a.t().dot(&(a.dot(&x) - &b)), &Array2::zeros((6, 2)), 1e-13);
    }

    #[test]
    fn refusals_and_empty() {
        let a = Array2::<f64>::eye(2);
        let error = least_squares(a.view(), Array2::zeros((3, 1)).view(), None).unwrap_err();
        assert_eq!(error, LinalgError::RightHandSide { operation: "least_squares", expected: 2, found: 3 });
        let bad = least_squares(array![[f64::NAN]].view(), array![[1.0]].view(), None).unwrap_err();
        assert!(matches!(bad, LinalgError::NotFinite { operation: "least_squares", .. }));
        let x = least_squares(Array2::<f64>::zeros((0, 2)).view(), Array2::zeros((0, 1)).view(), None).unwrap();
        assert_eq!(x, Array2::zeros((2, 1)));
    }
}
