//! Calibration statistics: what a pass over text says about each weight tensor of a model, written as a checkpoint of its own.
//!
//! Merge operators that weigh parameters by what they do need more than the weights. [`calibrate`] runs a dense model over
//! [`Sequence`]s of tokens and writes, for a tensor called `T`, one `F32` tensor for each [`Statistic`]:
//!
//! | tensor | shape | holds |
//! |---|---|---|
//! | `T.activation` | \[in\] | mean over tokens of \|x_j\|, x being the input of the matrix `T` \[out, in\] (AIM, arXiv 2502.02421) |
//! | `T.gram` | [in, in] | mean over tokens of x·xᵀ, that is XᵀX divided by the tokens (RegMean, arXiv 2212.09849) |
//! | `T.fisher` | that of `T` | mean over sequences of the squared gradient of the log-likelihood (Matena & Raffel, arXiv 2111.09832) |
//!
//! The first two are of every matrix that rows are multiplied with. Matrices with the same input (queries, keys and values; gate and
//! up) are observed as one and written under each name. An embedding is a table and has neither, even where it is the head too. The
//! last is of every stored tensor, norms and biases included; a tensor that is embedding and head has one, of the sum of both gradients.
//!
//! The log-likelihood of a sequence is the sum over its scored tokens; text without a question scores all of its tokens but the first.
//! This is the empirical Fisher information: of the given tokens, not of samples of the model's.
//!
//! The tokens that count for the first two are those that the model reads: all of a sequence but the last, which is only predicted.
//!
//! Sums are kept in `f64`: 8·in² bytes for each Gram matrix, 8 bytes for each parameter of the Fisher information. What that takes is
//! known from the shapes ([`Plan::estimate`]). With less memory, [`Options::max_memory`] makes several passes over the sequences, with
//! the same result.
//!
//! | module | holds |
//! |---|---|
//! | [`statistic`] | what can be gathered |
//! | [`sequence`] | what it is gathered from |
//! | [`plan`] | which sums there are, how many passes, memory and disk |
//! | [`run`] | the passes and the output |
//! | `sums` | the sums themselves |
//! | [`manifest`] | `glue.json`: what the statistics are of |
//! | [`error`] | what can go wrong |
//!
//! **Invariant:** no result depends on the number of threads, nor on the number of passes.
//!
//! **Invariant:** the crate knows no task and no file of text: whoever calls it says which tokens are read and which are scored.
#![deny(missing_docs)]

pub mod error;
pub mod manifest;
pub mod plan;
pub mod run;
pub mod sequence;
pub mod statistic;
mod sums;

pub use error::CalibrateError;
pub use plan::{Estimate, Options, Plan};
pub use run::{Calibrated, calibrate};
pub use sequence::Sequence;
pub use statistic::Statistic;
