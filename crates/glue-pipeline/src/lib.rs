//! From a zoo of models and some tasks to one better model, with the evidence.
//!
//! [`ZooConfig::parse`] reads a config; [`run()`] runs it, stage after stage:
//!
//! | stage | finds |
//! |---|---|
//! | compatibility | which models can be merged, from headers |
//! | similarity, clusters | which models are similar |
//! | baselines | the score of each model on the search and validation items |
//! | select | which models of each cluster to merge, and with which weights |
//! | frontier | which models to merge with which, and which to keep apart: the best score for each number of models |
//! | mixture | at which level, and from which layer on, experts are mixed; trains routers |
//! | test | the score of each model on items that decided nothing |
//! | report | everything on one page |
//!
//! ```
//! use glue_pipeline::ZooConfig;
//! use glue_select::strategy::StrategyRegistry;
//!
//! let text = "models: [models/chat, models/math]\ntasks: {path: tasks, test: test}\n";
//! let config = ZooConfig::parse(text, "zoo.yml", &StrategyRegistry::builtin())?;
//! assert_eq!((config.models[0].name(), config.seed), ("chat", 0));
//!
//! // Items that decide something cannot be test items.
//! let error = ZooConfig::parse(&text.replace("test: test", "test: proxy"), "zoo.yml", &StrategyRegistry::builtin());
//! assert!(error.unwrap_err().to_string().contains("`tasks.test`"));
//! # Ok::<(), glue_select::config::ConfigError>(())
//! ```
//!
//! **Invariant:** the test items are read by one function, which needs proof that everything is decided.
//!
//! **Invariant:** no result depends on time, on the number of threads, or on how often a run was interrupted.

pub mod config;
pub mod error;
mod estimate;
pub mod figures;
mod init;
mod live;
mod progress;
mod run;
mod scores;
mod stage;
mod stages;
mod weights;
mod zoo;

pub use config::ZooConfig;
pub use error::PipelineError;
pub use estimate::{Estimate, StageEstimate, estimate};
pub use init::{CONFIG, InitResult, init};
pub use progress::{MovedStage, StageProgress};
pub use run::{Ended, Registries, RunOptions, Source, run};
pub use stage::{Cost, Stage};
pub use stages::finish::{FINAL, Finished, MERGED};

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
