//! `glue mix`: a mixture of experts from a config.

use super::adapted_models::{self, AdaptedModel};
use super::recipes::FollowLinks;
use super::stage_outputs::beside;
use super::{recipes, train_router};
use crate::app::Global;
use crate::failure::{Failure, no_such_model, of_file};
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_eval::{Task, load_tasks};
use glue_mixture::{Gates, MixConfig, MixError, MixPlan, RunOptions, run as write};
use glue_router::RouterError;
use glue_router::init::gates_for;
use glue_router::prompts::{PROMPTS, PromptSource, fill_prompts};
use glue_tensor::{Dtype, ModelDirError, WriteError, files, writer};
use serde::Serialize;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Combine models into a mixture of experts
///
/// The config is YAML in mergekit-moe's format, with additional keys: level (ffn, block or model), dense_layers,
/// mixed_layers, router, routing, pool, whole, router_layer, tasks, seed and format, and skills and name of an expert.
/// Paths of models and tasks in it are relative to the working directory. OUT_DIR appears once it is complete. It must
/// not exist yet, or be empty.
///
/// MODEL+ADAPTER is a model with a LoRA adapter. Such models are written to the work directory first, and a later run
/// reuses them if they are unchanged.
///
/// If gates are initialised from prompts, an expert without prompts uses items of its own tasks as positive prompts and
/// items of other tasks as negative ones. Its tasks are those that the config or --expert assigns to it, the task with
/// its name, or those on which its model has the lowest loss.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue mix experts.yml mixture
  glue mix experts.yml mixture --dry-run
  glue mix experts.yml mixture --tasks tasks --expert reason=thinker
  glue mix adapters.yml mixture --work-dir scratch
  glue mix experts.yml mixture --max-shard-size 2GB --json")]
pub(crate) struct Args {
    /// Mixture config (YAML, mergekit-moe's format)
    config: PathBuf,

    /// Output directory
    out_dir: PathBuf,

    /// Show the plan with parameters, memory and disk; reads headers only
    #[arg(long)]
    dry_run: bool,

    /// Task directory or file that provides prompts for experts without any; can be repeated
    #[arg(long, value_name = "PATH", num_args = 1.., value_delimiter = ',')]
    tasks: Vec<PathBuf>,

    /// Split to use, or a share of its items chosen by a hash, such as train[:60%]
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,

    /// Use only the first N items of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Assign a task or skill to an expert, such as math=a-math; can be repeated. Others go to the expert of the same
    /// name, or to the one with the lowest loss
    #[arg(long = "expert", value_name = "NAME=EXPERT", value_parser = train_router::pair)]
    experts: Vec<(String, String)>,

    /// Maximum number of positive prompts per expert, and of negative ones
    #[arg(long, value_name = "N", default_value_t = PROMPTS as u32, value_parser = clap::value_parser!(u32).range(1..))]
    prompts: u32,

    /// Directory for models with adapters applied (default: OUT_DIR.models)
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,

    /// Maximum size of an output shard, such as 5GB, 500MB or 2GiB (default: 5GB)
    #[arg(long, value_name = "SIZE", default_value = "5GB", hide_default_value = true)]
    #[arg(value_parser = units::parse_size)]
    max_shard_size: u64,

    #[command(flatten)]
    links: FollowLinks,
}

/// A mixture, planned or written.
#[derive(Debug, Serialize)]
struct Report {
    output: String,
    dry_run: bool,
    form: &'static str,
    experts: Vec<String>,
    experts_per_token: usize,
    /// None for whole models.
    mixed_layers: Vec<usize>,
    gate_mode: String,
    seed: u64,
    dtype: Option<&'static str>,
    parameters: u64,
    /// Parameters used for one token.
    active_parameters: u64,
    bytes_read: u64,
    bytes_written: u64,
    /// Bytes of buffers.
    memory: u64,
    /// Bytes free on the disk of the output; `None` if unknown.
    free: Option<u64>,
    /// Condition number of each gate made from prompts; empty otherwise and in a dry run. Null is infinite.
    conditions: Vec<f64>,
    notes: Vec<String>,
    /// None in a dry run.
    seconds: Option<f64>,
}

