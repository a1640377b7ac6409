//! Experts matched across models before they are merged: `align_experts`.
//!
//! Two models that became mixtures apart may hold similar experts under different numbers. Averaging expert 3 of one
//! with expert 3 of the other then averages what has nothing to do with each other. In each layer, the experts of every
//! model are brought into the order of the base, or of the first model without one, by the assignment of
//! `glue_align::ExpertProducts`. The rows of the router and everything else that counts experts move along. That does
//! not change the function of a model.
//!
//! A checkpoint has one tensor for each expert and matrix, or one for all experts. In the first case another tensor is
//! read, in the second its first axis in another order.
//!
//! What is found depends on the weights alone, not on coefficients: the plans of models that stay open
//! ([`OpenModels`](crate::OpenModels)), such as those of a search, match each layer of each model once.
//!
//! Memory: two blocks of [`BLOCK`] elements of every expert, for each layer under way.

use crate::engine::{EngineOptions, OperandView, Operands, TensorError, TensorJob};
use crate::plan::{Action, TensorPlan};
use crate::recipe::OnNonfinite;
use glue_align::{ExpertProducts, Permutation};
use glue_merge::{BoxError, MergeError, Operand, Source, StatisticOf};
use glue_progress::Progress;
use glue_tensor::names::is_fused_experts;
use glue_tensor::{Role, TensorName, TensorView};
use ndarray::{Array2, ArrayView1};
use parking_lot::Mutex;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements of each expert that are compared at once.
const BLOCK: usize = 4096;

/// The tensors of a plan that belong to the experts of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertLayer {
    /// Number of experts.
    pub experts: usize,
    /// Tensors of one expert: for each kind, the index of that of each expert.
    pub each: Vec<Vec<usize>>,
    /// Indices of tensors whose first axis counts the experts, the router's among them.
    pub stacked: Vec<usize>,
}

impl ExpertLayer {
    /// Indices of all its tensors.
    pub fn tensors(&self) -> impl Iterator<Item = usize> {
        self.each.iter().flatten().chain(&self.stacked).copied()
    }

    /// The same layer where tensors have other numbers; `None` where one of them has none.
    pub(crate) fn renumbered(&self, numbers: &[Option<usize>]) -> Option<ExpertLayer> {
        let all = |indices: &[usize]| indices.iter().map(|&index| numbers[index]).collect::<Option<Vec<_>>>();
        let each = self.each.iter().map(|indices| all(indices)).collect::<Option<_>>()?;
        Some(ExpertLayer { experts: self.experts, each, stacked: all(&self.stacked)? })
    }

    /// Bytes that matching it takes on one thread.
    pub(crate) fn matching_bytes(&self) -> u64 {
        let n = self.experts as u64;
        n * (2 * BLOCK as u64 * 4 + n * 12)
    }
}

/// What is found of a layer.
#[derive(Default)]
struct Found {
    /// By the name without the number of the expert.
    each: BTreeMap<String, BTreeMap<usize, usize>>,
    fused: Vec<usize>,
    /// Tensors of routers, and others that may count experts.
    routers: Vec<usize>,
    others: Vec<usize>,
}

