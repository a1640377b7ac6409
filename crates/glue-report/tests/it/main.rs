//! The integration tests of `glue-report`, one program: it links once.

#[path = "../../examples/sample/figures.rs"]
mod figures;
#[path = "../../examples/sample/frontier.rs"]
mod frontier;
mod outcome;
mod pictures;
mod report;
mod support;
#[path = "../../examples/sample/variants.rs"]
mod variants;
#[path = "../../examples/sample/zoo.rs"]
mod zoo;