/// Writes the mixture, or shows what would be done.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let mut config = read(&args.config)?;
    if let Some(seed) = global.seed {
        config.seed = seed;
    }
    config.links = args.links.get();
    if !args.tasks.is_empty() {
        if !config.gate_mode.needs_prompts() {
            let why = format!("--tasks provides prompts, but `gate_mode: {}` uses none", config.gate_mode);
            return Err(Failure::refused(std::io::Error::new(ErrorKind::InvalidInput, why)));
        }
        config.tasks.clone_from(&args.tasks);
    }
    let work_dir = args.work_dir.clone().unwrap_or_else(|| beside(&args.out_dir, ".models"));
    let adapted = adapted_models::find(config.models(), &work_dir, config.links, global)?;
    // Until they are written, the models without their adapters have the same tensors.
    config.located = adapted.iter().map(|one| (one.name.clone(), one.model().to_path_buf())).collect();
    let mut plan = MixPlan::new(&config).map_err(refusal)?;
    let tasks = load_tasks(&plan.config.tasks).map_err(Failure::refused)?;
    let pool = recipes::pool(global)?;
    let mut report = Report::new(&plan, args, pool.current_num_threads());
    if args.dry_run {
        report.notes.extend(adapted.iter().map(to_be_written));
        report.notes.extend(prompts_to_come(&plan, &tasks, args));
        return report.print(shell);
    }
    let start = Instant::now();
    if !adapted.is_empty() {
        adapted.iter().try_for_each(|one| adapted_models::write(one, &pool, shell))?;
        config.located = adapted.iter().map(|one| (one.name.clone(), one.directory.clone())).collect();
        plan = MixPlan::new(&config).map_err(refusal)?;
        report = Report::new(&plan, args, pool.current_num_threads());
    }
    let progress = CommandProgress::new(shell);
    let done = pool.install(|| {
        prompts(&mut plan, &tasks, args, &progress)?;
        report.notes.clone_from(&plan.notes);
        let gates = report.gates(&plan, &progress)?;
        let options = RunOptions { max_shard_bytes: args.max_shard_size };
        write(&plan, &gates, &args.out_dir, &options, &progress).map_err(refusal)
    });
    drop(progress);
    done?;
    report.seconds = Some(start.elapsed().as_secs_f64());
    report.print(shell)
}

fn to_be_written(adapted: &AdaptedModel) -> String {
    let (name, directory, bytes) = (adapted.name.display(), adapted.directory.display(), units::bytes(adapted.bytes()));
    format!("{name} will be written to {directory}, which takes {bytes}")
}

fn read(path: &Path) -> Result<MixConfig, Failure> {
    let text = files::read_named(path, files::CONFIG_BYTES).map_err(|error| {
        let absent = error.kind() == ErrorKind::NotFound;
        let error = of_file(path, error);
        if absent { Failure::refused(error) } else { Failure::failed(error) }
    })?;
    MixConfig::parse(&text, &path.display().to_string()).map_err(refusal)
}

/// Takes prompts from the items of `tasks` for the experts that have none.
fn prompts(plan: &mut MixPlan, tasks: &[Task], args: &Args, progress: &CommandProgress<'_>) -> Result<(), Failure> {
    let source = PromptSource {
        tasks,
        split: &args.split,
        limit: args.limit.map(|limit| limit as usize),
        given: args.experts.iter().cloned().collect(),
        count: args.prompts as usize,
    };
    fill_prompts(plan, &source, progress).map_err(train_router::refusal)
}

/// A note on prompts that a dry run does not collect.
fn prompts_to_come(plan: &MixPlan, tasks: &[Task], args: &Args) -> Option<String> {
    let experts: Vec<&str> =
        plan.config.without_prompts().into_iter().map(|number| plan.config.experts[number].name.as_str()).collect();
    let tasks: Vec<&str> = tasks.iter().map(Task::name).collect();
    let words = || {
        let (experts, tasks) = (experts.join(", "), tasks.join(", "));
        format!("prompts for {experts} will come from items of {tasks} (split {})", args.split)
    };
    (!experts.is_empty()).then(words)
}

