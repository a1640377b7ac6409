//! From a model and sequences to a directory with statistics.

use crate::error::CalibrateError;
use crate::manifest;
use crate::plan::CalibratePlan;
use crate::sequence::{Sequence, batches};
use crate::statistic::Statistic;
use crate::sums::{Accumulator, Batch, Recorder};
use glue_lm::{Model, ScoredTokens, Tree};
use glue_progress::{Progress, Unit};
use glue_tensor::{CheckpointWriter, Layout, ModelDir, Staging};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// What the statistics were gathered from.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CalibrationSummary {
    /// Number of sequences.
    pub sequences: usize,
    /// Tokens that the model read, over which activations and Gram matrices are averaged.
    pub tokens: u64,
    /// Tokens that were scored.
    pub scored_tokens: u64,
    /// Mean over sequences of the log-likelihood, in natural logarithms; `None` without gradients.
    pub log_likelihood: Option<f64>,
}

/// Elements that are narrowed and written together.
const WRITTEN: usize = 1 << 20;

/// Runs `model` over `sequences` and writes the statistics of `plan` to the directory `out_dir`, which appears
/// complete or not at all.
///
/// `dir` is the directory of `model`, opened before it. `source` says in the manifest where the sequences are from.
/// Uses the current rayon pool.
///
/// # Errors
/// Before anything is computed: [`CalibrateError::NoSequences`], [`CalibrateError::Sequence`], and
/// [`CalibrateError::Write`] when `out_dir` exists or the disk is too full. Later: [`CalibrateError::NotFinite`],
/// [`CalibrateError::Model`], [`CalibrateError::Read`], [`CalibrateError::Stopped`]. Nothing is written then.
pub fn calibrate(
    model: &Model,
    dir: &ModelDir,
    plan: &CalibratePlan,
    sequences: &[Sequence],
    source: &Value,
    out_dir: impl AsRef<Path>,
    progress: &dyn Progress,
) -> Result<CalibrationSummary, CalibrateError> {
    if sequences.is_empty() {
        return Err(CalibrateError::NoSequences);
    }
    for (index, sequence) in sequences.iter().enumerate() {
        if let Some(reason) = sequence.fault(model.vocab_size(), model.max_positions()) {
            return Err(CalibrateError::Sequence { index, reason });
        }
    }
    let layout = plan.layout()?;
    let staging = Staging::create(out_dir)?;
    let done = write_all(model, dir, plan, sequences, source, &layout, &staging, progress);
    if !matches!(done, Err(CalibrateError::Stopped)) {
        // A failure may be due to an input that changed. Without a failure, the files that were hashed are those of
        // the model that ran only if none has changed.
        dir.check_unchanged()?;
    }
    let done = done?;
    staging.commit()?;
    Ok(done)
}

/// Gathers and writes everything to `staging`.
#[allow(clippy::too_many_arguments)]
fn write_all(
    model: &Model,
    dir: &ModelDir,
    plan: &CalibratePlan,
    sequences: &[Sequence],
    source: &Value,
    layout: &Layout,
    staging: &Staging,
    progress: &dyn Progress,
) -> Result<CalibrationSummary, CalibrateError> {
    let writer = CheckpointWriter::create(staging, layout.clone(), &BTreeMap::new())?;
    let mut done = CalibrationSummary {
        sequences: sequences.len(),
        tokens: sequences.iter().map(|sequence| sequence.read() as u64).sum(),
        scored_tokens: sequences.iter().map(|sequence| sequence.scored.len() as u64).sum(),
        log_likelihood: None,
    };
    let mut next = 0;
    for (number, pass) in plan.passes.iter().enumerate() {
        let phase = match plan.passes.len() {
            1 => "reading text".into(),
            passes => format!("pass {} of {passes}", number + 1),
        };
        progress.begin(&phase, Unit::Sequences, Some(sequences.len() as u64));
        let (sums, log_likelihood) = gather(model, plan, pass, sequences, progress)?;
        done.log_likelihood = done.log_likelihood.or(log_likelihood);
        for sum in sums {
            let count = if sum.spec.statistic == Statistic::Fisher { done.sequences as u64 } else { done.tokens };
            write(&writer, next, &sum, count)?;
            next += sum.spec.tensors.len();
        }
    }
    let files = manifest::hash_files(dir)?;
    let manifest = manifest::manifest(dir, &files, plan, layout, &done, source);
    staging.write_file(manifest::FILE, format!("{manifest:#}\n").as_bytes())?;
    writer.finish()?;
    if progress.is_cancelled() {
        return Err(CalibrateError::Stopped);
    }
    Ok(done)
}

