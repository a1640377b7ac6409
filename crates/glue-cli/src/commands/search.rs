//! `glue search`: which models to merge, and with which parameters.

use super::device::Device;
use super::recipes::{self, FollowLinks};
use crate::app::Global;
use crate::failure::{Failure, no_such_model, of_file};
use crate::numbers;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_cuda::DeviceUse;
use glue_eval::external::ExternalEvaluator;
use glue_eval::{EvalOptions, Overlap, Task, overlap};
use glue_merge::Registry;
use glue_progress::{CancelToken, ErrorChain};
use glue_recipe::{PlanOptions, SharedExecutor};
use glue_search::Domain;
use glue_select::config::{EXAMPLE, MAX_WORKERS, SearchConfig, Validation};
use glue_select::contract::{ItemRole, Scorer};
use glue_select::evaluation_log::Budget;
use glue_select::external::{ExternalOptions, ExternalScorer};
use glue_select::local::{LocalOptions, LocalScorer};
use glue_select::model_set::{ModelSet, ModelSetError};
use glue_select::output;
use glue_select::search::{Options, Prepared, Registries, SelectError, Timings};
use glue_select::space::SearchSpace;
use glue_select::strategy::StrategyRegistry;
use glue_select::summary::Summary;
use glue_select::workers::WorkerPool;
use glue_tensor::{Links, ModelDirError, write_atomic};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Find out which models to merge, and with which parameters
///
/// The config names models and tasks. The search merges candidates in memory, scores them, and keeps or rejects each.
///
/// DIR appears once the search is complete. It holds the best recipe, the merged model, a report, and every candidate
/// with its scores and the reason it was kept or rejected. Until then each evaluation is appended to DIR.journal.jsonl,
/// from which --resume continues an interrupted search to the same result. DIR.metrics.jsonl has the scores over time.
/// Paths in the config are relative to the working directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue search --init .                   Write a commented config, search.yml
  glue search search.yml --out found --dry-run
  glue search search.yml --out found
  glue search search.yml --out found --resume --time 3600
  glue merge found/best.yml merged")]
pub(crate) struct Args {
    /// Config file (search.yml)
    #[arg(required_unless_present = "init")]
    config: Option<PathBuf>,

    /// Output directory
    #[arg(long, value_name = "DIR", required_unless_present = "init")]
    out: Option<PathBuf>,

    /// Resume a search that was interrupted or ended by its budget, or start one if there is none
    #[arg(long)]
    resume: bool,

    /// Show models, search space, evaluations, memory and time; scores one model to measure the time
    #[arg(long)]
    dry_run: bool,

    /// Write a commented config, search.yml, into this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["config", "out", "resume", "dry_run"])]
    init: Option<PathBuf>,

    /// Maximum number of evaluations of merged candidates; overrides budget.evaluations in the config
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    evaluations: Option<u64>,

    /// Maximum time in seconds, including interrupted runs; overrides budget.seconds in the config
    #[arg(long, value_name = "S", value_parser = numbers::seconds)]
    time: Option<f64>,

    /// Number of worker processes, 0 to score in this one; overrides workers in the config
    #[arg(long, value_name = "N", value_parser = numbers::whole(0..=MAX_WORKERS as u64))]
    workers: Option<usize>,

    #[command(flatten)]
    links: FollowLinks,

    #[command(flatten)]
    device: Device,
}

