//! `glue eval`: scores of models on tasks.

mod compare;
mod external;
mod files;
#[cfg(feature = "server")]
mod server;
mod tables;

pub(super) use tables::shown;

use super::named_tasks::Sources;
use super::routing_loads::RoutingLoads;
use super::{gguf_models, models, recipes};
use crate::app::Global;
use crate::failure::Failure;
use crate::numbers;
use crate::outputs;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_eval::{
    Cache, EvalError, EvalOptions, LanguageModel, LocalModel, Report, RoutedModel, Task, TaskError, evaluate, preview,
};
use glue_lm::{AnyTextModel, RoutingLog};
use glue_router::items::skill;
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Evaluate models on tasks
///
/// A task is a name of lm-evaluation-harness (arc_challenge, mmlu, gsm8k), whose YAML files are those of the installed
/// package or of a checkout; such a file; or a directory with task.json and JSON Lines files. Scores agree with
/// lm-evaluation-harness and come with standard errors. Several models are compared with the first one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue eval models/base --tasks arc_challenge,gsm8k,mmlu --data benchmarks
  glue eval models/base merged --tasks 'blimp_*' --limit 0.1
  glue eval models/base --tasks hellaswag --output-format lm-eval --output-path results
  glue eval models/base --tasks tasks --task arc_easy --split validation --limit 100
  glue eval models/base --tasks tasks --split 'train[:20%]'
  glue eval models/base --tasks harness/arc.yaml --num-fewshot 5 --samples items.jsonl
  glue eval models/base --tasks tasks --cache .glue-cache --json
  glue eval mixture --tasks tasks --pictures routing
  glue eval models/base --tasks hellaswag --server http://localhost:8000
  glue eval models/base --tasks arc_easy --evaluator 'python lm_eval_adapter.py'")]
pub(crate) struct Args {
    /// Model directories or GGUF files; further ones are compared with the first
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,

    /// Task, group or tag by name or shell pattern, or the path of a task directory or file; can be repeated. A path
    /// that exists is never taken for a name
    #[arg(long, value_name = "NAME|PATH", required = true, num_args = 1.., value_delimiter = ',')]
    tasks: Vec<String>,

    /// Use only this task, group or tag; can be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    task: Vec<String>,

    #[command(flatten)]
    sources: Sources,

    /// Split to use, or a share of its items chosen by a hash: proxy, proxy[:60%], proxy[60%:], test[20%:40%] (default:
    /// the task's own, or test)
    #[arg(long, value_name = "NAME")]
    split: Option<String>,

    /// Use only the first N items of each task; below 1, this fraction of them
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<Limit>,

    /// Number of few-shot examples per prompt (default: the task's own)
    #[arg(long, value_name = "N", value_parser = numbers::whole(0..=10_000))]
    num_fewshot: Option<usize>,

    /// Format prompts with the model's chat template
    #[arg(long, alias = "apply_chat_template")]
    apply_chat_template: bool,

    /// Format few-shot examples as separate turns of the chat; `=false` puts them into the question
    #[arg(long, value_name = "BOOL", requires = "apply_chat_template", alias = "fewshot_as_multiturn", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    fewshot_as_multiturn: bool,

    /// Instruction at the beginning of each prompt; with a chat template, the system message
    #[arg(long, value_name = "TEXT", alias = "system_instruction")]
    system_instruction: Option<String>,

    /// Generation settings that replace the tasks' own: comma-separated KEY=VALUE, or a JSON object, with until,
    /// max_gen_toks, temperature, do_sample, top_k, top_p, min_p, repetition_penalty
    #[arg(long, value_name = "KWARGS", alias = "gen_kwargs", value_parser = gen_kwargs)]
    gen_kwargs: Option<GenKwargs>,

    /// Text that ends the model's reasoning, such as </think>; everything up to it is removed from answers
    #[arg(long, value_name = "TEXT", alias = "think_end_token")]
    think_end_token: Option<String>,

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

    /// Also write results to --output-path: `lm-eval` is the layout of lm-evaluation-harness, results_DATE.json and
    /// samples_TASK_DATE.jsonl in a directory for each model
    #[arg(long, value_name = "FORMAT", requires = "output_path")]
    output_format: Option<OutputFormat>,

