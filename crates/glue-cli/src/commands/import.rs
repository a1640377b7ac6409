//! `glue import`: a GGUF file as a model directory.

use super::{export, recipes};
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_gguf::{ImportOptions, ImportPlan, ImportReport};
use glue_tensor::Dtype;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Import a GGUF file as a model directory
///
/// The opposite of `glue export`: writes config.json, safetensors files and the tokenizer, for all commands and for
/// transformers. Quantised weights are widened, which does not bring back what was rounded: a merge of them is a merge
/// of rounded weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue import model.gguf model
  glue import model-Q4_K_M.gguf model --dtype bf16
  glue import model.gguf model --dry-run")]
pub(crate) struct Args {
    /// GGUF file
    file: PathBuf,

    /// Output directory
    out_dir: PathBuf,

    /// Data type of the weights: float32, float16 or bfloat16, or f32, f16 or bf16 for short (default: that of the
    /// embedding, or bfloat16 if it is quantised)
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    dtype: Option<Dtype>,

    /// Name of llama.cpp's pre-tokenizer, such as llama-bpe (default: the one that the file names)
    #[arg(long, value_name = "NAME")]
    pre_tokenizer: Option<String>,

    /// Show what would be written, with sizes
    #[arg(long)]
    dry_run: bool,
}

fn parse_dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "float32" | "f32" => Ok(Dtype::F32),
        "float16" | "f16" => Ok(Dtype::F16),
        "bfloat16" | "bf16" => Ok(Dtype::Bf16),
        _ => Err("it must be one of float32, float16, bfloat16".to_string()),
    }
}

/// Imports, or shows what would be imported.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let mut options = ImportOptions::default();
    options.dtype = args.dtype;
    options.pre_tokenizer.clone_from(&args.pre_tokenizer);
    let start = Instant::now();
    let plan = ImportPlan::new(&args.file, &options).map_err(export::failure)?;
    if plan.report().quantised {
        shell.note("the weights are quantised: the model has what was rounded, in a wider type");
    }
    if args.dry_run {
        return print(args, plan.report(), None, shell);
    }
    let pool = recipes::pool(global)?;
    let progress = CommandProgress::new(shell);
    let done = pool.install(|| plan.write(&args.out_dir, &progress));
    drop(progress);
    print(args, &done.map_err(export::failure)?, Some(start.elapsed().as_secs_f64()), shell)
}

fn print(args: &Args, report: &ImportReport, seconds: Option<f64>, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        return shell.print_json(&json!({
            "dry_run": seconds.is_none(),
            "file": args.file.display().to_string(),
            "output": args.out_dir.display().to_string(),
            "family": report.family,
            "architecture": report.architecture,
            "dtype": report.dtype.torch_name(),
            "tensors": report.n_tensors,
            "bytes": report.n_bytes,
            "quantised": report.quantised,
            "tokenizer": report.has_tokenizer,
            "seconds": seconds,
        }));
    }
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    let written = match seconds {
        None => "not written: dry run".to_string(),
        Some(seconds) => format!("written in {}", units::duration(seconds)),
    };
    facts.row(["output", &format!("{} ({written})", args.out_dir.display())]);
    facts.row(["model type", report.family]);
    facts.row(["tensors", &units::count(report.n_tensors as u64)]);
    facts.row(["size", &format!("{} in {}", units::bytes(report.n_bytes), report.dtype.torch_name())]);
    facts.row(["tokenizer", if report.has_tokenizer { "rebuilt" } else { "none in the file" }]);
    shell.print(&facts.render(str::to_string))
}
