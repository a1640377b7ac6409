//! `cargo xtask bench`: measurements, one subcommand each.
//!
//! A figure means little by itself, so each one is set against another that was taken in the same run, interleaved:
//! the rate of a plain copy, the time of another tool.

use anyhow::Result;
use clap::Subcommand;

mod cases;
mod checkpoint;
mod eval;
mod gaussian;
mod measure;
mod merge;
mod report;
mod similarity;
mod svd;

pub(crate) use report::machine;

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Merges of whole checkpoints, against the copy of one and, if given, against mergekit.
    Merge(merge::Args),
    /// All pairs of many checkpoints compared, against reading them once.
    Similarity(similarity::Args),
    /// The scoring of a model, and if given a Python environment, by transformers and lm_eval as well.
    Eval(eval::Args),
    /// The merge of one matrix by singular values, by faer, by LAPACK and, if given a Python, by NumPy and torch.
    Svd(svd::Args),
}

/// Runs one measurement.
///
/// # Errors
/// Something that is measured does not build or does not run.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Merge(args) => merge::run(args),
        Bench::Similarity(args) => similarity::run(args),
        Bench::Eval(args) => eval::run(args),
        Bench::Svd(args) => svd::run(args),
    }
}
