//! `glue train-router`: trains the gates of a mixture in place.

use super::named_tasks::Sources;
use super::recipes;
use crate::app::Global;
use crate::failure::Failure;
use crate::numbers;
use crate::pictures;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_mixture::RouterKind;
use glue_router::RouterError;
use glue_router::lm_loss::BALANCE;
use glue_router::mixture::{GateReport, Held, Labels, Method, TrainPlan, TrainReport, TrainRequest, Trainer};
use glue_router::report::RoutingTable;
use glue_router::supervised::Training;
use glue_router::training::{Epoch, TrainSettings};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Train the router of a mixture
///
/// Only the gates change; the experts stay as they are. Gates learn which expert each task item belongs to, or minimise
/// the loss of the items' answers. The gates on disk are replaced once all of them are trained.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue train-router mixture --tasks tasks
  glue train-router mixture --tasks tasks --expert reason=thinker --router mlp:64
  glue train-router mixture --tasks tasks --labels loss --state train --resume
  glue train-router mixture --tasks tasks --loss lm --epochs 3 --json")]
pub(crate) struct Args {
    /// Mixture directory
    mixture: PathBuf,

    /// Task, group or tag by name or shell pattern, or the path of a task directory or file; can be repeated
    #[arg(long, value_name = "NAME|PATH", required = true, num_args = 1.., value_delimiter = ',')]
    tasks: Vec<String>,

    /// Use only this task, group or tag; can be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    task: Vec<String>,

    #[command(flatten)]
    sources: Sources,

    /// Split to use, or a share of its items chosen by a hash, such as train[:60%]
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,

    /// Split to validate on (default: a fifth of the training items)
    #[arg(long, value_name = "NAME")]
    validation_split: Option<String>,

    /// Use only the first N items of each task
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// How items are assigned to experts: by their skill, or to the expert with the lowest loss on their answer
    #[arg(long, value_name = "HOW", default_value = "skill", conflicts_with = "loss")]
    labels: LabelsBy,

    /// With --labels loss, temperature of soft labels (softmax of the negative losses); 0 takes the lowest loss alone
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = numbers::real(0.0..=1e6))]
    temperature: f64,

    /// Assign a task or skill to an expert, such as math=a-math; can be repeated. Others go to the expert of the same
    /// name, or to the one with the lowest loss
    #[arg(long = "expert", value_name = "NAME=EXPERT", value_parser = pair)]
    experts: Vec<(String, String)>,

    /// What to minimise: labels (cross-entropy of the assignment) or lm (loss of the answers, experts frozen)
    #[arg(long, value_name = "WHAT", default_value = "labels")]
    loss: Minimised,

    /// With --loss lm, weight of the load-balancing term
    #[arg(long, value_name = "C", default_value_t = BALANCE, value_parser = numbers::real(0.0..=1e6))]
    balance: f64,

    /// Train only the gates of these layers
    #[arg(long, value_name = "L", value_delimiter = ',')]
    layer: Vec<usize>,

    /// Kind of gates: linear or mlp:WIDTH (default: unchanged)
    #[arg(long, value_name = "FORM", value_parser = form)]
    router: Option<RouterKind>,

    /// Maximum number of epochs, for MLP gates and --loss lm
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,

    /// Learning rate, for MLP gates and --loss lm
    #[arg(long, value_name = "X", value_parser = numbers::real(1e-12..=1e3))]
    learning_rate: Option<f64>,

    /// Save training checkpoints in this directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Resume from the checkpoints in --state
    #[arg(long, requires = "state")]
    resume: bool,

    /// Write a chart per gate, with the experts chosen for validation items, to this directory
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// Show what would be trained
    #[arg(long)]
    dry_run: bool,
}

/// How items are assigned to experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LabelsBy {
    /// Its task or skill.
    Skill,
    /// The losses of the experts.
    Loss,
}

/// The training objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Minimised {
    /// The cross-entropy of labels.
    Labels,
    /// The loss of answers.
    Lm,
}

/// Parses `NAME=EXPERT`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, expert)) if !name.is_empty() && !expert.is_empty() => Ok((name.to_owned(), expert.to_owned())),
        _ => Err("expected NAME=EXPERT".to_owned()),
    }
}

/// The widest hidden layer of a gate.
const MAX_WIDTH: usize = 65_536;

fn form(text: &str) -> Result<RouterKind, String> {
    let width = || text.strip_prefix("mlp:")?.parse().ok().filter(|width| (1..=MAX_WIDTH).contains(width));
    match (text, width()) {
        ("linear", _) => Ok(RouterKind::Linear),
        (_, Some(hidden_size)) => Ok(RouterKind::Mlp { hidden_size }),
        _ => Err(format!("expected linear, or mlp:WIDTH with a width from 1 to {MAX_WIDTH}")),
    }
}

