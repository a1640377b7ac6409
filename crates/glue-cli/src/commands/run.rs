//! `glue run`: from a folder of models to one stronger model.

use super::device::Device;
use super::recipes::{self, FollowLinks};
use super::report;
use crate::app::Global;
use crate::failure::{Failure, of_file, resolved};
use crate::numbers;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_cuda::DeviceUse;
use glue_pipeline::{
    Ended, PipelineError, Registries, RunOptions, Source, Stage, ZooConfig, estimate, init, run as make,
};
use glue_progress::NoProgress;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Turn a folder of models into one stronger model, with a report
///
/// The config names models and tasks. The run compares the models and groups similar ones. In each group it merges the
/// models that help each other, with weights found on the proxy split. It then tries mixtures of the merges and single
/// models behind a trained router, and keeps what scores best. Finally it scores everything once on the test split.
///
/// DIR receives the model in final/, report.html, report.json, report.md, metrics.jsonl, and stages/, from which
/// --resume continues an interrupted run. A stage that no longer fits config, models or tasks is moved to stages/old/
/// and re-run. Paths in the config are relative to the config file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue run --init zoo/                       Write zoo/zoo.yml for the models in zoo/
  glue run zoo/zoo.yml --out result --dry-run
  glue run zoo/zoo.yml --out result
  glue run zoo/zoo.yml --out result --resume
  glue run zoo/zoo.yml --out result --until clusters")]
pub(crate) struct Args {
    /// Config file (zoo.yml)
    #[arg(required_unless_present = "init")]
    config: Option<PathBuf>,

    /// Output directory
    #[arg(long, value_name = "DIR", required_unless_present = "init")]
    out: Option<PathBuf>,

    /// Write a commented config, zoo.yml, into this folder of models
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["config", "out"])]
    init: Option<PathBuf>,

    /// Resume the run in the output directory
    #[arg(long)]
    resume: bool,

    /// Stop after this stage
    #[arg(long, value_name = "STAGE", value_parser = stage())]
    until: Option<String>,

    /// Re-run this stage and all later ones (implies --resume)
    #[arg(long, value_name = "STAGE", value_parser = stage())]
    from: Option<String>,

    /// Show the stages with evaluations, memory and disk; reads headers only
    #[arg(long)]
    dry_run: bool,

    /// Rewrite the report so often within a stage; it is rewritten after every stage, too
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = numbers::seconds)]
    report_every: f64,

    #[command(flatten)]
    links: FollowLinks,

    #[command(flatten)]
    device: Device,
}

/// The record of metrics, in the output directory.
const METRICS: &str = "metrics.jsonl";

fn stage() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(Stage::ALL.map(Stage::name))
}

/// Runs the pipeline, or shows what it would take.
pub(crate) fn run(
    args: &Args,
    global: &Global,
    registries: Registries<'_>,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    if let Some(folder) = &args.init {
        return begin(folder, shell);
    }
    let (Some(path), Some(out)) = (&args.config, &args.out) else {
        return Err(Failure::refused(std::io::Error::other("expected a config file and --out DIR")));
    };
    let text = glue_tensor::files::read_named(path, glue_tensor::files::CONFIG_BYTES)
        .map_err(|error| Failure::refused(of_file(path, error)))?;
    let hint = Some("glue run --init FOLDER writes a config with every key");
    let mut config = ZooConfig::parse(&text, &path.display().to_string(), registries.strategies)
        .map_err(|error| Failure::refused(error).hint(hint))?;
    config.seed = global.seed.unwrap_or(config.seed);
    let source = Source { config, text, path: path.clone() };
    if args.dry_run {
        return plan(&source, registries, shell);
    }
    let executor = args.device.open(DeviceUse::Search, shell)?;
    let options = RunOptions {
        out: out.clone(),
        resume: args.resume || args.from.is_some(),
        from: args.from.as_deref().and_then(Stage::parse),
        until: args.until.as_deref().and_then(Stage::parse),
        cancel: shell.cancel_token(),
        executor,
        links: args.links.get(),
        report_every: Duration::from_secs_f64(args.report_every),
    };
    let pool = recipes::pool(global)?;
    let progress = CommandProgress::new(shell).with_metrics(out.join(METRICS), shell);
    let done = pool.install(|| make(&source, registries, &options, &progress));
    drop(progress);
    match done.map_err(|error| refusal(error, path, out))? {
        Ended::Finished(finished) => report::print(&finished.report, Some(&finished.cost), out, &finished.html, shell),
        Ended::Until(stage) => match shell.json() {
            true => shell.print_json(&json!({ "out": out, "until": stage.name() })),
            false => shell.print(&format!("stopped after stage {}; --resume continues\n", stage.name())),
        },
        _ => Ok(()),
    }
}

