//! `glue calibrate`: activation and gradient statistics of a model, from task items or text.

mod merge;
mod sequences;

use super::models::{TextModelOfFiles, note_left_aside};
use super::recipes;
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use clap::ValueEnum;
use glue_calibrate::{
    CalibrateError, CalibrateEstimate, CalibrateOptions, CalibratePlan, CalibrationSummary, Sequence, Statistic,
    calibrate,
};
use glue_merge::Registry;
use glue_tensor::{WriteError, writer};
use sequences::Selection;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Measure activation and gradient statistics for merge operators that use them
///
/// The model runs over task items (prompt and correct answer) or over text. OUT_DIR appears once it is complete. It is
/// a checkpoint with a tensor NAME.STATISTIC in F32 for each weight tensor NAME, and glue.json, which records the
/// source.
///
/// For a matrix [out, in], activation [in] is the mean absolute input over tokens, and gram [in, in] is the mean outer
/// product of the input with itself. fisher, for every tensor and in its shape, is the mean over items of the squared
/// gradient of the log-likelihood of the answer or text (diagonal Fisher information).
///
/// In a mixture of experts, the mean for an expert counts a token that does not come to it as zero; there is no fisher.
///
/// --merge measures gram for RegMean++: each layer of a model is measured on what the merged layers before it make of
/// the model's data. The statistics of each model are written where the config expects them, and glue merge with the
/// same config is the RegMean++ merge. Each model should read data of its own (--data).
///
/// Sums are kept in memory in F64. gram takes 8·in² bytes for each input, fisher 8 bytes for each parameter. --dry-run
/// shows the total, and --max-memory limits it.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "glue calibrate [OPTIONS] <MODEL> --out <OUT_DIR> <--tasks <PATH>...|--text <FILE>>\n       \
                      glue calibrate [OPTIONS] --merge <CONFIG> <--tasks <PATH>...|--text <FILE>|--data <MODEL=NAME>>",
    after_help = "Examples:
  glue calibrate models/math --tasks tasks --limit 64 --out statistics/math
  glue calibrate models/math --tasks tasks --task arith --what fisher --out statistics/math
  glue calibrate models/math --text calibration.txt --what activation,gram --out statistics/math
  glue calibrate models/math --tasks tasks --out statistics/math --dry-run --json
  glue calibrate --merge regmean.yml --tasks tasks --data math=arith --data code=program"
)]
pub(crate) struct Args {
    /// Model directory
    #[arg(required_unless_present = "merge", conflicts_with = "merge")]
    model: Option<PathBuf>,

    /// Output directory; must not exist yet, or be empty
    #[arg(long, value_name = "OUT_DIR", required_unless_present = "merge", conflicts_with = "merge")]
    out: Option<PathBuf>,

    /// Measure the models of a merge config layer by layer, on the layers merged so far (RegMean++). The operator has
    /// to use gram, as regmean does, and each model has to name its statistics, a directory that must not exist yet, or
    /// be empty
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["what", "max_shard_size"])]
    merge: Option<PathBuf>,

    /// With --merge, data of one model only: a task, group or tag of --tasks, or a text file without --tasks. MODEL is
    /// a model of the config or the last part of its path. Can be repeated
    #[arg(long, value_name = "MODEL=NAME", requires = "merge", value_parser = parse_data)]
    data: Vec<(String, String)>,

    /// Task directory or file; can be repeated
    #[arg(long, value_name = "PATH", num_args = 1.., value_delimiter = ',', required_unless_present_any = ["text", "data"], conflicts_with = "text")]
    tasks: Vec<PathBuf>,

    /// Use only this task, group or tag; can be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "tasks")]
    task: Vec<String>,

    /// Split to use, or a share of its items chosen by a hash, such as train[:60%]
    #[arg(long, value_name = "NAME", default_value = "train")]
    split: String,

    /// Text file, one text per line, instead of tasks; can be repeated
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,

    /// Use only the first N items of each task, or the first N texts of each file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// With --text, stop after the text that reaches N tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "text")]
    max_tokens: Option<u64>,

    /// Statistics to measure (default: all; a mixture of experts has no fisher)
    #[arg(long, value_name = "STATISTIC", value_delimiter = ',')]
    what: Vec<What>,

    /// Maximum memory for sums, such as 500MB or 8GB (default: no limit). Less memory takes more passes over the items,
    /// with the same result. With --merge, also for residual streams, which are kept in a file where they do not fit
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_memory: Option<u64>,

    /// Maximum size of an output shard, such as 5GB, 500MB or 2GiB (default: 5GB)
    #[arg(long, value_name = "SIZE", default_value = "5GB", hide_default_value = true)]
    #[arg(value_parser = units::parse_size)]
    max_shard_size: u64,

    /// Show the plan with memory and disk, without running the model
    #[arg(long)]
    dry_run: bool,
}

