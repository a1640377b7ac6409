//! `glue calibrate`: activation and gradient statistics of a model, from task items or text.

mod sequences;

use super::{models, recipes};
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
use glue_tensor::{ModelDir, WriteError, writer};
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
/// Sums are kept in memory in F64. gram takes 8·in² bytes for each input, fisher 8 bytes for each parameter. --dry-run
/// shows the total, and --max-memory limits it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue calibrate models/math --tasks tasks --limit 64 --out statistics/math
  glue calibrate models/math --tasks tasks --task arith --what fisher --out statistics/math
  glue calibrate models/math --text calibration.txt --what activation,gram --out statistics/math
  glue calibrate models/math --tasks tasks --out statistics/math --dry-run --json")]
pub(crate) struct Args {
    /// Model directory (dense models only)
    model: PathBuf,

    /// Output directory; must not exist yet, or be empty
    #[arg(long, value_name = "OUT_DIR")]
    out: PathBuf,

    /// Task directory or file; can be repeated
    #[arg(long, value_name = "PATH", num_args = 1.., value_delimiter = ',', required_unless_present = "text", conflicts_with = "text")]
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

    /// Statistics to measure (default: all)
    #[arg(long, value_name = "STATISTIC", value_delimiter = ',')]
    what: Vec<What>,

    /// Maximum memory for sums, such as 500MB or 8GB (default: no limit). Less memory takes more passes over the items,
    /// with the same result
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size)]
    max_memory: Option<u64>,

    /// Maximum size of an output shard, such as 5GB, 500MB or 2GiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = units::parse_size)]
    max_shard_size: u64,

    /// Show the plan with memory and disk, without running the model
    #[arg(long)]
    dry_run: bool,
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

/// Measures, writes and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    // Opened before the model: if its files are unchanged at the end, they are those that the model was read from.
    let dir = ModelDir::open(&args.model);
    let text = models::open_with_tokenizer(&args.model)?;
    models::note_left_aside(&args.model, &text.model, shell);
    let plan = CalibratePlan::new(&text.model, &options(args)).map_err(refusal)?;
    let pool = recipes::pool(global)?;
    let (sequences, source) = pool.install(|| sequences::read(args, &text))?;
    if sequences.is_empty() {
        return Err(refusal(CalibrateError::NoSequences));
    }
    let longest = sequences.iter().map(Sequence::read).max().unwrap_or(0);
    let estimate = plan.estimate(pool.current_num_threads(), longest);
    let mut report = Report::new(args, &plan, &estimate, &sequences, source);
    if args.dry_run {
        return report.print(shell);
    }
    let dir = dir.map_err(Failure::failed)?;
    let start = Instant::now();
    let progress = CommandProgress::new(shell);
    let done = pool.install(|| calibrate(&text.model, &dir, &plan, &sequences, &report.source, &args.out, &progress));
    drop(progress);
    let CalibrationSummary { log_likelihood, .. } = done.map_err(refusal)?;
    report.log_likelihood = log_likelihood;
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
        error @ (CalibrateError::Sequence { .. } | CalibrateError::NoStatistics) => Failure::refused(error),
        error => Failure::failed(error),
    }
}

impl Report {
    fn new(
        args: &Args,
        plan: &CalibratePlan,
        estimate: &CalibrateEstimate,
        sequences: &[Sequence],
        source: Value,
    ) -> Report {
        Report {
            model: args.model.display().to_string(),
            output: args.out.display().to_string(),
            dry_run: args.dry_run,
            statistics: plan.statistics().map(Statistic::name).collect(),
            source,
            sequences: sequences.len(),
            tokens: sequences.iter().map(Sequence::read).sum(),
            scored_tokens: sequences.iter().map(|sequence| sequence.scored.len()).sum(),
            passes: estimate.passes,
            tensors: estimate.tensors,
            bytes_written: estimate.output_bytes,
            memory: estimate.sum_bytes + estimate.activation_bytes,
            memory_of_sums: estimate.sum_bytes,
            free: writer::free_bytes(&args.out),
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
