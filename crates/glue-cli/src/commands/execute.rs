//! Turns a plan into a checkpoint: the only place that hands one to the driver, with a progress bar.

use super::merge_report::{Done, Merge};
use super::recipes::Output;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use glue_recipe::{MergePlan, RunError, RunOptions, SharedExecutor, run};
use glue_tensor::WriteError;
use rayon::ThreadPool;
use std::path::Path;
use std::time::Instant;

/// Merges `plan` into `out_dir` on `device` and the threads of `pool`.
pub(crate) fn execute(
    plan: &MergePlan,
    out_dir: &Path,
    output: &Output,
    pool: &ThreadPool,
    device: &SharedExecutor,
    shell: &Shell<'_>,
) -> Result<Done, Failure> {
    let merge = Merge::new(plan, out_dir, output)?;
    let start = Instant::now();
    let progress = CommandProgress::new(shell);
    let options =
        RunOptions { max_shard_bytes: output.max_shard_bytes(), executor: device.get(), ..RunOptions::default() };
    let run = pool.install(|| run(plan, out_dir, &options, &progress));
    drop(progress);
    match run {
        Ok(()) => Ok(Done::new(merge, start.elapsed())),
        Err(RunError::Stopped) => Err(Failure::Interrupted),
        Err(RunError::Write(error)) => {
            let hint = hint(&error);
            Err(Failure::failed(error).hint(hint))
        }
        Err(error) => Err(Failure::failed(error)),
    }
}

/// A hint for a failed write.
fn hint(error: &WriteError) -> Option<&'static str> {
    Some(match error {
        WriteError::NotEmpty { .. } | WriteError::NotADirectory { .. } => {
            "choose another OUT_DIR, or move the existing files away; nothing is overwritten"
        }
        WriteError::NoSpace { .. } => "--dry-run shows how much disk space a merge needs",
        WriteError::Busy { .. } => "wait for the other run to end, or choose another OUT_DIR",
        _ => return None,
    })
}