/// An error with its hint and exit status.
fn refusal(error: MixError) -> Failure {
    let hint = match &error {
        MixError::Stopped => return Failure::Interrupted,
        MixError::Open { error, .. } if matches!(**error, ModelDirError::NotFound { .. }) => Some(no_such_model()),
        MixError::Write(WriteError::NotEmpty { .. } | WriteError::NotADirectory { .. }) => {
            Some("choose another OUT_DIR, or move the existing files away; nothing is overwritten".to_string())
        }
        MixError::Write(WriteError::NoSpace { .. }) => {
            Some("--dry-run shows how much disk space a mixture needs".to_string())
        }
        MixError::Write(WriteError::Busy { .. }) => {
            Some("wait for the other run to end, or choose another OUT_DIR".to_string())
        }
        other => other.hint(),
    };
    let failure = if error.is_usage() { Failure::refused(error) } else { Failure::failed(error) };
    failure.hint(hint)
}

impl Report {
    fn new(plan: &MixPlan, args: &Args, threads: usize) -> Report {
        let estimate = plan.estimate(threads);
        Report {
            output: args.out_dir.display().to_string(),
            dry_run: args.dry_run,
            form: plan.format().name(),
            experts: plan.sites.experts.clone(),
            experts_per_token: plan.sites.experts_per_token,
            mixed_layers: plan.sites.layers.clone(),
            gate_mode: plan.config.gate_mode.to_string(),
            seed: plan.config.seed,
            dtype: plan.config.dtype.map(Dtype::torch_name),
            parameters: estimate.parameters,
            active_parameters: estimate.active_parameters,
            bytes_read: estimate.read_bytes,
            bytes_written: estimate.write_bytes,
            memory: estimate.peak_memory_bytes,
            free: writer::free_bytes(&args.out_dir),
            conditions: Vec::new(),
            notes: plan.notes.clone(),
            seconds: None,
        }
    }

    /// The gates of `plan`; keeps their condition numbers and warnings.
    fn gates(&mut self, plan: &MixPlan, progress: &CommandProgress<'_>) -> Result<Gates, Failure> {
        let request = plan.gate_request();
        if !request.mode.needs_prompts() || request.sites.prefixes.is_empty() {
            return Ok(plan.random_gates());
        }
        let made = gates_for(&request, progress).map_err(|error| match error {
            RouterError::Stopped => Failure::Interrupted,
            error => Failure::failed(error).context("cannot make the gates"),
        })?;
        self.conditions = made.conditions;
        self.notes.extend(made.warnings);
        Ok(made.gates)
    }

    fn print(&self, shell: &mut Shell<'_>) -> Result<(), Failure> {
        if shell.json() {
            return shell.print_json(self);
        }
        let mut table = Table::new(&[Align::Left, Align::Left]);
        let experts = format!("{} ({} per token or sample)", self.experts.join(", "), self.experts_per_token);
        let layers = match self.mixed_layers.as_slice() {
            [] => "none".to_string(),
            [only] => only.to_string(),
            [first, .., last] if last - first + 1 == self.mixed_layers.len() => format!("{first} to {last}"),
            layers => layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
        };
        let mut row = |name: &str, value: String| table.row([name.to_string(), value]);
        let unwritten = if self.dry_run { " (not written: dry run)" } else { "" };
        row("output", format!("{}{unwritten}", self.output));
        row("form", self.form.to_string());
        row("experts", experts);
        row("mixed layers", layers);
        row("gates", format!("{} (seed {})", self.gate_mode, self.seed));
        row("parameters", units::parameters(self.parameters));
        row("active", units::parameters(self.active_parameters));
        row("read", units::bytes(self.bytes_read));
        row(if self.dry_run { "to write" } else { "written" }, units::bytes(self.bytes_written));
        if self.dry_run {
            row("memory", units::bytes(self.memory));
            row("free", self.free.map_or("unknown".to_string(), units::bytes));
        }
        if let Some(seconds) = self.seconds {
            row("time", units::duration(seconds));
        }
        let mut text = table.render(|heading| heading.to_string());
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        shell.print(&text)
    }
}
