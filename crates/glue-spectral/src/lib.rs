//! Merge operators that decompose whole weight matrices: TSV-M, Iso-C, Iso-CTS, KnOTS, WUDI and RegMean.
//!
//! The crate uses the public contract of `glue-merge` and linear algebra, as any crate of operators could:
//!
//! ```
//! use glue_merge::{Merge, Registry};
//!
//! let operator = Registry::builtin().with(glue_spectral::DEFS).operator("iso_c", None)?;
//! // In memory, a tensor belongs to no layer.
//! let params = operator.params(2).set("outside_layers", "matrix").check()?;
//! let (base, first, second) = ([0.0; 4], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]);
//! let merged = Merge::new(&operator, &params).shape(&[2, 2]).base(&base).inputs([&first, &second]).run()?;
//! // The sum of the task vectors has the singular values 3 and 1; both become their mean.
//! assert!(merged.iter().zip([2.0, 0.0, 0.0, 2.0]).all(|(x, expected)| (x - expected).abs() < 1e-6));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | operator | module | idea |
//! |---|---|---|
//! | `tsv_m` | [`tsv`] | a few singular triples of each task vector, made orthogonal to those of the others |
//! | `iso_c` | [`iso`] | the sum of the task vectors, with all singular values equal |
//! | `iso_cts` | [`iso`] | the same, with some directions taken from each task |
//! | `knots` | [`knots`] | TIES in a basis that all task vectors share |
//! | `wudi` | [`wudi`] | least interference with each task vector on its own row space |
//! | `regmean` | [`regmean`] | least squares on the inputs of each layer, from statistics measured on data |
//!
//! All of them work matrix by matrix. `regmean` merges the weights themselves, of every matrix that has statistics.
//! The others merge task vectors. They add the mean of the task vectors to tensors that are not matrices and, as the
//! papers do, to embedding and head, whose rows are tokens and whose decomposition costs more than that of all layers
//! together. The parameter `outside_layers` includes embedding and head.
//!
//! **What to expect.** The methods on singular values come from vision models with a dozen layers, fine-tuned on
//! well-separated tasks. The largest study on language models (arXiv 2511.21437: TSV-Merge and Iso-C among six
//! methods, four base models) finds that only plain task arithmetic reliably gains there, and that methods of this
//! family typically score below the base. Compare with `task_arithmetic` before using one.
//!
//! **Memory.** While a matrix is merged, the driver holds the base and each of the N models in `f32`. The operator
//! holds in addition the number of copies that its module states, each of the size of a square matrix in `f32`;
//! afterwards only the result, until it is written. Each thread merges one matrix: fewer threads take less memory.
//! The operands are read twice: for the decomposition, and when the finished blocks are written.
//!
//! **Time.** A decomposition takes some n³ operations on one thread, and several matrices are merged at once: results
//! do not depend on the number of threads. The operators work in `f64` on Gram matrices, which is faster than a
//! singular value decomposition in `f32` and at least as accurate for weights of that type: see
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

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
