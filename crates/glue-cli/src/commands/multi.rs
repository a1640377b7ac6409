//! `glue multi`: merges of merges, one document of the config for each.

use super::execute::execute;
use super::merge_report::{self, Done, Expected, Merge};
use super::recipes::{self, Output};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::DeviceUse;
use glue_merge::Registry;
use glue_recipe::{MergePlan, PlanOptions, Recipe, RunError, Stage, check_stages, manifest};
use glue_tensor::files;
use rayon::ThreadPool;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// Merge in several stages
///
/// The config holds several YAML documents, separated by ---. Every document but the last has a name, which later
/// documents use as a model. The last one describes the output. Outputs of earlier stages stay in the work directory,
/// and a later run reuses them if config, inputs, seed and version are unchanged. Model paths are relative to the
/// working directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue multi stages.yml merged
  glue multi stages.yml merged --work-dir scratch
  glue multi stages.yml merged --dry-run")]
pub(crate) struct Args {
    /// Merge config with one YAML document per stage; - reads it from standard input
    config: PathBuf,

    /// Output directory of the last stage
    out_dir: PathBuf,

    /// Directory for the outputs of earlier stages (default: OUT_DIR.stages)
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

/// What each stage did or would do.
#[derive(Serialize)]
struct Report<T> {
    output: String,
    stages: Vec<Named<T>>,
}

#[derive(Serialize)]
struct Named<T> {
    /// `None` for the output.
    stage: Option<String>,
    #[serde(flatten)]
    report: T,
}

/// What a dry run can say about a stage.
#[derive(Serialize)]
#[serde(untagged)]
enum Outlook {
    Known(Box<Expected>),
    /// Its inputs do not exist yet.
    After {
        dry_run: bool,
        /// Names of the stages that have to run first.
        after: Vec<String>,
    },
}

/// Merges, or shows what would be done.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let stages =
        check_stages(recipes::read(&args.config, args.output.strict, registry, shell)?).map_err(recipes::refusal)?;
    let work_dir = args.work_dir.clone().unwrap_or_else(|| beside(&args.out_dir));
    let mut options = recipes::plan_options(global, &args.output);
    let named = stages.iter().filter_map(|stage| stage.name.clone());
    options.stages.extend(named.map(|name| (name.clone(), work_dir.join(name))));
    let pool = recipes::pool(global)?;
    if args.output.dry_run {
        return look_ahead(args, &stages, &options, &pool, shell);
    }
    let device = args.output.device.open(DeviceUse::Merge, shell)?;
    let mut done = Vec::new();
    for stage in &stages {
        let report = match &stage.name {
            Some(name) => recipes::plan(&stage.recipe, &options).and_then(|plan| {
                let directory = work_dir.join(name);
                match reusable(name, &plan, &directory, registry, &pool, shell)? {
                    true => Merge::new(&plan, &directory, &args.output).map(Done::reused),
                    false => execute(&plan, &directory, &args.output, &pool, &device, shell),
                }
            }),
            None => {
                let plan = recipes::plan(&stage.recipe, &options)?;
                execute(&plan, &args.out_dir, &args.output, &pool, &device, shell)
            }
        };
        let report = report.map_err(|failure| match &stage.name {
            Some(name) => failure.context(format!("stage {name}")),
            None => failure,
        })?;
        if !shell.json() {
            shell.print(&report.text())?;
        }
        done.push(Named { stage: stage.name.clone(), report });
    }
    match shell.json() {
        true => shell.print_json(&Report { output: args.out_dir.display().to_string(), stages: done }),
        false => Ok(()),
    }
}

