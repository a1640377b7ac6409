//! What can go wrong on a device, with what its owner needs to mend it.

/// Why a device cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The program was built without the feature `cuda`.
    #[error("this program was built without CUDA; build it with the feature `cuda`, or use the CPU")]
    NotBuilt,
    /// There is no driver, or what is linked is the stub that stands in for it.
    #[error("the CUDA driver is not there: {0}")]
    NoDriver(String),
    /// The driver finds no device.
    #[error("the CUDA driver finds no device; CUDA_VISIBLE_DEVICES may hide it")]
    NoDevice,
    /// The driver is older than the kernels need.
    #[error("the CUDA driver supports CUDA {found}, the kernels need {needed} or newer; update the driver")]
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
    #[error("out of device memory: {wanted} bytes were asked for, {free} are free")]
    OutOfMemory {
        /// Bytes that were asked for.
        wanted: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// There is no kernel for what was asked.
    #[error("the device has no kernel for {0}; the CPU merges it")]
    Unsupported(String),
    /// A number of elements or an offset that does not fit what is there.
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
