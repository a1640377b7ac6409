//! All pairs of N models in one pass over their files.
//!
//! Models are first sorted into *groups* with the same selected tensors, by name and shape: across groups a pair has
//! no figure. Within a group, tensor after tensor is read side by side, in stretches that stay in a core's cache, and
//! every pair's sums grow by each stretch. So each file is read once, however many models there are, and memory
//! depends on the number of threads and of pairs only: up to 10 MiB per thread for 16 models, whatever their size.
//! (Linear CKA reads a tensor again for each tile of its Gram matrix, and says so.)
//!
//! Sums run in f32 over at most 64 terms and in f64 beyond. The units of work follow from shapes, the number of
//! models and [`SimilarityOptions::block`], and their sums are added in order: any number of threads gives the same
//! bits. Another block length gives the same figures to the rounding of those short sums (2e-7).

use crate::error::MetricsError;
use crate::matrix::{Matrix, check_names};
use crate::metric::{Aggregation, METRICS, Metric, Part};
use crate::panel::pair;
use crate::sample::{BATCHES, runs};
use crate::selection::{Class, Selected, Selection};
use crate::stack::{Operand, Scratch, Stack, default_block, geometry};
use glue_progress::{Progress, Unit};
use glue_tensor::checkpoint::CheckpointFile;
use glue_tensor::{Checkpoint, FileVersion, Names, TensorInfo};
use parking_lot::Mutex;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;

/// A checkpoint, and its name in the results.
#[derive(Debug, Clone)]
pub struct NamedCheckpoint<'a> {
    /// The name, unique among the models compared.
    pub name: String,
    /// The weights.
    pub checkpoint: &'a Checkpoint,
}

/// What to compare and how.
#[derive(Debug, Clone, Default)]
pub struct SimilarityOptions {
    /// The tensors to compare; default: the metric's own default.
    pub selection: Option<Selection>,
    /// Fraction of the rows of each matrix to read, above 0 and at most 1; default: all. At least 16 rows are read of
    /// each matrix, and vectors whole.
    pub sample: Option<f64>,
    /// Decides which rows are sampled. Default: 0.
    pub seed: u64,
    /// Elements of each model that are held at once, or an eighth of them where figures are of columns; default: as
    /// many as stay in a second-level cache. Figures do not depend on it beyond 2e-7.
    pub block: Option<usize>,
}

/// Figures of all pairs, kept by tensor.
#[derive(Debug, Clone)]
pub struct Similarity {
    models: Vec<String>,
    metric: &'static Metric,
    selection: Selection,
    groups: Vec<GroupParts>,
    /// Bytes of tensors that were read, of all models and the base.
    pub bytes_read: u64,
    /// Bytes of the selected tensors of all models and the base.
    pub bytes_selected: u64,
}

/// The figures of models with the same selected tensors.
#[derive(Debug, Clone)]
struct GroupParts {
    /// Indices into the list of all models.
    members: Vec<usize>,
    tensors: Vec<TensorParts>,
}

#[derive(Debug, Clone)]
struct TensorParts {
    name: String,
    class: Class,
    layer: Option<usize>,
    elements: f64,
    elements_read: f64,
    /// By variant, then by pair.
    parts: Vec<Vec<Part>>,
}

/// Figures of a part of the model, such as one class of tensors in one layer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Breakdown {
    /// The layer, counted from 0; `None` outside layers.
    pub layer: Option<usize>,
    /// The class; `None` for all classes of the layer together.
    pub class: Option<Class>,
    /// The tensor's name, where the part is one tensor.
    pub tensor: Option<String>,
    /// The figures.
    pub matrix: Matrix,
}

