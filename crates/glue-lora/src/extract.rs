//! The differences decomposed, and the adapter written.

use crate::difference::{Both, Squares};
use crate::error::LoraError;
use crate::factors::{factors, residual_squares, stored};
use crate::options::RankRule;
use crate::plan::{ExtractPlan, ModuleCandidate};
use crate::report::{Extraction, ModuleReport, OtherReport};
use crate::spool::Spool;
use glue_progress::{Progress, Unit};
use glue_tensor::adapter::{AdapterWriter, ModuleKind, NewAdapter, NewModule};
use glue_tensor::{Checkpoint, ModelDir, Staging, TensorSpec};
use ndarray::Array2;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// File name of the record of how an adapter was made.
pub(crate) const MANIFEST: &str = "glue.json";

/// Tensors that are named where there may be many.
const NAMED: usize = 5;

/// A module whose factors are on the disk.
struct Extracted {
    report: ModuleReport,
    kind: ModuleKind,
    inputs: usize,
    outputs: usize,
    /// Of each matrix with a difference, by its number.
    parts: Vec<(usize, Factored)>,
    /// Sums of squares of the difference, and of the difference minus the product of the factors.
    squares: (f64, f64),
}

/// A matrix whose factors are on the disk.
pub(crate) struct Factored {
    pub(crate) rank: usize,
    pub(crate) a: Range<u64>,
    pub(crate) b: Range<u64>,
    /// Squares of the singular values that are kept, added up.
    pub(crate) kept: f64,
    /// Sum of squares of the difference minus the product of the factors.
    pub(crate) residual: f64,
}

/// A tensor that is not a candidate.
enum Other {
    Same,
    Differs { report: OtherReport, squares: f64 },
}

/// Extracts what `plan` says to the directory `out_dir`, which appears complete or not at all, on the threads of the
/// current rayon pool. `glue.json` beside the adapter records the models, the options and the report.
///
/// # Errors
/// [`LoraError`]; nothing is written then.
pub fn extract(
    plan: &ExtractPlan<'_>,
    out_dir: impl AsRef<Path>,
    progress: &dyn Progress,
) -> Result<Extraction, LoraError> {
    let staging = Staging::create(out_dir)?;
    let report = write(plan, &staging, progress);
    if !matches!(report, Err(LoraError::Stopped)) {
        // A failure may be due to an input that changed. Without a failure, the files that were hashed are those that
        // were compared only if none has changed.
        plan.base.check_unchanged()?;
        plan.fine.check_unchanged()?;
    }
    let report = report?;
    staging.commit()?;
    Ok(report)
}

