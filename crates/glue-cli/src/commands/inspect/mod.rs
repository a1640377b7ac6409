//! `glue inspect`: what a model is made of, from its headers.

mod report;
mod text;

use crate::failure::Failure;
use crate::shell::Shell;
use std::path::PathBuf;

/// Show what a model is made of
///
/// Reads headers, configuration and tokenizer, no weights. A single .safetensors file, or a directory without
/// config.json, is shown as far as its tensors tell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue inspect models/base
  glue inspect models/base --tensors
  glue inspect models/base/model.safetensors --json")]
pub(crate) struct Args {
    /// A model's directory, a .safetensors file, or an index of shards
    model: PathBuf,

    /// List every tensor: name, type, shape, role, layer
    #[arg(long)]
    tensors: bool,
}

/// Prints the report.
pub(crate) fn run(args: &Args, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let report = report::gather(&args.model, args.tensors)?;
    if shell.json() {
        shell.print_json(&report)
    } else {
        let text = text::render(&report, |text| shell.heading(text));
        shell.print(&text)
    }
}
