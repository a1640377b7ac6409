//! Products of matrices, on the calling thread and with the same bits each time.
//!
//! By `faer`, whose kernels use the widest registers of the processor; `ndarray`'s own product stops at 256 bits.

use crate::error::LinalgError;
use crate::scalar::Scalar;
use ndarray::{Array2, ArrayView2};

/// A·B for m×k `a` and k×n `b`. What is not finite goes the way of the arithmetic.
///
/// # Errors
/// [`LinalgError::InnerDimension`].
pub fn product<T: Scalar>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Result<Array2<T>, LinalgError> {
    if a.ncols() != b.nrows() {
        return Err(LinalgError::InnerDimension { operation: "product", left: a.ncols(), right: b.nrows() });
    }
    Ok(T::product(a, b))
}

/// AᵀA, n×n for m×n `a`, in half the time of [`product`]: one half is computed and mirrored.
pub fn gram<T: Scalar>(a: ArrayView2<'_, T>) -> Array2<T> {
    let mut g = T::lower_gram(a);
    for i in 0..g.nrows() {
        for j in 0..i {
            g[(j, i)] = g[(i, j)];
        }
    }
    g
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
}
