//! Helpers of the end-to-end tests.
//!
//! The tests know the project as its users do: the binary `glue`, files, exit statuses. They link none of its crates.
//! So they need no change when the internals change, and a bug in reading safetensors cannot hide itself.
//!
//! | module | holds |
//! |---|---|
//! | `run` | starting `glue` and checking its output |
//! | `checkpoint` | safetensors files: written by hand, read independently |
//! | `zoo` | a temporary directory with small models |
//! | `hub` | a stand-in for the Hugging Face hub, with faults on demand |
//! | `server` | a stand-in for inference servers, with answers by a rule |
//! | `number` | element types, and numbers that look random |

pub mod checkpoint;
pub mod hub;
pub mod number;
pub mod run;
pub mod server;
pub mod zoo;

pub use checkpoint::{Tensor, Tensors};
pub use run::{Run, glue};
pub use zoo::{Zoo, shipped};
