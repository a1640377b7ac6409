//! The integration tests of `glue-search`, one program: it links once.

mod cma_es;
mod search;
