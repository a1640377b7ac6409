//! Selective merging: which models of a cluster to merge, and with which parameters, found on proxy tasks.
//!
//! | module | holds |
//! |---|---|
//! | [`contract`] | the border: candidates, scores, and what scores them |
//! | [`local`], [`workers`], [`external`], [`race`] | scorers: this process, other processes, a command; who is dropped early |
//! | [`space`], [`recipe_text`] | what optimisers search, and recipes as text |
//! | [`config`], [`zoo`] | a search as a config, and its models |
//! | [`strategy`], [`session`] | what is tried, and what a strategy has at hand |
//! | [`filter`], [`likeness`] | harmful models; how alike models and merges are |
//! | [`course`], [`journal`] | evaluations that are never made twice and never lost |
//! | [`search`], [`output`], [`summary`], [`convergence`] | a whole search and its result on disk |
//!
//! **Invariant:** a strategy is a function of scores, and the course of a search a function of config, inputs and scores: not of
//! time, of the number of threads or workers, nor of how often it was interrupted.

pub mod config;
pub mod contract;
pub mod convergence;
pub mod course;
pub mod external;
pub mod filter;
mod guard;
pub mod journal;
pub mod likeness;
pub mod local;
pub mod output;
pub mod race;
pub mod recipe_text;
mod record;
mod report;
pub mod search;
pub mod session;
pub mod space;
pub mod strategy;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod workers;
pub mod zoo;

pub use contract::{Candidate, CandidateError, Part, Scorer, Scores, Stopped, TaskScore};
pub use recipe_text::Frame;