fn parse_data(text: &str) -> Result<(String, String), String> {
    let (model, name) = text.rsplit_once('=').ok_or("it must be MODEL=NAME, such as math=arith")?;
    Ok((model.trim().into(), name.trim().into()))
}

/// Statistics that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Mean absolute input of each matrix
    Activation,
    /// Mean outer product of the input of each matrix with itself
    Gram,
    /// Mean squared gradient of the log-likelihood, of every tensor
    Fisher,
}

impl What {
    fn statistic(self) -> Statistic {
        match self {
            What::Activation => Statistic::Activation,
            What::Gram => Statistic::Gram,
            What::Fisher => Statistic::Fisher,
        }
    }
}

/// The result, and the plan of a dry run.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    output: String,
    dry_run: bool,
    statistics: Vec<&'static str>,
    source: Value,
    sequences: usize,
    /// Tokens that the model reads.
    tokens: usize,
    scored_tokens: usize,
    /// Experts that no token came to; null in a dry run.
    idle_experts: Option<Vec<Expert>>,
    passes: usize,
    tensors: usize,
    bytes_written: u64,
    /// Peak bytes of sums and activations.
    memory: u64,
    memory_of_sums: u64,
    free: Option<u64>,
    /// Mean over sequences, in nats; null without fisher and in a dry run.
    log_likelihood: Option<f64>,
    /// Null in a dry run.
    seconds: Option<f64>,
}

/// An expert.
#[derive(Debug, Serialize)]
struct Expert {
    layer: usize,
    expert: usize,
}

/// Experts that no token came to, with a warning if there are any.
fn idle_experts(done: &CalibrationSummary, model: &str, shell: &Shell<'_>) -> Vec<Expert> {
    let idle: Vec<Expert> =
        done.idle_experts.iter().map(|idle| Expert { layer: idle.layer, expert: idle.expert }).collect();
    if let Some(first) = idle.first() {
        let experts = units::things(idle.len(), "expert", "experts");
        shell.warning(&format!(
            "no token came to {experts} of {model}, the first of them {} in layer {}: their statistics are zeros",
            first.expert, first.layer
        ));
    }
    idle
}

/// Measures, writes and prints.
pub(crate) fn run(args: &Args, global: &Global, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let (model, out) = match (&args.merge, &args.model, &args.out) {
        (Some(config), ..) => return merge::run(config, args, global, registry, shell),
        (None, Some(model), Some(out)) => (model, out),
        (None, ..) => return Err(Failure::refused(std::io::Error::other("MODEL and --out are missing"))),
    };
    let opened = TextModelOfFiles::open(model)?;
    let text = &opened.text;
    note_left_aside(model, &text.model, shell);
    let plan = CalibratePlan::new(&text.model, &options(args)).map_err(refusal)?;
    let pool = recipes::pool(global)?;
    let selection = Selection::of(args, model);
    let (sequences, source) = pool.install(|| sequences::read(&selection, text))?;
    if sequences.is_empty() {
        return Err(refusal(CalibrateError::NoSequences));
    }
    let longest = sequences.iter().map(Sequence::read).max().unwrap_or(0);
    let estimate = plan.estimate(pool.current_num_threads(), longest);
    let mut report = Report::new(model, out, &plan, &estimate, &sequences, source);
    if args.dry_run {
        return report.print(shell);
    }
    report.dry_run = false;
    let start = Instant::now();
    let progress = CommandProgress::new(shell);
    let done =
        pool.install(|| calibrate(&text.model, opened.files(), &plan, &sequences, &report.source, out, &progress));
    drop(progress);
    let done = done.map_err(refusal)?;
    report.idle_experts = Some(idle_experts(&done, &report.model, shell));
    report.log_likelihood = done.log_likelihood;
    report.seconds = Some(start.elapsed().as_secs_f64());
    report.print(shell)
}

