//! Weight matching: permutations P of a model B that maximise ⟨A, P(B)⟩, summed over all weights they act on, which is
//! to minimise ‖A − P(B)‖².
//!
//! Coordinate descent over groups, after Ainsworth, Hayase and Srinivasa, "Git Re-Basin: Merging Models modulo
//! Permutation Symmetries", arXiv 2209.04836 (2022), section 3.2. With the others held, the sum is linear in one
//! group's permutation: Σ_i G\[i, p(i)\], where G\[i, j\] is the inner product of all that unit i of A has with all
//! that unit j of B has, the other axes of B permuted as they are; the best p is an assignment. Nested groups are
//! solved with their parents: the gain of a pair of KV heads, or of experts, is that of the best assignment inside
//! it.
//!
//! Given the residual stream, groups of different layers, and of attention and MLP, do not share a tensor: they are
//! solved at once, and rounds alternate between the residual stream and all others. The order is fixed; there is no
//! seed. Without the residual stream one round is enough. With it, the outcome depends on the start. Two starts are
//! tried: the identity, and the residual stream assigned by the tensors that no other group acts on (embedding, head,
//! norms). The better result is taken.

use crate::AlignOptions;
use crate::apply::Permuted;
use crate::assignment::{assign, improve};
use crate::error::AlignError;
use crate::heads::{self, HeadGains};
use crate::jobs::{HeadsJob, Job, jobs};
use crate::permutation::Permutation;
use crate::permutations::Permutations;
use crate::products::{Units, add_products};
use crate::swept;
use crate::symmetry::{AxisRange, Dim, GroupId, PermutedTensor, Symmetry};
use glue_progress::Progress;
use glue_tensor::{Checkpoint, TensorView, widen};
use rayon::prelude::*;

/// Two checkpoints of the same shapes.
pub(crate) struct Pair<'a> {
    pub(crate) reference: &'a Checkpoint,
    pub(crate) model: &'a Checkpoint,
    pub(crate) symmetry: &'a Symmetry,
}

/// What a matching found.
pub(crate) struct Matched {
    pub(crate) permutations: Permutations,
    pub(crate) sweeps: usize,
    pub(crate) converged: bool,
}

/// The best permutations from any start.
pub(crate) fn match_weights(
    pair: &Pair<'_>,
    options: &AlignOptions,
    progress: &dyn Progress,
) -> Result<Matched, AlignError> {
    let (residual, jobs) = jobs(pair.symmetry);
    for job in residual.iter().map(|&id| Job::Flat(id)).chain(jobs.iter().cloned()) {
        check_size(pair.symmetry, &job, options)?;
    }
    let identity = Permutations::identity(pair.symmetry);
    let here = descend(pair, residual, &jobs, identity.clone(), options, progress)?;
    let Some(group) = residual else { return Ok(here) };
    let mut start = identity;
    let gains = flat_gains(pair, group, &start, true)?;
    let len = pair.symmetry.groups()[group.0].len;
    let (permutation, _, changed) = improve(gains, len, start.get(group))?;
    if !changed || permutation == *here.permutations.get(group) {
        return Ok(here);
    }
    start.set(group, permutation);
    let there = solve_layers(pair, &jobs, start, options, progress)?.0;
    let there = descend(pair, residual, &jobs, there, options, progress)?;
    let dot = |matched: &Matched| -> Result<f64, AlignError> {
        Ok(measure(pair, &matched.permutations)?.iter().map(|products| products.dot).sum())
    };
    if dot(&there)? > dot(&here)? { Ok(there) } else { Ok(here) }
}

fn descend(
    pair: &Pair<'_>,
    residual: Option<GroupId>,
    jobs: &[Job],
    mut permutations: Permutations,
    options: &AlignOptions,
    progress: &dyn Progress,
) -> Result<Matched, AlignError> {
    for sweep in 1..=options.max_sweeps {
        let mut moved = false;
        if let Some(group) = residual {
            progress.item(&pair.symmetry.groups()[group.0].name);
            let gains = flat_gains(pair, group, &permutations, false)?;
            let len = pair.symmetry.groups()[group.0].len;
            let (better, _, changed) = improve(gains, len, permutations.get(group))?;
            permutations.set(group, better);
            moved = changed;
            if !moved && sweep > 1 {
                swept(progress, sweep, 0);
                return Ok(Matched { permutations, sweeps: sweep, converged: true });
            }
        }
        let (better, changed) = solve_layers(pair, jobs, permutations, options, progress)?;
        permutations = better;
        swept(progress, sweep, changed + usize::from(moved));
        if residual.is_none() || (changed == 0 && !moved) {
            return Ok(Matched { permutations, sweeps: sweep, converged: true });
        }
    }
    Ok(Matched { permutations, sweeps: options.max_sweeps, converged: false })
}

