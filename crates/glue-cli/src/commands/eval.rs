//! `glue eval`: scores of a model in tasks.

use super::routing_loads::RoutingLoads;
use super::{models, recipes};
use crate::app::Global;
use crate::failure::Failure;
use crate::numbers;
use crate::outputs;
use crate::progress::TerminalProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_eval::external::{ExternalError, ExternalEvaluator, Request, Scores};
use glue_eval::{
    Cache, EvalError, EvalOptions, LanguageModel, LocalModel, Report, RoutedModel, Task, TaskError, evaluate,
    load_tasks, preview, select,
};
use glue_lm::{AnyTextModel, RoutingLog};
use glue_progress::CancelToken;
use glue_router::items::skill;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Score a model in tasks
///
/// A task is a directory with task.json and JSON Lines, or a YAML file of lm-evaluation-harness over local files. Scores
/// agree with those that lm-evaluation-harness gives; each comes with its standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue eval models/base --tasks tasks
  glue eval models/base --tasks tasks --task arc_easy --split validation --limit 100
  glue eval models/base --tasks harness/arc.yaml --num-fewshot 5 --samples items.jsonl
  glue eval models/base --tasks tasks --cache .glue-cache --json
  glue eval mixture --tasks tasks --pictures routing
  glue eval models/base --tasks arc_easy --evaluator 'python lm_eval_adapter.py'")]
pub(crate) struct Args {
    /// Directory of the model
    model: PathBuf,

    /// Directory or file of tasks; may be given several times
    #[arg(long, value_name = "PATH", required = true, num_args = 1.., value_delimiter = ',')]
    tasks: Vec<PathBuf>,

    /// Score only this task, group or tag; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    task: Vec<String>,

    /// Items to score; what the task says, or test, when not given
    #[arg(long, value_name = "NAME")]
    split: Option<String>,

    /// Score only the first N items of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Examples in each prompt, instead of as many as a task asks for
    #[arg(long, value_name = "N", value_parser = numbers::whole(0..=10_000))]
    num_fewshot: Option<usize>,

    /// Put prompts through the model's chat template
    #[arg(long, alias = "apply_chat_template")]
    apply_chat_template: bool,

    /// Make each example of a chat two turns of its own
    #[arg(long, requires = "apply_chat_template", alias = "fewshot_as_multiturn")]
    fewshot_as_multiturn: bool,

    /// Write a line of JSON for each item: prompt, answers, scores
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,

    /// Write which expert was chosen for which task and skill, pictures for each gate; for a mixture
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// Keep scores in this directory, by the contents of model and task, and look there first; an evaluation that was
    /// interrupted goes on after the tasks that are there
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Run programs that the model writes, in a sandbox, where a task needs it
    #[arg(long)]
    allow_code_execution: bool,

    /// Seconds each such program may take
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400), requires = "allow_code_execution")]
    code_timeout: u64,

    /// Memory each such program may take
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::parse_size, requires = "allow_code_execution")]
    code_memory: u64,

    /// Let this command score the model: it is given a JSON document and answers with one
    #[arg(long, value_name = "CMD", conflicts_with_all = ["cache", "samples", "pictures", "num_fewshot", "apply_chat_template", "allow_code_execution", "task", "dry_run"])]
    evaluator: Option<String>,

    /// Seconds the evaluator may take; as long as it likes when not given
    #[arg(long, value_name = "S", requires = "evaluator", value_parser = clap::value_parser!(u64).range(1..=numbers::YEAR))]
    evaluator_timeout: Option<u64>,

    /// Show what would be scored; runs nothing
    #[arg(long)]
    dry_run: bool,
}