/// Trains and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let tasks = args.sources.get().load(&args.tasks, &args.task).map_err(Failure::refused)?.tasks;
    let pool = recipes::pool(global)?;
    let start = Instant::now();
    let trainer = pool.install(|| Trainer::open(request(args, global), &tasks)).map_err(refusal)?;
    let plan = trainer.plan();
    if args.dry_run {
        return print_plan(args, &plan, shell);
    }
    let progress = CommandProgress::new(shell);
    let report = pool.install(|| trainer.run(&progress));
    drop(progress);
    let report = report.map_err(refusal)?;
    write_pictures(args, &report)?;
    print(args, &plan, &report, start.elapsed(), shell)
}

fn request(args: &Args, global: &Global) -> TrainRequest {
    let mut request = TrainRequest::new(&args.mixture);
    request.split.clone_from(&args.split);
    request.limit = args.limit.map(|limit| limit as usize);
    if let Some(split) = &args.validation_split {
        request.held = Held::Split(split.clone());
    }
    request.labels = match args.labels {
        LabelsBy::Skill => Labels::Skill,
        LabelsBy::Loss => Labels::Loss { temperature: args.temperature },
    };
    (request.method, request.settings) = match args.loss {
        Minimised::Labels => (Method::Supervised, TrainSettings::SUPERVISED),
        Minimised::Lm => (Method::LmLoss { balance: args.balance }, TrainSettings::LANGUAGE_MODEL),
    };
    request.given = args.experts.iter().cloned().collect::<BTreeMap<_, _>>();
    request.layers = (!args.layer.is_empty()).then(|| args.layer.clone());
    request.router = args.router;
    if let Some(epochs) = args.epochs {
        request.settings.epochs = epochs as usize;
    }
    if let Some(rate) = args.learning_rate {
        request.settings.learning_rate = rate;
    }
    request.settings.seed = global.seed.unwrap_or(0);
    request.state.clone_from(&args.state);
    request.resume = args.resume;
    request
}

/// An error with its hint and exit status: 2 if it is about the input.
pub(super) fn refusal(error: RouterError) -> Failure {
    match error {
        RouterError::Stopped => Failure::Interrupted,
        RouterError::Mixture(error) => {
            let (hint, usage) = (error.hint(), error.is_usage());
            if usage { Failure::refused(error) } else { Failure::failed(error) }.hint(hint)
        }
        error @ (RouterError::UnknownExpert { .. } | RouterError::NoItems { .. }) => {
            Failure::refused(error).hint(Some("assign one with --expert NAME=EXPERT"))
        }
        error @ (RouterError::Setting { .. }
        | RouterError::UnknownTask { .. }
        | RouterError::TooFewItems { .. }
        | RouterError::NoAnswer { .. }
        | RouterError::NoGradient { .. }
        | RouterError::Unsupported { .. }
        | RouterError::OtherTraining { .. }
        | RouterError::Task(_)
        | RouterError::Eval(_)) => Failure::refused(error),
        error => Failure::failed(error),
    }
}

fn print_plan(args: &Args, plan: &TrainPlan, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let gates: Vec<&str> = plan.gates.iter().map(|(_, name)| name.trim_end_matches('.')).collect();
    let [train, validation] = plan.items;
    if shell.json() {
        return shell.print_json(&json!({
            "mixture": args.mixture.display().to_string(),
            "experts": plan.experts,
            "gates": gates,
            "items": { "train": train, "validation": validation },
            "tasks": plan.tasks,
        }));
    }
    let mut table = Table::new(&[Align::Left, Align::Left]);
    table.row(["experts".to_owned(), plan.experts.join(", ")]);
    table.row(["gates".to_owned(), gates.join(", ")]);
    table.row(["items".to_owned(), format!("{train} for training, {validation} for validation")]);
    for (task, items) in &plan.tasks {
        table.row([task.clone(), units::things(*items, "item", "items")]);
    }
    shell.print(&table.render(|line| shell.heading(line)))
}

fn write_pictures(args: &Args, report: &TrainReport) -> Result<(), Failure> {
    let Some(directory) = &args.pictures else { return Ok(()) };
    let failed = |path: &PathBuf, error| Failure::failed(crate::failure::of_file(path, error));
    std::fs::create_dir_all(directory).map_err(|error| failed(directory, error))?;
    let write = |gate: &str, table: &RoutingTable| {
        let gate = gate.trim_end_matches('.');
        let picture = pictures::routing(format!("{gate}: experts by {}", table.rows_are), table);
        pictures::write_in(directory, &format!("{gate}.{}.svg", table.rows_are), picture)
    };
    match report {
        TrainReport::Supervised { gates, .. } => gates.iter().try_for_each(|gate| {
            write(&gate.name, &gate.tasks)?;
            write(&gate.name, &gate.skills)
        }),
        TrainReport::LmLoss { load, .. } => load.iter().try_for_each(|(gate, table)| write(gate, table)),
    }
}

