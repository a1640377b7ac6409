//! A merge that is written to memory.

use glue_lm::{LmError, Model, Weight, WeightError, Weights};
use glue_merge::BoxError;
use glue_progress::Progress;
use glue_recipe::engine::{Destination, EngineError};
use glue_recipe::run::merge_into;
use glue_recipe::{MergePlan, RunOptions, TensorPlan, TensorRef, estimate};
use parking_lot::Mutex;
use std::sync::Arc;

/// Models above this size are scored one at a time.
const LARGE: u64 = 1_000_000_000;

/// How many candidates like this one are scored in parallel by `threads` threads within `limit` bytes.
pub(super) fn parallel_of(plan: &MergePlan, threads: usize, limit: Option<u64>) -> usize {
    if estimate(plan, threads).write_bytes > LARGE {
        return 1;
    }
    let fit = limit.map_or(u64::MAX, |limit| limit / bytes_of(plan, threads).max(1));
    threads.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

/// Bytes that a candidate takes while it is merged and scored, from headers: its tensors, buffers of the merge, and the
/// activations and logits of one pass for each thread.
pub(super) fn bytes_of(plan: &MergePlan, threads: usize) -> u64 {
    const ROWS: u64 = 1024;
    const MAX_LOGITS: u64 = 64 << 20;
    let merge = estimate(plan, threads);
    let size = |n: Option<usize>| n.unwrap_or(0) as u64;
    let config = &plan.config;
    let activations = ROWS * 4 * (8 * size(config.hidden_size()) + 3 * size(config.intermediate_size()));
    let logits = (ROWS * 4 * size(config.vocab_size())).min(MAX_LOGITS);
    merge.write_bytes + merge.peak_memory_bytes.max(threads as u64 * (activations + logits))
}

/// Why a merge in memory gave no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InMemoryError {
    /// A tensor cannot be merged, or the merge was cancelled.
    #[error(transparent)]
    Merge(#[from] EngineError),
    /// A tensor is of a type that models do not compute with.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The result cannot be run.
    #[error(transparent)]
    Model(#[from] LmError),
}

/// Merges `plan` in memory, on the threads of the current rayon pool, into a model that is ready to run: to the bit the
/// one that would be written.
///
/// # Errors
/// [`InMemoryError`]
pub fn merged_model(
    plan: &MergePlan,
    options: &RunOptions<'_>,
    progress: &dyn Progress,
) -> Result<Model, InMemoryError> {
    let memory = InMemory::new(plan);
    merge_into(plan, &memory, options, progress)?;
    Ok(Model::new(&plan.config, Weights::from_tensors(memory.tensors(plan)?))?)
}

/// A model of which those tensors of `plan` that `keep` chooses are merged, as [`merged_model`] merges them. In place
/// of the others stands something of their shape: they are not to be used. Memory is that of the tensors merged.
///
/// # Errors
/// [`InMemoryError`]
pub fn partly_merged_model(
    plan: MergePlan,
    keep: impl Fn(&TensorPlan) -> bool,
    options: &RunOptions<'_>,
    progress: &dyn Progress,
) -> Result<Model, InMemoryError> {
    let left_out = plan.tensors.iter().filter(|tensor| tensor.dtype.is_float() && !keep(tensor));
    let stand_ins = left_out.map(|tensor| Ok((tensor.name.clone(), stand_in(&plan, tensor)?)));
    let stand_ins = stand_ins.collect::<Result<Vec<_>, InMemoryError>>()?;
    let plan = plan.restricted(keep);
    let memory = InMemory::new(&plan);
    merge_into(&plan, &memory, options, progress)?;
    let weights = memory.tensors(&plan)?.into_iter().chain(stand_ins);
    Ok(Model::new(&plan.config, Weights::from_tensors(weights))?)
}

/// The tensor of some model that has the shape of `tensor`, in place in its file, or zeros.
fn stand_in(plan: &MergePlan, tensor: &TensorPlan) -> Result<Weight, InMemoryError> {
    let of_model = |operand: &TensorRef| {
        let weight = Weight::mapped(&plan.models[operand.model].dir.shared_checkpoint(), &operand.name)?.ok()?;
        (weight.shape() == tensor.shape).then_some(weight)
    };
    let zeros = || {
        let bytes: Vec<u8> = vec![0; tensor.n_bytes() as usize];
        Weight::owned(tensor.dtype, tensor.shape.clone(), bytes)
    };
    Ok(tensor.operands().find_map(of_model).map_or_else(zeros, Ok)?)
}

/// The tensors of a merge.
struct InMemory {
    tensors: Vec<Mutex<Arc<[u8]>>>,
}

impl InMemory {
    fn new(plan: &MergePlan) -> InMemory {
        let zeros = |tensor: &glue_recipe::TensorPlan| std::iter::repeat_n(0, tensor.n_bytes() as usize).collect();
        InMemory { tensors: plan.tensors.iter().map(|tensor| Mutex::new(zeros(tensor))).collect() }
    }

    /// The floating-point tensors, as a model takes them.
    fn tensors(self, plan: &MergePlan) -> Result<Vec<(String, Weight)>, WeightError> {
        let mut weights = Vec::with_capacity(self.tensors.len());
        for (tensor, bytes) in plan.tensors.iter().zip(self.tensors) {
            if tensor.dtype.is_float() {
                let bytes = bytes.into_inner();
                let weight = Weight::owned(tensor.dtype, tensor.shape.clone(), bytes);
                weights.push((tensor.name.clone(), weight?));
            }
        }
        Ok(weights)
    }
}

impl Destination for InMemory {
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        let mut tensor = self.tensors[job].lock();
        let all = Arc::get_mut(&mut tensor).ok_or("a tensor is read before it is merged")?;
        let start = offset as usize;
        all.get_mut(start..start + bytes.len()).ok_or("a result is longer than its tensor")?.copy_from_slice(bytes);
        Ok(())
    }
}
