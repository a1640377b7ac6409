//! The first singular triples of a large matrix, by a randomised range finder.
//!
//! Halko, Martinsson, Tropp, *Finding structure with randomness*, SIAM Review 53 (2011), algorithms 4.4 and 5.1: with
//! a Gaussian n×l matrix Ω, l = k + p, the columns of (A·Aᵀ)^q·A·Ω are made orthonormal – after every product, or
//! rounding would destroy the small directions – and the SVD of the l×n matrix Qᵀ·A is multiplied by Q from the left.
//!
//! The error in the spectral norm is, on average, at most (1 + √(k/(p−1)) + e·√(k+p)/p · √(min(m,n)−k))^(1/(2q+1)) ·
//! σₖ₊₁ (theorem 10.6 and corollary 10.10): with k = 100, p = 10, q = 2 and 4096 columns a factor of about 2.8 on the
//! best there is. That is little where singular values fall off, and the vectors are then good too. Where they hardly
//! fall, as in differences of weights after long training, the triples span a part of the matrix that is almost as
//! large as the best one, but are not the first k; [`svd`] and [`svd_by_gram`](crate::svd_by_gram) are.

use crate::error::LinalgError;
use crate::product::multiply;
use crate::scalar::{Scalar, check_finite, scaled};
use crate::svd::{Svd, svd};
use ndarray::{Array2, ArrayView2, s};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Lcg128Xsl64;

/// How the range is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Randomised {
    /// Columns beyond the rank that is asked for (p). Default 10.
    pub oversampling: usize,
    /// Products with A·Aᵀ (q); each takes two passes over the matrix. Default 2.
    pub power_iterations: usize,
    /// Seed of Ω. Default 0.
    pub seed: u64,
}

impl Default for Randomised {
    fn default() -> Self {
        Self { oversampling: 10, power_iterations: 2, seed: 0 }
    }
}

/// The first `rank` singular triples of `a`, or all of them when it has fewer: `u` is m×k, `vt` k×n.
///
/// A function of the matrix, the options and nothing else. Where `rank` and oversampling together are more than half
/// of min(m, n), a full decomposition is no slower and takes the place of this; its result is exact.
///
/// # Errors
/// [`LinalgError::NotFinite`]; [`LinalgError::NotConvergent`].
pub fn truncated_svd<T: Scalar>(
    a: ArrayView2<'_, T>,
    rank: usize,
    options: &Randomised,
) -> Result<Svd<T>, LinalgError> {
    const NAME: &str = "truncated_svd";
    check_finite(NAME, a)?;
    let (m, n) = a.dim();
    let columns = rank.saturating_add(options.oversampling);
    if columns > m.min(n) / 2 {
        return Ok(first(svd(a)?, rank));
    }
    let failed = |_| LinalgError::NotConvergent { operation: NAME, rows: m, columns: n };
    let (a, power) = scaled(a);
    let mut random = Lcg128Xsl64::new(u128::from(options.seed), 0);
    let omega = Array2::from_shape_simple_fn((n, columns), || {
        let x: f64 = StandardNormal.sample(&mut random);
        T::of(x)
    });
    let mut q = T::orthonormal(&multiply(a.view(), omega.view())).map_err(failed)?;
    for _ in 0..options.power_iterations {
        let other = T::orthonormal(&multiply(a.t(), q.view())).map_err(failed)?;
        q = T::orthonormal(&multiply(a.view(), other.view())).map_err(failed)?;
    }
    let mut parts = first(svd(multiply(q.t(), a.view()).view())?, rank);
    parts.u = multiply(q.view(), parts.u.view());
    parts.values.mapv_inplace(|s| s * power);
    if parts.values.iter().chain(&parts.u).all(|x| x.is_finite()) {
        Ok(parts)
    } else {
        Err(LinalgError::NotConvergent { operation: NAME, rows: m, columns: n })
    }
}

