//! The cores merged, and the adapter written.

use super::report::{LoraMerge, MergedModule};
use super::{MergePlan, PlannedModule, has_base};
use crate::core_space::{CoreSpace, Factor, squares};
use crate::error::LoraError;
use crate::extract::{Factored, MANIFEST, input_files, most_common, write_factors};
use crate::factors::stored;
use crate::spool::Spool;
use glue_merge::{Merge, MergeError};
use glue_progress::{Progress, Unit};
use glue_tensor::adapter::{
    Adapter, AdapterConfig, AdapterWriter, CONFIG_FILE, ModuleKind, NewAdapter, NewModule, TargetModules,
};
use glue_tensor::{Staging, TensorView, widen};
use ndarray::{Array2, ArrayView2, s};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// A module whose factors are on the disk.
struct Merged {
    report: MergedModule,
    /// Of each matrix that is changed, by its number.
    parts: Vec<(usize, Factored)>,
    /// Sums of squares of the merged change, and of it minus the product of the factors.
    squares: (f64, f64),
}

/// Merges as `plan` says and writes the adapter to the directory `out_dir`, which appears complete or not at all, on
/// the threads of the current rayon pool. `glue.json` beside the adapter records the adapters, what was asked for, and
/// the report.
///
/// # Errors
/// [`LoraError`]; nothing is written then.
pub fn run(plan: &MergePlan<'_>, out_dir: impl AsRef<Path>, progress: &dyn Progress) -> Result<LoraMerge, LoraError> {
    let staging = Staging::create(out_dir)?;
    let report = write(plan, &staging, progress);
    if !matches!(report, Err(LoraError::Stopped)) {
        // A failure may be due to an adapter that changed; without one, what was merged is what was hashed only if none
        // has.
        plan.adapters.iter().try_for_each(Adapter::check_unchanged)?;
    }
    let report = report?;
    staging.commit()?;
    Ok(report)
}

fn write(plan: &MergePlan<'_>, staging: &Staging, progress: &dyn Progress) -> Result<LoraMerge, LoraError> {
    progress.begin("merging adapters", Unit::Weights, Some(plan.modules.iter().map(weights).sum()));
    let spool = Spool::create(staging.path())?;
    let merged: Result<Vec<Option<Merged>>, LoraError> =
        plan.modules.par_iter().map(|planned| module(plan, planned, &spool, progress)).collect();
    let merged = merged?;
    let zero = plan.modules.iter().zip(&merged).filter(|(_, merged)| merged.is_none());
    let zero: Vec<String> = zero.map(|(planned, _)| planned.tensor.clone()).collect();
    let modules: Vec<(&PlannedModule, Merged)> =
        plan.modules.iter().zip(merged).filter_map(|(planned, merged)| Some((planned, merged?))).collect();
    if modules.is_empty() {
        return Err(LoraError::NoChange { operator: plan.operator.def().name });
    }

    let adapter = new_adapter(plan, &modules);
    let config = adapter.config()?;
    let writer = AdapterWriter::create(staging, &adapter, &config)?;
    for (i, (new, (_, merged))) in adapter.modules.iter().zip(&modules).enumerate() {
        write_factors(&writer, i, new, &merged.parts, &spool, plan.dtype.size())?;
    }
    spool.remove()?;

    let sum = |of: fn(&(f64, f64)) -> f64| -> f64 { modules.iter().map(|(_, merged)| of(&merged.squares)).sum() };
    let relative_error = (sum(|squares| squares.1) / sum(|squares| squares.0)).sqrt();
    let elements = |new: &NewModule| (new.kind.matrices() * new.rank * (new.inputs + new.outputs)) as u64;
    let parameters: u64 = adapter.modules.iter().map(elements).sum();
    let report = LoraMerge {
        adapters: plan.adapters.iter().map(|adapter| adapter.path().display().to_string()).collect(),
        operator: plan.operator.def().name,
        wraps: plan.operator.inner().map(|inner| inner.name),
        seed: plan.options.seed,
        dtype: plan.dtype.torch_name(),
        zero,
        parameters,
        bytes: parameters * plan.dtype.size() as u64,
        relative_error,
        modules: modules.into_iter().map(|(_, merged)| merged.report).collect(),
    };
    staging.write_file(MANIFEST, manifest(plan, &report).as_bytes())?;
    if progress.is_cancelled() {
        return Err(LoraError::Stopped);
    }
    writer.finish()?;
    Ok(report)
}

