//! The integration tests of `glue-report`, one program: it links once.

mod pictures;
mod report;
mod support;
#[path = "../../examples/sample/figures.rs"]
mod figures;
#[path = "../../examples/sample/zoo.rs"]
mod zoo;
