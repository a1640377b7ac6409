//! `--device`: where merging is done.

use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::{DeviceChoice, DeviceError, DeviceUse, executor};
use glue_recipe::SharedExecutor;

/// The option of the commands that merge.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Device {
    /// Where merging is done: cpu, cuda, or auto for cuda where there is such a device; needs a build with the feature cuda
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: DeviceChoice,
}

impl Device {
    /// Opens the device. Says on standard error why `auto` takes the CPU instead, unless quiet.
    pub(crate) fn open(self, to: DeviceUse, shell: &mut Shell<'_>) -> Result<SharedExecutor, Failure> {
        let chosen = executor(self.device, to).map_err(|error| {
            let hint = matches!(error, DeviceError::NotBuilt)
                .then_some("docs/cuda.md says how; --device auto takes what there is");
            Failure::failed(error).hint(hint)
        })?;
        if let Some(reason) = chosen.fallback {
            shell.note(&format!("merging on the CPU: {reason}"));
        }
        Ok(chosen.executor.map(SharedExecutor::new).unwrap_or_default())
    }
}