/// The sums of one pass, and the mean log-likelihood if there were gradients.
fn gather<'a>(
    model: &Model,
    plan: &'a CalibratePlan,
    pass: &Range<usize>,
    sequences: &[Sequence],
    progress: &dyn Progress,
) -> Result<(Vec<Accumulator<'a>>, Option<f64>), CalibrateError> {
    let specs = &plan.sums[pass.clone()];
    let mut sums: Vec<Accumulator<'_>> = specs.iter().map(Accumulator::new).collect();
    let recorded: HashSet<&str> = specs.iter().filter_map(Accumulator::input).collect();
    let needs_gradients = plan.needs_gradients(pass);
    let batches = batches(sequences, plan.rows(pass));
    let rows = |batch: &Range<usize>| sequences[batch.clone()].iter().map(Sequence::read).sum::<usize>();
    let longest = batches.iter().map(rows).max().unwrap_or(0);
    let concurrent = plan.concurrent_batches(pass, longest, rayon::current_num_threads());
    let mut log_likelihood = 0.0;
    for group in batches.chunks(concurrent) {
        let run = |batch: &Range<usize>| {
            if progress.is_cancelled() {
                return Err(CalibrateError::Stopped);
            }
            let found = one(model, &sequences[batch.clone()], &recorded, needs_gradients)?;
            progress.advance(batch.len() as u64);
            Ok(found)
        };
        let found: Vec<Batch> = group.par_iter().map(run).collect::<Result<_, _>>()?;
        for batch in &found {
            // In order: the sum does not depend on how many batches run concurrently.
            let gradients = batch.gradients.iter().flat_map(|gradients| &gradients.log_likelihoods);
            gradients.for_each(|of_sequence| log_likelihood += of_sequence);
        }
        sums.par_iter_mut().for_each(|sum| found.iter().for_each(|batch| sum.add(batch)));
    }
    Ok((sums, needs_gradients.then(|| log_likelihood / sequences.len() as f64)))
}

/// Runs one batch.
fn one(
    model: &Model,
    sequences: &[Sequence],
    recorded: &HashSet<&str>,
    needs_gradients: bool,
) -> Result<Batch, CalibrateError> {
    let mut recorder = Recorder::new(recorded);
    let gradients = if needs_gradients {
        let scored =
            sequences.iter().map(|Sequence { tokens, scored }| ScoredTokens { tokens, scored: scored.clone() });
        let scored: Vec<ScoredTokens<'_>> = scored.collect();
        Some(model.gradients(&scored, &mut recorder)?)
    } else {
        let mut tree = Tree::new();
        for sequence in sequences {
            tree.push(None, &sequence.tokens[..sequence.read()]);
        }
        model.observe(&mut tree, &mut recorder)?;
        None
    };
    Ok(Batch { inputs: recorder.inputs, gradients, sequences: sequences.len() })
}

/// Writes the means to the tensors from `first` on of the layout, one for each tensor that the sum is of.
fn write(writer: &CheckpointWriter, first: usize, sum: &Accumulator<'_>, count: u64) -> Result<(), CalibrateError> {
    let elements = sum.spec.elements();
    for start in (0..elements).step_by(WRITTEN) {
        let mut bytes = Vec::with_capacity(size_of::<f32>() * WRITTEN.min(elements));
        for value in sum.means(start..(start + WRITTEN).min(elements), count) {
            if !value.is_finite() {
                let tensor = sum.spec.tensors.first().cloned().unwrap_or_default();
                return Err(CalibrateError::NotFinite { tensor, statistic: sum.spec.statistic });
            }
            bytes.extend(value.to_le_bytes());
        }
        for tensor in 0..sum.spec.tensors.len() {
            writer.write_at(first + tensor, (size_of::<f32>() * start) as u64, &bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
