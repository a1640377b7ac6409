//! `--device`: the device that merges.

use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::{DeviceChoice, DeviceError, DeviceUse, executor};
use glue_recipe::SharedExecutor;

/// The option of the commands that merge.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Device {
    /// Device to merge on: cpu, cuda, or auto (cuda if available). cuda needs a build with the feature cuda
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: DeviceChoice,
}

impl Device {
    /// Opens the device. Says on standard error why `auto` takes the CPU instead, unless quiet.
    pub(crate) fn open(self, to: DeviceUse, shell: &mut Shell<'_>) -> Result<SharedExecutor, Failure> {
        let chosen = executor(self.device, to).map_err(|error| {
            let hint = matches!(error, DeviceError::NotBuilt)
                .then_some("docs/cuda.md explains how to build it; --device auto falls back to the CPU");
            Failure::failed(error).hint(hint)
        })?;
        if let Some(reason) = chosen.fallback {
            shell.note(&format!("merging on the CPU: {reason}"));
        }
        Ok(chosen.executor.map(SharedExecutor::new).unwrap_or_default())
    }
}
