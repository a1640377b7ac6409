//! The integration tests of `glue-mixture`, one program: it links once.

mod common;
mod refusals;
mod replace;
mod write;
