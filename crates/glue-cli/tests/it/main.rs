//! The integration tests of `glue-cli`, one program: it links once.

mod chat_templates;
mod commands;
mod fuzz_seeds;
