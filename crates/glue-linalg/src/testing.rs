//! Matrices and comparisons for the tests of this crate.

use crate::scalar::Scalar;
use crate::svd::svd;
use ndarray::Array2;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng;

/// Uniform elements in [-1, 1).
pub(crate) fn random<T: Scalar>(dim: (usize, usize), seed: u64) -> Array2<T> {
    let mut random = Pcg64::new(seed.into(), 0);
    Array2::from_shape_simple_fn(dim, || T::of((random.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0))
}

/// Of a random matrix that is not wide, the nearest one with orthonormal columns.
pub(crate) fn orthonormal(dim: (usize, usize), seed: u64) -> Array2<f64> {
    let parts = svd(random::<f64>(dim, seed).view()).unwrap();
    parts.u.dot(&parts.vt)
}

/// 1/(i + j + 1), notoriously ill-conditioned.
pub(crate) fn hilbert(n: usize) -> Array2<f64> {
    Array2::from_shape_fn((n, n), |(i, j)| 1.0 / (i + j + 1) as f64)
}

/// No element differs by more than `tolerance`.
#[track_caller]
pub(crate) fn assert_near<T: Scalar>(found: &Array2<T>, expected: &Array2<T>, tolerance: f64) {
    assert_eq!(found.dim(), expected.dim());
    let worst = found.iter().zip(expected).map(|(a, b)| (a.wide() - b.wide()).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "off by {worst:e}, allowed {tolerance:e}:\n{found}\n{expected}");
}

/// AᵀA is the identity, up to the rounding of sums of products: 50·ε·√n.
#[track_caller]
pub(crate) fn assert_orthonormal_columns<T: Scalar>(a: &Array2<T>) {
    let n = a.ncols();
    assert_near(&a.t().dot(a), &Array2::eye(n), 50.0 * T::EPSILON.wide() * (n.max(1) as f64).sqrt());
}
