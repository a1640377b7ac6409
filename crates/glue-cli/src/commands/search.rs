//! `glue search`: which models to merge, and how.

use super::device::Device;
use super::recipes::{self, FollowLinks};
use crate::app::Global;
use crate::failure::{Failure, of_file};
use crate::numbers;
use crate::progress::TerminalProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_cuda::DeviceUse;
use glue_eval::external::ExternalEvaluator;
use glue_eval::{EvalOptions, load_tasks, select};
use glue_merge::Registry;
use glue_progress::{CancelToken, ErrorChain};
use glue_recipe::{PlanOptions, SharedExecutor};
use glue_search::Domain;
use glue_select::config::{EXAMPLE, MAX_WORKERS, SearchConfig, Validation};
use glue_select::contract::{Part, Scorer};
use glue_select::course::Budget;
use glue_select::external::{ExternalOptions, ExternalScorer};
use glue_select::local::{ItemsConfig, LocalOptions, LocalScorer};
use glue_select::output;
use glue_select::race::{RaceConfig, Rule};
use glue_select::search::{Options, Prepared, Registries, SelectError, Timings};
use glue_select::strategy::StrategyRegistry;
use glue_select::summary::Summary;
use glue_select::workers::WorkerPool;
use glue_select::zoo::Zoo;
use glue_tensor::Links;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Search which models to merge, and how
///
/// The config names models and tasks; candidates are merged in memory, scored, and kept or thrown out. DIR appears when all is
/// done, with the best recipe, the merged model, every candidate with its scores and the reason why it was kept or not, and a
/// report. Until then every evaluation is written to DIR.journal.jsonl, and --resume goes on after an interruption to the
/// same result.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue search --init > search.yml        A config with comments, to begin with
  glue search search.yml --out found --dry-run
  glue search search.yml --out found
  glue search search.yml --out found --resume --time 3600
  glue merge found/best.yml merged")]
pub(crate) struct Args {
    /// What to search
    #[arg(required_unless_present = "init")]
    config: Option<PathBuf>,

    /// Directory to write the result to
    #[arg(long, value_name = "DIR", required_unless_present = "init")]
    out: Option<PathBuf>,

    /// Go on with an interrupted search; begin one if there is none
    #[arg(long)]
    resume: bool,

    /// Show models, space, evaluations, memory and time; scores one model
    #[arg(long)]
    dry_run: bool,

    /// Print a config with comments
    #[arg(long, conflicts_with_all = ["config", "out", "resume", "dry_run"])]
    init: bool,

    /// Most evaluations; comes before the config
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    evaluations: Option<u64>,

    /// Most seconds, those of interrupted runs among them; comes before the config
    #[arg(long, value_name = "S", value_parser = numbers::seconds)]
    time: Option<f64>,

    /// Processes that score candidates; comes before the config
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
    let (Some(path), Some(out)) = (&args.config, &args.out) else {
        return shell.print(EXAMPLE);
    };
    let config = read(path, args, global, registries.strategies)?;
    if output::is_complete(out) && args.resume {
        let done = out.join(output::SUMMARY);
        let text = std::fs::read_to_string(&done).map_err(|error| Failure::failed(of_file(&done, error)))?;
        let value: Value = serde_json::from_str(&text).map_err(Failure::failed)?;
        // What a search leaves that was killed between its last two steps.
        let _ = std::fs::remove_file(glue_select::search::journal_path(out));
        return match shell.json() {
            true => shell.print_json(&value),
            false => shell.print(&format!("{} is complete; there is nothing to resume\n", out.display())),
        };
    }
    let zoo = Zoo::open(&config).map_err(Failure::refused)?;
    zoo.check_links(args.links.get()).map_err(Failure::refused)?;
    let prepared = Prepared::new(&config, &zoo, registries).map_err(|error| refusal(error, path, out))?;
    let executor = args.device.open(DeviceUse::Search)?;
    let merging = Merging { registry: registries.operators, executor: executor.clone(), links: args.links.get() };
    let workers = if args.dry_run { 0 } else { config.workers };
    let scorer = scorer(&config, workers, merging, args.device, global, shell)?;
    let pool = recipes::pool(global)?;
    if args.dry_run {
        return plan(&config, &zoo, &prepared, &*scorer, &pool, shell);
    }
    let budget = Budget { evaluations: config.budget.evaluations, seconds: config.budget.seconds };
    let options = Options { out, resume: args.resume, budget, executor, links: args.links.get() };
    let progress = TerminalProgress::new(shell);
    let done = pool.install(|| prepared.run(&*scorer, &options, &progress));
    drop(progress);
    let (summary, timings) = done.map_err(|error| refusal(error, path, out))?;
    print(&summary, &timings, out, shell)
}

