//! `glue inspect`: architecture, tensors and compatibility of models, from headers.

mod adapter;
mod compatibility;
mod report;
mod text;

use crate::failure::Failure;
use crate::shell::Shell;
use glue_tensor::Adapter;
use std::path::PathBuf;

/// Show what a model consists of, or which models can be merged
///
/// Reads headers, configuration and tokenizer, no weights. For one model, .safetensors file or LoRA adapter it shows
/// architecture, parameters and files; for an adapter, the tensors it changes. For several models it shows which pairs
/// can be merged, which only once their vocabularies are aligned, which only mixed, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue inspect models/base
  glue inspect models/base --tensors
  glue inspect models/*
  glue inspect adapters/math
  glue inspect models/base/model.safetensors --json")]
pub(crate) struct Args {
    /// Model or adapter directory, .safetensors file or shard index; or several model directories
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// List all tensors with name, type, shape, role and layer
    #[arg(long)]
    tensors: bool,
}

/// Prints the report.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let [model] = args.models.as_slice() else {
        return compatibility::run(&args.models, shell);
    };
    if Adapter::is_at(model) {
        return adapter::run(model, args.tensors, shell);
    }
    let report = report::gather(model, args.tensors)?;
    if shell.json() {
        shell.print_json(&report)
    } else {
        let text = text::render(&report, |text| shell.heading(text));
        shell.print(&text)
    }
}
