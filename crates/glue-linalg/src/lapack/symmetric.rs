//! Symmetric eigenvectors by divide and conquer, which `ndarray-linalg` does not offer: its QR iteration takes several
//! times as long.
#![allow(unsafe_code)] // a function of LAPACK

use crate::scalar::NoResult;
use ndarray::{Array2, NdFloat, ShapeBuilder};
use std::ffi::{c_char, c_int};

/// `ssyevd` or `dsyevd`.
pub(crate) trait Syevd: NdFloat {
    #[allow(clippy::too_many_arguments)] // those of LAPACK
    unsafe fn syevd(
        n: c_int,
        a: *mut Self,
        w: *mut Self,
        work: *mut Self,
        lwork: c_int,
        iwork: *mut c_int,
        liwork: c_int,
    ) -> c_int;
    /// As a length.
    fn length(self) -> c_int;
}

macro_rules! syevd {
    ($($t:ty, $f:path;)*) => {$(
        impl Syevd for $t {
            unsafe fn syevd(
                n: c_int,
                a: *mut Self,
                w: *mut Self,
                work: *mut Self,
                lwork: c_int,
                iwork: *mut c_int,
                liwork: c_int,
            ) -> c_int {
                let (vectors, lower) = (b'V' as c_char, b'L' as c_char);
                let mut info = 0;
                // SAFETY: the caller hands buffers of the lengths that LAPACK asks for.
                unsafe {
                    $f(&vectors, &lower, &n, a, &n, w, work, &lwork, iwork, &liwork, &mut info);
                }
                info
            }
            fn length(self) -> c_int {
                // A length that f32 cannot hold exactly may have been rounded down.
                (f64::from(self) * (1.0 + 1e-6)).ceil() as c_int
            }
        }
    )*};
}

syevd!(f32, lapack_sys::ssyevd_; f64, lapack_sys::dsyevd_;);

/// Eigenvalues in ascending order and eigenvectors as columns, from the lower half.
pub(crate) fn eigen<T: Syevd>(a: &Array2<T>) -> Result<(Vec<T>, Array2<T>), NoResult> {
    let n = a.nrows();
    let order = c_int::try_from(n).map_err(|_| NoResult(None))?;
    // LAPACK counts by columns; the eigenvectors overwrite the matrix.
    let mut columns = Array2::zeros((n, n).f());
    columns.assign(a);
    let mut values = vec![T::zero(); n];
    let (mut best, mut best_i) = ([T::zero()], [0]);
    let matrix = columns.as_mut_ptr();
    // SAFETY: lengths of −1 ask for the best ones; they are written to the first elements, and nothing else is touched.
    let info = unsafe { T::syevd(order, matrix, values.as_mut_ptr(), best.as_mut_ptr(), -1, best_i.as_mut_ptr(), -1) };
    if info != 0 {
        return Err(NoResult(None));
    }
    let (lwork, liwork) = (best[0].length().max(1), best_i[0].max(1));
    let mut work = vec![T::zero(); lwork as usize];
    let mut iwork = vec![0; liwork as usize];
    // SAFETY: `columns` is n×n by columns, `values` has n elements, and the work space the lengths that were asked for.
    let info =
        unsafe { T::syevd(order, matrix, values.as_mut_ptr(), work.as_mut_ptr(), lwork, iwork.as_mut_ptr(), liwork) };
    if info != 0 {
        return Err(NoResult(None));
    }
    Ok((values, columns.as_standard_layout().into_owned()))
}
