//! From a model and sequences to a directory with statistics.

use crate::error::CalibrateError;
use crate::manifest::{self, MeasuredOn, ModelFiles};
use crate::plan::{CalibratePlan, SumSpec};
use crate::sequence::{Sequence, batches};
use crate::statistic::Statistic;
use crate::sums::{Accumulator, Batch, IdleExpert, Recorder};
use glue_lm::{Model, ScoredTokens, Tree};
use glue_progress::{Progress, Unit};
use glue_tensor::{CheckpointWriter, Layout, Staging};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;

/// What the statistics were gathered from.
#[derive(Debug, Clone, PartialEq)]
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
    /// Experts that no token came to, whose activations and Gram matrices are zeros.
    pub idle_experts: BTreeSet<IdleExpert>,
}

impl CalibrationSummary {
    /// Of sequences that nothing has been gathered from yet.
    pub(crate) fn of(sequences: &[Sequence]) -> CalibrationSummary {
        CalibrationSummary {
            sequences: sequences.len(),
            tokens: sequences.iter().map(|sequence| sequence.read() as u64).sum(),
            scored_tokens: sequences.iter().map(|sequence| sequence.scored.len() as u64).sum(),
            log_likelihood: None,
            idle_experts: BTreeSet::new(),
        }
    }
}

/// Refuses sequences that `model` cannot read.
pub(crate) fn check_sequences(model: &Model, sequences: &[Sequence]) -> Result<(), CalibrateError> {
    if sequences.is_empty() {
        return Err(CalibrateError::NoSequences);
    }
    let fault = |(index, sequence): (usize, &Sequence)| {
        let reason = sequence.fault(model.vocab_size(), model.max_positions())?;
        Some(CalibrateError::Sequence { index, reason })
    };
    sequences.iter().enumerate().find_map(fault).map_or(Ok(()), Err)
}

/// Elements that are narrowed and written together.
const WRITTEN: usize = 1 << 20;

/// Runs `model` over `sequences` and writes the statistics of `plan` to the directory `out_dir`, which appears
/// complete or not at all.
///
/// `files` are those of `model`, such as its directory, opened before it. `source` says in the manifest where the
/// sequences are from. Uses the current rayon pool.
///
/// # Errors
/// Before anything is computed: [`CalibrateError::NoSequences`], [`CalibrateError::Sequence`], and
/// [`CalibrateError::Write`] when `out_dir` exists or the disk is too full. Later: [`CalibrateError::NotFinite`],
/// [`CalibrateError::Model`], [`CalibrateError::Read`], [`CalibrateError::Stopped`]. Nothing is written then.
pub fn calibrate<'a>(
    model: &Model,
    files: impl Into<ModelFiles<'a>>,
    plan: &CalibratePlan,
    sequences: &[Sequence],
    source: &Value,
    out_dir: impl AsRef<Path>,
    progress: &dyn Progress,
) -> Result<CalibrationSummary, CalibrateError> {
    let files = files.into();
    check_sequences(model, sequences)?;
    let layout = plan.layout()?;
    let staging = Staging::create(out_dir)?;
    let done = write_all(model, files, plan, sequences, source, &layout, &staging, progress);
    if !matches!(done, Err(CalibrateError::Stopped)) {
        // A failure may be due to an input that changed. Without a failure, the files that were hashed are those of
        // the model that ran only if none has changed.
        files.check_unchanged()?;
    }
    let done = done?;
    staging.commit()?;
    Ok(done)
}