/// Elements of the factors that a module is merged from, which is what progress counts.
fn weights(module: &PlannedModule) -> u64 {
    let rank: usize = module.ranks.iter().sum();
    (module.kind.matrices() * rank * (module.rows + module.columns)) as u64
}

/// Merges the matrices of a module, one after the other; `None` where the merged change is zero.
fn module(
    plan: &MergePlan<'_>,
    planned: &PlannedModule,
    spool: &Spool,
    progress: &dyn Progress,
) -> Result<Option<Merged>, LoraError> {
    progress.item(&planned.tensor);
    let factors = read(plan, planned)?;
    let (mut parts, mut all, mut core) = (Vec::new(), (0.0, 0.0), [0, 0]);
    for matrix in 0..planned.kind.matrices() {
        if progress.is_cancelled() {
            return Err(LoraError::Stopped);
        }
        let changes: Vec<Option<Factor>> =
            factors.iter().map(|factors| factors.as_ref().map(|factors| factors.of(matrix))).collect();
        if let Some(found) = merge(plan, planned, matrix, &changes, spool)? {
            core = [core[0].max(found.dim.0), core[1].max(found.dim.1)];
            all = (all.0 + found.squares, all.1 + found.factored.residual);
            parts.push((matrix, found.factored));
        }
        progress.advance(weights(planned) / planned.kind.matrices() as u64);
    }
    let Some(rank) = parts.iter().map(|(_, part)| part.rank).max() else { return Ok(None) };
    let report = MergedModule {
        module: planned.module().to_string(),
        experts: planned.kind.matrices(),
        rows: planned.rows,
        columns: planned.columns,
        ranks: planned.ranks.clone(),
        core,
        rank,
        relative_error: (all.1 / all.0).sqrt(),
    };
    Ok(Some(Merged { report, parts, squares: all }))
}

/// A merged matrix.
struct Found {
    dim: (usize, usize),
    /// Sum of squares of the merged change.
    squares: f64,
    factored: Factored,
}