/// Compares all pairs of `models` by `metric`, on the threads of the current rayon pool.
///
/// A pair whose selected tensors differ in name or shape has no figure, and neither has a pair for which the metric is
/// undefined in every tensor. With a metric of deltas, neither has a model of another shape than `base`.
///
/// # Errors
/// [`MetricsError`]: no models or two of a name; a base that is missing, unused or of other shapes than all models;
/// nothing selected; integers, NaN or infinities in selected tensors; a fraction out of range; stopped by the caller.
pub fn similarity(
    models: &[NamedCheckpoint<'_>],
    base: Option<&NamedCheckpoint<'_>>,
    metric: &'static Metric,
    options: &SimilarityOptions,
    progress: &dyn Progress,
) -> Result<Similarity, MetricsError> {
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    check_names(&names)?;
    let fraction = options.sample.unwrap_or(1.0);
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(MetricsError::Sample { fraction });
    }
    match base {
        None if metric.needs_base => return Err(MetricsError::BaseMissing { metric: metric.name }),
        Some(base) if !metric.needs_base => {
            let with_base: Vec<&str> = METRICS.into_iter().filter(|m| m.needs_base).map(|m| m.name).collect();
            let (base, with_base) = (base.name.clone(), with_base.join(", "));
            return Err(MetricsError::BaseUnused { metric: metric.name, base, with_base });
        }
        _ => {}
    }
    let selection = options.selection.clone().unwrap_or_else(metric.default_selection);
    let selected = models.iter().map(|model| select(model, &selection)).collect::<Result<Vec<_>, _>>()?;
    if selected.iter().all(Vec::is_empty) {
        return Err(nothing_selected(&models[0], &selection));
    }
    let of_base = base.map(|base| select(base, &selection)).transpose()?;
    if let (Some(base), Some(of_base)) = (base, &of_base)
        && let Some(difference) = differs_from_all(of_base, &selected)
    {
        let (base, model) = (base.name.clone(), models[0].name.clone());
        return Err(MetricsError::BaseShape { base, model, difference });
    }

    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (i, tensors) in selected.iter().enumerate() {
        let compared = !tensors.is_empty() && of_base.as_ref().is_none_or(|base| same(tensors, base));
        match groups.iter_mut().find(|group| same(&selected[group[0]], tensors)) {
            _ if !compared => {}
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    let files = Files::open(models, base);
    let mut jobs = Vec::new();
    for (g, members) in groups.iter().enumerate() {
        for (t, tensor) in selected[members[0]].iter().enumerate() {
            let operand = |i: usize| -> Option<Operand<'_>> {
                let info = selected[i].get(t)?.info;
                operand_of(&models[i], info, files.of(i, info.file))
            };
            let base = base.and_then(|base| {
                let info = base.checkpoint.info(&tensor.info.name)?;
                operand_of(base, info, files.of(models.len(), info.file))
            });
            let operands: Vec<Operand<'_>> = members.iter().filter_map(|&i| operand(i)).collect();
            let (rows, columns) = geometry(&tensor.info.shape);
            let (runs, batches) = runs(fraction, options.seed, &tensor.info.name, rows, columns);
            let block = options.block.unwrap_or_else(|| default_block(members.len()));
            let stack = Stack { operands, base, rows, columns, runs, batches, block };
            jobs.push(Job { group: g, tensor: *tensor, stack });
        }
    }
    // Tensors without elements have no figure, and no rows to cut into units.
    jobs.retain(|job| job.stack.rows * job.stack.columns > 0);

    let bytes_read = jobs.iter().map(|job| job.stack.bytes_read()).sum();
    let bytes_selected = jobs
        .iter()
        .flat_map(|job| job.stack.operands.iter().chain(&job.stack.base))
        .map(|operand| operand.view.info().n_bytes() as u64)
        .sum();
    progress.begin("comparing weights", Unit::Bytes, Some(bytes_read));
    let parts = pass(&jobs, metric, progress)?;

    let mut groups: Vec<GroupParts> =
        groups.into_iter().map(|members| GroupParts { members, tensors: Vec::new() }).collect();
    for (job, parts) in jobs.iter().zip(parts) {
        let elements = |rows: usize| rows as f64 * job.stack.columns as f64;
        groups[job.group].tensors.push(TensorParts {
            name: job.tensor.info.name.clone(),
            class: job.tensor.class,
            layer: job.tensor.layer,
            elements: elements(job.stack.rows),
            elements_read: elements(job.stack.rows_read()),
            parts,
        });
    }
    Ok(Similarity { models: names, metric, selection, groups, bytes_read, bytes_selected })
}

fn operand_of<'a>(model: &'a NamedCheckpoint<'_>, info: &TensorInfo, file: Option<&'a File>) -> Option<Operand<'a>> {
    Some(Operand { model: &model.name, view: model.checkpoint.get(&info.name)?, file })
}