    /// Directory that results are written to, in the layout of lm-evaluation-harness
    #[arg(long, value_name = "DIR")]
    output_path: Option<PathBuf>,

    /// Let this command score the model: it reads a JSON request and prints a JSON answer
    #[arg(long, value_name = "CMD", conflicts_with_all = ["cache", "samples", "pictures", "max_memory", "num_fewshot", "apply_chat_template", "system_instruction", "gen_kwargs", "think_end_token", "allow_code_execution", "allow_python", "task", "dry_run", "include_path", "data", "output_path"])]
    evaluator: Option<String>,

    /// Time limit of the evaluator, in seconds (default: none)
    #[arg(long, value_name = "S", requires = "evaluator", value_parser = clap::value_parser!(u64).range(1..=numbers::YEAR))]
    evaluator_timeout: Option<u64>,

    /// Show what would be scored
    #[arg(long)]
    dry_run: bool,

    #[cfg(feature = "server")]
    #[command(flatten, next_help_heading = "With a model on a server")]
    server: server::ServerArgs,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OutputFormat {
    /// As lm-evaluation-harness writes them.
    LmEval,
}

/// How many items of each task are scored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Items(u32),
    /// Above 0 and below 1.
    Fraction(f64),
}

fn limit(text: &str) -> Result<Limit, String> {
    let wrong = || "expected a whole number of items from 1, or a fraction above 0 and below 1".to_string();
    match text.parse::<u32>() {
        Ok(0) => Err(wrong()),
        Ok(items) => Ok(Limit::Items(items)),
        Err(_) => {
            let fraction = text.parse().ok().filter(|fraction: &f64| *fraction > 0.0 && *fraction < 1.0);
            fraction.map(Limit::Fraction).ok_or_else(wrong)
        }
    }
}

/// `generation_kwargs` of lm-evaluation-harness.
#[derive(Debug, Clone, PartialEq)]
struct GenKwargs(Map<String, Value>);

fn gen_kwargs(text: &str) -> Result<GenKwargs, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map(GenKwargs).map_err(|error| format!("not a JSON object: {error}"));
    }
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("expected KEY=VALUE, found `{pair}`"))?;
        let value = value.trim();
        // As Python writes them.
        let value = match value {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            value => serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)),
        };
        Ok((key.trim().to_string(), value))
    };
    text.split(',').map(pair).collect::<Result<_, String>>().map(GenKwargs)
}

/// The scores of one model.
struct Scored {
    report: Report,
    routing: Option<RoutingLoads>,
    /// What answered, where it was a server.
    server: Option<Value>,
    start: SystemTime,
    time: Duration,
}

/// Scores and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let one = args.models.len() == 1;
    for (option, given) in [
        ("--evaluator", args.evaluator.is_some()),
        ("--samples", args.samples.is_some()),
        ("--pictures", args.pictures.is_some()),
    ] {
        if given && !one {
            return Err(refusal(format!("{option} takes one model, but {} are given", args.models.len())));
        }
    }
    #[cfg(feature = "server")]
    server::check(&args.server, args.models.len())?;
    if let Some(command) = &args.evaluator {
        return external::run(args, command, global, shell);
    }
    let set = args.sources.get().load(&args.tasks, &args.task).map_err(task_refusal)?;
    let options = options(args, global)?;
    if args.dry_run {
        return plan(args, &set.tasks, &options, shell);
    }
    // Opened before the work: a path that cannot be written fails early.
    let samples = outputs::create(args.samples.as_deref())?;
    let names = files::directories(args)?;
    let pool = recipes::pool(global)?;
    let mut scored: Vec<Scored> = Vec::new();
    for (number, path) in args.models.iter().enumerate() {
        let Opened { model, mut routing, server } = open_at(args, path, global, shell)?;
        if args.pictures.is_some() && routing.is_none() {
            return Err(refusal(format!("--pictures needs a mixture, but {} has no experts", path.display())));
        }
        let (start, clock) = (SystemTime::now(), Instant::now());
        let progress = CommandProgress::new(shell);
        let report = pool.install(|| match &mut routing {
            None => evaluate(&*model, &set.tasks, &options, &progress),
            Some(routing) => evaluate_each(&*model, &set.tasks, &options, &progress, routing),
        });
        drop(progress);
        let report = report.map_err(eval_refusal)?;
        let this = Scored { report, routing, server, start, time: clock.elapsed() };
        // Each as soon as it is known: what is written stays if a later model fails.
        if let Some(directory) = names.get(number) {
            files::write(directory, args, &this, &set, &options, path)?;
        }
        scored.push(this);
    }
    if let Some(file) = samples {
        let report = &scored[0].report;
        file.write_with(|out| report.write_samples(out)).map_err(Failure::failed)?;
    }
    if let (Some(directory), Some(routing)) = (&args.pictures, &scored[0].routing) {
        routing.write_pictures(directory)?;
    }
    match scored.as_slice() {
        [one] => tables::print(one, &set, shell),
        several => compare::print(several, &set, options.seed, shell),
    }
}

