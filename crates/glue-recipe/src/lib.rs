//! Merge recipes: the mergekit YAML dialect checked into a plan, and an out-of-core driver that runs it.
//!
//! | step | what is known after it |
//! |---|---|
//! | [`Recipe::parse`] | the text is sound: keys, values, operators and parameters, each error with line and column |
//! | [`check_stages`] | of several documents: which needs the output of which |
//! | [`plan()`] | every tensor of the output, its operands and parameters; no weight has been read |
//! | [`estimate()`] | bytes to read, scan and write, and memory |
//! | [`run()`] | the model is written; nothing holds more of it than a block for each thread |
//!
//! ```
//! use glue_merge::Registry;
//! use glue_progress::ErrorChain;
//! use glue_recipe::Recipe;
//!
//! let text = "\
//! merge_method: task_arithmetic
//! base_model: models/base
//! models:
//!   - model: models/chat
//!     parameters: {weight: 0.6}
//!   - model: models/math
//!     parameters: {wieght: 0.4}
//! ";
//! let error = Recipe::parse(text, "merge.yml", &Registry::builtin()).unwrap_err();
//! let message = error.chain();
//! assert!(message.starts_with("merge.yml:7:18: ") && message.contains("did you mean `weight`"), "{message}");
//!
//! let recipes = Recipe::parse(&text.replace("wieght", "weight"), "merge.yml", &Registry::builtin())?;
//! assert_eq!(recipes.len(), 1);
//! # Ok::<(), glue_recipe::RecipeError>(())
//! ```
//!
//! [`manifest`] and [`card`] describe what was made; [`schema()`] describes the dialect to an editor.
//!
//! **Invariant:** what can be refused is refused by the plan, before a weight is read.

pub mod card;
pub mod engine;
pub mod error;
pub mod estimate;
mod experts;
mod keys;
mod low_rank;
pub mod manifest;
mod multi;
mod operators;
mod parse;
mod plan;
pub mod recipe;
pub mod run;
mod schema;
pub mod settings;
pub mod trajectory;

pub use error::{NoEffect, RecipeError};
pub use estimate::{Estimate, estimate};
pub use experts::ExpertLayer;
pub use glue_yaml::{At, FilePosition, Position};
pub use multi::{Stage, check_stages};
pub use operators::operator_document;
pub use plan::{
    Action, MergePlan, OpenModels, PlanOptions, PlannedAdapter, PlannedModel, PlannedStatistics, TensorPlan, TensorRef,
    plan,
};
pub use recipe::Recipe;
pub use run::{PlanMerger, RunError, RunOptions, SharedExecutor, run};
pub use schema::schema;
pub use settings::{ParamSite, ParamValue};