/// The files of the models and of the base after them, to read from. A file that cannot be opened again, or no longer
/// has its length, is read through its map instead.
struct Files(Vec<Vec<Option<File>>>);

/// Maximum number of open files: a process may usually have 1024.
const MAX_FILES: usize = 512;

impl Files {
    fn open(models: &[NamedCheckpoint<'_>], base: Option<&NamedCheckpoint<'_>>) -> Files {
        let all = || models.iter().chain(base).map(|model| model.checkpoint.files());
        if all().map(<[CheckpointFile]>::len).sum::<usize>() > MAX_FILES {
            return Files(Vec::new());
        }
        let open = |file: &CheckpointFile| {
            let open = glue_tensor::files::open(file.path()).ok()?;
            let version = FileVersion::of(file.path(), &open.metadata().ok()?);
            (version == *file.version()).then_some(open)
        };
        Files(all().map(|files| files.iter().map(open).collect()).collect())
    }

    fn of(&self, model: usize, file: usize) -> Option<&File> {
        self.0.get(model)?.get(file)?.as_ref()
    }
}

/// A selected tensor of one model.
#[derive(Debug, Clone, Copy)]
struct SelectedTensor<'a> {
    info: &'a TensorInfo,
    class: Class,
    layer: Option<usize>,
}

fn select<'a>(model: &NamedCheckpoint<'a>, selection: &Selection) -> Result<Vec<SelectedTensor<'a>>, MetricsError> {
    let tensors = model.checkpoint.tensors();
    let names = Names::infer(tensors.iter().map(|info| info.name.as_str()));
    let mut selected = Vec::new();
    for info in tensors {
        let parsed = names.parse(&info.name);
        match selection.select(&parsed, info) {
            Selected::No => {}
            Selected::Yes(class) => selected.push(SelectedTensor { info, class, layer: parsed.layer }),
            Selected::Integers => {
                return Err(MetricsError::NotFloat {
                    model: model.name.clone(),
                    tensor: info.name.clone(),
                    dtype: info.dtype.to_string(),
                });
            }
        }
    }
    Ok(selected)
}

fn nothing_selected(model: &NamedCheckpoint<'_>, selection: &Selection) -> MetricsError {
    let tensors = model.checkpoint.tensors();
    MetricsError::NothingSelected {
        selection: selection.to_string(),
        model: model.name.clone(),
        tensors: tensors.len(),
        example: tensors.first().map_or(String::new(), |info| info.name.clone()),
    }
}

/// Whether two models have the same tensors selected, by name and shape. Both are in the order of names.
fn same(a: &[SelectedTensor<'_>], b: &[SelectedTensor<'_>]) -> bool {
    a.iter().map(|t| (&t.info.name, &t.info.shape)).eq(b.iter().map(|t| (&t.info.name, &t.info.shape)))
}

/// A difference between the base and the first model, when the base has the tensors of none of them.
fn differs_from_all(base: &[SelectedTensor<'_>], models: &[Vec<SelectedTensor<'_>>]) -> Option<String> {
    if models.iter().any(|model| !model.is_empty() && same(base, model)) {
        return None;
    }
    let by_name = |tensors: &[SelectedTensor<'_>]| -> BTreeMap<String, Vec<usize>> {
        tensors.iter().map(|tensor| (tensor.info.name.clone(), tensor.info.shape.clone())).collect()
    };
    let (base, model) = (by_name(base), by_name(&models[0]));
    let missing = model.iter().find_map(|(name, shape)| match base.get(name) {
        Some(found) if found == shape => None,
        Some(found) => Some(format!("`{name}` has shape {found:?} instead of {shape:?}")),
        None => Some(format!("it has no `{name}`")),
    });
    let more = || base.keys().find(|name| !model.contains_key(*name)).map(|name| format!("it has `{name}` besides"));
    Some(missing.or_else(more).unwrap_or_else(|| "neither has a selected tensor".to_string()))
}

