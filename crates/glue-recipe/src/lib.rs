//! Merge recipes: the mergekit YAML dialect checked into a plan, and an out-of-core driver that runs it.
//!
//! | step | what is known after it |
//! |---|---|
//! | [`Recipe::parse`] | the text is sound: keys, values, operators and parameters, each error with line and column |
//! | [`Stages::check`] | of several documents: which needs the output of which |
//! | [`plan()`] | every tensor of the output, its operands and parameters; no weight has been read |
//! | [`estimate()`] | bytes to read, scan and write, and memory |
//! | [`run()`] | the model is written; nothing holds more of it than a block for each thread |
//!
//! [`manifest`] and [`card`] describe what was made; [`schema()`] describes the dialect to an editor.
//!
//! **Invariant:** what can be refused is refused by the plan, before a weight is read.

pub mod card;
pub mod engine;
pub mod error;
pub mod estimate;
mod keys;
mod low_rank;
pub mod manifest;
mod multi;
mod parse;
mod plan;
pub mod recipe;
pub mod run;
mod schema;
pub mod settings;

pub use error::RecipeError;
pub use estimate::{Estimate, estimate};
pub use glue_yaml::{At, Place, Position};
pub use multi::{Stage, Stages};
pub use plan::{
    Action, MergePlan, OpenModels, PlanOptions, PlannedAdapter, PlannedModel, PlannedStatistics, TensorPlan, TensorRef,
    plan,
};
pub use recipe::Recipe;
pub use run::{RunError, RunOptions, SharedExecutor, run};
pub use schema::schema;
pub use settings::{ParamValue, Site};
