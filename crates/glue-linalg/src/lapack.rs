//! The decompositions by LAPACK, through `ndarray-linalg`.

mod symmetric;

use crate::scalar::{NoResult, Thin};
use ndarray::{Array2, NdFloat};
use ndarray_linalg::error::LinalgError as Failure;
use ndarray_linalg::{Cholesky, Diag, JobSvd, Lapack, QR, SVDDC, SolveTriangular, UPLO};
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

pub(crate) fn cholesky_solve<T: NdFloat + Lapack<Real = T>>(
    a: &Array2<T>,
    b: &Array2<T>,
) -> Result<Array2<T>, NoResult> {
    let lower = mirrored(a).cholesky(UPLO::Lower).map_err(pivot)?;
    let half = lower.solve_triangular(UPLO::Lower, Diag::NonUnit, b).map_err(failed)?;
    let upper = lower.reversed_axes();
    let x = upper.solve_triangular(UPLO::Upper, Diag::NonUnit, &half).map_err(failed)?;
    Ok(x.as_standard_layout().into_owned())
}

pub(crate) fn orthonormal<T: NdFloat + Lapack<Real = T>>(a: &Array2<T>) -> Result<Array2<T>, NoResult> {
    Ok(a.qr().map_err(failed)?.0.as_standard_layout().into_owned())
}
