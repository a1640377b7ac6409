//! Matrices of `ndarray` as `faer` sees them, where they lie.
#![allow(unsafe_code)] // pointers and strides change hands

use faer::{MatMut, MatRef};
use ndarray::{ArrayView2, ArrayViewMut2, CowArray, Ix2, NdFloat};

/// `a` itself where the elements of a row or those of a column are neighbours, else a copy by rows: kernels load
/// neighbours at once.
pub(crate) fn readable<T: NdFloat>(a: ArrayView2<'_, T>) -> CowArray<'_, T, Ix2> {
    let [row, column] = [a.strides()[0], a.strides()[1]];
    if (row == 1 && column >= 0) || (column == 1 && row >= 0) {
        a.into()
    } else {
        a.as_standard_layout().into_owned().into()
    }
}

/// The same elements.
pub(crate) fn view<T>(a: ArrayView2<'_, T>) -> MatRef<'_, T> {
    let ((rows, columns), row, column) = (a.dim(), a.strides()[0], a.strides()[1]);
    // SAFETY: for as long as the view lives, element (i, j) of it is readable at the distance i·row + j·column from its
    // first one, for all rows and columns, which is where the other kind of view looks for it.
    unsafe { MatRef::from_raw_parts(a.as_ptr(), rows, columns, row, column) }
}

/// The same elements, to be written.
pub(crate) fn view_mut<T>(mut a: ArrayViewMut2<'_, T>) -> MatMut<'_, T> {
    let ((rows, columns), row, column) = (a.dim(), a.strides()[0], a.strides()[1]);
    // SAFETY: as for `view`; the exclusive view is given up, and no two of its elements share a place.
    unsafe { MatMut::from_raw_parts_mut(a.as_mut_ptr(), rows, columns, row, column) }
}
