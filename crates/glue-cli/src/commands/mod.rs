//! One file per command: its options and what it does. What `merge` and `multi` share is in `recipes`, `report` and
//! `execute`.

pub(crate) mod completions;
mod execute;
pub(crate) mod help_markdown;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod multi;
pub(crate) mod ops;
mod recipes;
mod report;
pub(crate) mod schema;
