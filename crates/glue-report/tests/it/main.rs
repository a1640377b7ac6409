//! The integration tests of `glue-report`, one program: it links once.

#[path = "../../examples/sample/figures.rs"]
mod figures;
mod pictures;
mod report;
mod support;
#[path = "../../examples/sample/zoo.rs"]
mod zoo;
