//! `glue align`: one model permuted to match another (Git Re-Basin).

mod activations;

use super::recipes::{self, FollowLinks};
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use activations::Activations;
use clap::ValueEnum;
use glue_align::{
    AlignError, AlignOptions, Alignment, GroupKind, GroupKinds, Measure, Method, Symmetry, WriteOptions,
    activation_sites, align, write_aligned,
};
use glue_tensor::{ModelDir, ModelDirError};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Permute the units of a model to match another model (Git Re-Basin)
///
/// Neurons, heads and dimensions of the residual stream can be permuted without changing what a model computes. Models
/// trained from different starts have their units in different orders, which is one reason why averaging them fails.
/// This command finds the permutation of MODEL that brings it closest to REFERENCE, by weights or by activations on a
/// text, and writes the permuted model to OUT_DIR.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue align models/a models/b aligned-b
  glue align models/a models/b aligned-b --kinds neurons,heads
  glue align models/a models/b aligned-b --method activations --text calibration.txt
  glue align models/a models/b aligned-b --dry-run --json")]
pub(crate) struct Args {
    /// Model directory with the target order of units
    reference: PathBuf,

    /// Model directory to permute
    model: PathBuf,

    /// Output directory
    out_dir: PathBuf,

    /// What to match units by
    #[arg(long, value_enum, default_value_t = By::Weights)]
    method: By,

    /// Text file, one text per line, that both models run over; can be repeated. About ten thousand tokens of typical
    /// text are enough
    #[arg(long, value_name = "FILE", required_if_eq("method", "activations"))]
    text: Vec<PathBuf>,

    /// Kinds of units to permute (default: all)
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,

    /// Maximum size of an output shard, such as 5GB, 500MB or 2GiB (default: 5GB)
    #[arg(long, value_name = "SIZE", default_value = "5GB", hide_default_value = true)]
    #[arg(value_parser = units::parse_size)]
    max_shard_size: u64,

    /// Show what alignment gains, without writing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    links: FollowLinks,
}

/// What units are matched by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The weights
    Weights,
    /// Activations on a text
    Activations,
}

/// Kinds of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Neurons of each MLP
    Neurons,
    /// Attention heads: query heads with their key and value heads
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
    model.check_links(args.links.get()).map_err(|error| failure(error.into()))?;
    if args.method == By::Weights && !args.text.is_empty() {
        return Err(wrong("--text is only used with --method activations".to_owned())
            .hint(Some("add --method activations, or leave out --text")));
    }
    let options = AlignOptions { kinds: kinds(&args.kinds), ..AlignOptions::default() };
    let pool = recipes::pool(global)?;
    let progress = CommandProgress::new(shell);
    let start = Instant::now();
    let activations = match args.method {
        By::Weights => None,
        By::Activations => {
            let sites = Symmetry::derive(model.config(), model.checkpoint(), options.kinds)
                .and_then(|symmetry| activation_sites(&symmetry));
            let sites = sites.map_err(failure)?;
            Some(Activations::open(&args.reference, &args.model, &args.text, sites, options.max_bytes, &progress)?)
        }
    };
    let tokens = activations.as_ref().map(Activations::tokens);
    let method = activations.as_ref().map_or(Method::Weights, |source| Method::Activations(source));
    let alignment = pool.install(|| {
        let alignment = align(&reference, &model, method, &options, &progress)?;
        reference.check_unchanged()?;
        if !args.dry_run {
            let options = WriteOptions { max_shard_bytes: args.max_shard_size, links: args.links.get() };
            write_aligned(&model, &alignment, &args.out_dir, &options, &progress)?;
        }
        Ok(alignment)
    });
    drop(activations);
    drop(progress);
    print(args, &alignment.map_err(failure)?, tokens, start.elapsed(), shell)
}

/// A refusal with this message.
fn wrong(message: String) -> Failure {
    Failure::refused(std::io::Error::new(std::io::ErrorKind::InvalidInput, message))
}

/// Mean correlation of matched units, before and after.
fn correlations(alignment: &Alignment) -> Option<(f64, f64)> {
    if alignment.measure != Measure::ActivationCorrelation {
        return None;
    }
    let units = |group: &glue_align::AlignedGroup| group.permutation.len() as f64;
    let mean = |of: fn(&glue_align::AlignedGroup) -> f64| {
        let sum: f64 = alignment.groups.iter().map(|group| units(group) * of(group)).sum();
        sum / alignment.groups.iter().map(units).sum::<f64>().max(1.0)
    };
    Some((mean(|group| group.before), mean(|group| group.after)))
}

fn open(path: &Path) -> Result<ModelDir, Failure> {
    ModelDir::open(path).map_err(|error| match error {
        ModelDirError::NotFound { .. } | ModelDirError::WithAdapter { .. } => Failure::refused(error),
        error => Failure::failed(error),
    })
}

fn kinds(asked: &[Kind]) -> GroupKinds {
    if asked.is_empty() {
        return GroupKinds::ALL;
    }
    let has = |kind| asked.contains(&kind);
    GroupKinds {
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
        error @ (AlignError::NotFinite { .. }
        | AlignError::Write(_)
        | AlignError::Read { .. }
        | AlignError::Changed(_)
        | AlignError::Source { .. }) => Failure::failed(error),
        error @ AlignError::TooManyUnits { .. } => Failure::refused(error).hint(Some("leave that kind out of --kinds")),
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

fn print(
    args: &Args,
    alignment: &Alignment,
    tokens: Option<usize>,
    time: std::time::Duration,
    shell: &mut Shell<'_>,
) -> Result<(), Failure> {
    let correlations = correlations(alignment);
    let moved = KINDS.map(|(kind, name)| (name, alignment.moved(kind))).into_iter().filter(|(_, (_, all))| *all > 0);
    if shell.json() {
        let moved: serde_json::Map<String, serde_json::Value> =
            moved.map(|(name, (moved, all))| (name.to_owned(), json!({ "moved": moved, "of": all }))).collect();
        return shell.print_json(&json!({
            "reference": args.reference.display().to_string(),
            "model": args.model.display().to_string(),
            "output": (!args.dry_run).then(|| args.out_dir.display().to_string()),
            "method": match args.method { By::Weights => "weights", By::Activations => "activations" },
            "tokens": tokens,
            "correlation_before": correlations.map(|(before, _)| before),
            "correlation_after": correlations.map(|(_, after)| after),
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
        units::duration(time.as_secs_f64())
    );
    if let (Some((before, after)), Some(tokens)) = (correlations, tokens) {
        text += &format!(
            "mean correlation of matched units: {before:.4} before, {after:.4} after, on {} tokens\n",
            units::count(tokens as u64)
        );
    }
    if !args.dry_run {
        text += &format!("written to {}\n", args.out_dir.display());
    }
    shell.print(&text)
}
