//! `glue merge`: one merge, from a config to a checkpoint.

use super::execute::execute;
use super::merge_report;
use super::recipes::{self, Output};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::DeviceUse;
use glue_merge::Registry;
use std::path::PathBuf;

/// Merge models as described in a config
///
/// The config is YAML in mergekit's format. Model paths in it are relative to the working directory.
///
/// OUT_DIR appears once it is complete. It holds weights, config.json, tokenizer files, a model card, and glue.json,
/// which records the inputs. It must not exist yet, or be empty.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue merge ties.yml merged
  glue merge ties.yml merged --dry-run
  glue merge dare.yml merged --seed 7 --max-shard-size 2GB
  glue merge ties.yml merged --quiet --json > merged.json")]
pub(crate) struct Args {
    /// Merge config (YAML, mergekit's format)
    config: PathBuf,

    /// Output directory
    out_dir: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// Merges, or shows what would be done.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let recipes = recipes::read(&args.config, registry)?;
    let [recipe] = recipes.as_slice() else {
        let found = format!("{} holds {} documents", args.config.display(), recipes.len());
        return Err(Failure::refused(std::io::Error::other(found)).hint(Some("glue multi merges several documents")));
    };
    let plan = recipes::plan(recipe, &recipes::plan_options(global, &args.output))?;
    let pool = recipes::pool(global)?;
    if args.output.dry_run {
        let report = merge_report::expected(&plan, &args.out_dir, &args.output, pool.current_num_threads())?;
        return report.print(shell);
    }
    let device = args.output.device.open(DeviceUse::Merge, shell)?;
    execute(&plan, &args.out_dir, &args.output, &pool, &device, shell)?.print(shell)
}
