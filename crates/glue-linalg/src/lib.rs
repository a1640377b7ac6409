//! Linear algebra over `ndarray`: singular values, symmetric eigenvectors, solving, polar factor, products.
//!
//! Every function takes views, in any layout, of `f32` or `f64`, and returns arrays of its own in row-major order.
//! What is not finite, or of the wrong shape, is an error; nothing panics. Matrices without rows or columns are matrices
//! like any other.
//!
//! Of the singular values there are three: [`svd`] is exact, [`svd_by_gram`] is faster and exact to the digits of `f32`,
//! [`truncated_svd`] finds the first few of a large matrix at random.
//!
//! The work is done by `faer` on the thread that calls, so that a result never depends on the number of threads; run
//! several at once where there are several matrices. With the feature `lapack` it is done by the LAPACK of the
//! system's OpenBLAS instead, with the same results up to rounding. How OpenBLAS spreads its work over threads is its
//! own affair; `OPENBLAS_NUM_THREADS=1` makes it repeatable.
//!
//! ```
//! use glue_linalg::{polar_factor, svd};
//! use ndarray::array;
//!
//! let a = array![[3.0, 0.0], [0.0, -2.0], [0.0, 0.0]];
//! let parts = svd(a.view())?;
//! assert!((parts.values[0] - 3.0_f64).abs() < 1e-12);
//! assert!((polar_factor(a.view())? - array![[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]).iter().all(|x| x.abs() < 1e-12));
//! # Ok::<(), glue_linalg::LinalgError>(())
//! ```

#[cfg(all(test, feature = "lapack"))]
mod agreement;
mod eigen;
mod error;
#[cfg(any(test, not(feature = "lapack")))]
mod faer_backend;
#[cfg(feature = "lapack")]
mod lapack;
mod least_squares;
mod polar;
mod product;
mod scalar;
mod solve;
mod svd;
mod svd_by_gram;
#[cfg(test)]
mod testing;
mod truncated;

/// What does the work: `faer`, or `LAPACK` with the feature of that name.
pub const BACKEND: &str = if cfg!(feature = "lapack") { "LAPACK" } else { "faer" };

pub use eigen::{SymmetricEigen, symmetric_eigen};
pub use error::LinalgError;
pub use least_squares::least_squares;
pub use polar::polar_factor;
pub use product::{gram, product};
pub use scalar::Scalar;
pub use solve::{solve, solve_positive_definite};
pub use svd::{Svd, singular_values, svd};
pub use svd_by_gram::svd_by_gram;
pub use truncated::{Randomised, truncated_svd};
