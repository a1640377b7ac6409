//! Products of matrices, on the calling thread and with the same bits each time.
//!
//! By `faer` with either back end: its kernels use the widest registers of the processor, where `ndarray`'s own product
//! stops at 256 bits, and their sums do not depend on a number of threads, as those of OpenBLAS do.

use crate::error::LinalgError;
use crate::scalar::Scalar;
use crate::views::{readable, view, view_mut};
use faer::linalg::matmul::{self, triangular};
use faer::{Accum, Par};
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Slice};

/// Products that [`add_product_wide`] sums in `f32` at most, before the sum goes on in `f64`.
pub const WIDE_DEPTH: usize = 512;

/// A·B for m×k `a` and k×n `b`. NaN and infinities go the way of the arithmetic.
///
/// # Errors
/// [`LinalgError::InnerDimension`].
pub fn product<T: Scalar>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Result<Array2<T>, LinalgError> {
    if a.ncols() != b.nrows() {
        return Err(LinalgError::InnerDimension { operation: "product", left: a.ncols(), right: b.nrows() });
    }
    Ok(multiply(a, b))
}

/// As [`product`], of matrices whose inner dimensions agree.
pub(crate) fn multiply<T: Scalar>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Array2<T> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    matmul(c.view_mut(), Accum::Replace, T::one(), a, b);
    c
}

/// Adds `scale`·A·B to `sum`, m×n for m×k `a` and k×n `b`, without memory for the product.
///
/// # Panics
/// When the shapes do not agree.
pub fn add_product<T: Scalar>(scale: T, a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, sum: ArrayViewMut2<'_, T>) {
    check_shapes(a.dim(), b.dim(), sum.dim());
    matmul(sum, Accum::Add, scale, a, b);
}

/// Adds A·B to `sums`, m×n for m×k `a` and k×n `b`: of each element, up to [`WIDE_DEPTH`] products are summed in `f32`,
/// and these sums in `f64`, in the order of k. For long sums of `f32`, at the speed of a product in `f32`.
///
/// `scratch` is memory for one product, m·n elements. Its content does not matter; a caller with many products keeps
/// it.
///
/// # Panics
/// When the shapes do not agree.
pub fn add_product_wide(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    mut sums: ArrayViewMut2<'_, f64>,
    scratch: &mut Vec<f32>,
) {
    let (m, n) = sums.dim();
    check_shapes(a.dim(), b.dim(), (m, n));
    scratch.resize(scratch.len().max(m * n), 0.0);
    let short = &mut scratch[..m * n];
    if short.is_empty() {
        return;
    }
    for start in (0..a.ncols()).step_by(WIDE_DEPTH) {
        let terms = Slice::from(start..(start + WIDE_DEPTH).min(a.ncols()));
        let target = ArrayViewMut2::from_shape((m, n), &mut *short).expect("the length is m·n");
        matmul(target, Accum::Replace, 1.0, a.slice_axis(Axis(1), terms), b.slice_axis(Axis(0), terms));
        for (mut sums, short) in sums.rows_mut().into_iter().zip(short.chunks_exact(n)) {
            sums.zip_mut_with(&ArrayView1::from(short), |sum, term| *sum += f64::from(*term));
        }
    }
}

/// AᵀA, n×n for m×n `a`, in half the time of [`product`]: one half is computed and mirrored.
pub fn gram<T: Scalar>(a: ArrayView2<'_, T>) -> Array2<T> {
    let mut g = lower_gram(a);
    for i in 0..g.nrows() {
        for j in 0..i {
            g[(j, i)] = g[(i, j)];
        }
    }
    g
}

/// The lower half of AᵀA, diagonal included; above it, anything.
pub(crate) fn lower_gram<T: Scalar>(a: ArrayView2<'_, T>) -> Array2<T> {
    let a = readable(a);
    let mut c = Array2::zeros((a.ncols(), a.ncols()));
    triangular::matmul(
        view_mut(c.view_mut()),
        triangular::BlockStructure::TriangularLower,
        Accum::Replace,
        view(a.view()).transpose(),
        triangular::BlockStructure::Rectangular,
        view(a.view()),
        triangular::BlockStructure::Rectangular,
        T::one(),
        Par::Seq,
    );
    c
}

fn matmul<T: Scalar>(c: ArrayViewMut2<'_, T>, mode: Accum, scale: T, a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) {
    let (a, b) = (readable(a), readable(b));
    matmul::matmul(view_mut(c), mode, view(a.view()), view(b.view()), scale, Par::Seq);
}

