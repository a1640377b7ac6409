//! `glue eval`: scores of a model on tasks.

use super::routing_loads::RoutingLoads;
use super::{models, recipes};
use crate::app::Global;
use crate::failure::Failure;
use crate::numbers;
use crate::outputs;
use crate::progress::CommandProgress;
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
use glue_router::items::skill;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Evaluate a model on tasks
///
/// A task is a directory with task.json and JSON Lines files, or a YAML file of lm-evaluation-harness over local files.
/// Scores agree with lm-evaluation-harness and come with standard errors.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue eval models/base --tasks tasks
  glue eval models/base --tasks tasks --task arc_easy --split validation --limit 100
  glue eval models/base --tasks tasks --split 'train[:20%]'
  glue eval models/base --tasks harness/arc.yaml --num-fewshot 5 --samples items.jsonl
  glue eval models/base --tasks tasks --cache .glue-cache --json
  glue eval mixture --tasks tasks --pictures routing
  glue eval models/base --tasks arc_easy --evaluator 'python lm_eval_adapter.py'")]
pub(crate) struct Args {
    /// Model directory
    model: PathBuf,

    /// Task directory or file; can be repeated
    #[arg(long, value_name = "PATH", required = true, num_args = 1.., value_delimiter = ',')]
    tasks: Vec<PathBuf>,

    /// Use only this task, group or tag; can be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    task: Vec<String>,

    /// Split to use, or a share of its items chosen by a hash: proxy, proxy[:60%], proxy[60%:], test[20%:40%] (default:
    /// the task's own, or test)
    #[arg(long, value_name = "NAME")]
    split: Option<String>,

    /// Use only the first N items of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Number of few-shot examples per prompt (default: the task's own)
    #[arg(long, value_name = "N", value_parser = numbers::whole(0..=10_000))]
    num_fewshot: Option<usize>,

    /// Format prompts with the model's chat template
    #[arg(long, alias = "apply_chat_template")]
    apply_chat_template: bool,

    /// Format few-shot examples as separate turns of the chat
    #[arg(long, requires = "apply_chat_template", alias = "fewshot_as_multiturn")]
    fewshot_as_multiturn: bool,

    /// Write a JSON line per item to this file: prompt, answers, scores
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,

    /// For a mixture, write charts of the experts chosen by task and skill to this directory
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// Cache scores in this directory, keyed by the contents of model and task. An interrupted evaluation continues
    /// after the cached tasks
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Allow tasks to run programs that the model writes, in a sandbox
    #[arg(long)]
    allow_code_execution: bool,

    /// Run Python functions of tasks that glue does not evaluate itself with the installed Python, in a sandbox
    #[arg(long)]
    allow_python: bool,

    /// Time limit of each program, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400), requires = "allow_code_execution")]
    code_timeout: u64,

    /// Memory limit of each program
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = units::parse_size, requires = "allow_code_execution")]
    code_memory: u64,

    /// Maximum memory for what grows with prompts and answers, such as 2GiB; weights excluded (default: half of what is
    /// available)
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_memory: Option<u64>,

    /// Let this command score the model: it reads a JSON request and prints a JSON answer
    #[arg(long, value_name = "CMD", conflicts_with_all = ["cache", "samples", "pictures", "max_memory", "num_fewshot", "apply_chat_template", "allow_code_execution", "allow_python", "task", "dry_run"])]
    evaluator: Option<String>,

    /// Time limit of the evaluator, in seconds (default: none)
    #[arg(long, value_name = "S", requires = "evaluator", value_parser = clap::value_parser!(u64).range(1..=numbers::YEAR))]
    evaluator_timeout: Option<u64>,

    /// Show what would be scored
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
    // Opened before the work: a path that cannot be written fails early.
    let samples = outputs::create(args.samples.as_deref())?;
    let pool = recipes::pool(global)?;
    let (model, mut routing) = open(args, shell)?;
    if args.pictures.is_some() && routing.is_none() {
        let why = format!("--pictures needs a mixture, but {} has no experts", args.model.display());
        return Err(Failure::refused(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    let start = Instant::now();
    let progress = CommandProgress::new(shell);
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

/// The model to score, and the counts of its experts if it has any.
fn open(args: &Args, shell: &Shell<'_>) -> Result<(Box<dyn LanguageModel>, Option<RoutingLoads>), Failure> {
    let (name, cancel) = (args.model.display().to_string(), shell.cancel_token());
    match models::open_any(&args.model)? {
        AnyTextModel::Routed(mixture) => {
            let log = Arc::new(mixture.routing_log());
            let experts = mixture.spec().experts.clone();
            let mixture = mixture.with_routing_log(Arc::clone(&log));
            let model = RoutedModel::new(mixture, name).map_err(Failure::failed)?;
            let model = model.with_directory(&args.model).with_cancel(&cancel);
            let model = match args.max_memory {
                Some(bytes) => model.with_memory(bytes),
                None => model,
            };
            Ok((Box::new(model), Some(RoutingLoads::new(log, experts))))
        }
        AnyTextModel::One(mut text) => {
            models::note_left_aside(&args.model, &text.model, shell);
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
            // Only a cache asks for the hash.
            let hash = if args.cache.is_some() { models::adapted_hash(&args.model)? } else { None };
            let model = match hash {
                Some(hash) => model.with_content_hash(hash),
                None => model.with_directory(&args.model),
            };
            let model = match args.max_memory {
                Some(bytes) => model.with_memory(bytes),
                None => model,
            };
            Ok((Box::new(model.with_cancel(cancel)), routing))
        }
        _ => Err(Failure::failed(io::Error::other("models of this kind cannot be scored"))),
    }
}

/// Scores one task after another, and records the routing of each.
fn evaluate_each(
    model: &dyn LanguageModel,
    tasks: &[Task],
    options: &EvalOptions,
    progress: &CommandProgress<'_>,
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
        allow_python: args.allow_python,
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
        ("FEW-SHOT", Align::Right),
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
    let average = report.average();
    if let (Ok(average), true) = (&average, report.tasks.len() > 1) {
        table.row(["average".to_owned(), String::new(), format!("{:.4}", average.value), stderr(average.stderr)]);
    }
    let mut text = table.render(|line| shell.heading(line));
    if let Err(error) = average {
        let _ = writeln!(text, "no average: {}", one_line(&error.to_string()));
    }
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
    // Anything that is not a path is a name that the evaluator may know.
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
    let scores = { evaluator.evaluate(&request, &|line| shell.pass_on(line)) };
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

/// An error of a task: always about the input.
fn task_refusal(error: TaskError) -> Failure {
    let hint = match &error {
        TaskError::NoTask { .. } => {
            Some("a task is a directory with task.json, or a YAML file of lm-evaluation-harness")
        }
        TaskError::UnknownSplit { .. } => Some("choose a split with --split"),
        TaskError::EmptyShare { .. } => Some("name a larger share"),
        TaskError::Duplicate { .. } => Some("pass only one of the two paths to --tasks"),
        _ => None,
    };
    Failure::refused(error).hint(hint)
}

fn eval_refusal(error: EvalError) -> Failure {
    match error {
        EvalError::Task(error) => task_refusal(error),
        EvalError::Stopped => Failure::Interrupted,
        error @ EvalError::CodeNotAllowed { .. } => {
            let hint = "programs run in a sandbox without network, with limits on time and memory";
            Failure::refused(error).hint(Some(hint))
        }
        error @ (EvalError::NoTasks | EvalError::Item { .. }) => Failure::refused(error),
        error => Failure::failed(error),
    }
}
