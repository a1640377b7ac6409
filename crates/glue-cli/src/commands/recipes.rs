//! Options shared by the commands that merge, and how a config becomes a plan.

use super::device::Device;
use crate::app::Global;
use crate::failure::{Failure, no_such_model, of_file};
use crate::shell::Shell;
use crate::units;
use glue_merge::Registry;
use glue_recipe::{MergePlan, PlanOptions, Recipe, RecipeError};
use glue_tensor::{Dtype, Links, ModelDirError, files};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::io;
use std::path::Path;

/// Options of the commands that merge.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Show the plan with memory, disk and time; reads headers only
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Maximum size of an output shard, such as 5GB, 500MB or 2GiB (default: 5GB)
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, alias = "out-shard-size")]
    pub(crate) max_shard_size: Option<u64>,

    /// Refuse a config that says anything without effect, such as a parameter that its operator does not have.
    /// By default that is a warning
    #[arg(long)]
    pub(crate) strict: bool,

    /// Data type of the output, such as bfloat16; overrides dtype and out_dtype in the config
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    pub(crate) dtype: Option<Dtype>,

    #[command(flatten)]
    pub(crate) links: FollowLinks,

    #[command(flatten)]
    pub(crate) device: Device,
}

impl Output {
    /// Maximum bytes of tensor data in an output shard.
    pub(crate) fn max_shard_bytes(&self) -> u64 {
        self.max_shard_size.unwrap_or(5_000_000_000)
    }
}

/// The option of the commands that copy files of a model into their output.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct FollowLinks {
    /// Copy configuration and tokenizer files even where they are links out of the model directory. By default only
    /// links into a hub cache are allowed. Weights may always be links
    #[arg(long)]
    follow_links: bool,
}

impl FollowLinks {
    pub(crate) fn get(self) -> Links {
        if self.follow_links { Links::Follow } else { Links::Inside }
    }
}

pub(crate) fn parse_dtype(text: &str) -> Result<Dtype, String> {
    Dtype::from_torch_name(text).filter(|dtype| dtype.is_float()).ok_or_else(|| {
        let names: Vec<&str> = Dtype::ALL.iter().filter(|d| d.is_float()).map(|d| d.torch_name()).collect();
        format!("it must be one of {}", names.join(", "))
    })
}

/// What stands for standard input where a config is expected.
const STANDARD_INPUT: &str = "-";

/// Parses every document of the config at `path`, or on standard input for `-`. With `strict`, what has no effect is
/// refused.
pub(crate) fn read(path: &Path, strict: bool, registry: &Registry, shell: &Shell<'_>) -> Result<Vec<Recipe>, Failure> {
    if path.as_os_str() == STANDARD_INPUT {
        let text = files::read_text(io::stdin().lock(), files::CONFIG_BYTES);
        let text = text.map_err(|error| Failure::failed(of_file(Path::new("standard input"), error)))?;
        return parse(&text, "standard input", strict, registry, shell);
    }
    let text = files::read_named(path, files::CONFIG_BYTES).map_err(|error| {
        let no_config = error.kind() == io::ErrorKind::NotFound;
        let error = of_file(path, error);
        if no_config { Failure::refused(error) } else { Failure::failed(error) }
    })?;
    parse(&text, &path.display().to_string(), strict, registry, shell)
}

/// Parses every document of `text`, which comes from `origin`. What has no effect is a warning, or refused.
pub(crate) fn parse(
    text: &str,
    origin: &str,
    strict: bool,
    registry: &Registry,
    shell: &Shell<'_>,
) -> Result<Vec<Recipe>, Failure> {
    let recipes = Recipe::parse(text, origin, registry).map_err(refusal)?;
    let warnings = recipes.iter().flat_map(|recipe| &recipe.warnings);
    if strict {
        let failures: Vec<Failure> = warnings.cloned().map(Failure::refused).collect();
        return if failures.is_empty() { Ok(recipes) } else { Err(Failure::Several(failures)) };
    }
    for warning in warnings {
        shell.warning(&warning.to_string());
    }
    Ok(recipes)
}

/// The options of a plan that come from the command line.
pub(crate) fn plan_options(global: &Global, output: &Output) -> PlanOptions {
    let mut options = PlanOptions::default();
    options.seed = global.seed;
    options.dtype = output.dtype;
    options.links = output.links.get();
    options
}

/// Plans one merge.
pub(crate) fn plan(recipe: &Recipe, options: &PlanOptions) -> Result<MergePlan, Failure> {
    glue_recipe::plan(recipe, options).map_err(refusal)
}

/// An error of a recipe, with its hint and exit status.
pub(crate) fn refusal(error: RecipeError) -> Failure {
    if let RecipeError::Several { errors } = error {
        return Failure::Several(errors.into_iter().map(refusal).collect());
    }
    let hint = match &error {
        RecipeError::Open { error, .. } if matches!(**error, ModelDirError::NotFound { .. }) => Some(no_such_model()),
        other => other.hint(),
    };
    let failure = if error.is_usage() { Failure::refused(error) } else { Failure::failed(error) };
    failure.hint(hint)
}

/// The worker threads of this command. The first call makes the threads of the process, which serve everything that
/// does not run in a pool of its own, just as many.
pub(crate) fn pool(global: &Global) -> Result<ThreadPool, Failure> {
    let builder = || {
        // Zero means all processors.
        let threads = global.threads.map_or(0, usize::from);
        ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("glue-{i}"))
    };
    // A second command line in the same process keeps what the first one made: no result depends on it.
    let _ = builder().build_global();
    builder().build().map_err(|error| Failure::failed(error).context("cannot start the worker threads"))
}
