//! Selective merging: which models of a cluster to merge, and with which parameters, found on proxy tasks.
//!
//! | module | holds |
//! |---|---|
//! | [`contract`] | candidates, scores, and the trait of scorers |
//! | [`local`], [`workers`], [`external`], [`race`] | scorers: this process, other processes, a command; early stopping of candidates |
//! | [`space`], [`recipe_text`] | what optimisers search, and recipes as text |
//! | [`config`], [`model_set`] | the config of a search, and its models |
//! | [`strategy`], [`context`] | what is tried, and what a strategy works with |
//! | [`frontier`] | which models to merge with which, and which to keep apart: the best score for each number of models |
//! | [`harmful`], [`similarity`] | harmful models; similarity of models and merges |
//! | [`evaluation_log`], [`journal`] | evaluations that are never repeated and never lost |
//! | [`search`], [`finalists`] | a whole search; the merges among which the result is chosen, and how |
//! | [`output`], [`summary`], [`convergence`] | its result on disk |
//!
//! ```
//! use glue_select::config::SearchConfig;
//! use glue_select::strategy::StrategyRegistry;
//!
//! let parse = |text: &str| SearchConfig::parse(text, "search.yml", &StrategyRegistry::builtin());
//! let config = parse("models: [models/chat, models/math]\ntasks: [tasks]\n")?;
//! let strategies: Vec<_> = config.strategies.iter().map(|strategy| strategy.name.as_str()).collect();
//! assert_eq!(strategies, ["coefficient", "evolutionary"]);
//!
//! let error = parse("models: [models/chat, models/math]\ntasks: [tasks]\nbudgte: {}\n").unwrap_err();
//! assert!(error.to_string().starts_with("search.yml:3:"));
//! # Ok::<(), glue_select::config::ConfigError>(())
//! ```
//!
//! **Invariant:** a strategy is a function of scores, and a search a function of config, inputs and scores: not of
//! time, of the number of threads or workers, nor of how often it was interrupted.

pub mod config;
pub mod context;
pub mod contract;
pub mod convergence;
pub mod evaluation_log;
pub mod external;
pub mod finalists;
pub mod frontier;
mod guard;
pub mod harmful;
pub mod journal;
pub mod local;
pub mod model_set;
pub mod output;
mod parallel;
pub mod race;
pub mod recipe_text;
mod record;
mod report;
pub mod search;
pub mod similarity;
pub mod space;
pub mod strategy;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod workers;

pub use contract::{
    Candidate, CandidateError, ItemRole, LossGradient, Rival, Scorer, Scores, Stopped, Strata, TaskScore,
};
pub use recipe_text::RecipeTemplate;

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