fn first<T: Scalar>(parts: Svd<T>, rank: usize) -> Svd<T> {
    if rank >= parts.values.len() {
        return parts;
    }
    let owned = |view: ArrayView2<'_, T>| view.as_standard_layout().into_owned();
    Svd {
        u: owned(parts.u.slice(s![.., ..rank])),
        values: parts.values.slice(s![..rank]).to_owned(),
        vt: owned(parts.vt.slice(s![..rank, ..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::singular_values;
    use crate::testing::{assert_near, assert_orthonormal_columns, orthonormal, random};
    use ndarray::Array1;

    /// m×n with these singular values.
    fn with_values(dim: (usize, usize), values: &Array1<f64>) -> Array2<f64> {
        let (u, v) = (orthonormal((dim.0, values.len()), 21), orthonormal((dim.1, values.len()), 22));
        (&u * values).dot(&v.t())
    }

    /// Spectral norm of what is missing, over the first singular value that is left out.
    fn excess(a: &Array2<f64>, rank: usize, options: &Randomised) -> f64 {
        let parts = truncated_svd(a.view(), rank, options).unwrap();
        assert_eq!((parts.u.dim(), parts.vt.dim()), ((a.nrows(), rank), (rank, a.ncols())));
        assert_orthonormal_columns(&parts.u);
        assert_orthonormal_columns(&parts.vt.t().to_owned());
        let missing = a - (&parts.u * &parts.values).dot(&parts.vt);
        singular_values(missing.view()).unwrap()[0] / singular_values(a.view()).unwrap()[rank]
    }

    #[test]
    fn the_error_is_within_the_bound() {
        let values = Array1::from_shape_fn(80, |i| 0.9_f64.powi(i as i32));
        for dim in [(80, 120), (120, 80)] {
            let a = with_values(dim, &values);
            for (power_iterations, k) in [(0, 10), (1, 10), (2, 10), (2, 25)] {
                let (p, rest) = (10.0_f64, 80.0 - k as f64);
                let factor =
                    1.0 + (k as f64 / (p - 1.0)).sqrt() + std::f64::consts::E * (k as f64 + p).sqrt() / p * rest.sqrt();
                let bound = factor.powf(1.0 / (2.0 * power_iterations as f64 + 1.0));
                for seed in 0..3 {
                    let found = excess(&a, k, &Randomised { power_iterations, seed, ..Randomised::default() });
                    // Nothing of this rank is nearer than σₖ₊₁.
                    assert!(found > 1.0 - 1e-9 && found < bound, "{dim:?} {k} {power_iterations}: {found}, {bound}");
                }
            }
            // Values that fall by a tenth each: after two iterations (σₗ₊₁/σₖ)⁵ is 5e-3 of the little that is missing.
            assert!(excess(&a, 10, &Randomised::default()) < 1.01);
        }
    }

    #[test]
    fn low_rank_is_restored() {
        let a = with_values((90, 70), &Array1::from(vec![5.0, 3.0, 1.0, 1e-3]));
        let parts = truncated_svd(a.view(), 6, &Randomised::default()).unwrap();
        assert_near(&(&parts.u * &parts.values).dot(&parts.vt), &a, 1e-13);
        let single = a.mapv(|x| x as f32);
        let parts = truncated_svd(single.view(), 6, &Randomised::default()).unwrap();
        assert_near(&(&parts.u * &parts.values).dot(&parts.vt), &single, 1e-5);
        let large = &a * 1e150;
        let parts = truncated_svd(large.view(), 6, &Randomised::default()).unwrap();
        assert_near(&((&parts.u * &parts.values).dot(&parts.vt) / 1e150), &a, 1e-13);
    }

    #[test]
    fn near_full_rank_it_is_the_full_decomposition() {
        let a = random::<f64>((40, 30), 23);
        let full = svd(a.view()).unwrap();
        for rank in [6, 15, 30, 99] {
            let parts = truncated_svd(a.view(), rank, &Randomised::default()).unwrap();
            let k = rank.min(30);
            assert_eq!(parts.values, full.values.slice(s![..k]));
            assert_eq!((parts.u.dim(), parts.vt.dim()), ((40, k), (k, 30)));
        }
        assert_eq!(
            truncated_svd(Array2::<f64>::zeros((0, 3)).view(), 2, &Randomised::default()).unwrap().values.len(),
            0
        );
    }

    #[test]
    fn the_seed_decides() {
        let a = random::<f64>((60, 50), 24);
        let of = |seed| truncated_svd(a.view(), 5, &Randomised { seed, ..Randomised::default() }).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let bad = truncated_svd(ndarray::array![[f64::INFINITY]].view(), 1, &Randomised::default()).unwrap_err();
        assert!(matches!(bad, LinalgError::NotFinite { operation: "truncated_svd", .. }));
    }
}
