//! `glue soup`: the mean of the last checkpoints of a training run.

use super::execute::execute;
use super::merge_report;
use super::recipes::{self, Output};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use clap::ValueEnum;
use glue_cuda::DeviceUse;
use glue_recipe::trajectory::{self, Decay, RunCheckpoint, TrajectoryError, Weighting};
use serde::Serialize;
use std::path::PathBuf;

/// Average the checkpoints of a training run
///
/// Merges the directories checkpoint-STEP in RUN_DIR, as the trainer of transformers writes them, ordered by step.
/// Averaging the last checkpoints of a run with a constant learning rate does what a decay of the rate would do,
/// without training again. The output is that of glue merge with the method linear.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue soup run averaged --last 5
  glue soup run averaged --last 10 --weights ema --decay 0.8
  glue soup run averaged --weights wsm-1-sqrt --dry-run")]
pub(crate) struct Args {
    /// Directory of the training run
    run_dir: PathBuf,

    /// Output directory
    out_dir: PathBuf,

    /// Number of checkpoints, counted from the last (default: all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    last: Option<u32>,

    /// Weights of the checkpoints: all equal, an exponential moving average, or those that have the effect of a
    /// learning rate decaying as a cosine or as 1 - sqrt(t) (WSM). Equal weights have the effect of a linear decay
    #[arg(long, value_name = "HOW", default_value = "uniform", hide_possible_values = false)]
    weights: Weights,

    /// Decay of the exponential moving average from one checkpoint to the next, at least 0 and below 1 (default: 0.8)
    #[arg(long, value_name = "NUMBER", value_parser = decay)]
    decay: Option<f64>,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Weights {
    /// All equal.
    Uniform,
    /// An exponential moving average.
    Ema,
    /// As a cosine decay.
    WsmCosine,
    /// As a decay by 1 - sqrt(t).
    #[value(name = "wsm-1-sqrt")]
    WsmOneMinusSqrt,
}

fn decay(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| (0.0..1.0).contains(x));
    number.ok_or_else(|| "it must be a number of at least 0 and below 1".into())
}

/// What goes into the mean, before what a merge reports.
#[derive(Serialize)]
struct Report<T> {
    checkpoints: Vec<Weighted>,
    #[serde(flatten)]
    merge: T,
}

#[derive(Serialize)]
struct Weighted {
    step: u64,
    path: String,
    weight: f64,
}

/// Averages, or shows what would be done.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let weighting = match (args.weights, args.decay) {
        (Weights::Ema, decay) => Weighting::Ema(decay.unwrap_or(0.8)),
        (_, Some(_)) => {
            let error = std::io::Error::other("--decay is for --weights ema");
            return Err(Failure::refused(error));
        }
        (Weights::Uniform, None) => Weighting::Uniform,
        (Weights::WsmCosine, None) => Weighting::Wsm(Decay::Cosine),
        (Weights::WsmOneMinusSqrt, None) => Weighting::Wsm(Decay::OneMinusSqrt),
    };
    let last = args.last.map(|last| last as usize);
    let checkpoints = trajectory::checkpoints(&args.run_dir, last).map_err(refusal)?;
    let weights = trajectory::weights(weighting, checkpoints.len());
    let recipe = trajectory::recipe(&checkpoints, &weights, "glue soup").map_err(refusal)?;
    let plan = recipes::plan(&recipe, &recipes::plan_options(global, &args.output))?;
    let pool = recipes::pool(global)?;
    let checkpoints = weighted(&checkpoints, &weights);
    if !shell.json() {
        let text = table(&checkpoints).render(|line| shell.heading(line));
        shell.print(&text)?;
    }
    if args.output.dry_run {
        let merge = merge_report::expected(&plan, &args.out_dir, &args.output, pool.current_num_threads())?;
        return match shell.json() {
            true => shell.print_json(&Report { checkpoints, merge }),
            false => merge.print(shell),
        };
    }
    let device = args.output.device.open(DeviceUse::Merge, shell)?;
    let merge = execute(&plan, &args.out_dir, &args.output, &pool, &device, shell)?;
    match shell.json() {
        true => shell.print_json(&Report { checkpoints, merge }),
        false => merge.print(shell),
    }
}

fn refusal(error: TrajectoryError) -> Failure {
    match error {
        TrajectoryError::Recipe(error) => recipes::refusal(error),
        TrajectoryError::Io { .. } => Failure::failed(error),
        error => Failure::refused(error),
    }
}

fn weighted(checkpoints: &[RunCheckpoint], weights: &[f64]) -> Vec<Weighted> {
    let one = |(checkpoint, weight): (&RunCheckpoint, &f64)| Weighted {
        step: checkpoint.step,
        path: checkpoint.path.display().to_string(),
        weight: *weight,
    };
    checkpoints.iter().zip(weights).map(one).collect()
}

fn table(checkpoints: &[Weighted]) -> Table {
    let mut table = Table::with_header(&[("checkpoint", Align::Left), ("weight", Align::Right)]);
    for checkpoint in checkpoints {
        table.row([checkpoint.path.as_str(), &format!("{:.4}", checkpoint.weight)]);
    }
    table
}
