//! Both back ends on the same matrices: what the feature changes is the time, and the last digits.

use crate::testing::{assert_near, hilbert, random};
use crate::{faer_backend, lapack};
use ndarray::{Array1, Array2, Axis};

/// Rounding of two decompositions of matrices whose norm is below 100.
const TOLERANCE: f64 = 1e-11;

fn row(values: Vec<f64>) -> Array2<f64> {
    Array1::from(values).insert_axis(Axis(0))
}

/// The columns with the sign that makes their largest element positive: singular vectors have none of their own.
fn signed(mut columns: Array2<f64>) -> Array2<f64> {
    for mut column in columns.columns_mut() {
        let largest = column.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        column *= largest.signum();
    }
    columns
}

fn got<T>(result: Result<T, crate::scalar::NoResult>) -> T {
    result.unwrap_or_else(|_| panic!("no result"))
}

#[test]
fn singular_values_and_vectors() {
    for dim in [(12, 7), (7, 12), (40, 40), (150, 90)] {
        let a = random::<f64>(dim, 31);
        let ((u, s, vt), (u2, s2, vt2)) = (got(faer_backend::svd(&a)), got(lapack::svd(&a)));
        assert_near(&row(s.clone()), &row(s2), TOLERANCE);
        assert_near(&row(got(faer_backend::singular_values(&a))), &row(s), TOLERANCE);
        // Vectors turn by the rounding over the distance of neighbours, here about 1e-3.
        assert_near(&signed(u), &signed(u2), 1e-9);
        assert_near(&signed(vt.reversed_axes()), &signed(vt2.reversed_axes()), 1e-9);
    }
    assert_near(
        &row(got(faer_backend::singular_values(&hilbert(12)))),
        &row(got(lapack::singular_values(&hilbert(12)))),
        1e-15,
    );
}

#[test]
fn eigenvectors() {
    for n in [1, 9, 80] {
        let half = random::<f64>((n, n), 32);
        let a = &half + &half.t();
        let ((values, vectors), (values2, vectors2)) = (got(faer_backend::eigen(&a)), got(lapack::eigen(&a)));
        assert_near(&row(values), &row(values2), TOLERANCE);
        assert_near(&signed(vectors), &signed(vectors2), 1e-9);
        let single = a.mapv(|x| x as f32);
        let ((values, _), (values2, _)) = (got(faer_backend::eigen(&single)), got(lapack::eigen(&single)));
        assert_near(
            &Array2::from_shape_vec((1, n), values).unwrap(),
            &Array2::from_shape_vec((1, n), values2).unwrap(),
            1e-3,
        );
    }
}

#[test]
fn solutions_and_bases() {
    let (half, b) = (random::<f64>((30, 30), 33), random::<f64>((30, 4), 34));
    let positive = half.dot(&half.t()) + Array2::<f64>::eye(30);
    let solved = (got(faer_backend::cholesky_solve(&positive, &b)), got(lapack::cholesky_solve(&positive, &b)));
    assert_near(&solved.0, &solved.1, TOLERANCE);
    let tall = random::<f64>((40, 6), 35);
    let (q, q2) = (got(faer_backend::orthonormal(&tall)), got(lapack::orthonormal(&tall)));
    assert_near(&signed(q), &signed(q2), TOLERANCE);
}