/// Assigns every job with the residual stream fixed; returns the permutations and how many jobs changed.
fn solve_layers(
    pair: &Pair<'_>,
    jobs: &[Job],
    mut permutations: Permutations,
    options: &AlignOptions,
    progress: &dyn Progress,
) -> Result<(Permutations, usize), AlignError> {
    let mut changed = 0;
    let mut rest = jobs;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(pair.symmetry, rest, options.max_bytes));
        rest = later;
        let solved: Vec<Option<Vec<(GroupId, Permutation)>>> = now
            .par_iter()
            .map(|job| {
                if progress.is_cancelled() {
                    return Err(AlignError::Stopped);
                }
                solve(pair, job, &permutations, progress)
            })
            .collect::<Result<_, _>>()?;
        for assigned in solved.into_iter().flatten() {
            changed += 1;
            for (group, permutation) in assigned {
                permutations.set(group, permutation);
            }
        }
    }
    Ok((permutations, changed))
}

/// Better permutations of a job's groups, if there are any.
fn solve(
    pair: &Pair<'_>,
    job: &Job,
    permutations: &Permutations,
    progress: &dyn Progress,
) -> Result<Option<Vec<(GroupId, Permutation)>>, AlignError> {
    let groups = pair.symmetry.groups();
    match job {
        Job::Flat(group) => {
            progress.item(&groups[group.0].name);
            let gains = flat_gains(pair, *group, permutations, false)?;
            let (better, _, changed) = improve(gains, groups[group.0].len, permutations.get(*group))?;
            Ok(changed.then(|| vec![(*group, better)]))
        }
        Job::Heads(job) => {
            progress.item(&format!("layers.{}.heads", job.layer));
            let gains = head_gains(pair, job, permutations)?;
            let (better, _, changed) = heads::solve(&gains, job.shape, job.free(), &job.current(permutations))?;
            Ok(changed.then(|| job.assigned(better)))
        }
        Job::Experts(group, neurons) => {
            progress.item(&groups[group.0].name);
            solve_experts(pair, *group, neurons, permutations)
        }
    }
}

/// The tensor of A that `tensor` is, and the one of B called `name`.
fn views<'a>(
    pair: &Pair<'a>,
    tensor: &PermutedTensor,
    name: &str,
) -> Result<(TensorView<'a>, TensorView<'a>), AlignError> {
    let find = |checkpoint: &'a Checkpoint, name: &str| {
        checkpoint
            .get(name)
            .ok_or_else(|| AlignError::MissingTensor { tensor: name.to_string(), beside: tensor.name.clone() })
    };
    Ok((find(pair.reference, &tensor.name)?, find(pair.model, name)?))
}

/// Adds the products of all units of one range of an axis to `sums`.
fn add_range(
    pair: &Pair<'_>,
    tensor: &PermutedTensor,
    name: &str,
    (axis, range): (usize, &AxisRange),
    units: usize,
    permutations: &Permutations,
    sums: &mut Vec<f64>,
) -> Result<(), AlignError> {
    sums.resize(units * units, 0.0);
    let (a, b) = views(pair, tensor, name)?;
    let len: usize = range.dims.iter().map(|dim| pair.symmetry.extent(dim)).product();
    let run = range.start..range.start + len;
    let other = tensor.axes.get(1 - axis).and_then(|axis| permutations.axis(pair.symmetry, axis));
    let a = Units::of_tensor(&a, "reference", axis, run.clone(), None, units);
    let b = Units::of_tensor(&b, "model", axis, run, other.as_deref(), units);
    add_products(&a, &b, sums)
}

fn is_fixed(axis: &[AxisRange]) -> bool {
    axis.iter().flat_map(|range| &range.dims).all(|dim| matches!(dim, Dim::Fixed(_)))
}

/// Ranges of all axes, with the number of the axis.
fn ranges(tensor: &PermutedTensor) -> impl Iterator<Item = (usize, &AxisRange)> {
    tensor.axes.iter().enumerate().flat_map(|(axis, ranges)| ranges.iter().map(move |range| (axis, range)))
}

/// The matrix of gains of a group without nested groups; with `alone`, only from tensors that no other group acts on.
fn flat_gains(
    pair: &Pair<'_>,
    group: GroupId,
    permutations: &Permutations,
    alone: bool,
) -> Result<Vec<f64>, AlignError> {
    let len = pair.symmetry.groups()[group.0].len;
    let mut sums = vec![0.0; len * len];
    let is_it = |dim: &Dim| *dim == Dim::Group(group);
    for tensor in pair.symmetry.tensors() {
        let no_other = |dim: &Dim| is_it(dim) || matches!(dim, Dim::Fixed(_));
        let only = tensor.expert.is_none() && ranges(tensor).all(|(_, range)| range.dims.iter().all(no_other));
        if alone && !only {
            continue;
        }
        for run in ranges(tensor).filter(|(_, range)| range.dims.first().is_some_and(is_it)) {
            add_range(pair, tensor, permutations.source_name(tensor), run, len, permutations, &mut sums)?;
        }
    }
    Ok(sums)
}

