//! Linear algebra over `ndarray`: singular values, symmetric eigenvectors, positive definite systems, products.
//!
//! Every function takes views, in any layout, of `f32` or `f64`, and returns arrays in row-major order. A value that
//! is not finite, or a matrix of the wrong shape, is an error with its position; empty matrices are allowed. Only the
//! sums in place ([`add_product`], [`add_product_wide`]) panic when shapes do not agree.
//!
//! | function | computes |
//! |---|---|
//! | [`svd`], [`singular_values`] | all singular triples, or values, exactly |
//! | [`svd_by_gram`] | all singular triples to the digits of `f32`; faster |
//! | [`truncated_svd`] | the first singular triples of a large matrix, by random projection |
//! | [`symmetric_eigen`] | eigenvalues and eigenvectors of a symmetric matrix |
//! | [`solve_positive_definite`] | X of A·X = B, by a Cholesky factor |
//! | [`product`], [`gram`] | A·B and AᵀA |
//! | [`add_product`], [`add_product_wide`] | sums of products in place; the second in `f64` for matrices in `f32` |
//!
//! `faer` does the work, on the calling thread: a result never depends on the number of threads. To use several
//! threads, decompose several matrices at once.
//!
//! # The feature `lapack`
//! With it, the LAPACK of the system's OpenBLAS decomposes and solves, through `ndarray-linalg`; results agree up to
//! rounding. Products stay with `faer`. It needs the library and its headers (`apt-get install libopenblas-dev`) and
//! is meant for comparisons: `cargo xtask bench svd` measures both. OpenBLAS uses threads of its own;
//! `OPENBLAS_NUM_THREADS=1` makes its results repeatable.
//!
//! ```
//! use glue_linalg::{product, svd};
//! use ndarray::array;
//!
//! let a = array![[3.0, 0.0], [0.0, -2.0], [0.0, 0.0]];
//! let parts = svd(a.view())?;
//! assert!((parts.values[0] - 3.0_f64).abs() < 1e-12);
//! // The nearest matrix with orthonormal columns is U·Vᵀ.
//! let nearest = product(parts.u.view(), parts.vt.view())?;
//! assert!((nearest - array![[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]).iter().all(|x| x.abs() < 1e-12));
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
mod product;
mod scalar;
mod solve;
mod svd;
mod svd_by_gram;
#[cfg(test)]
mod testing;
mod truncated;
mod views;

/// The library that decomposes and solves: `faer`, or `LAPACK` with the feature of that name.
pub const BACKEND: &str = if cfg!(feature = "lapack") { "LAPACK" } else { "faer" };

pub use eigen::{SymmetricEigen, symmetric_eigen};
pub use error::LinalgError;
pub use product::{WIDE_DEPTH, add_product, add_product_wide, gram, product};
pub use scalar::Scalar;
pub use solve::solve_positive_definite;
pub use svd::{Svd, singular_values, svd};
pub use svd_by_gram::svd_by_gram;
pub use truncated::{Randomised, truncated_svd};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
