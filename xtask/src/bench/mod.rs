//! `cargo xtask bench`: measurements, one subcommand each.
//!
//! A figure means little by itself. Each is compared with another one from the same run, taken in interleaved rounds:
//! the rate of a plain copy, or the time of another tool.

use anyhow::Result;
use clap::Subcommand;

mod cases;
mod checkpoint;
mod decode;
mod eval;
mod gaussian;
mod language_model;
mod measure;
mod merge;
mod report;
mod score;
mod similarity;
mod svd;

pub(crate) use report::machine;

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Benchmark merges of whole checkpoints, against `cp` and optionally mergekit.
    Merge(merge::Args),
    /// Benchmark the comparison of all pairs of checkpoints, against reading them once.
    Similarity(similarity::Args),
    /// Benchmark the scoring of a model, optionally against transformers and lm_eval.
    Eval(eval::Args),
    /// Benchmark prompts and decoding, against a plain memory read and optionally transformers and llama.cpp.
    Decode(decode::Args),
    /// Benchmark the scoring of multiple-choice questions on large models, optionally against transformers.
    Score(score::Args),
    /// Benchmark the merge of one matrix by singular values: faer, LAPACK and optionally NumPy and torch.
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
        Bench::Decode(args) => decode::run(args),
        Bench::Score(args) => score::run(args),
        Bench::Svd(args) => svd::run(args),
    }
}
