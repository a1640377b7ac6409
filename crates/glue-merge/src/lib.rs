//! Merge operators for the weights of neural networks.
//!
//! A merge takes the same tensor from several checkpoints and makes one out of them. This crate has the contract that
//! an operator fulfils, the built-in operators, and a driver that runs them over blocks with the same bits for any
//! number of threads. It depends on the standard library alone, reads no file, knows no model and starts no thread.
//!
//! | you want to | look at |
//! |---|---|
//! | merge slices in memory | [`Registry`], [`Operator::params`], [`Merge`] |
//! | merge from files, in parallel | [`Driver`], with a [`Source`], a [`Sink`] and a [`Pool`] of your own |
//! | write an operator | [`OperatorDef`], [`ParamSpec`], [`Plan`], [`Map`], [`Reduction`] |
//! | read inner products, thresholds and sums of a whole tensor first | [`gram`], [`select`], [`StripedSum`] |
//! | draw random numbers for each element | [`random`] |
//! | use numbers measured on data | [`StatisticSpec`], [`Block::statistics`] |
//! | list operators with their parameters | [`Registry::iter`], [`params`] |
//! | prove that an operator keeps the contract | `check_operator`, with the feature `conformance` |
//! | merge on a device | [`device`] |
//!
//! # Merging two models
//!
//! ```
#![doc = include_str!("../examples/merge_slices.rs")]
//! ```
//!
//! # Writing an operator
//!
//! ```
#![doc = include_str!("../examples/own_operator.rs")]
//! ```
//!
//! Three rules hold everywhere. Arithmetic is in `f32` with sums in `f64`. Everything that can be refused is refused
//! while planning, so that a hot loop cannot fail. A result depends on the values, the parameters and the seed, never
//! on the length of a block or on the number of threads.

#[cfg(any(test, feature = "conformance"))]
mod conformance;
mod contract;
mod def;
pub mod device;
mod driver;
mod error;
pub mod gram;
mod merge;
pub mod operators;
pub mod params;
pub mod random;
pub mod registry;
pub mod select;
mod stack;
mod statistic;
mod striped_sum;
mod task_vectors;

#[cfg(any(test, feature = "conformance"))]
pub use conformance::{Conformance, check_operator};
pub use contract::{Block, Granularity, Map, Operand, Plan, Reduction, TensorSpec};
pub use def::{BaseRule, InputRule, Operator, OperatorDef};
pub use driver::{Done, Driver, Pool, Sink, Source};
pub use error::{BoxError, MergeError, ParamError};
pub use merge::{Merge, SliceSource, VecSink};
pub use params::{Interval, ParamSpec, Params, Setting};
pub use registry::Registry;
pub use statistic::{StatisticOf, StatisticShape, StatisticSpec};
pub use striped_sum::StripedSum;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