/// Gathers and writes everything to `staging`.
#[allow(clippy::too_many_arguments)]
fn write_all(
    model: &Model,
    files: ModelFiles<'_>,
    plan: &CalibratePlan,
    sequences: &[Sequence],
    source: &Value,
    layout: &Layout,
    staging: &Staging,
    progress: &dyn Progress,
) -> Result<CalibrationSummary, CalibrateError> {
    let writer = CheckpointWriter::create(staging, layout.clone(), &BTreeMap::new())?;
    let mut done = CalibrationSummary::of(sequences);
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
            done.idle_experts.extend(sum.idle_experts());
            write(&writer, next, &sum, count)?;
            next += sum.spec.tensors.len();
        }
    }
    let hashes = manifest::hash_files(files)?;
    let statistics: Vec<Statistic> = plan.statistics().collect();
    let manifest = manifest::manifest(files, &hashes, &statistics, MeasuredOn::Model, layout.shards(), &done, source);
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
    let recorded: HashSet<&str> = specs.iter().filter_map(Accumulator::input).collect();
    let needs_gradients = plan.needs_gradients(pass);
    let batches = batches(sequences, plan.rows(pass));
    let concurrent = plan.concurrent_batches(pass, largest(sequences, &batches), rayon::current_num_threads());
    let mut log_likelihood = 0.0;
    let run = |_: usize, batch: &Range<usize>| one(model, &sequences[batch.clone()], &recorded, needs_gradients);
    let sums = add_up(specs, &batches, concurrent, progress, &run, |batch| {
        let gradients = batch.gradients.iter().flat_map(|gradients| &gradients.log_likelihoods);
        gradients.for_each(|of_sequence| log_likelihood += of_sequence);
    })?;
    Ok((sums, needs_gradients.then(|| log_likelihood / sequences.len() as f64)))
}

/// Tokens that the largest of some batches reads.
pub(crate) fn largest(sequences: &[Sequence], batches: &[Range<usize>]) -> usize {
    let rows = |batch: &Range<usize>| sequences[batch.clone()].iter().map(Sequence::read).sum::<usize>();
    batches.iter().map(rows).max().unwrap_or(0)
}

/// What `run` makes of batches, which it is given with their numbers.
pub(crate) type RunBatch<'a, T> = dyn Fn(usize, &Range<usize>) -> Result<T, CalibrateError> + Sync + 'a;

/// Runs batches, several of them concurrently, and hands what they give to `take`, in order.
pub(crate) fn run_batches<T: Send>(
    batches: &[Range<usize>],
    concurrent: usize,
    progress: &dyn Progress,
    run: &RunBatch<'_, T>,
    mut take: impl FnMut(Vec<T>) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    for (group, batches) in batches.chunks(concurrent).enumerate() {
        let run = |(index, batch): (usize, &Range<usize>)| {
            if progress.is_cancelled() {
                return Err(CalibrateError::Stopped);
            }
            let found = run(group * concurrent + index, batch)?;
            progress.advance(batch.len() as u64);
            Ok(found)
        };
        take(batches.par_iter().enumerate().map(run).collect::<Result<_, _>>()?)?;
    }
    Ok(())
}

/// The sums over all batches, each of which is shown to `see` too. Batches are added in order: the sums do not depend
/// on how many of them run concurrently.
pub(crate) fn add_up<'a>(
    specs: &'a [SumSpec],
    batches: &[Range<usize>],
    concurrent: usize,
    progress: &dyn Progress,
    run: &RunBatch<'_, Batch>,
    mut see: impl FnMut(&Batch),
) -> Result<Vec<Accumulator<'a>>, CalibrateError> {
    let mut sums: Vec<Accumulator<'_>> = specs.iter().map(Accumulator::new).collect();
    run_batches(batches, concurrent, progress, run, |found| {
        found.iter().for_each(&mut see);
        sums.par_iter_mut().for_each(|sum| found.iter().for_each(|batch| sum.add(batch)));
        Ok(())
    })?;
    Ok(sums)
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
        model.observe(&mut tree_of(sequences), &mut recorder)?;
        None
    };
    Ok(Batch { inputs: recorder.inputs, gradients, sequences: sequences.len() })
}

/// What the model reads of some sequences.
pub(crate) fn tree_of(sequences: &[Sequence]) -> Tree {
    let mut tree = Tree::new();
    for sequence in sequences {
        tree.push(None, &sequence.tokens[..sequence.read()]);
    }
    tree
}

/// Writes the means to the tensors from `first` on of the layout, one for each tensor that the sum is of.
pub(crate) fn write(
    writer: &CheckpointWriter,
    first: usize,
    sum: &Accumulator<'_>,
    count: u64,
) -> Result<(), CalibrateError> {
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