/// Searches, or shows what would be done.
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
        return Err(Failure::refused(Error::other("expected a config file and --out DIR")));
    };
    let config = read(path, args, global, registries.strategies)?;
    let budget = Budget { evaluations: config.budget.evaluations, seconds: config.budget.seconds };
    if args.resume && output::is_complete(out) && !output::can_continue(out, budget).map_err(Failure::failed)? {
        let done = out.join(output::SUMMARY);
        let text = std::fs::read_to_string(&done).map_err(|error| Failure::failed(of_file(&done, error)))?;
        let value: Value = serde_json::from_str(&text).map_err(Failure::failed)?;
        output::remove_spent_journal(out);
        return match shell.json() {
            true => shell.print_json(&value),
            false => {
                shell.print(&format!("{} is complete within this budget; there is nothing to resume\n", out.display()))
            }
        };
    }
    let models = ModelSet::open(&config).map_err(no_models)?;
    models.check_links(args.links.get()).map_err(Failure::refused)?;
    let prepared = Prepared::new(&config, &models, registries).map_err(|error| refusal(error, path, out))?;
    let executor = args.device.open(DeviceUse::Search, shell)?;
    let pool = recipes::pool(global)?;
    let merging = Merging {
        registry: registries.operators,
        executor: executor.clone(),
        links: args.links.get(),
        threads: Some(pool.current_num_threads()),
    };
    let workers = if args.dry_run { 0 } else { config.workers };
    let scorer = scorer(&config, workers, merging, args.device, global, shell)?;
    note_overlap(&config, shell);
    if args.dry_run {
        return plan(&config, &models, &prepared, &*scorer, &pool, shell);
    }
    let options = Options { out, resume: args.resume, budget, executor, links: args.links.get() };
    let progress = CommandProgress::new(shell).with_metrics(metrics_path(out), shell);
    let done = pool.install(|| prepared.run(&*scorer, &options, &progress));
    drop(progress);
    let (summary, timings) = done.map_err(|error| refusal(error, path, out))?;
    print(&summary, &timings, out, shell)
}

/// The record of metrics: beside the output, which appears in the end.
fn metrics_path(out: &Path) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    out.with_file_name(format!("{name}.metrics.jsonl"))
}

/// The config that `--init` writes.
const CONFIG: &str = "search.yml";

/// Writes a commented config into `folder`.
fn begin(folder: &Path, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let path = folder.join(CONFIG);
    if path.exists() {
        let error = Error::other(format!("{} exists; delete it to write a new one", path.display()));
        return Err(Failure::refused(error));
    }
    write_atomic(&path, EXAMPLE.as_bytes()).map_err(Failure::failed)?;
    match shell.json() {
        true => shell.print_json(&json!({ "config": path })),
        false => shell.print(&format!("{}\n", path.display())),
    }
}

fn read(path: &Path, args: &Args, global: &Global, strategies: &StrategyRegistry) -> Result<SearchConfig, Failure> {
    let text = glue_tensor::files::read_named(path, glue_tensor::files::CONFIG_BYTES)
        .map_err(|error| Failure::refused(of_file(path, error)))?;
    let hint = Some("glue search --init FOLDER writes a config with every key");
    let mut config = SearchConfig::parse(&text, &path.display().to_string(), strategies)
        .map_err(|error| Failure::refused(error).hint(hint))?;
    config.budget.evaluations = args.evaluations.or(config.budget.evaluations);
    config.budget.seconds = args.time.or(config.budget.seconds);
    config.workers = args.workers.unwrap_or(config.workers);
    config.seed = global.seed.unwrap_or(config.seed);
    Ok(config)
}

/// Models that cannot be opened, with a hint for a model that does not exist.
fn no_models(error: ModelSetError) -> Failure {
    let missing =
        matches!(&error, ModelSetError::Open { error, .. } if matches!(**error, ModelDirError::NotFound { .. }));
    Failure::refused(error).hint(missing.then(no_such_model))
}

/// How candidates are merged.
pub(super) struct Merging<'a> {
    pub(super) registry: &'a Registry,
    pub(super) executor: SharedExecutor,
    pub(super) links: Links,
    pub(super) threads: Option<usize>,
}

impl Merging<'_> {
    fn plan_options(&self) -> PlanOptions {
        let mut options = PlanOptions::default();
        options.links = self.links;
        options
    }
}