fn refusal(error: PipelineError, config: &Path, out: &Path) -> Failure {
    let again = format!("glue run {} --out {} --resume", config.display(), out.display());
    match error {
        PipelineError::Stopped => Failure::Paused {
            kept: format!("; finished stages are in {}", out.join("stages").display()),
            hint: format!("to continue: {again}"),
        },
        PipelineError::Occupied { ref found, .. } => {
            let hint = match found.contains("--resume") {
                true => format!("to continue: {again}; or choose another --out"),
                false => "choose another --out; nothing is overwritten".into(),
            };
            Failure::refused(error).hint(Some(hint))
        }
        PipelineError::Model { .. } | PipelineError::Metrics(_) | PipelineError::Statistics(_) => {
            let folder = config.parent().unwrap_or(Path::new("."));
            Failure::refused(error).hint(Some(format!("paths in the config are relative to {}", resolved(folder))))
        }
        PipelineError::Eval(_) | PipelineError::Scale(_) => Failure::refused(error),
        PipelineError::Damaged { stage, .. } => {
            let hint = format!("to re-run that stage and all later ones: {again} --from {}", stage.name());
            Failure::failed(error).hint(Some(hint))
        }
        PipelineError::Write(ref write) => {
            let full = matches!(write, glue_tensor::WriteError::NoSpace { .. });
            let hint = full.then(|| format!("free disk space, then continue: {again}"));
            Failure::failed(error).hint(hint)
        }
        other => Failure::failed(other),
    }
}

fn begin(folder: &Path, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let found = init(folder).map_err(Failure::refused)?;
    if shell.json() {
        return shell.print_json(&json!({ "config": found.path, "models": found.models, "base": found.bases }));
    }
    let bases = match found.bases.is_empty() {
        true => "no base model detected".to_string(),
        false => format!("fine-tuned from {}", found.bases.join(", ")),
    };
    let models = units::things(found.models.len(), "model", "models");
    shell.print(&format!("{}: {models}, {bases}\n", found.path.display()))
}

fn plan(source: &Source, registries: Registries<'_>, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let estimate = estimate(source, registries, Some(&NoProgress));
    let estimate = estimate.map_err(|error| refusal(error, &source.path, Path::new("DIR")))?;
    if shell.json() {
        return shell.print_json(&json!(estimate));
    }
    let mut table = Table::with_header(&[
        ("STAGE", Align::Left),
        ("WHAT", Align::Left),
        ("READS", Align::Right),
        ("WRITES", Align::Right),
        ("TIME", Align::Right),
    ]);
    for stage in &estimate.stages {
        let time = if stage.seconds > 0.0 { units::duration(stage.seconds) } else { "".into() };
        let (reads, writes) = (units::bytes(stage.reads), units::bytes(stage.writes));
        table.row([stage.stage.clone(), stage.what.clone(), reads, writes, time]);
    }
    let mut text = table.render(|line| shell.heading(line));
    text += &format!(
        "\nup to {} evaluations of merges, {} items each\nup to {} in all, without what racing saves; {} per item\n\
         peak memory {}, excluding memory-mapped inputs\npeak disk usage {}\n",
        units::count(estimate.evaluations),
        units::count(estimate.search_items),
        units::duration(estimate.stages.iter().map(|stage| stage.seconds).sum()),
        units::duration(estimate.seconds_per_item.unwrap_or(0.0)),
        units::bytes(estimate.memory),
        units::bytes(estimate.disk),
    );
    shell.print(&text)
}