/// Merges one matrix; `None` where the merged change is zero.
fn merge(
    plan: &MergePlan<'_>,
    planned: &PlannedModule,
    matrix: usize,
    changes: &[Option<Factor>],
    spool: &Spool,
) -> Result<Option<Found>, LoraError> {
    // As operators on matrices call those of a stack.
    let name = match planned.kind {
        ModuleKind::Experts(_) => format!("{}[{matrix}]", planned.tensor),
        ModuleKind::Linear | ModuleKind::Embedding => planned.tensor.clone(),
    };
    let failed = |error| LoraError::Linalg { tensor: name.clone(), error };
    let there: Vec<&Factor> = changes.iter().flatten().collect();
    let space = CoreSpace::of(&there).map_err(failed)?;
    let dim = space.dim();
    if dim.0 == 0 || dim.1 == 0 {
        return Ok(None);
    }
    let zeros = vec![0.0; dim.0 * dim.1];
    let core = |change: &Option<Factor>| change.as_ref().map_or_else(|| Ok(zeros.clone()), |change| space.core(change));
    let cores = changes.iter().map(core).collect::<Result<Vec<Vec<f32>>, _>>().map_err(failed)?;
    let shape = [dim.0, dim.1];
    let spec = plan.spec(&name, &shape, planned);
    let mut merging = Merge::new(&plan.operator, &planned.params).tensor(spec.name).shape(spec.shape).seed(spec.seed);
    if let Some((layer, layers)) = spec.layer {
        merging = merging.layer(layer, layers);
    }
    if has_base(&plan.operator) {
        merging = merging.base(&zeros);
    }
    let merged = merging.inputs(&cores).run().map_err(|error| match error {
        MergeError::Stopped => LoraError::Stopped,
        error => LoraError::Merge { tensor: name.clone(), error: Box::new(error) },
    })?;
    let merged: Vec<f64> = merged.into_iter().map(f64::from).collect();
    let merged = ArrayView2::from_shape(dim, &merged).expect("a merge has the shape of its inputs");
    let max_rank = plan.options.rank.unwrap_or(usize::MAX);
    let Some(mut found) = space.factors(merged, max_rank).map_err(failed)? else { return Ok(None) };

    let narrowed = |error| LoraError::of_factors(&name, error);
    let (a, b) = if planned.transposed {
        let (mut a, mut b) = (owned_transpose(&found.left), owned_transpose(&found.right));
        let bytes = (stored(&mut a, plan.dtype).map_err(narrowed)?, stored(&mut b, plan.dtype).map_err(narrowed)?);
        (found.left, found.right) = (owned_transpose(&a), owned_transpose(&b));
        bytes
    } else {
        let a = stored(&mut found.right, plan.dtype).map_err(narrowed)?;
        (a, stored(&mut found.left, plan.dtype).map_err(narrowed)?)
    };
    let residual = space.residual(merged, &found).map_err(failed)?;
    let (rank, a, b) = (found.left.ncols(), spool.append(&a)?, spool.append(&b)?);
    Ok(Some(Found { dim, squares: squares(merged), factored: Factored { rank, a, b, kept: 0.0, residual } }))
}

fn owned_transpose(matrix: &Array2<f32>) -> Array2<f32> {
    matrix.t().as_standard_layout().into_owned()
}

/// The factors of one adapter for all matrices of a tensor.
struct Factors {
    /// \[E·r, in\].
    a: Array2<f32>,
    /// \[out, r·E\].
    b: Array2<f32>,
    experts: usize,
    scale: f64,
    transposed: bool,
}

impl Factors {
    /// Those of one matrix, with the scale.
    fn of(&self, matrix: usize) -> Factor {
        let rank = self.a.nrows() / self.experts;
        let a = self.a.slice(s![matrix * rank..(matrix + 1) * rank, ..]).mapv(f64::from);
        let step = self.experts as isize;
        let b = self.b.slice(s![.., matrix..;step]).mapv(|x| self.scale * f64::from(x));
        if self.transposed {
            Factor { left: a.reversed_axes(), right: b.reversed_axes() }
        } else {
            Factor { left: b, right: a }
        }
    }
}

/// The factors of every adapter; `None` for one that does not change the tensor.
fn read(plan: &MergePlan<'_>, planned: &PlannedModule) -> Result<Vec<Option<Factors>>, LoraError> {
    let of = |adapter: &Adapter| {
        let Some(low_rank) = adapter.change(&planned.tensor).and_then(|change| change.low_rank.as_ref()) else {
            return Ok(None);
        };
        Ok(Some(Factors {
            a: widened(adapter, adapter.tensor(&low_rank.a))?,
            b: widened(adapter, adapter.tensor(&low_rank.b))?,
            experts: planned.kind.matrices(),
            scale: low_rank.scale,
            transposed: planned.transposed,
        }))
    };
    plan.adapters.iter().map(of).collect()
}

fn widened(adapter: &Adapter, view: TensorView<'_>) -> Result<Array2<f32>, LoraError> {
    let tensor = || view.name().to_string();
    let mut values = vec![0.0; view.info().n_elements()];
    match widen(view.dtype(), view.data(), &mut values) {
        Ok(true) => {}
        Ok(false) => return Err(LoraError::NotFinite { tensor: tensor(), model: adapter.path().to_path_buf() }),
        Err(error) => return Err(LoraError::Convert { tensor: tensor(), error }),
    }
    let shape = (view.shape()[0], view.shape()[1]);
    Ok(Array2::from_shape_vec(shape, values).expect("a factor is a matrix, as an adapter is opened"))
}