/// The scorer of candidates: this process, `workers` others, or a command.
fn scorer(
    config: &SearchConfig,
    workers: usize,
    merging: Merging<'_>,
    device: Device,
    global: &Global,
    shell: &Shell<'_>,
) -> Result<Box<dyn Scorer>, Failure> {
    let cancel = shell.cancel_token();
    if let Some(command) = &config.evaluator {
        return external(config, command, merging, cancel);
    }
    if let Some(workers) = std::num::NonZeroUsize::new(workers) {
        let program =
            std::env::current_exe().map_err(|error| Failure::failed(error).context("cannot start workers"))?;
        let threads =
            global.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
        let threads = (threads / workers).max(1).to_string();
        let mut options = vec!["search-worker", "--quiet", "--device", device.device.name(), "--threads", &threads];
        if merging.links == Links::Follow {
            options.push("--follow-links");
        }
        let command: Vec<OsString> =
            [program.into()].into_iter().chain(options.into_iter().map(OsString::from)).collect();
        let setup = serde_json::to_value(config).map_err(Failure::failed)?;
        let pool = WorkerPool::start(command, workers.get(), setup, cancel);
        return Ok(Box::new(pool.map_err(Failure::failed)?));
    }
    local(config, merging, cancel).map_err(|error| Failure::refused(Error::other(error)))
}

/// Scores in this process.
pub(super) fn local(
    config: &SearchConfig,
    merging: Merging<'_>,
    cancel: CancelToken,
) -> Result<Box<dyn Scorer>, String> {
    let words = |error: &dyn std::error::Error| error.chain();
    let tasks = config.load_tasks().map_err(|error| words(&error))?;
    let options = LocalOptions {
        plan: merging.plan_options(),
        registry: merging.registry.clone(),
        executor: merging.executor,
        threads: merging.threads,
        cancel,
        ..LocalOptions::from_config(config).map_err(|error| words(&error))?
    };
    Ok(Box::new(LocalScorer::new(tasks, options).map_err(|error| words(&error))?))
}

/// Says how many items of the search are also items that their tasks are reported on. What is wrong with the tasks has
/// been said before.
fn note_overlap(config: &SearchConfig, shell: &Shell<'_>) {
    if config.evaluator.is_some() {
        return;
    }
    let load = || {
        let tasks = config.load_tasks().ok()?;
        let reported: Vec<Task> = tasks.into_iter().filter(|task| task.resolve_split(None).is_ok()).collect();
        (!reported.is_empty()).then_some(reported)
    };
    // Nothing is run: the programs of a task are only read.
    let plain = EvalOptions { num_fewshot: Some(0), allow_code_execution: true, ..EvalOptions::default() };
    let searched = EvalOptions { split: Some(config.split.clone()), limit: config.limit, ..plain.clone() };
    let items = |options: &EvalOptions| glue_eval::Prepared::new(load()?, options, None).ok();
    let (Some(searched), Some(reported)) = (items(&searched), items(&plain)) else { return };
    for Overlap { task, shared, items } in overlap(&searched, &reported) {
        let text = format!("{shared} of {items} items of `{task}` that the search uses are also among the test items");
        shell.note(&text);
    }
}

/// Scores by a command of the user.
fn external(
    config: &SearchConfig,
    command: &str,
    merging: Merging<'_>,
    cancel: CancelToken,
) -> Result<Box<dyn Scorer>, Failure> {
    let mut evaluator = ExternalEvaluator::new(command).map_err(Failure::refused)?;
    if let Some(seconds) = config.evaluator_timeout {
        evaluator = evaluator.with_timeout(Duration::from_secs_f64(seconds));
    }
    let validation_split = match config.validation() {
        Validation::Split { split } => Some(split),
        Validation::Fraction(_) => None,
    };
    let options = ExternalOptions {
        registry: merging.registry.clone(),
        plan: merging.plan_options(),
        executor: merging.executor,
        tasks: config.tasks.clone(),
        split: Some(config.split.clone()),
        validation_split,
        limit: config.limit,
        seed: Some(config.seed),
        parallel: config.parallel.unwrap_or(1),
        cancel,
        ..ExternalOptions::default()
    };
    // The error of a failing command quotes its last lines; other output would be interleaved and is dropped.
    Ok(Box::new(ExternalScorer::new(evaluator, options, |_| ())))
}

