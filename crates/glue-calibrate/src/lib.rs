//! Calibration statistics of the weight tensors of a model, gathered in a pass over text and written as a checkpoint.
//!
//! Merge operators that weigh parameters by their effect need more than the weights. [`calibrate`] runs a model over
//! [`Sequence`]s of tokens and writes, for a tensor called `T`, one `F32` tensor for each [`Statistic`]:
//!
//! | tensor | shape | holds |
//! |---|---|---|
//! | `T.activation` | \[in\] | mean over tokens of \|x_j\|, x being the input of the matrix `T` \[out, in\] (AIM, arXiv 2502.02421) |
//! | `T.gram` | [in, in] | mean over tokens of x·xᵀ, that is XᵀX divided by the tokens (RegMean, arXiv 2212.09849) |
//! | `T.fisher` | that of `T` | mean over sequences of the squared gradient of the log-likelihood (Matena & Raffel, arXiv 2111.09832) |
//!
//! Activations and Gram matrices exist for every matrix that multiplies activations. Matrices with the same input
//! (queries, keys and values; gate and up) are observed once and written under each name. An embedding is a lookup
//! table and has neither, even where it is tied to the head. Fisher information exists for every stored tensor, norms
//! and biases included; a tied embedding has one, of the sum of both gradients.
//!
//! The log-likelihood of a sequence is the sum over its scored tokens; text without a question scores all of its
//! tokens but the first. This is the empirical Fisher information: of the given tokens, not of tokens sampled from
//! the model.
//!
//! Activations and Gram matrices are means over the tokens that the model reads: all of a sequence but the last,
//! which is only predicted.
//!
//! # Mixtures of experts
//! Of an expert, the sums are over the tokens that the router gives to it, and divided by all tokens like the others.
//! The Gram matrices of the experts of a layer are then parts of one least-squares problem, and an expert that sees few
//! tokens in one model weighs little there. One that sees none has zeros ([`CalibrationSummary::idle_experts`]).
//! Experts that are stored together, in tensors [experts, out, in], have statistics [experts, in] and
//! [experts, in, in]. The router's matrix and a shared expert are matrices like others. There is no Fisher information
//! of mixtures, and none of the statistics of mixtures in the native format.
//!
//! # RegMean++
//! [`calibrate_layerwise`] measures Gram matrices of several models while it merges them layer by layer
//! ([`layerwise`]).
//!
//! Sums are kept in `f64`: 8·in² bytes for each Gram matrix, 8 bytes for each parameter of the Fisher information.
//! The total follows from the shapes ([`CalibratePlan::estimate`]). With a limit ([`CalibrateOptions::max_memory`])
//! there are several passes over the sequences, with the same result.
//!
//! ```no_run
//! use glue_calibrate::{CalibrateOptions, CalibratePlan, Sequence, calibrate};
//! use glue_progress::NoProgress;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (dir, model) = (glue_tensor::ModelDir::open("base")?, glue_lm::Model::open("base")?);
//! let plan = CalibratePlan::new(&model, &CalibrateOptions::default())?;
//! println!("{} bytes of sums", plan.estimate(8, 4).sum_bytes);
//! let sequences = [Sequence::text(vec![1, 17, 23, 5])];
//! calibrate(&model, &dir, &plan, &sequences, &"one sequence".into(), "statistics", &NoProgress)?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`statistic`] | the statistics |
//! | [`sequence`] | the input: tokens, and which of them are scored |
//! | [`plan`] | which sums to gather, in how many passes; memory and disk |
//! | [`run`] | the passes and the output |
//! | [`layerwise`] | Gram matrices on the layers that are merged already (RegMean++), and the output |
//! | `sums`, `streams` | the sums themselves; residual streams between two layers |
//! | [`manifest`] | `glue.json`: model, sequences and options |
//!
//! **Invariant:** no result depends on the number of threads, nor on the number of passes.
//!
//! **Invariant:** the crate knows no task and no text file: the caller says which tokens are read and which are scored.
#![deny(missing_docs)]

pub mod error;
pub mod layerwise;
pub mod manifest;
pub mod plan;
pub mod run;
pub mod sequence;
pub mod statistic;
mod streams;
mod sums;

pub use error::CalibrateError;
pub use layerwise::{LayerMerger, LayerwiseEstimate, LayerwiseModel, LayerwisePlan, calibrate_layerwise};
pub use manifest::ModelFiles;
pub use plan::{CalibrateEstimate, CalibrateOptions, CalibratePlan};
pub use run::{CalibrationSummary, calibrate};
pub use sequence::Sequence;
pub use statistic::Statistic;
pub use sums::IdleExpert;

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