/// Whether `directory` holds a current output of the stage `name`. An outdated output of this stage is removed.
fn reusable(
    name: &str,
    plan: &MergePlan,
    directory: &Path,
    registry: &Registry,
    pool: &ThreadPool,
    shell: &Shell<'_>,
) -> Result<bool, Failure> {
    let Some(manifest) = existing(directory)? else { return Ok(false) };
    if is_current(&manifest, plan, pool, shell)? {
        return Ok(true);
    }
    // The directory may belong to another merge: never remove that.
    let recipe = manifest["recipe"].as_str().unwrap_or_default();
    let recipes = Recipe::parse(recipe, manifest::FILE, registry).unwrap_or_default();
    if !recipes.iter().any(|recipe| recipe.name.as_ref().is_some_and(|found| found.value == name)) {
        let why =
            format!("{}: expected an earlier output of stage {name}, found one of another merge", directory.display());
        let hint = Some("choose another --work-dir, or move the existing files away; nothing is overwritten");
        return Err(Failure::failed(io::Error::new(io::ErrorKind::AlreadyExists, why)).hint(hint));
    }
    std::fs::remove_dir_all(directory).map_err(|error| file_error(directory, &error))?;
    Ok(false)
}

/// The manifest in `directory`; `None` when there is none.
fn existing(directory: &Path) -> Result<Option<serde_json::Value>, Failure> {
    let path = directory.join(manifest::FILE);
    match files::read(&path, files::CONFIG_BYTES) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| file_error(&path, &io::Error::new(io::ErrorKind::InvalidData, error))),
        // A directory without a manifest is not ours to remove. If it is not empty, writing refuses it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error(&path, &error)),
    }
}

fn is_current(
    manifest: &serde_json::Value,
    plan: &MergePlan,
    pool: &ThreadPool,
    shell: &Shell<'_>,
) -> Result<bool, Failure> {
    let cancel = shell.cancel_token();
    let hashes =
        pool.install(|| manifest::hash_inputs(plan, &|| cancel.is_cancelled())).map_err(|error| match error {
            RunError::Stopped => Failure::Interrupted,
            error => Failure::failed(error),
        })?;
    plan.check_unchanged().map_err(Failure::failed)?;
    Ok(manifest::is_current(manifest, plan, &hashes))
}

fn look_ahead(
    args: &Args,
    stages: &[Stage],
    options: &PlanOptions,
    pool: &ThreadPool,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let mut reports: Vec<Named<Outlook>> = Vec::new();
    for stage in stages {
        let directory = |name: &String| options.stages.get(name).cloned().unwrap_or_default();
        let names = stage.needs.iter().filter_map(|&i| stages.get(i)?.name.clone());
        let after: Vec<String> = names.filter(|name| !directory(name).join(manifest::FILE).exists()).collect();
        let report = if after.is_empty() {
            let plan = recipes::plan(&stage.recipe, options)?;
            let out_dir = stage.name.as_ref().map_or_else(|| args.out_dir.clone(), directory);
            Outlook::Known(Box::new(merge_report::expected(&plan, &out_dir, &args.output, pool.current_num_threads())?))
        } else {
            Outlook::After { dry_run: true, after }
        };
        reports.push(Named { stage: stage.name.clone(), report });
    }
    if shell.json() {
        return shell.print_json(&Report { output: args.out_dir.display().to_string(), stages: reports });
    }
    let mut texts = Vec::new();
    for Named { stage, report } in &reports {
        let name = stage.as_ref().map_or_else(|| "output".to_string(), |name| format!("stage {name}"));
        let text = match report {
            Outlook::Known(expected) => expected.text(|text| shell.heading(text)),
            Outlook::After { after, .. } => {
                format!("cannot be estimated before these stages have run: {}\n", after.join(", "))
            }
        };
        texts.push(format!("{}\n{text}", shell.heading(&name)));
    }
    let text = texts.join("\n");
    shell.print(&text)
}

/// `out_dir` with `.stages` appended to its name.
fn beside(out_dir: &Path) -> PathBuf {
    let mut name = out_dir.file_name().unwrap_or_default().to_os_string();
    name.push(".stages");
    out_dir.with_file_name(name)
}

fn file_error(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
