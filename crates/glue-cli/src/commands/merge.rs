//! `glue merge`: one merge, from a config to a checkpoint.

use super::execute::execute;
use super::recipes::{self, Output};
use super::report;
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::DeviceUse;
use glue_merge::Registry;
use std::path::PathBuf;

/// Merge models as a config says
///
/// The config is YAML in the dialect of mergekit; paths of models in it are relative to the working directory. OUT_DIR
/// appears when all of it is written, with weights, config.json, tokenizer files, a model card and glue.json, which
/// says what it was made from. It must not exist yet, or be empty.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue merge ties.yml merged
  glue merge ties.yml merged --dry-run
  glue merge dare.yml merged --seed 7 --max-shard-size 2GB
  glue merge ties.yml merged --quiet --json > merged.json")]
pub(crate) struct Args {
    /// What to merge, and how
    config: PathBuf,

    /// Directory to write the merged model to
    out_dir: PathBuf,

    #[command(flatten)]
    output: Output,
}

/// Merges, or shows what would be done.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let recipes = recipes::read(&args.config, registry)?;
    let [recipe] = recipes.as_slice() else {
        let found = format!("{} holds {} documents", args.config.display(), recipes.len());
        return Err(Failure::refused(std::io::Error::other(found)).hint(Some("glue multi merges in several stages")));
    };
    let plan = recipes::plan(recipe, &recipes::plan_options(global, &args.output))?;
    let pool = recipes::pool(global)?;
    if args.output.dry_run {
        let report = report::expected(&plan, &args.out_dir, &args.output, pool.current_num_threads())?;
        return report.print(shell);
    }
    let device = args.output.device.open(DeviceUse::Merge, shell)?;
    execute(&plan, &args.out_dir, &args.output, &pool, &device, shell)?.print(shell)
}
