#![doc = include_str!("../README.md")]
//! # Modules
//!
//! The way in is [`MixConfig::parse`] for the description, [`MixPlan::new`] for everything that can be checked before a
//! weight is read, and [`run()`] to write. Gates come from outside, made from what [`MixPlan::gate_request`] says, or
//! from [`MixPlan::random_gates`]; in a mixture on disk [`write_gates`] replaces them. Prompts that the description
//! leaves to the items of tasks come from outside too: [`MixConfig::without_prompts`] says whose,
//! [`MixPlan::set_prompts`] takes them in.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what a mixture is, as its `config.json` says |
//! | [`config`] | the description of a mixture to be made: mergekit-moe's YAML, extended |
//! | [`plan`] | a description and the headers of its models to everything that will be written |
//! | [`run`](mod@run) | a plan to a directory, streamed |
//! | [`gates`], [`sites`] | values of gates, and where they stand |
//! | [`replace`] | replacing the gates of a mixture on disk |
//! | [`manifest`], [`card`] | what was made from what: `glue.json` and the model card |
//! | [`remote_code`] | the Python that lets transformers load the native format |
//!
//! **Invariant:** nothing here runs a model. What a gate should be is decided elsewhere.
//!
//! **Invariant:** no weight is read before the whole description has been checked against the headers.

pub mod card;
pub mod config;
pub mod error;
pub mod gates;
pub mod manifest;
mod parse;
pub mod plan;
mod prompts;
mod random;
pub mod remote_code;
pub mod replace;
pub mod run;
pub mod sites;
pub mod spec;

pub use config::{Expert, GateMode, MixConfig, RequestedFormat};
pub use error::MixError;
pub use gates::{Gate, Gates, read_gates};
pub use glue_yaml::{FilePosition, Position};
pub use plan::{Estimate, GateRequest, MixPlan, Prompts};
pub use replace::{gate_dtype, mend_gates, write_gates};
pub use run::{RunOptions, run};
pub use sites::{MixtureFormat, Sites};
pub use spec::{Level, Mixture, MixtureSpec, Pool, RouterKind, Routing, WholeSpec};
