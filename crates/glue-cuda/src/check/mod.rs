//! Every kernel against the operators of the CPU, and against the bandwidth of the device: what `gpu-check` runs, and
//! the tests on a machine without a GPU, but for the times.

mod cases;
mod compare;
pub(crate) mod data;
mod measure;

pub use cases::{Case, cases};
pub use compare::{Checked, check};
pub use data::Threads;
pub use measure::{Measured, bandwidth, measure};

use glue_merge::device::Float;

/// Types of operands and results, in the order of the table.
pub const FLOATS: [Float; 3] = [Float::F32, Float::F16, Float::Bf16];

/// A type as the table has it.
pub fn name(float: Float) -> &'static str {
    match float {
        Float::F32 => "f32",
        Float::F16 => "f16",
        Float::Bf16 => "bf16",
    }
}
