//! The integration tests of `glue-metrics`, one program: it links once.

mod compatibility;
mod formulas;
mod properties;
mod zoo;