#[track_caller]
fn check_shapes(a: (usize, usize), b: (usize, usize), sum: (usize, usize)) {
    assert!(a.1 == b.0 && (a.0, b.1) == sum, "a {a:?} times a {b:?} matrix cannot be added to a {sum:?} one");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, random};
    use ndarray::{array, s};

    #[test]
    fn by_hand_and_refused() {
        let (a, b) = (array![[1.0, 2.0], [3.0, 4.0]], array![[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]);
        assert_eq!(product(a.view(), b.view()).unwrap(), array![[2.0, 1.0, 0.0], [4.0, 3.0, 2.0]]);
        assert_eq!(gram(a.view()), array![[10.0, 14.0], [14.0, 20.0]]);
        let mut sum = array![[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]];
        add_product(-2.0, a.view(), b.view(), sum.view_mut());
        assert_eq!(sum, array![[-3.0, -1.0, 1.0], [-7.0, -5.0, -3.0]]);
        let error = product(b.view(), a.view()).unwrap_err();
        assert_eq!(error.to_string(), "product: the matrix on the left has 3 columns, the one on the right 2 rows");
    }

    /// Against the product of `ndarray`; sums of up to 70 products below 1.
    #[test]
    fn any_shape_and_layout() {
        for (m, k, n) in [(1, 1, 1), (3, 70, 5), (70, 3, 33), (33, 65, 64), (0, 3, 2), (2, 0, 3), (2, 3, 0)] {
            let (a, b) = (random::<f64>((m, k), 1), random::<f64>((k, n), 2));
            let expected = a.dot(&b);
            assert_near(&product(a.view(), b.view()).unwrap(), &expected, 1e-13);
            assert_near(&product(b.t(), a.t()).unwrap(), &expected.t().to_owned(), 1e-13);
            assert_near(&gram(a.view()), &a.t().dot(&a), 1e-13);
            assert_near(&gram(a.t()), &a.dot(&a.t()), 1e-13);
        }
        let (a, b) = (random::<f32>((20, 9), 3), random::<f32>((9, 8), 4));
        let (part, other) = (a.slice(s![..;2, 1..]), b.slice(s![..;-1, ..5]));
        let expected = part.dot(&other.slice(s![1.., ..]));
        assert_near(&product(part, other.slice(s![1.., ..])).unwrap(), &expected, 1e-5);
        assert_near(&gram(part), &part.t().dot(&part), 1e-5);
    }

    /// Columns cut out of a wider matrix, and rows and columns that are not neighbours in memory.
    #[test]
    fn a_part_of_a_matrix_has_the_bits_of_a_copy_of_it() {
        let (a, b) = (random::<f64>((90, 70), 5), random::<f64>((70, 80), 6));
        let (left, right) = (a.slice(s![10.., ..50]), b.slice(s![20.., 3..60]));
        let expected = product(left.to_owned().view(), right.to_owned().view()).unwrap();
        assert_eq!(product(left, right).unwrap(), expected);
        let (left, right) = (a.slice(s![..;2, ..;7]), b.slice(s![..;-7, ..;3]));
        let expected = product(left.to_owned().view(), right.to_owned().view()).unwrap();
        assert_eq!(product(left, right).unwrap(), expected);
    }

    #[test]
    fn wide_sums_are_those_of_the_definition() {
        let mut scratch = Vec::new();
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (26, 513, 7), (5, 1200, 40), (0, 3, 2), (2, 0, 3), (2, 3, 0)] {
            let (a, b) = (random::<f32>((m, k), 7), random::<f32>((k, n + 2), 8));
            let right = b.slice(s![.., 2..]);
            let mut sums = Array2::ones((m, n + 1));
            add_product_wide(a.view(), right, sums.slice_mut(s![.., ..n]), &mut scratch);
            let expected = a.mapv(f64::from).dot(&right.mapv(f64::from)) + 1.0;
            // 512 terms below 1 in f32: 512 · 512 · 2^-24 at most, and a hundredth of that in practice.
            assert_near(&sums.slice(s![.., ..n]).to_owned(), &expected, 5e-4);
            assert!(sums.column(n).iter().all(|untouched| *untouched == 1.0));
            let mut turned = Array2::ones((n, m));
            add_product_wide(right.t(), a.t(), turned.view_mut(), &mut scratch);
            assert_near(&turned.reversed_axes(), &expected, 5e-4);
        }
    }

    #[test]
    #[should_panic(expected = "cannot be added")]
    fn sums_of_another_shape_are_a_mistake_of_the_caller() {
        let a = Array2::<f32>::zeros((2, 3));
        add_product_wide(a.view(), a.t(), Array2::zeros((2, 3)).view_mut(), &mut Vec::new());
    }
}