/// Writes everything to `staging`.
fn write(plan: &ExtractPlan<'_>, staging: &Staging, progress: &dyn Progress) -> Result<Extraction, LoraError> {
    progress.begin("comparing weights", Unit::Weights, Some(plan.elements()));
    let spool = Spool::create(staging.path())?;
    let (modules, others) = rayon::join(
        || plan.candidates.par_iter().map(|candidate| module(plan, candidate, &spool, progress)).collect(),
        || plan.others.par_iter().map(|name| other(plan, name, progress)).collect(),
    );
    let modules: Result<Vec<Option<Extracted>>, LoraError> = modules;
    let others: Result<Vec<Other>, LoraError> = others;
    let (modules, others) = (modules?, others?);
    let differ = others.iter().filter_map(|other| match other {
        Other::Differs { report, squares } => Some((report.clone(), *squares)),
        Other::Same => None,
    });
    // PEFT stores no tensors of integers.
    let is_saved = |report: &OtherReport| plan.options.save_full && report.relative_change.is_some();
    let (saved, remaining): (Vec<_>, Vec<_>) = differ.partition(|(report, _)| is_saved(report));
    let modules: Vec<Extracted> = modules.into_iter().flatten().collect();
    let unchanged = plan.candidates.len() + plan.others.len() - modules.len() - saved.len() - remaining.len();
    if modules.is_empty() && saved.is_empty() {
        let others = remaining.iter().take(NAMED).map(|(report, _)| report.tensor.clone()).collect();
        return Err(LoraError::NoDifference { others });
    }

    let adapter = new_adapter(plan, &modules, &saved);
    let config = adapter.config()?;
    let writer = AdapterWriter::create(staging, &adapter, &config)?;
    for (i, (new, module)) in adapter.modules.iter().zip(&modules).enumerate() {
        write_factors(&writer, i, new, &module.parts, &spool, plan.options.dtype.size())?;
    }
    for (i, (report, _)) in saved.iter().enumerate() {
        if let Some(view) = plan.fine.checkpoint().get(&report.tensor) {
            writer.write_full(i, 0, view.data())?;
        }
    }
    spool.remove()?;

    let sum = |of: fn(&(f64, f64)) -> f64| -> f64 { modules.iter().map(|module| of(&module.squares)).sum() };
    let missing: f64 = remaining.iter().map(|(_, squares)| squares).sum();
    let whole: f64 = saved.iter().map(|(_, squares)| squares).sum::<f64>() + missing + sum(|squares| squares.0);
    let factors = |module: &Extracted| {
        let report = &module.report;
        (report.experts * report.rank * (report.rows + report.columns)) as u64
    };
    let whole_tensors = || saved.iter().filter_map(|(report, _)| plan.fine.checkpoint().info(&report.tensor));
    let in_factors: u64 = modules.iter().map(factors).sum();
    let report = Extraction {
        base: plan.base.path().display().to_string(),
        fine: plan.fine.path().display().to_string(),
        rank: plan.options.rank,
        svd: plan.options.svd,
        dtype: plan.options.dtype.torch_name(),
        unchanged,
        parameters: in_factors + whole_tensors().map(|info| info.n_elements() as u64).sum::<u64>(),
        bytes: in_factors * plan.options.dtype.size() as u64
            + whole_tensors().map(|info| info.n_bytes() as u64).sum::<u64>(),
        relative_error: ((missing + sum(|squares| squares.1)) / whole).sqrt(),
        saved: saved.iter().map(|(report, _)| report.clone()).collect(),
        remaining: remaining.into_iter().map(|(report, _)| report).collect(),
        modules: modules.into_iter().map(|module| module.report).collect(),
    };
    staging.write_file(MANIFEST, manifest(plan, &report).as_bytes())?;
    if progress.is_cancelled() {
        return Err(LoraError::Stopped);
    }
    writer.finish()?;
    Ok(report)
}

