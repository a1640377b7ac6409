//! Which device a program is to use: what `--device` takes.

use crate::error::DeviceError;
use glue_merge::device::Executor;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where merging is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The CPU.
    #[default]
    Cpu,
    /// A CUDA device. Whatever keeps it from being used is an error.
    Cuda,
    /// A CUDA device where there is one that can be used, the CPU otherwise; a tensor for which its memory does not
    /// suffice is merged by the CPU.
    Auto,
}

impl DeviceChoice {
    /// Every choice, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Auto];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Auto => "auto",
        }
    }
}

/// What a device is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceUse {
    /// Every tensor is merged once.
    Merge,
    /// The same tensors are merged again and again: operands stay on the device, as far as three quarters of the memory that
    /// is free when it is opened have room for them.
    Search,
}

/// The executor of a choice; `None` is the CPU.
///
/// # Errors
/// With [`DeviceChoice::Cuda`], what keeps the device from being used: [`DeviceError::NotBuilt`] in a program without the
/// feature `cuda`, and what opening the device meets otherwise.
pub fn executor(choice: DeviceChoice, to: DeviceUse) -> Result<Option<Arc<dyn Executor + Send>>, DeviceError> {
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Cuda => open(to, false).map(Some),
        DeviceChoice::Auto => Ok(open(to, true).ok()),
    }
}

#[cfg(feature = "cuda")]
fn open(to: DeviceUse, fall_back: bool) -> Result<Arc<dyn Executor + Send>, DeviceError> {
    use crate::backend::Backend;
    use crate::engine::{Engine, EngineOptions};
    let device = crate::cuda::Cuda::new(0)?;
    let keep = match to {
        DeviceUse::Merge => 0,
        DeviceUse::Search => device.free() / 4 * 3,
    };
    Ok(Arc::new(Engine::new(device, EngineOptions { fall_back, keep, ..EngineOptions::default() })))
}

#[cfg(not(feature = "cuda"))]
fn open(_: DeviceUse, _: bool) -> Result<Arc<dyn Executor + Send>, DeviceError> {
    Err(DeviceError::NotBuilt)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or_else(|| format!("a device is cpu, cuda or auto, not `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_device_auto_is_the_cpu_and_cuda_an_error() {
        for to in [DeviceUse::Merge, DeviceUse::Search] {
            assert!(executor(DeviceChoice::Cpu, to).unwrap().is_none());
            if cfg!(not(feature = "cuda")) {
                assert!(executor(DeviceChoice::Auto, to).unwrap().is_none());
                assert!(matches!(executor(DeviceChoice::Cuda, to), Err(DeviceError::NotBuilt)));
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for choice in DeviceChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("gpu".parse::<DeviceChoice>().unwrap_err(), "a device is cpu, cuda or auto, not `gpu`");
    }
}