fn head_gains(pair: &Pair<'_>, job: &HeadsJob, permutations: &Permutations) -> Result<HeadGains, AlignError> {
    let mut gains = HeadGains::default();
    let shape = job.shape;
    let (n, g, w) = (shape.kv_heads, shape.queries, shape.values);
    let groups: Vec<GroupId> = job.groups().collect();
    let of_job = |dim: &Dim| match dim {
        Dim::Fixed(_) => false,
        Dim::Group(id) => groups.contains(id),
        Dim::PerHead(ids) => ids.iter().any(|id| groups.contains(id)),
    };
    for tensor in pair.symmetry.tensors() {
        for run in ranges(tensor).filter(|(_, range)| range.dims.iter().any(of_job)) {
            let nested = run.1.dims.last().is_some_and(|dim| matches!(dim, Dim::PerHead(_)));
            let (sums, units) = match (run.1.dims.len(), nested) {
                (3, true) => (&mut gains.o, n * g * w),
                (3, false) => (&mut gains.q, n * g),
                (_, true) => (&mut gains.v, n * w),
                (_, false) => (&mut gains.k, n),
            };
            add_range(pair, tensor, &tensor.name, run, units, permutations, sums)?;
        }
    }
    Ok(gains)
}

/// For every pair of experts the best assignment of neurons, then the best assignment of experts.
fn solve_experts(
    pair: &Pair<'_>,
    group: GroupId,
    neurons: &[GroupId],
    permutations: &Permutations,
) -> Result<Option<Vec<(GroupId, Permutation)>>, AlignError> {
    let count = pair.symmetry.groups()[group.0].len;
    let is_it = |dim: &Dim| *dim == Dim::Group(group);
    let mut gains = vec![0.0; count * count];
    for tensor in pair.symmetry.tensors() {
        for run in ranges(tensor).filter(|(_, range)| range.dims.first().is_some_and(is_it)) {
            add_range(pair, tensor, &tensor.name, run, count, permutations, &mut gains)?;
        }
    }
    let current = permutations.get(group);
    let inside: Vec<(Permutation, f64)> = (0..count * count)
        .into_par_iter()
        .map(|at| {
            let (expert, source) = (at / count, at % count);
            let is_current = current.source(expert) == source;
            expert_pair(pair, group, neurons.get(expert).copied(), (expert, source), is_current, permutations)
        })
        .collect::<Result<_, _>>()?;
    for (gain, (_, inner)) in gains.iter_mut().zip(&inside) {
        *gain += inner;
    }
    let (better, _, _) = improve(gains, count, current)?;
    let chosen = |expert: usize| inside[expert * count + better.source(expert)].0.clone();
    let mut assigned: Vec<(GroupId, Permutation)> =
        neurons.iter().enumerate().map(|(expert, &id)| (id, chosen(expert))).collect();
    assigned.push((group, better));
    let changed = assigned.iter().any(|(id, permutation)| permutation != permutations.get(*id));
    Ok(changed.then_some(assigned))
}

/// The best assignment of the neurons of expert `source` of B to those of expert `expert` of A, and its gain.
fn expert_pair(
    pair: &Pair<'_>,
    group: GroupId,
    neurons: Option<GroupId>,
    (expert, source): (usize, usize),
    is_current: bool,
    permutations: &Permutations,
) -> Result<(Permutation, f64), AlignError> {
    let mut sums = Vec::new();
    let len = neurons.map_or(1, |id| pair.symmetry.groups()[id.0].len);
    for tensor in pair.symmetry.tensors() {
        let Some((owner, at, names)) = &tensor.expert else { continue };
        if (*owner, *at) != (group, expert) {
            continue;
        }
        match neurons {
            Some(id) => {
                for run in ranges(tensor).filter(|(_, range)| range.dims.contains(&Dim::Group(id))) {
                    add_range(pair, tensor, &names[source], run, len, permutations, &mut sums)?;
                }
            }
            // Nothing inside is free: the gain is the product of all weights of the pair. The residual stream may
            // permute one of the two axes; the products run over the other.
            None => {
                let axis = usize::from(!is_fixed(&tensor.axes[0]));
                let whole = AxisRange { start: 0, dims: vec![Dim::Fixed(tensor.shape[axis])] };
                add_range(pair, tensor, &names[source], (axis, &whole), 1, permutations, &mut sums)?;
            }
        }
    }
    match neurons {
        Some(id) if is_current => improve(sums, len, permutations.get(id)).map(|(best, gain, _)| (best, gain)),
        _ => assign(sums, len),
    }
}