fn new_adapter(plan: &MergePlan<'_>, modules: &[(&PlannedModule, Merged)]) -> NewAdapter {
    let rank = most_common(modules.iter().map(|(_, merged)| merged.report.rank));
    let first = plan.adapters.first().map(Adapter::config);
    let task_type = first.and_then(task_type);
    let names = |experts: bool| {
        let of_kind =
            modules.iter().filter(move |(planned, _)| matches!(planned.kind, ModuleKind::Experts(_)) == experts);
        of_kind.map(|(planned, _)| planned.module()).collect::<BTreeSet<&str>>()
    };
    NewAdapter {
        base_model: first.and_then(|config| config.base_model.clone()).unwrap_or_default(),
        task_type: task_type
            .filter(|of| plan.adapters.iter().all(|other| self::task_type(other.config()).as_ref() == Some(of))),
        fan_in_fan_out: plan.fan_in_fan_out,
        dtype: plan.dtype,
        rank,
        alpha: rank as f64,
        target_modules: target_modules(plan.adapters, &names(false)),
        target_parameters: names(true).into_iter().map(String::from).collect(),
        modules: modules
            .iter()
            .map(|(planned, merged)| {
                let (rows, columns, rank) = (planned.rows, planned.columns, merged.report.rank);
                let (inputs, outputs) = if planned.transposed { (rows, columns) } else { (columns, rows) };
                let module = merged.report.module.clone();
                NewModule { module, kind: planned.kind, inputs, outputs, rank, alpha: rank as f64 }
            })
            .collect(),
        full: Vec::new(),
    }
}

fn task_type(config: &AdapterConfig) -> Option<String> {
    config.to_value()["task_type"].as_str().map(String::from)
}

/// The names of `modules`, shortened to an ending where that of an adapter stands for modules that are all among them:
/// PEFT gives factors to every module that a name matches.
fn target_modules(adapters: &[Adapter], modules: &BTreeSet<&str>) -> Vec<String> {
    let last = |module: &str| module.rsplit('.').next().unwrap_or(module).to_string();
    let mut ends: BTreeSet<String> = BTreeSet::new();
    for adapter in adapters {
        let config = adapter.config();
        let value = config.to_value();
        let is_restricted = ["layers_to_transform", "exclude_modules"].iter().any(|key| match &value[*key] {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        });
        let Some(TargetModules::Names(names)) = &config.target_modules else { continue };
        let is_whole = |end: &&String| {
            let changed = adapter.changes().keys().filter_map(|tensor| tensor.strip_suffix(".weight"));
            let mut of_end = changed.filter(|module| last(module) == **end).peekable();
            of_end.peek().is_some() && of_end.all(|module| modules.contains(module))
        };
        if !is_restricted {
            ends.extend(names.iter().filter(is_whole).cloned());
        }
    }
    let name =
        |module: &&str| Some(last(module)).filter(|end| ends.contains(end)).unwrap_or_else(|| module.to_string());
    modules.iter().map(name).collect::<BTreeSet<String>>().into_iter().collect()
}

fn manifest(plan: &MergePlan<'_>, report: &LoraMerge) -> String {
    let input = |adapter: &Adapter| {
        let (bytes, hash) = adapter.config_file();
        let config = json!({ "name": CONFIG_FILE, "bytes": bytes, "xxh3_128": hash.to_string() });
        let files: Vec<Value> = input_files(adapter.checkpoint()).into_iter().chain([config]).collect();
        json!({ "path": adapter.path().display().to_string(), "files": files })
    };
    let value = json!({
        "format": 1,
        "tool": "model-glue",
        "version": env!("CARGO_PKG_VERSION"),
        "recipe": plan.options.recipe,
        "inputs": plan.adapters.iter().map(input).collect::<Vec<_>>(),
        "merge": report,
        "notes": plan.notes,
    });
    format!("{value:#}\n")
}
