//! Merge operators that need the linear algebra of whole matrices. They depend on the contract and on linear algebra, as any crate of
//! operators could:
//!
//! ```
//! use glue_merge::Registry;
//!
//! let registry = Registry::builtin().with(glue_spectral::DEFS);
//! assert!(registry.get("tsv_m").is_ok());
//! ```
//!
//! | operator | module | idea |
//! |---|---|---|
//! | `tsv_m` | [`tsv`] | a few singular triples of each task vector, made orthogonal to those of the others |
//! | `iso_c` | [`iso`] | the sum of the task vectors, stretched alike in all directions |
//! | `iso_cts` | [`iso`] | the same, with room for directions of each task |
//! | `knots` | [`knots`] | TIES in a basis that all task vectors share |
//! | `wudi` | [`wudi`] | least interference with each task vector on its own row space |
//! | `regmean` | [`regmean`] | least squares on the inputs of each layer, from statistics measured on data |
//!
//! All of them work matrix by matrix. `regmean` stands apart in the rest: it merges the models themselves, and every
//! matrix that there are statistics of. Of the others, what a tensor is that is no matrix, or lies outside of the layers, is merged by
//! the mean of the task vectors, as the papers do: embeddings and heads are matrices too, but their rows are tokens,
//! and their decomposition costs more than that of all layers together. The parameter `outside_layers` takes them in.
//!
//! **What to expect.** The methods on singular values come from vision models with a dozen layers, fine-tuned on well-separated tasks.
//! The largest study on language models (arXiv 2511.21437: TSV-Merge and Iso-C among six methods, four base models) finds
//! plain task arithmetic the only one that reliably gains there, and methods of this family typically at a loss against the
//! base. Compare with `task_arithmetic` before using one.
//!
//! **Memory.** A matrix is seen whole. While one is merged, the driver holds it in `f32` for the base and each of the N
//! models, and the operator holds what its module says, counted in copies of the matrix in `f32` for a square one;
//! afterwards the result alone, until it is written. Each thread merges a matrix of its own: fewer threads, less
//! memory. The operands are read twice: for the decomposition, and when the finished blocks are handed out.
//!
//! **Time.** A decomposition takes some n³ operations, on one thread, so that results do not depend on how many there
//! are; several matrices are merged at once. Work is done in `f64` on Gram matrices, which is faster than a singular
//! value decomposition in `f32` and at least as accurate for weights of that type: see
//! [`svd_by_gram`](glue_linalg::svd_by_gram).

pub mod iso;
pub mod knots;
mod matrix;
pub mod regmean;
#[cfg(test)]
mod testing;
pub mod tsv;
pub mod wudi;

use glue_merge::OperatorDef;

/// Every operator of this crate, in the order of the reference.
pub const DEFS: &[&OperatorDef] = &[&tsv::DEF, &iso::C, &iso::CTS, &knots::DEF, &wudi::DEF, &regmean::DEF];
