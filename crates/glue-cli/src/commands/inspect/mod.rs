//! `glue inspect`: what a model is made of, from its headers.

mod adapter;
mod compatibility;
mod report;
mod text;

use crate::failure::Failure;
use crate::shell::Shell;
use glue_tensor::Adapter;
use std::path::PathBuf;

/// Show what a model is made of, or which of several can be merged
///
/// Reads headers, configuration and tokenizer, no weights. A single .safetensors file, or a directory without
/// config.json, is shown as far as its tensors tell; of a LoRA adapter it is shown which tensors of its model it changes. Of several models it is shown which pairs can be merged, which only after
/// their vocabularies are aligned, which only mixed, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue inspect models/base
  glue inspect models/base --tensors
  glue inspect models/*
  glue inspect adapters/math
  glue inspect models/base/model.safetensors --json")]
pub(crate) struct Args {
    /// A model's or adapter's directory, a .safetensors file, or an index of shards; directories of several models
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,

    /// List every tensor: name, type, shape, role, layer
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
