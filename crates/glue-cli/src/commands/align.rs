//! `glue align`: one model's units put in the order of another's.

use super::recipes;
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::AlignProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use clap::ValueEnum;
use glue_align::{AlignError, AlignOptions, Alignment, GroupKind, Kinds, Method, WriteOptions, align, write_aligned};
use glue_tensor::{ModelDir, ModelDirError};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Put the units of a model in the order of another's
///
/// Neurons, heads and the dimensions of the residual stream can change places without changing what a model computes. Two
/// models that were trained apart are merged in vain as long as their units stand in different orders; this finds the
/// order in which their weights are closest, and writes MODEL in it to OUT_DIR.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue align models/a models/b aligned-b
  glue align models/a models/b aligned-b --kinds neurons,heads
  glue align models/a models/b aligned-b --dry-run --json")]
pub(crate) struct Args {
    /// Directory of the model whose order is wanted
    reference: PathBuf,

    /// Directory of the model to be put in that order
    model: PathBuf,

    /// Directory to write the aligned model to
    out_dir: PathBuf,

    /// What may change places; all of it when not given
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,

    /// Most data in one file of the output: 5GB, 500MB, 2GiB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = units::parse_size)]
    max_shard_size: u64,

    /// Find the order and show what it gains, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What may change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Neurons of each MLP
    Neurons,
    /// Heads of attention, those of queries with those of keys and values
    Heads,
    /// Dimensions of values within a head
    Values,
    /// Experts of a layer
    Experts,
    /// Dimensions of the residual stream
    Residual,
}

/// Matches, writes and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let (reference, model) = (open(&args.reference)?, open(&args.model)?);
    let options = AlignOptions { kinds: kinds(&args.kinds), ..AlignOptions::default() };
    let pool = recipes::pool(global)?;
    let progress = AlignProgress::new(model.checkpoint().total_bytes(), shell);
    let start = Instant::now();
    let alignment = pool.install(|| {
        let alignment = align(&reference, &model, Method::Weights, &options, &progress)?;
        if !args.dry_run {
            let options = WriteOptions { max_shard_bytes: args.max_shard_size };
            write_aligned(&model, &alignment, &args.out_dir, &options, &progress)?;
        }
        Ok(alignment)
    });
    drop(progress);
    print(args, &alignment.map_err(failure)?, start.elapsed(), shell)
}

fn open(path: &Path) -> Result<ModelDir, Failure> {
    ModelDir::open(path).map_err(|error| match error {
        ModelDirError::NotFound { .. } => Failure::refused(error),
        error => Failure::failed(error),
    })
}

fn kinds(asked: &[Kind]) -> Kinds {
    if asked.is_empty() {
        return Kinds::ALL;
    }
    let has = |kind| asked.contains(&kind);
    Kinds {
        neurons: has(Kind::Neurons),
        heads: has(Kind::Heads),
        values: has(Kind::Values),
        experts: has(Kind::Experts),
        residual: has(Kind::Residual),
    }
}

fn failure(error: AlignError) -> Failure {
    match error {
        AlignError::Stopped => Failure::Interrupted,
        error @ (AlignError::NotFinite { .. } | AlignError::Write(_) | AlignError::Read { .. }) => {
            Failure::failed(error)
        }
        error @ AlignError::TooManyUnits { .. } => {
            Failure::refused(error).hint(Some("--kinds without that kind leaves it as it is"))
        }
        error => Failure::refused(error),
    }
}

const KINDS: [(GroupKind, &str); 6] = [
    (GroupKind::Neurons, "neurons"),
    (GroupKind::KvHeads, "key and value heads"),
    (GroupKind::QueryHeads, "query heads"),
    (GroupKind::ValueDims, "dimensions of values"),
    (GroupKind::Experts, "experts"),
    (GroupKind::Residual, "dimensions of the residual stream"),
];

fn print(args: &Args, alignment: &Alignment, time: std::time::Duration, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let moved = KINDS.map(|(kind, name)| (name, alignment.moved(kind))).into_iter().filter(|(_, (_, all))| *all > 0);
    if shell.json() {
        let moved: serde_json::Map<String, serde_json::Value> =
            moved.map(|(name, (moved, all))| (name.to_owned(), json!({ "moved": moved, "of": all }))).collect();
        return shell.print_json(&json!({
            "reference": args.reference.display().to_string(),
            "model": args.model.display().to_string(),
            "output": (!args.dry_run).then(|| args.out_dir.display().to_string()),
            "sweeps": alignment.sweeps,
            "converged": alignment.converged,
            "cosine_before": alignment.cosine_before,
            "cosine_after": alignment.cosine_after,
            "moved": moved,
            "seconds": time.as_secs_f64(),
        }));
    }
    let mut table = Table::with_header(&[("UNITS", Align::Left), ("MOVED", Align::Right), ("OF", Align::Right)]);
    for (name, (moved, all)) in moved {
        table.row([name.to_owned(), units::count(moved as u64), units::count(all as u64)]);
    }
    let mut text = table.render(|line| shell.heading(line));
    text += &format!(
        "\ncosine of the weights: {:.4} before, {:.4} after, {} in {}\n",
        alignment.cosine_before,
        alignment.cosine_after,
        units::things(alignment.sweeps, "sweep", "sweeps"),
        units::duration(time)
    );
    if !args.dry_run {
        text += &format!("written to {}\n", args.out_dir.display());
    }
    shell.print(&text)
}
