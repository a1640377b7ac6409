//! Merge operators for the weights of neural networks.
//!
//! A merge takes the same tensor from several checkpoints and makes one out of them. This crate holds what is needed
//! for that and nothing else: the contract an operator fulfils, the built-in operators, and a driver that runs them
//! over blocks with the same bits for any number of threads. It depends on the standard library alone. It reads no
//! file, knows no model and starts no thread.
//!
//! | you want to | look at |
//! |---|---|
//! | merge arrays in memory | [`merge_slices`], [`merge_slices_with_statistics`] |
//! | merge from files, in parallel | [`Driver`], with a [`Source`], a [`Sink`] and a [`Pool`] of your own |
//! | write an operator | [`OperatorDef`], [`Plan`], [`Map`], [`Survey`] |
//! | give it numbers measured on data | [`StatisticSpec`], [`Block::statistics`] |
//! | prove that it keeps the contract | [`check_operator`] |
//! | list what is there | [`Registry::builtin`] |
//! | merge on a device | [`Executor`], [`Kernel`], [`Gather`] |
//!
//! ```
//! use glue_merge::{Registry, Setting, merge_slices};
//!
//! let registry = Registry::builtin();
//! let ties = registry.operator("ties", None)?;
//! let params = ties.params(
//!     &[("lambda", Setting::Number(1.0))],
//!     &[
//!         vec![("weight", Setting::Number(0.5)), ("density", Setting::Number(0.5))],
//!         vec![("weight", Setting::Number(0.5)), ("density", Setting::Number(0.5))],
//!     ],
//! )?;
//! let base = [0.0, 0.0, 0.0, 0.0];
//! let merged = merge_slices(&ties, &params, &[4], Some(&base), &[&[4.0, -3.0, 1.0, 0.5], &[2.0, 5.0, -1.0, 0.1]])?;
//! assert_eq!(merged, [3.0, 5.0, 0.0, 0.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three rules hold everywhere. Arithmetic is in `f32` with sums in `f64`. Everything that can be refused is refused
//! while planning, so that a hot loop cannot fail. A result depends on the values, the parameters and the seed, never
//! on the length of a block or on the number of threads.

mod conformance;
mod contract;
mod def;
mod driver;
mod error;
mod gram;
mod host;
mod kernel;
mod lanes;
pub mod operators;
mod params;
mod random;
mod registry;
mod select;
mod statistic;

pub use conformance::{Conformance, check_operator};
pub use contract::{Block, Grain, Map, Operand, Plan, Survey, TensorSpec};
pub use def::{BaseRule, InputRule, Operator, OperatorDef};
pub use driver::{BLOCK, Done, Driver, Executor, HostExecutor, Pool, Room, SPAN, Serial, Sink, Source};
pub use error::{BoxError, MergeError, ParamError};
pub use gram::{Gram, Vectors, gram};
pub use host::{merge_slices, merge_slices_with_statistics};
pub use kernel::{
    Float, Gather, Gathered, Identity, Kernel, RandomDrop, RankedDrop, Ranking, Stored, TaskKernel, Trimming,
};
pub use lanes::Lanes;
pub use params::{Interval, Kind, ParamSpec, Params, Scope, Setting, Value};
pub use random::{ElementRng, keep_threshold};
pub use registry::{Registry, UnknownOperator, nearest};
pub use select::{Cut, Keys, Largest, select_largest};
pub use statistic::{StatisticOf, StatisticShape, StatisticSpec};
