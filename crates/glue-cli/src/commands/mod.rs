//! One file per command: its options and what it does. What `merge` and `multi` share is in `recipes`, `report` and
//! `execute`; what all share that merge, in `device`; what the commands that run a model share, in `models`; what those
//! share that compare several, in `zoo`.

pub(crate) mod align;
pub(crate) mod calibrate;
pub(crate) mod cluster;
pub(crate) mod completions;
mod device;
pub(crate) mod eval;
mod execute;
pub(crate) mod extract_lora;
pub(crate) mod generate;
pub(crate) mod help_markdown;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod merge;
pub(crate) mod mix;
mod models;
pub(crate) mod multi;
pub(crate) mod ops;
mod recipes;
mod report;
mod routing_loads;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod search;
pub(crate) mod search_worker;
pub(crate) mod similarity;
pub(crate) mod train_router;
mod zoo;