fn read(path: &Path, args: &Args, global: &Global, strategies: &StrategyRegistry) -> Result<SearchConfig, Failure> {
    let text = glue_tensor::files::read_named(path, glue_tensor::files::CONFIG_BYTES)
        .map_err(|error| Failure::refused(of_file(path, error)))?;
    let hint = Some("glue search --init prints a config with every key");
    let mut config = SearchConfig::parse(&text, &path.display().to_string(), strategies)
        .map_err(|error| Failure::refused(error).hint(hint))?;
    config.budget.evaluations = args.evaluations.or(config.budget.evaluations);
    config.budget.seconds = args.time.or(config.budget.seconds);
    config.workers = args.workers.unwrap_or(config.workers);
    config.seed = global.seed.unwrap_or(config.seed);
    Ok(config)
}

/// What candidates are merged with.
pub(super) struct Merging<'a> {
    pub(super) registry: &'a Registry,
    pub(super) executor: SharedExecutor,
    pub(super) links: Links,
}

impl Merging<'_> {
    fn plan_options(&self) -> PlanOptions {
        let mut options = PlanOptions::default();
        options.links = self.links;
        options
    }
}

/// What scores candidates: this process, `workers` others, or a command.
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
    let memory = config.memory.as_deref().map(units::parse_size).transpose();
    let memory = memory.map_err(|error| format!("`memory`: {error}"))?;
    let words = |error: &dyn std::error::Error| error.chain();
    let mut tasks = load_tasks(&config.tasks).map_err(|error| words(&error))?;
    if !config.only.is_empty() {
        tasks = select(tasks, &config.only).map_err(|error| words(&error))?;
    }
    let scorer =
        LocalScorer::new(tasks, local_options(config, merging, memory, cancel)).map_err(|error| words(&error))?;
    Ok(Box::new(scorer))
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
    let validation_split = match &config.validation {
        Validation::Split { split } => Some(split.clone()),
        Validation::Share(_) => None,
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
    // A failing command's last lines are part of its error; of others, many at once would make no sense.
    Ok(Box::new(ExternalScorer::new(evaluator, options, |_| ())))
}

fn local_options(
    config: &SearchConfig,
    merging: Merging<'_>,
    memory: Option<u64>,
    cancel: CancelToken,
) -> LocalOptions {
    let (validation_fraction, validation_split) = match &config.validation {
        Validation::Share(share) => (*share, None),
        Validation::Split { split } => (0.0, Some(split.clone())),
    };
    let split = Some(config.split.clone());
    LocalOptions {
        registry: merging.registry.clone(),
        plan: merging.plan_options(),
        eval: EvalOptions {
            limit: config.limit,
            num_fewshot: config.num_fewshot,
            apply_chat_template: config.apply_chat_template,
            allow_code_execution: config.allow_code_execution,
            ..EvalOptions::default()
        },
        items: ItemsConfig { split, validation_fraction, validation_split, seed: config.seed },
        race: RaceConfig { rule: if config.racing { Rule::Exact } else { Rule::Off }, ..RaceConfig::default() },
        executor: merging.executor,
        memory,
        parallel: config.parallel,
        cancel,
        ..LocalOptions::default()
    }
}

/// A failure of a search with its status and hint.
fn refusal(error: SelectError, config: &Path, out: &Path) -> Failure {
    use glue_select::journal::JournalError;
    let again = format!("glue search {} --out {} --resume", config.display(), out.display());
    match error {
        SelectError::Stopped { evaluations, journal } => Failure::Paused {
            kept: format!(" after {evaluations} evaluations, which are in {}", journal.display()),
            hint: format!("{again} goes on"),
        },
        SelectError::Journal(error @ JournalError::Exists { .. }) => Failure::refused(error)
            .hint(Some(format!("{again} goes on with the search that was interrupted; or remove the journal"))),
        SelectError::Journal(error @ JournalError::Differs { .. }) => {
            Failure::refused(error).hint(Some("name another --out, or undo the change"))
        }
        SelectError::Journal(error @ JournalError::Damaged { .. }) => Failure::failed(error).hint(Some(
            "nothing was changed; evaluations before that line can be kept by removing it and all after it",
        )),
        SelectError::Journal(error @ JournalError::Busy { .. }) => {
            Failure::failed(error).hint(Some("wait for the other search to end, or name another --out"))
        }
        SelectError::Zoo(_) | SelectError::Strategy(_) | SelectError::Space(_) => Failure::refused(error),
        SelectError::TooLittle { .. } => Failure::refused(error),
        SelectError::Output(output::OutputError::Write(ref write)) => {
            let hint = matches!(write, glue_tensor::WriteError::NotEmpty { .. })
                .then_some("name another --out, or move away what is there; nothing is overwritten");
            Failure::failed(error).hint(hint)
        }
        other => Failure::failed(other),
    }
}

