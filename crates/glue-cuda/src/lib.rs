//! The heavy arithmetic of a merge on a CUDA device.
//!
//! [`Engine`] is an [`Executor`](glue_merge::device::Executor) for the driver of `glue-merge`. It uploads the operands
//! of a tensor as they are stored and runs the kernels of `kernels/` for the reductions and maps that describe
//! themselves; the host does the rest. For a search, operands and their inner products stay in device memory, so that a
//! candidate takes one pass over it.
//!
//! Results are those of the CPU: element-wise arithmetic gives the same bits; sums over elements are added in `f64` in
//! another order.
//!
//! A default build has no device. The feature `cuda` adds the backend `Cuda`:
//!
//! ```
//! use glue_cuda::{DeviceChoice, DeviceUse, executor};
//!
//! let chosen = executor(DeviceChoice::Auto, DeviceUse::Merge)?;
//! match (&chosen.executor, &chosen.fallback) {
//!     (Some(_), _) => println!("merging on the CUDA device"),
//!     (None, Some(reason)) => println!("merging on the CPU: {reason}"),
//!     (None, None) => println!("merging on the CPU"),
//! }
//! # Ok::<(), glue_cuda::DeviceError>(())
//! ```
//!
//! Everything but the calls of the driver is the same for every [`Backend`] and is tested on a CPU, with the
//! kernels compiled for it.
//!
//! **Invariant:** nothing outside of the `cuda` module calls the driver, and without the feature nothing links it.

mod args;
mod backend;
pub mod check;
mod choice;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod emulated;
mod engine;
mod error;
mod maps;
mod operands;
mod pass;
#[cfg(any(test, feature = "cuda"))]
mod ptx;
mod reductions;
mod resident_cache;
mod selection;
#[cfg(test)]
mod tests;
mod trims;

pub use backend::{Backend, Kernel, TakePiece};
pub use choice::{Chosen, DeviceChoice, DeviceUse, executor};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use engine::{Engine, EngineOptions};
pub use error::DeviceError;