struct Job<'a> {
    group: usize,
    tensor: SelectedTensor<'a>,
    stack: Stack<'a>,
}

/// Units of work for each thread that are started together: enough that a thread seldom waits for the last, few
/// enough that files are still read from front to back.
const UNITS_AT_ONCE: usize = 32;

fn pass(jobs: &[Job<'_>], metric: &Metric, progress: &dyn Progress) -> Result<Vec<Vec<Vec<Part>>>, MetricsError> {
    let kernel = metric.kernel;
    let enough = UNITS_AT_ONCE * rayon::current_num_threads();
    // As many as threads have worked at once.
    let scratches: Mutex<Vec<Scratch>> = Mutex::default();
    let mut results = Vec::with_capacity(jobs.len());
    let mut start = 0;
    while start < jobs.len() {
        let mut units: Vec<(usize, usize, usize)> = Vec::new();
        let mut end = start;
        while end < jobs.len() && units.len() < enough {
            let n = kernel.units(&jobs[end].stack);
            units.extend((0..n).map(|unit| (end, unit, n)));
            end += 1;
        }
        let prepared = jobs[start..end]
            .par_iter()
            .map(|job| {
                if progress.is_cancelled() {
                    return Err(MetricsError::Stopped);
                }
                progress.item(&job.tensor.info.name);
                kernel.prepare(&job.stack)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let sums = units
            .par_iter()
            .with_max_len(1)
            .map(|&(job, unit, n)| {
                if progress.is_cancelled() {
                    return Err(MetricsError::Stopped);
                }
                let mut scratch = scratches.lock().pop().unwrap_or_default();
                let sums = kernel.sums(&jobs[job].stack, &prepared[job - start], unit, &mut scratch)?;
                scratches.lock().push(scratch);
                let bytes = |units: usize| (jobs[job].stack.bytes_read() as u128 * units as u128 / n as u128) as u64;
                progress.advance(bytes(unit + 1) - bytes(unit));
                Ok(sums)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut sums = units.iter().zip(sums).peekable();
        for (j, job) in jobs.iter().enumerate().take(end).skip(start) {
            let mut total: Vec<f64> = Vec::new();
            while let Some((_, more)) = sums.next_if(|((job, ..), _)| *job == j) {
                total.resize(more.len(), 0.0);
                for (total, more) in total.iter_mut().zip(&more) {
                    *total += more;
                }
            }
            if total.iter().any(|sum| !sum.is_finite()) {
                return Err(MetricsError::Overflow { tensor: job.tensor.info.name.clone() });
            }
            results.push(kernel.parts(&job.stack, &total));
        }
        start = end;
    }
    Ok(results)
}

impl Similarity {
    /// The metric.
    pub fn metric(&self) -> &'static Metric {
        self.metric
    }

    /// What was selected.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The figures over all selected tensors.
    pub fn matrix(&self) -> Matrix {
        self.restricted(|_, _, _| true)
    }

    /// The figures over those selected tensors whose class, layer and name `keep` accepts; nothing is read again.
    pub fn restricted(&self, keep: impl Fn(Class, Option<usize>, &str) -> bool) -> Matrix {
        let values = self.fill(|group, p| {
            let kept = group.tensors.iter().filter(|t| keep(t.class, t.layer, &t.name));
            over(self.metric.aggregation, kept, 0, p)
        });
        Matrix::trusted(self.models.clone(), self.metric.name, self.metric.scale, values)
    }

    /// The figures over those of the selected tensors that `selection` selects too.
    pub fn restricted_to(&self, selection: &Selection) -> Matrix {
        self.restricted(|class, layer, name| selection.selects(class, layer, name))
    }

    /// The standard error of each figure, in the figure's unit, estimated from how it varies between parts of the
    /// sample; 0 where everything was read. A figure is within two of its errors of the true one about 19 times in 20.
    pub fn standard_errors(&self) -> Vec<Vec<Option<f64>>> {
        self.fill(|group, p| {
            let all = || group.tensors.iter();
            over(self.metric.aggregation, all(), 0, p)?;
            if all().all(|tensor| tensor.parts.len() == 1) {
                return Some(0.0);
            }
            let without = |batch| over(self.metric.aggregation, all(), batch + 1, p);
            let figures = (0..BATCHES).map(without).collect::<Option<Vec<f64>>>()?;
            let k = BATCHES as f64;
            let mean = figures.iter().sum::<f64>() / k;
            let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
            let read = all().map(|tensor| tensor.elements_read).sum::<f64>();
            let unread = 1.0 - read / all().map(|tensor| tensor.elements).sum::<f64>();
            Some((unread * (k - 1.0) / k * squares).sqrt())
        })
    }

    /// The figures layer by layer, and in each layer class by class; tensors outside layers come last.
    pub fn per_layer(&self) -> Vec<Breakdown> {
        let mut parts: BTreeMap<(bool, Option<usize>, Option<Class>), ()> = BTreeMap::new();
        for tensor in self.groups.iter().flat_map(|group| &group.tensors) {
            parts.insert((tensor.layer.is_none(), tensor.layer, None), ());
            parts.insert((tensor.layer.is_none(), tensor.layer, Some(tensor.class)), ());
        }
        let part = |(_, layer, class): (bool, Option<usize>, Option<Class>)| {
            let matrix = self.restricted(|c, l, _| l == layer && class.is_none_or(|class| class == c));
            Breakdown { layer, class, tensor: None, matrix }
        };
        parts.into_keys().map(part).collect()
    }

    /// The figures tensor by tensor, in the order of names.
    pub fn per_tensor(&self) -> Vec<Breakdown> {
        let mut tensors: BTreeMap<&str, (Option<usize>, Class)> = BTreeMap::new();
        for tensor in self.groups.iter().flat_map(|group| &group.tensors) {
            tensors.entry(&tensor.name).or_insert((tensor.layer, tensor.class));
        }
        let part = |(name, (layer, class)): (&str, (Option<usize>, Class))| Breakdown {
            layer,
            class: Some(class),
            tensor: Some(name.to_string()),
            matrix: self.restricted(|_, _, other| other == name),
        };
        tensors.into_iter().map(part).collect()
    }

    /// The matrix with `figure` of each group and pair.
    fn fill(&self, figure: impl Fn(&GroupParts, usize) -> Option<f64>) -> Vec<Vec<Option<f64>>> {
        let mut values = vec![vec![None; self.models.len()]; self.models.len()];
        for group in &self.groups {
            for (i, &row) in group.members.iter().enumerate() {
                for (j, &column) in group.members[..=i].iter().enumerate() {
                    let value = figure(group, pair(i, j));
                    (values[row][column], values[column][row]) = (value, value);
                }
            }
        }
        values
    }
}

/// The figure of pair `p` over `tensors` in a variant; tensors that were read whole have one variant for all.
fn over<'a>(how: Aggregation, tensors: impl Iterator<Item = &'a TensorParts>, variant: usize, p: usize) -> Option<f64> {
    let part = |tensor: &TensorParts| tensor.parts[if tensor.parts.len() == 1 { 0 } else { variant }][p];
    let parts = tensors.map(part).filter(|part| part.weight > 0.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    for part in parts {
        match how {
            Aggregation::Mean => (sum, weight) = (sum + part.sum / part.weight, weight + 1.0),
            Aggregation::Fraction | Aggregation::RootSumSquares => {
                (sum, weight) = (sum + part.sum, weight + part.weight)
            }
        }
    }
    if weight == 0.0 {
        return None;
    }
    Some(match how {
        Aggregation::Mean | Aggregation::Fraction => sum / weight,
        Aggregation::RootSumSquares => sum.sqrt(),
    })
}
