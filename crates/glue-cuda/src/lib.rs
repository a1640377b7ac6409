//! The merge driver's heavy arithmetic on a CUDA device.
//!
//! [`Engine`] is an executor for the driver of `glue-merge`: it recognises reductions and maps by what they say of
//! themselves, uploads the operands of a tensor as they are stored, and runs the kernels of `kernels/`. [`Resident`]
//! keeps operands on the device, so that a candidate of a search takes one pass over device memory.
//!
//! Everything but the driver's own calls is the same for every [`Backend`], and is tested on a CPU with the kernels
//! compiled for it. The feature `cuda` adds the `Cuda` backend. Results are those of the CPU: element-wise
//! arithmetic is the same bits, sums over elements differ in the order in which f64 numbers are added.
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
mod kept;
mod maps;
mod operands;
mod pass;
mod reductions;
mod resident;
mod selection;
#[cfg(test)]
mod tests;
mod trims;

pub use backend::{Backend, Kernel, See};
pub use choice::{DeviceChoice, DeviceUse, executor};
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use engine::{Engine, EngineOptions};
pub use error::DeviceError;
pub use resident::{Merged, Resident};