fn print(
    args: &Args,
    plan: &TrainPlan,
    report: &TrainReport,
    time: Duration,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    if shell.json() {
        let mut document = match report {
            TrainReport::Supervised { assigned, gates } => {
                let expert = |&number: &usize| plan.experts.get(number).cloned().unwrap_or_default();
                let assigned: BTreeMap<&String, String> = assigned.iter().map(|(t, n)| (t, expert(n))).collect();
                json!({ "experts_of_tasks": assigned, "gates": gates.iter().map(gate_json).collect::<Vec<_>>() })
            }
            TrainReport::LmLoss { trained, load } => {
                let load: serde_json::Map<String, Value> =
                    load.iter().map(|(gate, table)| (gate.trim_end_matches('.').to_owned(), table.to_json())).collect();
                json!({
                    "start": trained.start,
                    "best_epoch": trained.best,
                    "epochs": epochs_json(&trained.history),
                    "load": load,
                })
            }
        };
        document["mixture"] = json!(args.mixture.display().to_string());
        document["items"] = json!({ "train": plan.items[0], "validation": plan.items[1] });
        document["seconds"] = json!(time.as_secs_f64());
        return shell.print_json(&document);
    }
    let mut text = String::new();
    match report {
        TrainReport::Supervised { gates, .. } => {
            let mut table = Table::with_header(&[
                ("GATE", Align::Left),
                ("TRAIN", Align::Right),
                ("VALIDATION", Align::Right),
                ("HOW", Align::Left),
            ]);
            for gate in gates {
                let how = match &gate.training {
                    Training::Linear { l2, certificate, .. } => {
                        format!("l2 {l2}, within {:.0e} of the optimum", certificate.gap)
                    }
                    Training::Mlp { history, best } => format!("epoch {best} of {}", history.len()),
                };
                let percent = |share: f64| format!("{:.2} %", 100.0 * share);
                let name = gate.name.trim_end_matches('.').to_owned();
                table.row([name, percent(gate.train_accuracy), percent(gate.validation_accuracy), how]);
            }
            text += &table.render(|line| shell.heading(line));
            if let Some(last) = gates.last() {
                let _ = write!(
                    text,
                    "\n{}\n{}",
                    shell.heading(last.name.trim_end_matches('.')),
                    cells(&last.skills, shell)
                );
                let _ = write!(text, "\n{}", cells(&last.tasks, shell));
            }
        }
        TrainReport::LmLoss { trained, load } => {
            let _ = writeln!(text, "validation loss before training: {:.4}", trained.start);
            for (index, epoch) in trained.history.iter().enumerate() {
                let kept = if index + 1 == trained.best { ", kept" } else { "" };
                let (train, validation) = (epoch.train, epoch.validation);
                let _ = writeln!(text, "epoch {}: train {train:.4}, validation {validation:.4}{kept}", index + 1);
            }
            for (gate, table) in load {
                let shares = RoutingTable {
                    rows: table.rows.iter().map(|row| row.0.clone()).zip(table.shares()).collect(),
                    ..table.clone()
                };
                let _ = write!(text, "\n{}\n{}", shell.heading(gate.trim_end_matches('.')), cells(&shares, shell));
            }
        }
    }
    let _ = writeln!(text, "trained in {}", units::duration(time.as_secs_f64()));
    shell.print(&text)
}

/// A table of the report as text.
fn cells(table: &RoutingTable, shell: &Shell<'_>) -> String {
    let mut rows = table.cells().into_iter();
    let header = rows.next().unwrap_or_default();
    let align = |index: usize| if index == 0 { Align::Left } else { Align::Right };
    let columns: Vec<(&str, Align)> = header.iter().enumerate().map(|(i, name)| (name.as_str(), align(i))).collect();
    let mut text = Table::with_header(&columns);
    rows.for_each(|row| text.row(row));
    text.render(|line| shell.heading(line))
}

fn gate_json(gate: &GateReport) -> Value {
    let training = match &gate.training {
        Training::Linear { l2, tried, certificate } => json!({
            "l2": l2,
            "validation_loss": tried.iter().map(|(l2, loss)| json!({ "l2": l2, "loss": loss })).collect::<Vec<_>>(),
            "gradient_norm": certificate.gradient_norm,
            "gap": certificate.gap,
        }),
        Training::Mlp { history, best } => json!({ "best_epoch": best, "epochs": epochs_json(history) }),
    };
    json!({
        "gate": gate.name.trim_end_matches('.'),
        "accuracy": { "train": gate.train_accuracy, "validation": gate.validation_accuracy },
        "training": training,
        "tasks": gate.tasks.to_json(),
        "skills": gate.skills.to_json(),
    })
}

fn epochs_json(history: &[Epoch]) -> Value {
    history.iter().map(|epoch| json!({ "train": epoch.train, "validation": epoch.validation })).collect()
}

#[cfg(test)]
mod tests {
    //! Words of the command line.
    use super::*;

    #[test]
    fn forms_and_pairs_are_read_or_refused() {
        assert_eq!(form("linear"), Ok(RouterKind::Linear));
        assert_eq!(form("mlp:64"), Ok(RouterKind::Mlp { hidden_size: 64 }));
        assert!(["mlp", "mlp:0", "mlp:65537", "mlp:x", "tree"].iter().all(|text| form(text).is_err()));
        assert_eq!(pair("math=a-math"), Ok(("math".to_owned(), "a-math".to_owned())));
        assert!(["math", "=a", "math="].iter().all(|text| pair(text).is_err()));
    }
}