/// Writes the factors of module `i`. Those of experts stand beside each other, with zeros up to the rank of the module.
pub(crate) fn write_factors(
    writer: &AdapterWriter,
    i: usize,
    module: &NewModule,
    parts: &[(usize, Factored)],
    spool: &Spool,
    size: usize,
) -> Result<(), LoraError> {
    let ModuleKind::Experts(experts) = module.kind else {
        for (_, part) in parts {
            spool.copy(&part.a, |offset, bytes| Ok(writer.write_a(i, offset, bytes)?))?;
            spool.copy(&part.b, |offset, bytes| Ok(writer.write_b(i, offset, bytes)?))?;
        }
        return Ok(());
    };
    let rank = module.rank;
    let mut a = vec![0; experts * rank * module.inputs * size];
    let mut b = vec![0; experts * rank * module.outputs * size];
    for (expert, part) in parts {
        let start = expert * rank * module.inputs * size;
        spool.copy(&part.a, |offset, bytes| {
            a[start + offset as usize..][..bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
        let mut columns = Vec::with_capacity(part.rank * module.outputs * size);
        spool.copy(&part.b, |_, bytes| {
            columns.extend_from_slice(bytes);
            Ok(())
        })?;
        for (at, element) in columns.chunks_exact(size).enumerate() {
            let (row, k) = (at / part.rank, at % part.rank);
            b[((row * rank + k) * experts + expert) * size..][..size].copy_from_slice(element);
        }
    }
    writer.write_a(i, 0, &a)?;
    Ok(writer.write_b(i, 0, &b)?)
}

/// Decomposes the differences of the matrices of a module, one after the other; `None` where there is none.
fn module(
    plan: &ExtractPlan<'_>,
    candidate: &ModuleCandidate,
    spool: &Spool,
    progress: &dyn Progress,
) -> Result<Option<Extracted>, LoraError> {
    let name = candidate.tensor();
    let Some(both) = Both::new(plan.base, plan.fine, &name) else { return Ok(None) };
    progress.item(&name);
    let elements = candidate.rows * candidate.columns;
    let (mut parts, mut squares) = (Vec::new(), Squares::default());
    for matrix in 0..candidate.kind.matrices() {
        if progress.is_cancelled() {
            return Err(LoraError::Stopped);
        }
        let both = both.part(matrix * elements..(matrix + 1) * elements);
        let (own, factored) = decompose(plan, candidate, &both, spool)?;
        squares.base += own.base;
        squares.difference += own.difference;
        parts.extend(factored.map(|factored| (matrix, factored)));
        progress.advance(elements as u64);
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let sum = |of: fn(&Factored) -> f64| -> f64 { parts.iter().map(|(_, part)| of(part)).sum() };
    let (kept, residual) = (sum(|part| part.kept), sum(|part| part.residual));
    let report = ModuleReport {
        module: candidate.module.clone(),
        experts: candidate.kind.matrices(),
        rows: candidate.rows,
        columns: candidate.columns,
        rank: parts.iter().map(|(_, part)| part.rank).max().unwrap_or(0),
        energy: (kept / squares.difference).min(1.0),
        relative_error: (residual / squares.difference).sqrt(),
        relative_change: squares.relative(),
    };
    let (rows, columns) = (candidate.rows, candidate.columns);
    let (inputs, outputs) = if candidate.transposed { (rows, columns) } else { (columns, rows) };
    let squares = (squares.difference, residual);
    Ok(Some(Extracted { report, kind: candidate.kind, inputs, outputs, parts, squares }))
}

/// The difference of one matrix: its squares, and its factors unless it is zero. Squares of the base are not counted
/// for one matrix whose bytes are the same.
fn decompose(
    plan: &ExtractPlan<'_>,
    candidate: &ModuleCandidate,
    both: &Both<'_>,
    spool: &Spool,
) -> Result<(Squares, Option<Factored>), LoraError> {
    let shape = (candidate.rows, candidate.columns);
    if candidate.kind.matrices() == 1 && both.are_same_bytes() {
        return Ok((Squares::default(), None));
    }
    let mut values = Vec::with_capacity(shape.0 * shape.1);
    let squares = both.difference(|part| values.extend_from_slice(part))?;
    if squares.difference == 0.0 {
        return Ok((squares, None));
    }
    let name = candidate.tensor();
    let failed = |error| LoraError::Linalg { tensor: name.clone(), error };
    let narrowed = |error| LoraError::of_factors(&name, error);
    let delta = Array2::from_shape_vec(shape, values).expect("the parts of a difference are all of it");
    let mut found = factors(delta.view(), plan.options.rank, plan.options.svd).map_err(failed)?;
    let dtype = plan.options.dtype;
    let (a, b) = if candidate.transposed {
        let (mut a, mut b) = (owned_transpose(&found.left), owned_transpose(&found.right));
        let bytes = (stored(&mut a, dtype).map_err(narrowed)?, stored(&mut b, dtype).map_err(narrowed)?);
        (found.left, found.right) = (owned_transpose(&a), owned_transpose(&b));
        bytes
    } else {
        let a = stored(&mut found.right, dtype).map_err(narrowed)?;
        (a, stored(&mut found.left, dtype).map_err(narrowed)?)
    };
    let (a, b) = (spool.append(&a)?, spool.append(&b)?);
    let (rank, kept) = (found.rank(), found.kept);
    Ok((squares, Some(Factored { rank, a, b, kept, residual: residual_squares(delta, &found) })))
}

fn owned_transpose(matrix: &Array2<f32>) -> Array2<f32> {
    matrix.t().as_standard_layout().into_owned()
}

/// Compares a tensor that is not a candidate.
fn other(plan: &ExtractPlan<'_>, name: &str, progress: &dyn Progress) -> Result<Other, LoraError> {
    if progress.is_cancelled() {
        return Err(LoraError::Stopped);
    }
    let Some(both) = Both::new(plan.base, plan.fine, name) else { return Ok(Other::Same) };
    progress.item(name);
    let view = both.fine();
    let report =
        |relative_change| OtherReport { tensor: name.to_string(), shape: view.shape().to_vec(), relative_change };
    let found = if both.are_same_bytes() {
        Other::Same
    } else if !view.dtype().is_float() {
        Other::Differs { report: report(None), squares: 0.0 }
    } else {
        match both.difference(|_| {})? {
            Squares { difference: 0.0, .. } => Other::Same,
            squares => Other::Differs { report: report(Some(squares.relative())), squares: squares.difference },
        }
    };
    progress.advance(view.info().n_elements() as u64);
    Ok(found)
}

fn new_adapter(plan: &ExtractPlan<'_>, modules: &[Extracted], saved: &[(OtherReport, f64)]) -> NewAdapter {
    let rank = match plan.options.rank {
        RankRule::Fixed(rank) => rank,
        RankRule::Energy { .. } => most_common(modules.iter().map(|module| module.report.rank)),
    };
    let for_causal_lm = plan.base.config().architectures().iter().any(|name| name.ends_with("ForCausalLM"));
    let full = saved.iter().filter_map(|(report, _)| plan.fine.checkpoint().info(&report.tensor));
    NewAdapter {
        base_model: plan.base.path().display().to_string(),
        task_type: for_causal_lm.then(|| "CAUSAL_LM".into()),
        fan_in_fan_out: plan.fan_in_fan_out,
        dtype: plan.options.dtype,
        rank,
        alpha: rank as f64,
        target_modules: target_modules(plan.base, modules),
        target_parameters: target_parameters(plan.base, modules),
        modules: modules
            .iter()
            .map(|module| NewModule {
                module: module.report.module.clone(),
                kind: module.kind,
                inputs: module.inputs,
                outputs: module.outputs,
                rank: module.report.rank,
                alpha: module.report.rank as f64,
            })
            .collect(),
        full: full
            .map(|info| TensorSpec { name: info.name.clone(), dtype: info.dtype, shape: info.shape.clone() })
            .collect(),
    }
}

/// The most frequent number; of several, the smallest. 1 for an empty list.
pub(crate) fn most_common(numbers: impl Iterator<Item = usize>) -> usize {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    numbers.for_each(|number| *counts.entry(number).or_default() += 1);
    let max = counts.values().max().copied();
    counts.into_iter().find(|(_, count)| Some(*count) == max).map_or(1, |(number, _)| number)
}

/// Endings of names where every matrix with that ending is a module, whole names elsewhere: PEFT gives factors to every
/// module that a name matches.
fn target_modules(base: &ModelDir, modules: &[Extracted]) -> Vec<String> {
    let last = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
    let is_module = |module: &&Extracted| !matches!(module.kind, ModuleKind::Experts(_));
    let taken: BTreeSet<&str> = modules.iter().filter(is_module).map(|module| module.report.module.as_str()).collect();
    let infos = base.checkpoint().tensors().iter();
    let partly: BTreeSet<String> = infos
        .filter_map(|info| info.name.strip_suffix(".weight"))
        .filter(|module| !taken.contains(module))
        .map(last)
        .collect();
    let name = |module: &&str| match last(module) {
        end if partly.contains(&end) => module.to_string(),
        end => end,
    };
    let names: BTreeSet<String> = taken.iter().map(name).collect();
    names.into_iter().collect()
}

/// Endings of names, of two parts, where every tensor with that ending has factors, whole names elsewhere.
fn target_parameters(base: &ModelDir, modules: &[Extracted]) -> Vec<String> {
    let is_parameter = |module: &&Extracted| matches!(module.kind, ModuleKind::Experts(_));
    let taken: BTreeSet<&str> =
        modules.iter().filter(is_parameter).map(|module| module.report.module.as_str()).collect();
    let end = |name: &str| name.rmatch_indices('.').nth(1).map_or(name, |(dot, _)| &name[dot + 1..]).to_string();
    let infos = base.checkpoint().tensors().iter();
    let partly: BTreeSet<String> =
        infos.filter(|info| !taken.contains(info.name.as_str())).map(|info| end(&info.name)).collect();
    let name = |name: &&str| match end(name) {
        end if partly.contains(&end) => name.to_string(),
        end => end,
    };
    taken.iter().map(name).collect::<BTreeSet<String>>().into_iter().collect()
}

fn manifest(plan: &ExtractPlan<'_>, report: &Extraction) -> String {
    let input = |model: &ModelDir| json!({ "path": model.path().display().to_string(), "files": input_files(model.checkpoint()) });
    let value = json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "inputs": [input(plan.base), input(plan.fine)],
        "extraction": report,
    });
    format!("{value:#}\n")
}

/// The files of `checkpoint` by name, size and content.
pub(crate) fn input_files(checkpoint: &Checkpoint) -> Vec<Value> {
    let files = checkpoint.files().par_iter().map(|file| {
        let name = file.path().file_name().unwrap_or_default().to_string_lossy();
        json!({ "name": name, "bytes": file.n_bytes(), "xxh3_128": file.content_hash().to_string() })
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    //! Names and ranks of the configuration.
    use super::*;

    #[test]
    fn the_most_common_rank_needs_no_pattern() {
        assert_eq!(most_common([3, 5, 3, 1, 5].into_iter()), 3);
        assert_eq!(most_common([7].into_iter()), 7);
        assert_eq!(most_common(std::iter::empty()), 1);
    }
}
