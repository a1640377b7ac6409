//! `glue export`: a model as a GGUF file.

use super::recipes::{self, FollowLinks};
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use glue_gguf::{ExportModel, ExportOptions, ExportPlan, ExportReport, FileType, GgufError};
use glue_tensor::{ModelDir, ModelDirError};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// Export a model as a GGUF file, for llama.cpp and programs built on it
///
/// Weights, hyperparameters, tokenizer and chat template go into one file. Memory does not grow with the model, and
/// FILE appears once it is complete. What llama.cpp cannot compute is refused before anything is written; where it
/// computes something else, a note says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue export merged merged.gguf
  glue export merged merged-q8_0.gguf --type q8_0
  glue export merged merged-q4_k_m.gguf --type q4_k_m --dry-run")]
pub(crate) struct Args {
    /// Model directory
    model: PathBuf,

    /// GGUF file to write
    file: PathBuf,

    #[command(flatten)]
    gguf: GgufOptions,

    #[command(flatten)]
    links: FollowLinks,

    /// Show what would be written, with sizes; reads headers and the tokenizer only
    #[arg(long)]
    dry_run: bool,
}

/// What a GGUF file holds, and whether it may replace another.
#[derive(Debug, clap::Args)]
pub(super) struct GgufOptions {
    /// Type of matrices (default: that of the weights). q4_k_m mixes types as llama-quantize does. Norms, biases and
    /// gates stay in 32 bits
    #[arg(long = "type", value_name = "TYPE", value_parser = file_type(), hide_possible_values = false)]
    file_type: Option<FileType>,

    /// Name of llama.cpp's pre-tokenizer, such as llama-bpe (default: the one that splits text as the tokenizer does)
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,

    /// Replace FILE if it exists
    #[arg(long)]
    pub(super) overwrite: bool,
}

impl GgufOptions {
    /// As the export takes them.
    pub(super) fn get(&self) -> ExportOptions {
        let mut options = ExportOptions::default();
        options.file_type = self.file_type;
        options.pre_tokenizer.clone_from(&self.pre_tokenizer);
        options
    }

    /// The first of them that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.file_type.is_some(), "--type"),
            (self.pre_tokenizer.is_some(), "--pre-tokenizer"),
            (self.overwrite, "--overwrite"),
        ];
        given.into_iter().find_map(|(given, option)| given.then_some(option))
    }
}

fn file_type() -> impl TypedValueParser<Value = FileType> {
    PossibleValuesParser::new(FileType::ALL.map(FileType::name)).try_map(|name| name.parse())
}

/// Exports, or shows what would be exported.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let start = Instant::now();
    let mut model = ModelDir::open(&args.model).map_err(|error| failure(error.into()))?;
    let described = ExportModel::of(&model, args.links.get()).map_err(failure)?;
    let plan = ExportPlan::new(&described, &args.gguf.get()).map_err(failure)?;
    for note in &plan.report().notes {
        shell.note(note);
    }
    if args.dry_run {
        return print(args, plan.report(), None, shell);
    }
    let pool = recipes::pool(global)?;
    let progress = CommandProgress::new(shell);
    let done = pool.install(|| plan.write(&mut model, &args.file, args.gguf.overwrite, &progress));
    drop(progress);
    print(args, &done.map_err(failure)?, Some(start.elapsed().as_secs_f64()), shell)
}

/// The failure of an export or an import.
pub(super) fn failure(error: GgufError) -> Failure {
    match error {
        GgufError::Cancelled => Failure::Interrupted,
        GgufError::Model(ModelDirError::NotFound { .. } | ModelDirError::WithAdapter { .. }) => Failure::refused(error),
        GgufError::Exists { .. } => Failure::failed(error).hint(Some("--overwrite replaces it")),
        GgufError::Vocabulary { ref message, .. } if message.contains("pre-tokenizer") => {
            Failure::failed(error).hint(Some("--pre-tokenizer NAME names one; tokens may then differ"))
        }
        error => Failure::failed(error),
    }
}

fn print(args: &Args, report: &ExportReport, seconds: Option<f64>, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        return shell.print_json(&json!({
            "dry_run": seconds.is_none(),
            "model": args.model.display().to_string(),
            "output": args.file.display().to_string(),
            "family": report.family,
            "architecture": report.architecture,
            "type": report.file_type.name(),
            "tensors": report.n_tensors,
            "bytes": report.n_bytes,
            "bytes_by_type": bytes_by_type(report),
            "left_out": report.left_out,
            "notes": report.notes,
            "seconds": seconds,
        }));
    }
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    let written = match seconds {
        None => "not written: dry run".to_string(),
        Some(seconds) => format!("written in {}", units::duration(seconds)),
    };
    facts.row(["output", &format!("{} ({written})", args.file.display())]);
    facts.row(["architecture", report.architecture]);
    facts.row(["tensors", &units::count(report.n_tensors as u64)]);
    facts.row(["size", &units::bytes(report.n_bytes)]);
    facts.row(["types", &types(report)]);
    if !report.left_out.is_empty() {
        let left_out = units::things(report.left_out.len(), "tensor", "tensors");
        facts.row(["left out", &format!("{left_out}, such as {}", report.left_out[0])]);
    }
    shell.print(&facts.render(str::to_string))
}

/// Bytes of each type, for JSON.
pub(super) fn bytes_by_type(report: &ExportReport) -> Map<String, Value> {
    report.bytes_by_type.iter().map(|(kind, &bytes)| (kind.to_string(), bytes.into())).collect()
}

/// The same in words.
pub(super) fn types(report: &ExportReport) -> String {
    let one = |(kind, &bytes)| format!("{} {kind}", units::bytes(bytes));
    report.bytes_by_type.iter().map(one).collect::<Vec<_>>().join(", ")
}