/// The layers with experts among `tensors`, whose names are those of the output.
///
/// # Errors
/// The reason why the experts of a layer cannot be permuted: no router is known by its name, or experts differ in their
/// tensors.
pub(crate) fn layers(tensors: &[TensorPlan]) -> Result<Vec<ExpertLayer>, String> {
    let mut found: BTreeMap<(&str, usize), Found> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate() {
        let name = TensorName::parse(&tensor.name);
        let (Some(layer), Action::Merge { .. }) = (name.layer, &tensor.action) else { continue };
        let layer = found.entry((name.prefix, layer)).or_default();
        let among_experts = name.suffix.split('.').any(|part| part == "experts");
        match name.expert {
            Some(expert) => {
                let kind = name.suffix.replacen(&format!(".{expert}."), ".", 1);
                layer.each.entry(kind).or_default().insert(expert, index);
            }
            None if is_fused_experts(&tensor.name, &tensor.shape) => layer.fused.push(index),
            None if name.role == Role::Router => layer.routers.push(index),
            None if among_experts => layer.others.push(index),
            None => {}
        }
    }
    let mut layers = Vec::new();
    for ((prefix, number), found) in found {
        let counts = found.each.values().map(BTreeMap::len);
        let fused = found.fused.iter().map(|index| tensors[*index].shape[0]);
        let Some(experts) = counts.chain(fused).max().filter(|n| *n > 1) else { continue };
        let place = format!("{prefix}{number}");
        let mut stacked = Vec::new();
        for index in &found.fused {
            if tensors[*index].shape[0] != experts {
                return Err(format!("`{place}` has {experts} experts, but `{}` has fewer", tensors[*index].name));
            }
            stacked.push(*index);
        }
        let counts_experts = |index: &&usize| tensors[**index].shape.first() == Some(&experts);
        let routers: Vec<usize> = found.routers.iter().filter(counts_experts).copied().collect();
        if routers.is_empty() {
            return Err(format!("`{place}` has {experts} experts and no router with a row for each"));
        }
        stacked.extend(routers);
        stacked.extend(found.others.iter().filter(counts_experts));
        let mut each = Vec::new();
        for (kind, by_expert) in found.each {
            if !by_expert.keys().copied().eq(0..experts) {
                return Err(format!("not every expert of `{place}` has a tensor `{kind}`"));
            }
            each.push(by_expert.into_values().collect());
        }
        layers.push(ExpertLayer { experts, each, stacked });
    }
    Ok(layers)
}

/// Orders of experts that were found. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExpertMatches(Arc<Matches>);

#[derive(Debug, Default)]
struct Matches {
    known: Mutex<HashMap<MatchKey, Arc<Mutex<Option<Order>>>>>,
    computed: AtomicUsize,
}

/// Where each expert of a layer comes from; `None` where all stay where they are.
type Order = Option<Vec<usize>>;

/// What an order depends on: the tensors of a layer in the reference and in a model, and how they are read.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MatchKey {
    operands: Vec<OperandKey>,
    zero_nonfinite: bool,
}

/// A tensor in a file that stays open, with the factors of what an adapter adds to it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OperandKey {
    tensors: Vec<(u64, usize)>,
    scale: u32,
    transposed: bool,
}

impl OperandKey {
    fn of(operand: &OperandView<'_>) -> OperandKey {
        let low_rank = operand.low_rank;
        let factors = low_rank.iter().flat_map(|low_rank| [Some(low_rank.a), Some(low_rank.b), low_rank.magnitude]);
        let views = std::iter::once(operand.view).chain(factors.flatten());
        let place = |view: TensorView<'_>| {
            (view.file().expect("the tensors of a plan are in files").serial(), view.info().range.start)
        };
        OperandKey {
            tensors: views.map(place).collect(),
            scale: low_rank.map_or(0, |low_rank| low_rank.scale.to_bits()),
            transposed: low_rank.is_some_and(|low_rank| low_rank.transposed),
        }
    }
}

impl ExpertMatches {
    /// How many orders were computed.
    pub(crate) fn computed(&self) -> usize {
        self.0.computed.load(Ordering::Relaxed)
    }

