//! Mixtures of experts: what one is, building it from checkpoints, and the files it is written to.
//!
//! The way in is [`MixConfig::parse`] for the description, [`MixPlan::new`] for everything that can be checked before a weight is
//! read, and [`run()`] to write. Gates come from outside, made from what [`MixPlan::gate_request`] says, or from
//! [`MixPlan::random_gates`]; in a mixture on disk [`write_gates`] replaces them.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | what a mixture is, as its `config.json` says |
//! | [`config`] | the description of a mixture to be made: mergekit-moe's YAML, extended |
//! | [`plan`] | a description and the headers of its models to everything that will be written |
//! | [`run`](mod@run) | a plan to a directory, streamed |
//! | [`gates`], [`sites`] | values of gates, and where they stand |
//! | [`manifest`], [`card`] | what was made from what: `glue.json` and the model card |
//! | [`remote_code`] | the Python that lets transformers load the project's own form |
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
mod random;
pub mod remote_code;
pub mod run;
pub mod sites;
pub mod spec;

pub use config::{Expert, Format, GateMode, MixConfig};
pub use error::MixError;
pub use gates::{Gate, Gates, read_gates, write_gates};
pub use glue_yaml::{Place, Position};
pub use plan::{Estimate, GateRequest, MixPlan, Prompts};
pub use run::{RunOptions, Unwatched, Watch, run};
pub use sites::{Form, Sites};
pub use spec::{Level, Mixture, MixtureSpec, Pool, RouterKind, Routing, WholeSpec};
