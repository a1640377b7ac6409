//! `glue multi`: merges of merges, one document of the config for each.

use super::execute::execute;
use super::merge_report::{self, Done, Expected, Merge};
use super::recipes::{self, Output};
use super::stage_outputs::{beside, is_there, reusable};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_cuda::DeviceUse;
use glue_merge::Registry;
use glue_recipe::{PlanOptions, Stage, check_stages, manifest};
use rayon::ThreadPool;
use serde::Serialize;
use std::path::PathBuf;

/// Merge in several stages
///
/// The config holds several YAML documents, separated by ---, in any order. A document with a name is a stage, which
/// other documents use as a model. The document without a name describes the output. If all have names, the stages that
/// no other uses are the outputs, in OUT_DIR/NAME. Outputs of other stages stay in the work directory. A later run
/// reuses stages if config, inputs, seed and version are unchanged. Model paths are relative to the working directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue multi stages.yml merged
  glue multi stages.yml merged --work-dir scratch
  glue multi stages.yml merged --dry-run")]
pub(crate) struct Args {
    /// Merge config with one YAML document per stage; - reads it from standard input
    config: PathBuf,

    /// Output directory; if all stages have names, the directory of the outputs
    out_dir: PathBuf,

    /// Directory for the outputs of stages that others use (default: OUT_DIR.stages)
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
    let work_dir = args.work_dir.clone().unwrap_or_else(|| beside(&args.out_dir, ".stages"));
    let mut options = recipes::plan_options(global, &args.output);
    for stage in &stages {
        if let Some(name) = &stage.name {
            let parent = if stage.is_output { &args.out_dir } else { &work_dir };
            options.stages.insert(name.clone(), parent.join(name));
        }
    }
    let pool = recipes::pool(global)?;
    if args.output.dry_run {
        return look_ahead(args, &stages, &options, &pool, shell);
    }
    let device = args.output.device.open(DeviceUse::Merge, shell)?;
    let mut done = Vec::new();
    for stage in &stages {
        let report = match &stage.name {
            Some(name) => recipes::plan(&stage.recipe, &options).and_then(|plan| {
                let directory = options.resolve(name);
                let reused = match stage.is_output {
                    true => is_there(&plan, &directory, &pool, shell)?,
                    false => reusable(name, &plan, &directory, registry, &pool, shell)?,
                };
                match reused {
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
        let is_output = stages.iter().any(|known| known.is_output && known.name == *stage);
        let name = match stage {
            None => "output".to_string(),
            Some(name) if is_output => format!("output {name}"),
            Some(name) => format!("stage {name}"),
        };
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
