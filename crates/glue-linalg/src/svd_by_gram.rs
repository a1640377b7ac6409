//! Singular triples by the eigenvectors of the smaller of AᵀA and AAᵀ, in `f64`.
//!
//! With AᵀA = V·diag(λ)·Vᵀ the singular values are ‖A·vᵢ‖ and the left vectors A·vᵢ/‖A·vᵢ‖. Squaring costs half of the
//! digits (Golub and Van Loan, *Matrix Computations*, 4th edition, section 8.6.3): a singular value σ comes out with
//! an error of about ε·σ₁²/σ, and what is below √ε·σ₁ not at all. Half of the digits of `f64` are the digits that
//! `f32` has. For a matrix that holds no more than that, such as a difference of weights, this is as good as an exact
//! decomposition, better than one in `f32`, and faster than either, since an eigenproblem of the smaller side takes the
//! place of a bidiagonal form of the whole.

use crate::error::LinalgError;
use crate::product::{lower_gram, multiply};
use crate::scalar::sealed::Element;
use crate::scalar::{Scalar, check_finite, scaled};
use crate::svd::Svd;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// The singular triples of `a` whose values are above √(max(m, n)·ε) of the largest, ε that of `f64`: about 10⁻⁶ for
/// 4096 columns. Their number, r ≤ min(m, n), is the numerical rank; `u` is m×r and `vt` r×n.
///
/// The vectors of the smaller side are orthonormal to working precision; those of the other, up to about ε·σ₁²/(σᵢσⱼ).
/// It holds `a` in `f64`, and three square matrices of the smaller side besides the result.
///
/// # Errors
/// [`LinalgError::NotFinite`]; [`LinalgError::NotConvergent`].
pub fn svd_by_gram<T: Scalar>(a: ArrayView2<'_, T>) -> Result<Svd<f64>, LinalgError> {
    const NAME: &str = "svd_by_gram";
    check_finite(NAME, a)?;
    let (a, power) = scaled(a);
    let (a, power) = (a.mapv_into_any(T::wide), power.wide());
    let (m, n) = a.dim();
    let mut parts = if m >= n {
        tall(a.view())
    } else {
        tall(a.t()).map(|Svd { u, values, vt }| Svd { u: vt.reversed_axes(), values, vt: u.reversed_axes() })
    }
    .ok_or(LinalgError::NotConvergent { operation: NAME, rows: m, columns: n })?;
    parts = Svd { u: by_rows(parts.u), values: parts.values * power, vt: by_rows(parts.vt) };
    if parts.values.iter().chain(&parts.u).chain(&parts.vt).all(|x| x.is_finite()) {
        Ok(parts)
    } else {
        Err(LinalgError::NotConvergent { operation: NAME, rows: m, columns: n })
    }
}

fn by_rows(a: Array2<f64>) -> Array2<f64> {
    if a.is_standard_layout() { a } else { a.as_standard_layout().into_owned() }
}

