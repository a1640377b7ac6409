//! Estimates what a merge reads, writes and holds in memory, from headers alone.
//!
//! | number | how |
//! |---|---|
//! | read | bytes of every operand and statistic of every tensor, once; those of adapters too |
//! | scanned | the same, once for each pass: one for a copy or a map, two for an operator that needs a reduction first |
//! | written | bytes of the output's tensors |
//! | memory | for each thread, the buffers of one tensor |
//!
//! The buffers of a tensor are a block of every operand as `f32` and a span of the result, once as `f32` and once as it
//! is written. An operator that needs a whole row or tensor at once has that instead of a block, and adds its own
//! working memory. Statistics that are not cut into blocks and the factors of adapters are held whole, as `f32`.
//!
//! Experts that are matched are scanned once more before, in blocks of each of a layer's experts.
//!
//! Memory maps are not counted: the system drops their pages when it needs them. Nor are the tables of an operator, a
//! few megabytes for each thread.

use crate::low_rank::factor_bytes;
use crate::plan::{Action, MergePlan, TensorPlan};
use glue_merge::{Driver, Granularity, Plan, StatisticShape};

/// Bytes a merge reads, writes and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Estimate {
    /// Bytes of input tensors and statistics, each counted once for every tensor it goes into.
    pub read_bytes: u64,
    /// Bytes of input tensors over all passes.
    pub scan_bytes: u64,
    /// Bytes of output tensors.
    pub write_bytes: u64,
    /// Peak bytes of buffers, excluding memory-mapped inputs.
    pub peak_memory_bytes: u64,
    /// Elements of the output.
    pub elements: u64,
}

/// How fast a machine is, in bytes each second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Reading from disk.
    pub read: f64,
    /// Merging bytes that are in memory, with all threads.
    pub scan: f64,
    /// Writing to disk.
    pub write: f64,
}

impl Estimate {
    /// Seconds a merge takes at `rates`: reading, merging and writing go on side by side, so that the slowest decides.
    pub fn seconds(&self, rates: &Rates) -> f64 {
        let [read, scan, write] = [
            self.read_bytes as f64 / rates.read,
            self.scan_bytes as f64 / rates.scan,
            self.write_bytes as f64 / rates.write,
        ];
        read.max(scan).max(write)
    }
}

/// Estimates the merge of `plan` on `threads` threads.
pub fn estimate(plan: &MergePlan, threads: usize) -> Estimate {
    let threads = threads.max(1) as u64;
    let matching = plan.experts.iter().fold(Estimate::default(), |sum, layer| Estimate {
        scan_bytes: sum.scan_bytes + layer.tensors().map(|index| plan.read_bytes(&plan.tensors[index])).sum::<u64>(),
        peak_memory_bytes: sum.peak_memory_bytes.max(threads * layer.matching_bytes()),
        ..sum
    });
    plan.tensors.iter().fold(matching, |sum, tensor| {
        let read = plan.read_bytes(tensor);
        let (passes, memory) = cost(plan, tensor, threads);
        Estimate {
            read_bytes: sum.read_bytes + read,
            scan_bytes: sum.scan_bytes + passes * read,
            write_bytes: sum.write_bytes + tensor.n_bytes(),
            peak_memory_bytes: sum.peak_memory_bytes.max(memory),
            elements: sum.elements + tensor.n_elements() as u64,
        }
    })
}

/// Passes over the operands, and bytes of buffers.
fn cost(plan: &MergePlan, tensor: &TensorPlan, threads: u64) -> (u64, u64) {
    if matches!(tensor.action, Action::Copy(_)) {
        return (1, 0);
    }
    let low_rank = |from| plan.change(from).and_then(|(adapter, change)| Some((adapter, change.low_rank.as_ref()?)));
    let factors = tensor.operands().filter_map(low_rank).map(|(adapter, change)| factor_bytes(adapter, change));
    let factors: u64 = factors.sum();
    let (passes, granularity, working) = match plan.operation(tensor) {
        Ok(Some(Plan::Map(map))) => (1, map.granularity(), 0),
        Ok(Some(Plan::Reduce(reduction))) => (2, reduction.granularity(), reduction.working_bytes()),
        _ => return (1, threads * factors),
    };
    let n = plan.operator.unit(&plan.spec(tensor)).len();
    let row = tensor.shape.last().copied().unwrap_or(1);
    let (block, span) = match granularity {
        Granularity::Element => (Driver::BLOCK, Driver::SPAN),
        Granularity::Row => (Driver::BLOCK.max(row), Driver::SPAN.max(row)),
        // Each thread may have a tensor, or a matrix of a stack, of its own.
        Granularity::Tensor => (n, n),
    };
    let (in_blocks, whole) = statistics(plan, tensor);
    let operands = (tensor.operands().count() + in_blocks) as u64;
    let (block, span) = (block.min(n) as u64, span.min(n) as u64);
    let buffers = operands * block * 4 + span * (4 + tensor.dtype.size() as u64);
    (passes, threads * (buffers + working + whole + factors))
}

/// How many statistics are read block by block, and bytes of those that are held whole.
fn statistics(plan: &MergePlan, tensor: &TensorPlan) -> (usize, u64) {
    let count = tensor.statistics().len();
    match plan.operator.statistic() {
        Some(statistic) if statistic.shape != StatisticShape::Same => {
            let each: usize = statistic.shape.of(&tensor.shape).iter().product();
            (0, (count * each * 4) as u64)
        }
        _ => (count, 0),
    }
}
