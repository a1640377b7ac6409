//! The integration tests of `glue-eval`, one program: it links once.

mod answers;
mod catalog;
mod external;
mod harness;
mod native;
mod rule;
mod sandbox;
mod sandbox_limits;
mod scales;
mod splits;
mod support;
mod zoo;
