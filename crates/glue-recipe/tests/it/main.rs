//! The integration tests of `glue-recipe`, one program: it links once.

mod common;
mod device;
mod documents;
mod golden;
mod in_memory;
mod never_panics;
mod plan;
mod run;
mod stages;
mod statistics;
mod text;
