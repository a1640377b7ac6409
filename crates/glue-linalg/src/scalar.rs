//! The types of elements, and what every function does to its input before the back end sees it.

use crate::error::LinalgError;
use ndarray::{Array2, ArrayView2};

/// A type of matrix elements: `f32` or `f64`. It cannot be implemented elsewhere.
pub trait Scalar: sealed::Element {}

impl Scalar for f32 {}
impl Scalar for f64 {}

#[cfg(not(feature = "lapack"))]
use crate::faer_backend as backend;
#[cfg(feature = "lapack")]
use crate::lapack as backend;

/// Why a back end has no result: the pivot where it stopped, if it has one.
pub(crate) struct NoResult(pub(crate) Option<usize>);

/// U, s and Vᵀ.
pub(crate) type Thin<T> = (Array2<T>, Vec<T>, Array2<T>);

pub(crate) mod sealed {
    use super::{NoResult, Thin, backend};
    use faer::traits::RealField;
    use ndarray::{Array2, NdFloat};

    /// What a back end does, for matrices that are finite and not empty.
    pub trait Element: NdFloat + RealField {
        /// Distance from 1 to the next number.
        const EPSILON: Self;
        /// The nearest number of this type.
        fn of(x: f64) -> Self;
        /// As `f64`.
        fn wide(self) -> f64;
        #[allow(private_interfaces)] // the trait is sealed
        fn svd(a: &Array2<Self>) -> Result<Thin<Self>, NoResult>;
        #[allow(private_interfaces)]
        fn singular_values(a: &Array2<Self>) -> Result<Vec<Self>, NoResult>;
        #[allow(private_interfaces)]
        fn eigen(a: &Array2<Self>) -> Result<(Vec<Self>, Array2<Self>), NoResult>;
        #[allow(private_interfaces)]
        fn cholesky_solve(a: &Array2<Self>, b: &Array2<Self>) -> Result<Array2<Self>, NoResult>;
        /// Q of a thin QR decomposition of a matrix with at least as many rows as columns.
        #[allow(private_interfaces)]
        fn orthonormal(a: &Array2<Self>) -> Result<Array2<Self>, NoResult>;
    }

    macro_rules! element {
        ($($t:ty)*) => {$(
            #[allow(private_interfaces)]
            impl Element for $t {
                const EPSILON: Self = <$t>::EPSILON;
                fn of(x: f64) -> Self {
                    x as $t
                }
                fn wide(self) -> f64 {
                    self.into()
                }
                fn svd(a: &Array2<Self>) -> Result<Thin<Self>, NoResult> {
                    backend::svd(a)
                }
                fn singular_values(a: &Array2<Self>) -> Result<Vec<Self>, NoResult> {
                    backend::singular_values(a)
                }
                fn eigen(a: &Array2<Self>) -> Result<(Vec<Self>, Array2<Self>), NoResult> {
                    backend::eigen(a)
                }
                fn cholesky_solve(a: &Array2<Self>, b: &Array2<Self>) -> Result<Array2<Self>, NoResult> {
                    backend::cholesky_solve(a, b)
                }
                fn orthonormal(a: &Array2<Self>) -> Result<Array2<Self>, NoResult> {
                    backend::orthonormal(a)
                }
            }
        )*};
    }

    element!(f32 f64);
}

/// Refuses a matrix with an element that is not finite.
pub(crate) fn check_finite<T: Scalar>(operation: &'static str, a: ArrayView2<'_, T>) -> Result<(), LinalgError> {
    let (rows, columns) = a.dim();
    match a.indexed_iter().find(|(_, x)| !x.is_finite()) {
        None => Ok(()),
        Some(((row, column), x)) => {
            Err(LinalgError::NotFinite { operation, rows, columns, row, column, value: x.wide() })
        }
    }
}

/// The side of a matrix that has to be square.
pub(crate) fn check_square<T>(operation: &'static str, a: ArrayView2<'_, T>) -> Result<usize, LinalgError> {
    let (rows, columns) = a.dim();
    if rows == columns { Ok(rows) } else { Err(LinalgError::NotSquare { operation, rows, columns }) }
}

/// `a` in row-major order, divided by a power of two that brings its largest element near 1, and that power: squares
/// inside a decomposition then neither overflow nor vanish. Division by a power of two rounds nothing, except elements
/// smaller than the largest by the whole range of the type.
pub(crate) fn scaled<T: Scalar>(a: ArrayView2<'_, T>) -> (Array2<T>, T) {
    let largest = a.iter().fold(T::zero(), |m, x| m.max(x.abs())).wide();
    // Within a factor of 2 of the largest, and with a reciprocal that is no subnormal number.
    let exponent = if largest > 0.0 { largest.log2().floor() } else { 0.0 };
    let exponent = if size_of::<T>() == 4 { exponent.max(-125.0) } else { exponent.max(-1021.0) };
    let power = T::of(exponent.exp2());
    (Array2::from_shape_fn(a.dim(), |i| a[i] / power), power)
}