fn refusal(why: String) -> Failure {
    Failure::refused(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// A model that can be asked.
struct Opened {
    model: Box<dyn LanguageModel>,
    routing: Option<RoutingLoads>,
    server: Option<Value>,
}

/// The model at `path`: the one on a server, or the one that is there.
fn open_at(args: &Args, path: &Path, global: &Global, shell: &Shell<'_>) -> Result<Opened, Failure> {
    #[cfg(feature = "server")]
    if let Some((model, server)) = server::open(&args.server, path, shell)? {
        return Ok(Opened { model: Box::new(model), routing: None, server: Some(server) });
    }
    let directory = gguf_models::directory(path, global, shell)?;
    let (model, routing) = open(args, &directory, path, shell)?;
    Ok(Opened { model, routing, server: None })
}

/// The model at `path`, which has the name that was `given`, and the counts of its experts if it has any.
fn open(
    args: &Args,
    path: &Path,
    given: &Path,
    shell: &Shell<'_>,
) -> Result<(Box<dyn LanguageModel>, Option<RoutingLoads>), Failure> {
    let (name, cancel) = (given.display().to_string(), shell.cancel_token());
    match models::open_any(path)? {
        AnyTextModel::Routed(mixture) => {
            let log = Arc::new(mixture.routing_log());
            let experts = mixture.spec().experts.clone();
            let mixture = mixture.with_routing_log(Arc::clone(&log));
            let model = RoutedModel::new(mixture, name).map_err(Failure::failed)?;
            let model = model.with_directory(path).with_cancel(&cancel);
            let model = match args.max_memory {
                Some(bytes) => model.with_memory(bytes),
                None => model,
            };
            Ok((Box::new(model), Some(RoutingLoads::new(log, experts))))
        }
        AnyTextModel::One(mut text) => {
            models::note_left_aside(path, &text.model, shell);
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
            let hash = if args.cache.is_some() { models::adapted_hash(path)? } else { None };
            let model = match hash {
                Some(hash) => model.with_content_hash(hash),
                None => model.with_directory(path),
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
        limit: args.limit.and_then(|limit| if let Limit::Items(items) = limit { Some(items as usize) } else { None }),
        fraction: args.limit.and_then(|limit| if let Limit::Fraction(part) = limit { Some(part) } else { None }),
        num_fewshot: args.num_fewshot,
        apply_chat_template: args.apply_chat_template,
        fewshot_as_multiturn: args.fewshot_as_multiturn,
        system_instruction: args.system_instruction.clone(),
        gen_kwargs: args.gen_kwargs.as_ref().map(|kwargs| kwargs.0.clone()).unwrap_or_default(),
        think_end_token: args.think_end_token.clone().filter(|text| !text.is_empty()),
        allow_code_execution: args.allow_code_execution,
        allow_python: args.allow_python,
        samples: args.samples.is_some() || args.output_path.is_some(),
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
        let models: Vec<String> = args.models.iter().map(|path| path.display().to_string()).collect();
        let model = if let [one] = models.as_slice() { json!(one) } else { json!(models) };
        return shell.print_json(&json!({ "model": model, "tasks": list }));
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

/// An error of a task: always about the input.
fn task_refusal(error: TaskError) -> Failure {
    let hint = match &error {
        TaskError::NoTask { .. } => {
            Some("a task is a directory with task.json, or a YAML file of lm-evaluation-harness")
        }
        TaskError::MissingData { .. } => Some("`glue tasks` lists what is found and what is missing"),
        TaskError::NotFound { roots, .. } if !roots.is_empty() => Some("`glue tasks --all` lists all names"),
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
