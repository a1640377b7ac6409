//! What can go wrong on a device, and what its owner can do.

/// Why a device cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The program was built without the feature `cuda`.
    #[error("this program was built without CUDA; build it with the feature `cuda`, or use the CPU")]
    NotBuilt,
    /// There is no driver, or only the stub that stands in for it when linking.
    #[error("there is no CUDA driver: {0}")]
    NoDriver(String),
    /// The driver finds no device.
    #[error("the CUDA driver finds no device; CUDA_VISIBLE_DEVICES may hide it")]
    NoDevice,
    /// The driver is older than the kernels need.
    #[error("the CUDA driver supports CUDA {found}, but the kernels need {needed} or newer; update the driver")]
    DriverTooOld {
        /// What the driver supports, "11.4".
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// The device is older than the kernels need.
    #[error("{device} has compute capability {found}, the kernels need {needed} or newer")]
    DeviceTooOld {
        /// Name of the device.
        device: String,
        /// Its compute capability, "6.1".
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// Device memory is used up.
    #[error("out of device memory: {needed} bytes are needed, {free} are free")]
    OutOfMemory {
        /// Bytes that are needed.
        needed: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// A copy beyond the end of a piece of memory.
    #[error("{what}: {found} bytes from {offset} on, of {size}")]
    Range {
        /// What was accessed.
        what: &'static str,
        /// First byte.
        offset: usize,
        /// Number of bytes.
        found: usize,
        /// Bytes there are.
        size: usize,
    },
    /// The driver refused something else.
    #[error("the CUDA driver refused to {call}: {text}")]
    Driver {
        /// What was to be done.
        call: &'static str,
        /// What the driver says.
        text: String,
    },
}