    /// The order of this layer and input, found now if it is not known. Whoever asks for one that is being found waits.
    fn order(
        &self,
        layer: &ExpertLayer,
        jobs: &[TensorJob<'_>],
        input: usize,
        options: &EngineOptions<'_>,
    ) -> Result<Order, TensorError> {
        let of_job = |index: usize| {
            let job = &jobs[index];
            let reference = job.base.as_ref().unwrap_or(&job.inputs[0]);
            [OperandKey::of(reference), OperandKey::of(&job.inputs[input])]
        };
        let operands = layer.tensors().flat_map(of_job).collect();
        let key = MatchKey { operands, zero_nonfinite: options.on_nonfinite == OnNonfinite::Zero };
        let known = Arc::clone(self.0.known.lock().entry(key).or_default());
        let find = || {
            self.0.computed.fetch_add(1, Ordering::Relaxed);
            order(layer, jobs, input, options)
        };
        // Reading norms of rows uses other threads, which may come here for another layer: nobody may wait for that.
        let has_norms = |operand: &OperandView<'_>| operand.low_rank.is_some_and(|change| change.magnitude.is_some());
        let uses_threads = layer.tensors().any(|index| {
            let job = &jobs[index];
            job.base.iter().chain(&job.inputs).any(has_norms)
        });
        let mut locked = known.lock();
        if let Some(order) = &*locked {
            return Ok(order.clone());
        }
        if uses_threads {
            drop(locked);
            let found = find()?;
            return Ok(known.lock().get_or_insert(found).clone());
        }
        Ok(locked.insert(find()?).clone())
    }
}

/// The order of the experts of each input of each layer; `None` where they stay as they are.
#[derive(Debug, Default)]
pub(crate) struct ExpertOrders {
    /// By layer and input.
    orders: Vec<Vec<Order>>,
    /// Where a tensor of the plan stands in its layer.
    places: HashMap<usize, Place>,
}

/// Where a tensor stands among those of the experts of a layer.
#[derive(Debug, Clone)]
struct Place {
    layer: usize,
    experts: usize,
    /// The tensors of its kind by expert, and which of them it is; `None` if it holds all experts.
    one_of: Option<(Arc<[usize]>, usize)>,
}

impl ExpertOrders {
    /// Matches the experts of all inputs of `jobs`, which are all those of the plan.
    pub(crate) fn find(
        layers: &[ExpertLayer],
        matches: &ExpertMatches,
        jobs: &[TensorJob<'_>],
        options: &EngineOptions<'_>,
        progress: &dyn Progress,
    ) -> Result<ExpertOrders, TensorError> {
        let of_layer = |layer: &ExpertLayer| {
            let job = layer.tensors().next().map(|index| &jobs[index]);
            let inputs = 0..job.map_or(0, |job| job.inputs.len());
            let orders = inputs.map(|input| match progress.is_cancelled() {
                true => Ok(None),
                false => matches.order(layer, jobs, input, options),
            });
            orders.collect::<Result<Vec<_>, _>>()
        };
        let orders: Vec<Vec<Order>> = layers.par_iter().map(of_layer).collect::<Result<_, _>>()?;
        let moved = |order: &Order| order.iter().flatten().enumerate().filter(|(e, from)| e != *from).count();
        let moved: usize = orders.iter().flatten().map(moved).sum();
        progress.message(&format!("{moved} experts in {} layers take another place", layers.len()));
        let mut places = HashMap::new();
        for (number, layer) in layers.iter().enumerate() {
            let place = |one_of| Place { layer: number, experts: layer.experts, one_of };
            for by_expert in &layer.each {
                let kind: Arc<[usize]> = by_expert.as_slice().into();
                places.extend(by_expert.iter().enumerate().map(|(e, &i)| (i, place(Some((Arc::clone(&kind), e))))));
            }
            places.extend(layer.stacked.iter().map(|&i| (i, place(None))));
        }
        Ok(ExpertOrders { orders, places })
    }

    /// Puts the experts of every input of `job`, tensor `index` of the plan, into their order. `own` makes the job of a
    /// tensor as it is without any order.
    pub(crate) fn apply<'a>(&'a self, index: usize, job: &mut TensorJob<'a>, own: impl Fn(usize) -> TensorJob<'a>) {
        let Some(place) = self.places.get(&index) else { return };
        for (input, order) in self.orders[place.layer].iter().enumerate() {
            let Some(order) = order else { continue };
            let of_inputs = job.spec.statistic.is_some_and(|statistic| statistic.of == StatisticOf::Inputs);
            match &place.one_of {
                Some((by_expert, expert)) => {
                    let from = own(by_expert[order[*expert]]);
                    job.inputs[input] = from.inputs[input];
                    if let Some(statistic) = from.statistics.get(input).filter(|_| of_inputs) {
                        job.statistics[input] = *statistic;
                    }
                }
                None => {
                    job.inputs[input].order = Some(order);
                    // A statistic about columns alone is of no expert.
                    let by_expert = job.spec.statistic_shape().is_some_and(|shape| shape[0] == place.experts);
                    if of_inputs && by_expert {
                        job.statistics[input].order = Some(order);
                    }
                }
            }
        }
    }
}

/// The order that brings the experts of an input nearest to those of the reference.
fn order(
    layer: &ExpertLayer,
    jobs: &[TensorJob<'_>],
    input: usize,
    options: &EngineOptions<'_>,
) -> Result<Order, TensorError> {
    let at = |index: usize, error: BoxError| TensorError {
        tensor: jobs[index].spec.name.into(),
        error: MergeError::Io(error),
    };
    let reference = |job: &TensorJob<'_>| if job.base.is_some() { Operand::Base } else { Operand::Input(0) };
    let same = |index: usize| {
        let job = &jobs[index];
        let model = &job.inputs[input];
        let own = job.base.as_ref().unwrap_or(&job.inputs[0]);
        let change = (own.low_rank.is_none(), model.low_rank.is_none());
        change == (true, true) && own.view.data().as_ptr() == model.view.data().as_ptr()
    };
    if layer.tensors().all(same) {
        return Ok(None);
    }
    let n = layer.experts;
    let mut products = ExpertProducts::new(n);
    let (mut ours, mut theirs) = (Array2::zeros((n, 0)), Array2::zeros((n, 0)));
    for by_expert in &layer.each {
        let sources = by_expert.iter().map(|i| Operands::new(&jobs[*i], options).map_err(|error| at(*i, error)));
        let sources: Vec<Operands<'_>> = sources.collect::<Result<_, _>>()?;
        let len = jobs[by_expert[0]].spec.len();
        if let Some(index) = by_expert.iter().find(|index| jobs[**index].spec.len() != len) {
            return Err(at(*index, "the experts of a layer have different shapes".into()));
        }
        for range in blocks(len) {
            for (matrix, of_reference) in [(&mut ours, true), (&mut theirs, false)] {
                resize(matrix, n, range.len());
                for (e, (source, index)) in sources.iter().zip(by_expert).enumerate() {
                    let operand = if of_reference { reference(&jobs[*index]) } else { Operand::Input(input) };
                    read(source, operand, range.clone(), matrix, e).map_err(|error| at(*index, error))?;
                }
            }
            products.add(ours.view(), theirs.view());
        }
    }
    for index in &layer.stacked {
        let job = &jobs[*index];
        let source = Operands::new(job, options).map_err(|error| at(*index, error))?;
        let len = job.spec.len() / n;
        for range in blocks(len) {
            for (matrix, operand) in [(&mut ours, reference(job)), (&mut theirs, Operand::Input(input))] {
                resize(matrix, n, range.len());
                for e in 0..n {
                    let range = e * len + range.start..e * len + range.end;
                    read(&source, operand, range, matrix, e).map_err(|error| at(*index, error))?;
                }
            }
            products.add(ours.view(), theirs.view());
        }
    }
    let first = layer.tensors().next().unwrap_or(0);
    let permutation: Permutation = products.permutation().map_err(|error| at(first, error.into()))?;
    Ok((!permutation.is_identity()).then(|| (0..n).map(|e| permutation.source(e)).collect()))
}

fn blocks(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(len))
}

fn resize(matrix: &mut Array2<f32>, rows: usize, columns: usize) {
    if matrix.dim() != (rows, columns) {
        *matrix = Array2::zeros((rows, columns));
    }
}

/// Reads elements of an operand into a row of a matrix.
fn read(
    source: &Operands<'_>,
    operand: Operand,
    range: Range<usize>,
    matrix: &mut Array2<f32>,
    row: usize,
) -> Result<(), BoxError> {
    let mut scratch = [0.0; BLOCK];
    // What lies in a file as it is needed is lent from there, and the scratch stays as it was.
    let values = source.read(operand, range.clone(), &mut scratch[..range.len()])?;
    matrix.row_mut(row).assign(&ArrayView1::from(values));
    Ok(())
}