/// A failure of a search with its status and hint.
fn refusal(error: SelectError, config: &Path, out: &Path) -> Failure {
    use glue_select::journal::JournalError;
    let again = format!("glue search {} --out {} --resume", config.display(), out.display());
    match error {
        SelectError::Stopped { evaluations, journal } => Failure::Paused {
            kept: format!(" after {evaluations} evaluations, saved in {}", journal.display()),
            hint: format!("to continue: {again}"),
        },
        SelectError::Journal(error @ JournalError::Exists { .. }) => Failure::refused(error)
            .hint(Some(format!("to continue the interrupted search: {again}; to start over, delete the journal"))),
        SelectError::Journal(error @ JournalError::Differs { .. }) => {
            Failure::refused(error).hint(Some("choose another --out, or undo the change"))
        }
        SelectError::Journal(error @ JournalError::Damaged { .. }) => Failure::failed(error).hint(Some(
            "nothing was changed; to keep the evaluations before that line, delete it and everything after it",
        )),
        SelectError::Journal(error @ JournalError::Busy { .. }) => {
            Failure::failed(error).hint(Some("wait for the other search to end, or choose another --out"))
        }
        SelectError::Models(_)
        | SelectError::Tasks(_)
        | SelectError::Options(_)
        | SelectError::Strategy(_)
        | SelectError::Space(_) => Failure::refused(error),
        SelectError::TooLittle { .. } => Failure::refused(error),
        SelectError::Output(output::OutputError::Write(ref write)) => {
            let hint = matches!(write, glue_tensor::WriteError::NotEmpty { .. })
                .then_some("choose another --out, or move the existing files away; nothing is overwritten");
            Failure::failed(error).hint(hint)
        }
        other => Failure::failed(other),
    }
}

/// Shows what would be done, and scores one model to estimate the time.
fn plan(
    config: &SearchConfig,
    models: &ModelSet,
    prepared: &Prepared<'_>,
    scorer: &dyn Scorer,
    pool: &rayon::ThreadPool,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let start = Instant::now();
    let one = pool.install(|| scorer.score(&[prepared.baseline(0)], ItemRole::Search, None, &|_, _| ()));
    let seconds = start.elapsed().as_secs_f64();
    let scores = match one {
        Err(_) => return Err(Failure::Interrupted),
        Ok(mut outcomes) => outcomes
            .pop()
            .unwrap_or_else(|| Err(glue_select::contract::CandidateError { message: "it was not scored".into() })),
    };
    let scores = scores.map_err(|error| Failure::failed(error).context(models.members()[0].path.clone()))?;
    let stages = prepared.evaluations();
    let merged: u64 = stages.iter().skip(1).map(|(_, n)| n).sum();
    // Models alone, the first stage, do not count towards the budget.
    let most = stages[0].1 + config.budget.evaluations.map_or(merged, |budget| budget.min(merged));
    let time = seconds * most as f64;
    let time = config.budget.seconds.map_or(time, |budget| budget.min(time));
    let spaces = prepared.spaces().map_err(|error| Failure::refused(SelectError::Space(error)))?;
    let coordinates = |space: &SearchSpace| space.space().map_or(&[][..], |space| space.coordinates()).to_vec();
    let items: usize = scores.tasks.iter().map(|task| task.n).sum();
    let memory = models.merged_bytes() * scorer.parallelism() as u64;
    if shell.json() {
        return shell.print_json(&json!({
            "models": models.members(),
            "base": config.base,
            "items": items,
            "tasks": scores.tasks,
            "spaces": spaces
                .iter()
                .map(|space| json!({ "method": space.method(), "coordinates": coordinates(space) }))
                .collect::<Vec<_>>(),
            "evaluations": { "most": most, "stages": stages },
            "memory_bytes": memory,
            "seconds_each": seconds,
            "seconds": time,
        }));
    }
    let mut text = format!("{}\n", shell.heading("Models"));
    for member in models.members() {
        text += &format!("  {}\n", one_line(&member.path));
    }
    text += &format!("  base: {}; all models can be merged\n", config.base.as_deref().unwrap_or("none"));
    if !spaces.is_empty() {
        let mut table = Table::with_header(&[
            ("METHOD", Align::Left),
            ("COORDINATE", Align::Left),
            ("FROM", Align::Right),
            ("TO", Align::Right),
        ]);
        for space in &spaces {
            let coordinates = coordinates(space);
            if coordinates.is_empty() {
                table.row([space.method().to_string(), "none".into(), String::new(), String::new()]);
            }
            for (i, coordinate) in coordinates.iter().enumerate() {
                let (from, to) = match &coordinate.domain {
                    Domain::Real { low, high, .. } => (low.to_string(), high.to_string()),
                    Domain::Integer { low, high } => (low.to_string(), high.to_string()),
                    Domain::Categorical { options } => (options.join(", "), String::new()),
                    _ => (String::new(), String::new()),
                };
                let method = if i == 0 { space.method().to_string() } else { String::new() };
                table.row([method, coordinate.name.clone(), from, to]);
            }
        }
        text += &format!("\n{}", table.render(|line| shell.heading(line)));
    }
    let mut table = Table::with_header(&[("STAGE", Align::Left), ("MAX EVALUATIONS", Align::Right)]);
    for (name, n) in &stages {
        table.row([name.clone(), units::count(*n)]);
    }
    text += &format!("\n{}", table.render(|line| shell.heading(line)));
    text += &format!(
        "\n{} items per evaluation, which took {}\nup to {} evaluations, at most {}\nmemory for merged models {}\n",
        units::count(items as u64),
        units::duration(seconds),
        units::count(most),
        units::duration(time),
        units::bytes(memory),
    );
    shell.print(&text)
}