/// For a matrix with at least as many rows as columns, whose largest element is about 1.
fn tall(a: ArrayView2<'_, f64>) -> Option<Svd<f64>> {
    let (m, n) = a.dim();
    if n == 0 {
        return Some(Svd { u: Array2::zeros((m, 0)), values: Array1::zeros(0), vt: Array2::zeros((0, 0)) });
    }
    let (squares, vectors) = f64::eigen(&lower_gram(a)).ok()?;
    let least = m as f64 * f64::EPSILON * squares.last().copied().unwrap_or(0.0);
    // In ascending order; the largest come first in the result.
    let kept: Vec<usize> = (0..n).rev().take_while(|i| squares[*i] > least).collect();
    let vt = vectors.t().select(Axis(0), &kept);
    drop(vectors);
    let mut u = multiply(a, vt.t());
    let values: Array1<f64> = u.map_axis(Axis(0), |column| column.dot(&column).sqrt());
    u /= &values;
    // Rounding may have exchanged neighbours that are all but equal.
    if values.windows(2).into_iter().all(|w| w[0] >= w[1]) {
        return Some(Svd { u, values, vt });
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|i, j| values[*j].total_cmp(&values[*i]));
    Some(Svd { u: u.select(Axis(1), &order), values: values.select(Axis(0), &order), vt: vt.select(Axis(0), &order) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::singular_values;
    use crate::testing::{assert_near, assert_orthonormal_columns, orthonormal, random};
    use ndarray::array;

    fn check(a: &Array2<f64>, rank: usize) -> Svd<f64> {
        let parts = svd_by_gram(a.view()).unwrap();
        assert_eq!((parts.u.dim(), parts.vt.dim()), ((a.nrows(), rank), (rank, a.ncols())));
        assert!(parts.values.windows(2).into_iter().all(|w| w[0] >= w[1]), "{}", parts.values);
        let largest = parts.values.first().copied().unwrap_or(0.0);
        // What was dropped, and the rounding of the rest.
        assert_near(&(&parts.u * &parts.values).dot(&parts.vt), a, 1e-7 * largest);
        parts
    }

    #[test]
    fn agrees_with_the_direct_decomposition() {
        for dim in [(9, 4), (4, 9), (30, 30), (1, 6), (6, 1), (130, 60)] {
            let a = random::<f64>(dim, 11);
            let parts = check(&a, dim.0.min(dim.1));
            let exact = singular_values(a.view()).unwrap();
            // ε·σ₁²/σ with σ₁/σ up to about 100.
            assert_near(&parts.values.insert_axis(Axis(0)), &exact.insert_axis(Axis(0)), 1e-12);
            if dim != (30, 30) {
                assert_orthonormal_columns(&parts.u);
                assert_orthonormal_columns(&parts.vt.t().to_owned());
            }
        }
    }

    #[test]
    fn the_rank_is_found() {
        check(&random::<f64>((20, 3), 4).dot(&random::<f64>((3, 15), 5)), 3);
        check(&Array2::zeros((4, 3)), 0);
        check(&Array2::zeros((0, 3)), 0);
        check(&Array2::zeros((3, 0)), 0);
        check(&array![[1.0, 0.0], [0.0, 1e-9]], 1);
        check(&array![[1.0, 0.0], [0.0, 1e-6]], 2);
        check(&(random::<f64>((8, 5), 6) * 1e200), 5);
        check(&(random::<f64>((8, 5), 6) * 1e-200), 5);
    }

    /// Of a matrix in f32, small singular values come out better than by a decomposition in f32.
    #[test]
    fn better_than_in_single_precision() {
        let (u, v) = (orthonormal((60, 20), 7), orthonormal((20, 20), 8));
        let decay = Array1::from_shape_fn(20, |i| 10_f64.powf(-0.25 * i as f64));
        let a = (&u * &decay).dot(&v).mapv(|x| x as f32);
        let exact = singular_values(a.mapv(f64::from).view()).unwrap();
        let by_gram = svd_by_gram(a.view()).unwrap().values;
        let single = singular_values(a.view()).unwrap().mapv(f64::from);
        let off =
            |found: &Array1<f64>| ((found - &exact) / &exact).mapv(f64::abs).iter().fold(0.0, |m: f64, x| m.max(*x));
        // σ₁/σ is 6e4: ε·(σ₁/σ)² is 8e-7 for f64, ε·σ₁/σ is 7e-3 for f32.
        assert!(off(&by_gram) < 1e-6 && off(&by_gram) < off(&single), "{:e} {:e}", off(&by_gram), off(&single));
    }

    #[test]
    fn refusals() {
        let error = svd_by_gram(array![[1.0, f64::NAN]].view()).unwrap_err();
        assert!(matches!(error, LinalgError::NotFinite { operation: "svd_by_gram", column: 1, .. }));
    }
}
