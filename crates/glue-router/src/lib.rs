#![doc = include_str!("../README.md")]
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | [`init`] | gates from prompts, as mergekit's MoE configurations name them |
//! | [`items`], [`labels`] | labelled items of tasks, and which expert each should go to |
//! | [`prompts`] | prompts for experts that have none, from such items |
//! | [`states`], [`through`] | what gates read: of a dense model, and of a mixture; losses and gradients of gates |
//! | [`supervised`], [`linear`] | gates trained on pooled states: a regression to its optimum, or a hidden layer |
//! | [`lm_loss`], [`training`] | gates trained by the loss of answers; AdamW, early stopping, saved states |
//! | [`mixture`] | all of that for a mixture on disk |
//! | [`report`] | load of experts and confusion of routing, as table and JSON |
//!
//! **Invariant:** nothing but gates is ever changed.
//!
//! **Invariant:** what is drawn at random is a function of a seed, and no result depends on the number of threads.
#![deny(missing_docs)]

pub mod error;
pub mod gate;
pub mod init;
pub mod items;
pub mod labels;
pub mod linear;
pub mod lm_loss;
mod losses;
pub mod mixture;
pub mod prompts;
mod random;
pub mod report;
mod state_file;
pub mod states;
pub mod supervised;
pub mod through;
pub mod training;

pub use error::RouterError;
pub use gate::{Gate, GateMath};
