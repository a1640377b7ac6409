//! One file per command: its options and what it does. Shared code: `recipes`, `merge_report` and `execute` for `merge`
//! and `multi`; `stage_outputs` for merges that a later step uses, and `adapted_models` for those of one adapter;
//! `device` for all commands that merge; `models` for those that run a model; `zoo` for those that compare several.

mod adapted_models;
pub(crate) mod align;
pub(crate) mod calibrate;
pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod completions;
mod device;
pub(crate) mod eval;
mod execute;
pub(crate) mod export;
pub(crate) mod extract_lora;
#[cfg(feature = "hub")]
pub(crate) mod fetch;
pub(crate) mod generate;
mod gguf_models;
pub(crate) mod help_markdown;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod merge;
mod merge_gguf;
pub(crate) mod merge_lora;
mod merge_report;
pub(crate) mod mix;
mod models;
pub(crate) mod multi;
mod named_tasks;
pub(crate) mod ops;
#[cfg(feature = "hub")]
pub(crate) mod push;
mod recipes;
pub(crate) mod report;
mod routing_loads;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod search;
pub(crate) mod search_worker;
pub(crate) mod similarity;
pub(crate) mod soup;
mod stage_outputs;
pub(crate) mod tasks;
pub(crate) mod train_router;
mod zoo;
