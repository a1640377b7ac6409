//! The integration tests of `glue-cli`, one program: it links once.

mod commands;
mod fuzz_seeds;
