//! The integration tests of `glue-merge`, one program: it links once.

mod parameters;
mod random_trims;
mod select;