/// `what` cut to fit into a table; the report has it in full.
fn shortened(what: &str) -> String {
    const MOST: usize = 60;
    if what.chars().count() <= MOST {
        return what.to_owned();
    }
    what.chars().take(MOST - 1).chain(['…']).collect()
}

fn print(summary: &Summary, timings: &Timings, out: &Path, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        return shell.print_json(&json!({
            "out": out.display().to_string(),
            "best": summary.best,
            "reason": summary.reason,
            "best_single": summary.best_single,
            "significant": summary.significant,
            "models": summary.models,
            "filter": summary.filter,
            "strategies": summary.strategies,
            "finalists": summary.finalists,
            "ruling": summary.ruling,
            "evaluations": summary.evaluations,
            "items": summary.items,
            "items_saved": summary.items_saved,
            "seconds": timings.seconds,
        }));
    }
    let mut table = Table::with_header(&[
        ("STRATEGY", Align::Left),
        ("SEARCH", Align::Right),
        ("VALIDATION", Align::Right),
        ("GAP", Align::Right),
        ("EVALUATIONS", Align::Right),
        ("RESULT", Align::Left),
    ]);
    let number = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.4}"));
    let models = summary.models.iter().map(|row| (row, 1));
    for (row, evaluations) in summary.strategies.iter().map(|row| (&row.row, row.evaluations)).chain(models) {
        table.row([
            row.name.clone(),
            number(row.search.as_ref().map(|scores| scores.average)),
            number(row.validation.as_ref().map(|scores| scores.average)),
            number(row.gap),
            units::count(evaluations),
            shortened(&row.what),
        ]);
    }
    let saved = if summary.items_saved > 0 {
        format!("; {:.0} % of the items saved", 100.0 * summary.items_saved as f64 / summary.items as f64)
    } else {
        String::new()
    };
    let text = format!(
        "{}\nBest: {}\n{}\n{} evaluations in {}{saved}\n{}\n",
        table.render(|line| shell.heading(line)),
        summary.best,
        summary.reason,
        units::count(summary.evaluations),
        units::duration(timings.seconds),
        out.display(),
    );
    shell.print(&text)
}
