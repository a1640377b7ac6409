//! The decompositions by LAPACK, through `ndarray-linalg`; products by BLAS, which `ndarray` calls.

mod symmetric;

use crate::scalar::{NoResult, Thin};
use ndarray::{Array1, Array2, ArrayView2, Axis, NdFloat};
use ndarray_linalg::error::LinalgError as Failure;
use ndarray_linalg::{Cholesky, Factorize, JobSvd, Lapack, QR, SVDDC, Solve, SolveTriangular, UPLO};
pub(crate) use symmetric::eigen;

fn failed(_: Failure) -> NoResult {
    NoResult(None)
}

/// LAPACK counts pivots from 1.
fn pivot(failure: Failure) -> NoResult {
    match failure {
        Failure::Lapack(lax::error::Error::LapackComputationalFailure { return_code }) => {
            NoResult(usize::try_from(return_code - 1).ok())
        }
        _ => NoResult(None),
    }
}

pub(crate) fn svd<T: NdFloat + Lapack<Real = T>>(a: &Array2<T>) -> Result<Thin<T>, NoResult> {
    // Divide and conquer: the older algorithm takes nine times as long.
    let (u, s, vt) = a.svddc(JobSvd::Some).map_err(failed)?;
    let (u, vt) = u.zip(vt).ok_or(NoResult(None))?;
    Ok((u.as_standard_layout().into_owned(), s.to_vec(), vt.as_standard_layout().into_owned()))
}

pub(crate) fn singular_values<T: NdFloat + Lapack<Real = T>>(a: &Array2<T>) -> Result<Vec<T>, NoResult> {
    Ok(a.svddc(JobSvd::None).map_err(failed)?.1.to_vec())
}

/// The lower half on both sides, so that it does not matter which half is read.
fn mirrored<T: NdFloat>(a: &Array2<T>) -> Array2<T> {
    Array2::from_shape_fn(a.dim(), |(i, j)| a[(i.max(j), i.min(j))])
}

fn by_columns<T: NdFloat>(
    b: &Array2<T>,
    solve: impl Fn(Array1<T>) -> Result<Array1<T>, Failure>,
) -> Result<Array2<T>, NoResult> {
    let mut x = b.clone();
    for mut column in x.axis_iter_mut(Axis(1)) {
        let solved = solve(column.to_owned()).map_err(failed)?;
        column.assign(&solved);
    }
    Ok(x)
}

pub(crate) fn solve<T: NdFloat + Lapack<Real = T>>(a: &Array2<T>, b: &Array2<T>) -> Result<Array2<T>, NoResult> {
    let factors = a.factorize().map_err(pivot)?;
    by_columns(b, |column| factors.solve_into(column))
}

pub(crate) fn cholesky_solve<T: NdFloat + Lapack<Real = T>>(
    a: &Array2<T>,
    b: &Array2<T>,
) -> Result<Array2<T>, NoResult> {
    let lower = mirrored(a).cholesky(UPLO::Lower).map_err(pivot)?;
    let upper = lower.t().to_owned();
    by_columns(b, |column| {
        let half = lower.solve_triangular(UPLO::Lower, ndarray_linalg::Diag::NonUnit, &column)?;
        upper.solve_triangular(UPLO::Upper, ndarray_linalg::Diag::NonUnit, &half)
    })
}

pub(crate) fn product<T: NdFloat>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Array2<T> {
    a.dot(&b).as_standard_layout().into_owned()
}

pub(crate) fn lower_gram<T: NdFloat>(a: ArrayView2<'_, T>) -> Array2<T> {
    product(a.t(), a)
}

pub(crate) fn orthonormal<T: NdFloat + Lapack<Real = T>>(a: &Array2<T>) -> Result<Array2<T>, NoResult> {
    Ok(a.qr().map_err(failed)?.0.as_standard_layout().into_owned())
}
