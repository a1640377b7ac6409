//! Matrices and comparisons for the tests of this crate.

use crate::scalar::Scalar;
use ndarray::Array2;

/// Elements in [-1, 1) from a linear congruential generator.
pub(crate) fn random<T: Scalar>(dim: (usize, usize), seed: u64) -> Array2<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    Array2::from_shape_simple_fn(dim, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::of((state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0)
    })
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