/// Scores and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if let Some(command) = &args.evaluator {
        return external(args, command, global, shell);
    }
    let mut tasks = load_tasks(&args.tasks).map_err(task_refusal)?;
    if !args.task.is_empty() {
        tasks = select(tasks, &args.task).map_err(task_refusal)?;
    }
    let options = options(args, global)?;
    if args.dry_run {
        return plan(args, &tasks, &options, shell);
    }
    // Before the work, so that a file that cannot be written does not cost it.
    let samples = outputs::create(args.samples.as_deref())?;
    let pool = recipes::pool(global)?;
    let (model, mut routing) = open(args, shell.cancel_token())?;
    if args.pictures.is_some() && routing.is_none() {
        let why = format!("--pictures shows which expert was chosen, and {} has no experts", args.model.display());
        return Err(Failure::refused(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    let start = Instant::now();
    let progress = TerminalProgress::new(shell);
    let report = pool.install(|| match &mut routing {
        None => evaluate(&*model, &tasks, &options, &progress),
        Some(routing) => evaluate_each(&*model, &tasks, &options, &progress, routing),
    });
    drop(progress);
    let report = report.map_err(eval_refusal)?;
    let seconds = start.elapsed();
    if let Some(file) = samples {
        file.write_with(|out| report.write_samples(out)).map_err(Failure::failed)?;
    }
    if let (Some(directory), Some(routing)) = (&args.pictures, &routing) {
        routing.write_pictures(directory)?;
    }
    print(&report, routing.as_ref(), seconds, shell)
}

/// The model to be scored, and where its experts are counted if it has any.
fn open(args: &Args, cancel: CancelToken) -> Result<(Box<dyn LanguageModel>, Option<RoutingLoads>), Failure> {
    let name = args.model.display().to_string();
    match models::open_any(&args.model)? {
        AnyTextModel::Routed(mixture) => {
            let log = Arc::new(mixture.routing_log());
            let experts = mixture.spec().experts.clone();
            let mixture = mixture.with_routing_log(Arc::clone(&log));
            let model = RoutedModel::new(mixture, name).map_err(Failure::failed)?;
            let model = model.with_directory(&args.model).with_cancel(&cancel);
            Ok((Box::new(model), Some(RoutingLoads::new(log, experts))))
        }
        AnyTextModel::One(mut text) => {
            let gates = text.model.gates();
            let routing = gates.iter().map(|gate| gate.experts).max().map(|count| {
                let named = text.model.mixture().map(|spec| spec.experts.clone());
                let experts = named.unwrap_or_else(|| (0..count).map(|expert| expert.to_string()).collect());
                RoutingLoads::new(Arc::new(RoutingLog::new(&gates)), experts)
            });
            if let Some(routing) = &routing {
                text.model = text.model.with_routing_log(Arc::clone(&routing.log));
            }
            let model = LocalModel::new(*text, name).map_err(Failure::failed)?;
            Ok((Box::new(model.with_directory(&args.model).with_cancel(cancel)), routing))
        }
        _ => Err(Failure::failed(io::Error::other("a kind of model that cannot be scored"))),
    }
}

/// Scores one task after another, and notes who was routed where in each.
fn evaluate_each(
    model: &dyn LanguageModel,
    tasks: &[Task],
    options: &EvalOptions,
    progress: &TerminalProgress,
    routing: &mut RoutingLoads,
) -> Result<Report, EvalError> {
    let mut all = Report { model: model.name(), tasks: Vec::new(), samples: Vec::new() };
    if tasks.is_empty() {
        return Err(EvalError::NoTasks);
    }
    for task in tasks {
        let before = routing.log.loads();
        let report = evaluate(model, std::slice::from_ref(task), options, progress)?;
        let loads = routing.log.loads().iter().zip(&before).map(|(now, before)| now.since(before)).collect();
        if let Some(first) = report.tasks.first() {
            routing.add(&first.name, skill(task), loads);
        }
        all.tasks.extend(report.tasks);
        all.samples.extend(report.samples);
    }
    Ok(all)
}

fn options(args: &Args, global: &Global) -> Result<EvalOptions, Failure> {
    let mut options = EvalOptions {
        split: args.split.clone(),
        limit: args.limit.map(|limit| limit as usize),
        num_fewshot: args.num_fewshot,
        apply_chat_template: args.apply_chat_template,
        fewshot_as_multiturn: args.fewshot_as_multiturn,
        allow_code_execution: args.allow_code_execution,
        samples: args.samples.is_some(),
        ..EvalOptions::default()
    };
    if let Some(seed) = global.seed {
        options.seed = seed;
    }
    if let Some(threads) = global.threads {
        options.sandbox_threads = threads.into();
    }
    options.limits.wall_time = Duration::from_secs(args.code_timeout);
    options.limits.cpu_time = options.limits.wall_time;
    options.limits.memory_bytes = args.code_memory;
    if let Some(directory) = &args.cache {
        options.cache = Some(Cache::open(directory).map_err(Failure::failed)?);
    }
    Ok(options)
}

/// What would be scored.
fn plan(args: &Args, tasks: &[Task], options: &EvalOptions, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let tasks = preview(tasks, options).map_err(eval_refusal)?;
    if shell.json() {
        let list: Vec<Value> = tasks
            .iter()
            .map(|task| {
                json!({
                    "task": task.name,
                    "kind": task.kind.name(),
                    "metric": task.main,
                    "split": task.split,
                    "n": task.items,
                    "requests": task.requests,
                    "num_fewshot": task.num_fewshot,
                    "file": task.path.display().to_string(),
                })
            })
            .collect();
        return shell.print_json(&json!({ "model": args.model.display().to_string(), "tasks": list }));
    }
    let mut table = Table::with_header(&[
        ("TASK", Align::Left),
        ("KIND", Align::Left),
        ("METRIC", Align::Left),
        ("SPLIT", Align::Left),
        ("ITEMS", Align::Right),
        ("REQUESTS", Align::Right),
        ("EXAMPLES", Align::Right),
    ]);
    for task in &tasks {
        let numbers = [task.items, task.requests, task.num_fewshot].map(|n| units::count(n as u64));
        let [items, requests, examples] = numbers;
        let words = [&task.name, task.kind.name(), &task.main, &task.split].map(str::to_owned);
        table.row(words.into_iter().chain([items, requests, examples]));
    }
    shell.print(&table.render(|line| shell.heading(line)))
}

fn print(
    report: &Report,
    routing: Option<&RoutingLoads>,
    time: Duration,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    if shell.json() {
        let mut document = report.to_json();
        if let Some(routing) = routing {
            document["routing"] = routing.to_json();
        }
        document["seconds"] = json!(time.as_secs_f64());
        return shell.print_json(&document);
    }
    let mut table = Table::with_header(&[
        ("TASK", Align::Left),
        ("METRIC", Align::Left),
        ("VALUE", Align::Right),
        ("STDERR", Align::Right),
        ("ITEMS", Align::Right),
        ("SPLIT", Align::Left),
    ]);
    let stderr = |stderr: Option<f64>| stderr.map_or_else(String::new, |error| format!("±{error:.4}"));
    for task in &report.tasks {
        for (index, metric) in task.metrics.iter().enumerate() {
            let first = |text: String| if index == 0 { text } else { String::new() };
            table.row([
                first(task.name.clone()),
                metric.name.clone(),
                format!("{:.4}", metric.value),
                stderr(metric.stderr),
                first(units::count(task.n as u64)),
                first(task.split.clone()),
            ]);
        }
    }
    let (average, error) = report.average();
    if report.tasks.len() > 1 {
        table.row(["average".to_owned(), String::new(), format!("{average:.4}"), stderr(error)]);
    }
    let mut text = table.render(|line| shell.heading(line));
    for task in &report.tasks {
        for note in &task.notes {
            let _ = writeln!(text, "{}: {}", one_line(&task.name), one_line(note));
        }
    }
    if let Some(routing) = routing {
        text.push('\n');
        text += &routing.text(|line| shell.heading(line));
    }
    let cached = report.tasks.iter().filter(|task| task.cached).count();
    let _ = match cached {
        0 => writeln!(text, "scored in {}", units::duration(time.as_secs_f64())),
        n => {
            writeln!(
                text,
                "scored in {}, {} from the cache",
                units::duration(time.as_secs_f64()),
                units::things(n, "task", "tasks")
            )
        }
    };
    shell.print(&text)
}

fn external(args: &Args, command: &str, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let evaluator = ExternalEvaluator::new(command).map_err(external_failure)?;
    let mut evaluator = evaluator.with_cancel(shell.cancel_token());
    if let Some(seconds) = args.evaluator_timeout {
        evaluator = evaluator.with_timeout(Duration::from_secs(seconds));
    }
    // What is not a path is a name, for the evaluator to know.
    let task = |path: &PathBuf| match std::path::absolute(path) {
        Ok(absolute) if path.exists() => absolute.display().to_string(),
        _ => path.display().to_string(),
    };
    let tasks: Vec<String> = args.tasks.iter().map(task).collect();
    let request = Request {
        model: &args.model,
        tasks: &tasks,
        split: args.split.as_deref(),
        limit: args.limit.map(|limit| limit as usize),
        seed: global.seed,
    };
    let start = Instant::now();
    let scores = {
        let shell = RefCell::new(&mut *shell);
        evaluator.evaluate(&request, &|line| shell.borrow_mut().pass_on(line))
    };
    let scores = scores.map_err(external_failure)?;
    print_external(&args.model, &scores, start.elapsed(), shell)
}

fn print_external(model: &Path, scores: &Scores, time: Duration, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        let tasks: Map<String, Value> = scores
            .tasks
            .iter()
            .map(|task| {
                let mut map: Map<String, Value> =
                    task.metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
                map.insert("n".to_owned(), json!(task.n));
                (task.task.clone(), Value::Object(map))
            })
            .collect();
        return shell.print_json(&json!({
            "model": model.display().to_string(),
            "tasks": tasks,
            "average": scores.average,
            "seconds": time.as_secs_f64(),
        }));
    }
    let mut table = Table::with_header(&[
        ("TASK", Align::Left),
        ("METRIC", Align::Left),
        ("VALUE", Align::Right),
        ("ITEMS", Align::Right),
    ]);
    for task in &scores.tasks {
        for (name, value) in &task.metrics {
            table.row([task.task.clone(), name.clone(), format!("{value:.4}"), units::count(task.n as u64)]);
        }
    }
    table.row(["average".to_owned(), String::new(), format!("{:.4}", scores.average)]);
    shell.print(&table.render(|line| shell.heading(line)))
}

fn external_failure(error: ExternalError) -> Failure {
    match error {
        ExternalError::Command { .. } => Failure::refused(error),
        ExternalError::Stopped { .. } => Failure::Interrupted,
        _ => Failure::failed(error),
    }
}

/// What is wrong with a task is wrong with what the user gave.
fn task_refusal(error: TaskError) -> Failure {
    let hint = match &error {
        TaskError::NoTask { .. } => {
            Some("a task is a directory with task.json, or a YAML file of lm-evaluation-harness")
        }
        TaskError::UnknownSplit { .. } => Some("--split chooses"),
        TaskError::Duplicate { .. } => Some("--tasks with one of the two paths chooses"),
        _ => None,
    };
    Failure::refused(error).hint(hint)
}

fn eval_refusal(error: EvalError) -> Failure {
    match error {
        EvalError::Task(error) => task_refusal(error),
        EvalError::Stopped => Failure::Interrupted,
        error @ EvalError::CodeNotAllowed { .. } => {
            Failure::refused(error).hint(Some("they run in a sandbox without network, with limits on time and memory"))
        }
        error @ (EvalError::NoTasks | EvalError::Item { .. }) => Failure::refused(error),
        error => Failure::failed(error),
    }
}
