//! The integration tests of `glue-tensor`, one program: it links once.

mod adapter;
mod checkpoint;
mod config;
mod convert;
mod header;
mod lost_pages;
mod model_dir;
mod names;
mod writer;
