//! The integration tests of `glue-align`, one program: it links once.

mod recovery;
mod refusals;
mod support;