/// Bytes that a job's matrices take.
fn job_bytes(symmetry: &Symmetry, job: &Job) -> u128 {
    let square = |n: usize| (n as u128) * (n as u128) * 8;
    match job {
        Job::Flat(group) => square(symmetry.groups()[group.0].len),
        Job::Heads(job) => {
            let shape = job.shape;
            square(shape.kv_heads * shape.queries * if job.values.is_empty() { 1 } else { shape.values })
        }
        // Each thread has the matrix of a pair of experts.
        Job::Experts(_, neurons) => {
            let len = neurons.first().map_or(1, |id| symmetry.groups()[id.0].len);
            square(len) * rayon::current_num_threads() as u128
        }
    }
}

/// How many of the first jobs fit in `max_bytes` at once; at least one.
fn fitting(symmetry: &Symmetry, jobs: &[Job], max_bytes: u64) -> usize {
    let mut bytes = 0;
    let fit = jobs.iter().take_while(|job| {
        bytes += job_bytes(symmetry, job);
        bytes <= u128::from(max_bytes)
    });
    fit.count().max(1)
}

fn check_size(symmetry: &Symmetry, job: &Job, options: &AlignOptions) -> Result<(), AlignError> {
    let groups = symmetry.groups();
    let (group, units) = match job {
        Job::Flat(id) => (groups[id.0].name.clone(), groups[id.0].len),
        Job::Heads(job) => {
            let inner = if job.values.is_empty() { 1 } else { job.shape.values };
            (format!("layers.{}.heads", job.layer), job.shape.kv_heads * job.shape.queries * inner)
        }
        Job::Experts(id, neurons) => {
            let inner = neurons.first().map_or(0, |id| groups[id.0].len);
            (groups[id.0].name.clone(), inner.max(groups[id.0].len))
        }
    };
    let bytes = (units as u128) * (units as u128) * 8;
    if units > options.max_units {
        return Err(AlignError::TooManyUnits { group, units, limit: options.max_units, bytes });
    }
    Ok(())
}

/// Sums over one tensor: ⟨A, P(B)⟩, ‖A‖², ‖B‖².
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Products {
    pub(crate) dot: f64,
    pub(crate) reference: f64,
    pub(crate) model: f64,
}

impl Products {
    pub(crate) fn add(&mut self, other: &Products) {
        self.dot += other.dot;
        self.reference += other.reference;
        self.model += other.model;
    }

    /// The cosine; 0 when one side is zero.
    pub(crate) fn cosine(&self) -> f64 {
        let norms = (self.reference * self.model).sqrt();
        if norms > 0.0 { (self.dot / norms).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

/// The sums for every permuted tensor, in their order; each is read once, block by block.
pub(crate) fn measure(pair: &Pair<'_>, permutations: &Permutations) -> Result<Vec<Products>, AlignError> {
    const BLOCK: usize = 1 << 16;
    let one = |tensor: &PermutedTensor| {
        let (a, _) = views(pair, tensor, permutations.source_name(tensor))?;
        let b = Permuted::of(pair.model, pair.symmetry, permutations, &tensor.name)?;
        let (a_size, grid) = (a.dtype().size(), b.grid());
        let mut sums = Products::default();
        let step = (BLOCK / grid.columns.max(1)).max(1);
        let (mut bytes, mut left, mut right) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..grid.rows).step_by(step) {
            let rows = first..(first + step).min(grid.rows);
            let elements = rows.start * grid.columns..rows.end * grid.columns;
            left.resize(elements.len(), 0.0f32);
            right.resize(elements.len(), 0.0f32);
            bytes.resize(elements.len() * grid.size, 0);
            grid.gather(rows, b.by_row.as_deref(), b.by_column.as_deref(), &mut bytes);
            for (view, of, bytes, out) in [
                (&a, "reference", &a.data()[elements.start * a_size..elements.end * a_size], &mut left),
                (&b.source, "model", bytes.as_slice(), &mut right),
            ] {
                let name = || view.name().to_string();
                let finite =
                    widen(view.dtype(), bytes, out).map_err(|error| AlignError::Convert { tensor: name(), error })?;
                if !finite {
                    return Err(AlignError::NotFinite { tensor: name(), of });
                }
            }
            for (&x, &y) in left.iter().zip(&right) {
                let (x, y) = (f64::from(x), f64::from(y));
                sums.dot += x * y;
                sums.reference += x * x;
                sums.model += y * y;
            }
        }
        Ok(sums)
    };
    pair.symmetry.tensors().par_iter().map(one).collect()
}