fn options(args: &Args) -> CalibrateOptions {
    let mut options = CalibrateOptions::default();
    if !args.what.is_empty() {
        options.statistics = args.what.iter().map(|what| what.statistic()).collect();
    }
    options.max_memory = args.max_memory;
    options.max_shard_bytes = args.max_shard_size;
    options
}

/// An error with its hint and exit status.
fn refusal(error: CalibrateError) -> Failure {
    match error {
        CalibrateError::Stopped => Failure::Interrupted,
        error @ CalibrateError::Mixture(_) => {
            Failure::refused(error).hint(Some("calibrate the models that it was made from"))
        }
        error @ CalibrateError::FisherOfMixture(_) => {
            Failure::refused(error).hint(Some("choose the others with --what activation,gram"))
        }
        error @ CalibrateError::NoSequences => {
            Failure::refused(error).hint(Some("choose items with --tasks and --split, or text with --text"))
        }
        error @ CalibrateError::Write(WriteError::NotEmpty { .. } | WriteError::NotADirectory { .. }) => {
            Failure::refused(error)
                .hint(Some("choose another OUT_DIR, or move the existing files away; nothing is overwritten"))
        }
        error @ CalibrateError::Write(WriteError::NoSpace { .. }) => {
            Failure::failed(error).hint(Some("--dry-run shows how much disk space the statistics need"))
        }
        error @ (CalibrateError::Sequence { .. } | CalibrateError::NoStatistics | CalibrateError::Layers { .. }) => {
            Failure::refused(error)
        }
        error => Failure::failed(error),
    }
}

impl Report {
    fn new(
        model: &Path,
        out: &Path,
        plan: &CalibratePlan,
        estimate: &CalibrateEstimate,
        sequences: &[Sequence],
        source: Value,
    ) -> Report {
        Report {
            model: model.display().to_string(),
            output: out.display().to_string(),
            dry_run: true,
            statistics: plan.statistics().map(Statistic::name).collect(),
            source,
            sequences: sequences.len(),
            tokens: sequences.iter().map(Sequence::read).sum(),
            scored_tokens: sequences.iter().map(|sequence| sequence.scored.len()).sum(),
            idle_experts: None,
            passes: estimate.passes,
            tensors: estimate.tensors,
            bytes_written: estimate.output_bytes,
            memory: estimate.sum_bytes + estimate.activation_bytes,
            memory_of_sums: estimate.sum_bytes,
            free: writer::free_bytes(out),
            log_likelihood: None,
            seconds: None,
        }
    }

    fn print(&self, shell: &mut Shell<'_>) -> Result<(), Failure> {
        if shell.json() {
            return shell.print_json(self);
        }
        let mut table = Table::new(&[Align::Left, Align::Left]);
        let mut row = |name: &str, value: String| table.row([name.to_string(), value]);
        row("model", self.model.clone());
        row("output", self.output.clone());
        row("statistics", self.statistics.join(", "));
        let tokens = units::count(self.tokens as u64);
        let sequences = units::things(self.sequences, "sequence", "sequences");
        row("read", format!("{sequences}, {tokens} tokens ({} scored)", units::count(self.scored_tokens as u64)));
        if let Some(idle) = self.idle_experts.as_ref().filter(|idle| !idle.is_empty()) {
            row("experts", format!("{} without tokens, with zeros", idle.len()));
        }
        if self.passes > 1 {
            row("passes", self.passes.to_string());
        }
        row("tensors", units::count(self.tensors as u64));
        row("written", units::bytes(self.bytes_written));
        if self.dry_run {
            let sums = units::bytes(self.memory_of_sums);
            row("memory", format!("{}, of which sums {sums}", units::bytes(self.memory)));
            row("free", self.free.map_or("unknown".to_string(), units::bytes));
        }
        if let Some(mean) = self.log_likelihood {
            row("log-likelihood", format!("{mean:.4} (mean over sequences)"));
        }
        if let Some(seconds) = self.seconds {
            row("time", units::duration(seconds));
        }
        shell.print(&table.render(|heading| heading.to_string()))
    }
}

/// A refusal of a file or directory, with this message.
fn wrong(path: &Path, what: &dyn std::fmt::Display) -> Failure {
    let message = format!("{}: {what}", path.display());
    Failure::refused(std::io::Error::new(std::io::ErrorKind::InvalidInput, message))
}
