//! The integration tests of `glue-gguf`, one program: it links once.

mod container;
mod damage;
mod models;
mod quant;
mod vocabulary;

use std::path::PathBuf;

/// A model of the repository's test data, such as `archs/llama2`.
fn model(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

/// A file of the test data of this crate.
fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// An error with its causes, for comparison.
fn words<T>(result: Result<T, glue_gguf::GgufError>) -> String {
    use glue_progress::ErrorChain;
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error.chain(),
    }
}
