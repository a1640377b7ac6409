//! From a zoo of models and some tasks to one better model, with the evidence.
//!
//! [`ZooConfig::parse`] reads what is wanted; [`run()`] makes it, stage after stage:
//!
//! | stage | asks |
//! |---|---|
//! | compatibility | which models can be merged at all, from headers |
//! | similarity, clusters | which belong together |
//! | singles | what each scores on the proxy items |
//! | select | what of each cluster is worth merging, and with which weights |
//! | candidates | merges, models by themselves, layers of two models in a row |
//! | mixture | which of them are worth mixing, at which level, from which layer on; their routers trained |
//! | test | what all of it is worth on items that nothing was decided by |
//! | report | all of that on one page |
//!
//! **Invariant:** the test items are read by one function, which needs the proof that everything is decided.
//!
//! **Invariant:** no result depends on time, on the number of threads, or on how often a run was interrupted.

pub mod config;
pub mod error;
mod estimate;
pub mod figures;
mod init;
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
pub use init::{CONFIG, Found, init};
pub use progress::StageProgress;
pub use run::{Ended, Registries, RunOptions, Source, run};
pub use stage::{Cost, Stage};
pub use stages::finish::{FINAL, Finished};