/// What would be done, with one model scored to tell how long it takes.
fn plan(
    config: &SearchConfig,
    zoo: &Zoo,
    prepared: &Prepared<'_>,
    scorer: &dyn Scorer,
    pool: &rayon::ThreadPool,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let start = Instant::now();
    let one = pool.install(|| scorer.score(&[prepared.single(0)], Part::Search, None, &|_, _| ()));
    let seconds = start.elapsed().as_secs_f64();
    let scores = match one {
        Err(_) => return Err(Failure::Interrupted),
        Ok(mut outcomes) => outcomes
            .pop()
            .unwrap_or_else(|| Err(glue_select::contract::CandidateError { message: "it was not scored".into() })),
    };
    let scores = scores.map_err(|error| Failure::failed(error).context(zoo.members()[0].path.clone()))?;
    let stages = prepared.evaluations();
    let most: u64 = stages.iter().map(|(_, n)| n).sum();
    let most = config.budget.evaluations.map_or(most, |budget| budget.min(most));
    let time = seconds * most as f64;
    let time = config.budget.seconds.map_or(time, |budget| budget.min(time));
    let space = prepared.space().map_err(|error| Failure::refused(SelectError::Space(error)))?;
    let coordinates = space.as_ref().map_or(&[][..], |space| space.space().coordinates());
    let items: usize = scores.tasks.iter().map(|task| task.n).sum();
    let memory = zoo.merged_bytes() * scorer.parallelism() as u64;
    if shell.json() {
        return shell.print_json(&json!({
            "models": zoo.members(),
            "base": config.base,
            "items": items,
            "tasks": scores.tasks,
            "coordinates": coordinates,
            "evaluations": { "most": most, "stages": stages },
            "memory_bytes": memory,
            "seconds_each": seconds,
            "seconds": time,
        }));
    }
    let mut text = format!("{}\n", shell.heading("Models"));
    for member in zoo.members() {
        text += &format!("  {}\n", one_line(&member.path));
    }
    text += &format!("  base: {}; all of them can be merged\n", config.base.as_deref().unwrap_or("none"));
    if !coordinates.is_empty() {
        let mut table =
            Table::with_header(&[("COORDINATE", Align::Left), ("FROM", Align::Right), ("TO", Align::Right)]);
        for coordinate in coordinates {
            let (from, to) = match &coordinate.domain {
                Domain::Real { low, high, .. } => (low.to_string(), high.to_string()),
                Domain::Integer { low, high } => (low.to_string(), high.to_string()),
                Domain::Categorical { options } => (options.join(", "), String::new()),
                _ => (String::new(), String::new()),
            };
            table.row([coordinate.name.clone(), from, to]);
        }
        text += &format!("\n{}", table.render(|line| shell.heading(line)));
    }
    let mut table = Table::with_header(&[("STAGE", Align::Left), ("EVALUATIONS AT MOST", Align::Right)]);
    for (name, n) in &stages {
        table.row([name.clone(), units::count(*n)]);
    }
    text += &format!("\n{}", table.render(|line| shell.heading(line)));
    text += &format!(
        "\n{} items each; one evaluation took {}; {} of them at most {}; memory for merged models {}\n",
        units::count(items as u64),
        units::duration(seconds),
        units::count(most),
        units::duration(time),
        units::bytes(memory),
    );
    shell.print(&text)
}

/// What fits into a table; the report has all of it.
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
            "models": summary.models,
            "filter": summary.filter,
            "strategies": summary.strategies,
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
        format!("; racing saved {:.0} % of the items", 100.0 * summary.items_saved as f64 / summary.items as f64)
    } else {
        String::new()
    };
    let text = format!(
        "{}\nBest: {}\n{} evaluations in {}{saved}\n{}\n",
        table.render(|line| shell.heading(line)),
        summary.best,
        units::count(summary.evaluations),
        units::duration(timings.seconds),
        out.display(),
    );
    shell.print(&text)
}
