//! Runs a plan over blocks, on the threads it is handed.

use crate::contract::{AnyAccumulator, AnyReduction, Block, Granularity, Map, Operand, Plan, TensorSpec};
use crate::device::{Executor, Float, HostExecutor, Stored};
use crate::error::{BoxError, MergeError};
use crate::statistic::StatisticShape;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the elements of the operands come from.
pub trait Source: Sync {
    /// The elements `range` of an operand, widened to `f32`; the range of a statistic counts its own elements. They are
    /// written to `buffer`, which is as long as the range, or borrowed from where they already lie.
    ///
    /// # Errors
    /// The elements cannot be read. That ends the merge of the tensor.
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError>;

    /// The whole operand as it is stored, for an executor that widens by itself; `None` if only [`Source::read`] gives
    /// the values to merge. An executor that finds a NaN or an infinity among these bytes must leave the tensor to
    /// [`Source::read`], which knows what to do about it.
    fn stored(&self, operand: Operand) -> Option<Stored<'_>> {
        let _ = operand;
        None
    }
}

/// Where the elements of the result go.
pub trait Sink: Sync {
    /// Takes the elements from `offset` on. Spans come in any order and from several threads.
    ///
    /// # Errors
    /// The elements cannot be written. That ends the merge of the tensor.
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError>;

    /// The type that [`Sink::write_stored`] takes.
    fn float(&self) -> Float {
        Float::F32
    }

    /// Takes the elements from `offset` on, already rounded to [`Sink::float`], little-endian. A sink whose type is not
    /// `f32` must implement this too.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn write_stored(&self, offset: usize, bytes: &[u8]) -> Result<(), BoxError> {
        if self.float() != Float::F32 {
            return Err("a sink that stores another type than f32 takes no bytes".into());
        }
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        self.write(offset, &values)
    }
}

/// Threads to run tasks on.
pub trait Pool: Sync {
    /// How many tasks may run at once.
    fn width(&self) -> usize;

    /// Calls `task` for every number below `n`, in any order, and returns when all are done.
    fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
struct Serial;

impl Pool for Serial {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..n).for_each(task);
    }
}

/// How a plan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Every block was written to the sink.
    Merged,
    /// Nothing was written: the result is this operand, which the caller copies byte for byte.
    Copy(Operand),
}

/// Buffers that are reused from span to span and from tensor to tensor.
#[derive(Debug, Default)]
struct Scratch(Mutex<Vec<Vec<f32>>>);

impl Scratch {
    /// Maximum length of a buffer that is kept.
    const KEPT: usize = Driver::SPAN;

    /// A buffer of at least `len` elements, which hold anything.
    fn take(&self, len: usize) -> Vec<f32> {
        let mut free = lock(&self.0);
        let fitting = free.iter().enumerate().filter(|(_, buffer)| buffer.len() >= len);
        match fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(at, _)| at) {
            Some(at) => free.swap_remove(at),
            None => vec![0.0; len],
        }
    }

    fn give_back(&self, buffers: impl IntoIterator<Item = Vec<f32>>) {
        let kept = buffers.into_iter().filter(|buffer| buffer.len() <= Self::KEPT);
        lock(&self.0).extend(kept);
    }
}

/// Runs plans. One driver for many tensors saves allocations.
pub struct Driver<'a> {
    pool: &'a dyn Pool,
    executor: &'a dyn Executor,
    stop: &'a (dyn Fn() -> bool + Sync),
    block: usize,
    scratch: Scratch,
}

impl Default for Driver<'_> {
    fn default() -> Self {
        let (block, scratch) = (Self::BLOCK, Scratch::default());
        Self { pool: &Serial, executor: &HostExecutor, stop: &|| false, block, scratch }
    }
}

impl<'a> Driver<'a> {
    /// Default number of elements of a block: a few operands of that length stay in a first-level cache.
    pub const BLOCK: usize = 1 << 11;

    /// Elements of a span, the unit of work of a thread and of sums in a reduction. Part of what a result is defined
    /// by.
    pub const SPAN: usize = 1 << 18;

    /// The same with these threads. Default: the calling thread alone.
    #[must_use]
    pub fn pool(self, pool: &'a dyn Pool) -> Self {
        Self { pool, ..self }
    }

    /// The same with this executor, which sees every plan first. Default: none.
    #[must_use]
    pub fn executor(self, executor: &'a dyn Executor) -> Self {
        Self { executor, ..self }
    }

    /// The same with this request to stop, which is asked before every span: once it is true, [`Driver::run`] fails
    /// with [`MergeError::Stopped`]. Default: never.
    #[must_use]
    pub fn stop(self, stop: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { stop, ..self }
    }

    /// The same with this many elements in a block, at least 1; rounded to whole rows for operators that need them.
    /// Default: [`Driver::BLOCK`]. No result depends on it.
    #[must_use]
    pub fn block(self, block: usize) -> Self {
        Self { block, ..self }
    }

    /// Runs `plan` to its end: its reductions, then its map.
    ///
    /// # Errors
    /// What the source, the sink or a reduction refuses, or [`MergeError::Stopped`]. The sink may have received blocks
    /// by then.
    pub fn run(
        &self,
        plan: Plan,
        tensor: &TensorSpec<'_>,
        source: &dyn Source,
        sink: &dyn Sink,
    ) -> Result<Done, MergeError> {
        let Some(mut plan) = self.executor.advance(plan, tensor, source, sink)? else {
            return Ok(Done::Merged);
        };
        let mut buffers = Vec::new();
        let whole = match plan {
            // A copy reads no statistics.
            Plan::Copy(_) => Vec::new(),
            _ => whole_statistics(tensor, source, &mut buffers)?,
        };
        let operands = Operands { tensor, source, whole: &whole };
        loop {
            plan = match plan {
                Plan::Copy(operand @ Operand::Statistic(_)) => {
                    let reason = format!("an operator returned {operand:?} as the result of tensor {}", tensor.name);
                    return Err(MergeError::Contract { reason });
                }
                Plan::Copy(operand) => return Ok(Done::Copy(operand)),
                Plan::Map(map) => {
                    self.map(&*map, &operands, sink)?;
                    return Ok(Done::Merged);
                }
                Plan::Reduce(reduction) => {
                    let total = self.reduction(&*reduction, &operands)?;
                    reduction.finish(total)?
                }
            }
        }
    }

    fn map(&self, map: &dyn Map, operands: &Operands<'_>, sink: &dyn Sink) -> Result<(), MergeError> {
        let grid = Grid::new(operands.tensor, map.granularity(), self.block);
        let spans = grid.spans(None);
        self.try_run(spans.len(), &|s| {
            // A whole span goes to the sink: a system call for every block would cost as much as the merging.
            let span = &spans[s];
            let mut out = self.scratch.take(span.len());
            grid.read(operands, &self.scratch, span.clone(), |block| {
                let at = block.offset - span.start;
                map.merge(block, &mut out[at..at + block.len()]);
                Ok(())
            })?;
            sink.write(span.start, &out[..span.len()])?;
            self.scratch.give_back([out]);
            Ok(())
        })
    }

    fn reduction(&self, reduction: &dyn AnyReduction, operands: &Operands<'_>) -> Result<AnyAccumulator, MergeError> {
        let grid = Grid::new(operands.tensor, reduction.granularity(), self.block);
        let spans = grid.spans(reduction.ranges());
        let observe = |accumulator: &mut AnyAccumulator, span: &Range<usize>| {
            grid.read(operands, &self.scratch, span.clone(), |block| {
                reduction.observe(accumulator, block);
                Ok(())
            })
        };
        let mut total = reduction.accumulator();
        if reduction.order_free() {
            // One accumulator for each thread that is at work, whatever the number of spans.
            let idle = Mutex::new(Vec::new());
            self.try_run(spans.len(), &|s| {
                let mut accumulator = lock(&idle).pop().unwrap_or_else(|| reduction.accumulator());
                observe(&mut accumulator, &spans[s])?;
                lock(&idle).push(accumulator);
                Ok(())
            })?;
            for accumulator in idle.into_inner().unwrap_or_else(|e| e.into_inner()) {
                reduction.combine(&mut total, accumulator);
            }
        } else {
            // Waves bound how many accumulators wait to be combined.
            for wave in spans.chunks(4 * self.pool.width().max(1)) {
                let slots: Vec<_> = wave.iter().map(|_| Mutex::new(None)).collect();
                self.try_run(wave.len(), &|s| {
                    let mut accumulator = reduction.accumulator();
                    observe(&mut accumulator, &wave[s])?;
                    *lock(&slots[s]) = Some(accumulator);
                    Ok(())
                })?;
                for slot in slots {
                    if let Some(accumulator) = slot.into_inner().unwrap_or_else(|e| e.into_inner()) {
                        reduction.combine(&mut total, accumulator);
                    }
                }
            }
        }
        Ok(total)
    }

    /// Runs tasks until one fails; of several failures, that of the lowest task that was reached.
    fn try_run(&self, n: usize, task: &(dyn Fn(usize) -> Result<(), BoxError> + Sync)) -> Result<(), MergeError> {
        let (failed, stopped) = (AtomicBool::new(false), AtomicBool::new(false));
        let first: Mutex<Option<(usize, BoxError)>> = Mutex::new(None);
        self.pool.run(n, &|i| {
            if failed.load(Ordering::Relaxed) || stopped.load(Ordering::Relaxed) {
                return;
            }
            if (self.stop)() {
                stopped.store(true, Ordering::Relaxed);
                return;
            }
            if let Err(e) = task(i) {
                failed.store(true, Ordering::Relaxed);
                let mut first = lock(&first);
                if first.as_ref().is_none_or(|(j, _)| i < *j) {
                    *first = Some((i, e));
                }
            }
        });
        match first.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some((_, e)) => Err(MergeError::Io(e)),
            None if stopped.into_inner() => Err(MergeError::Stopped),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What blocks of a tensor are made of.
struct Operands<'a> {
    tensor: &'a TensorSpec<'a>,
    source: &'a dyn Source,
    /// Statistics that are the same for all blocks.
    whole: &'a [&'a [f32]],
}

/// The statistics of which every block has all, each read once; none where blocks have parts of them.
fn whole_statistics<'a>(
    tensor: &TensorSpec<'_>,
    source: &'a dyn Source,
    buffers: &'a mut Vec<Vec<f32>>,
) -> Result<Vec<&'a [f32]>, MergeError> {
    let Some(statistic) = tensor.statistic.filter(|statistic| statistic.shape != StatisticShape::Same) else {
        return Ok(Vec::new());
    };
    let len: usize = statistic.shape.of(tensor.shape).iter().product();
    buffers.resize_with(tensor.n_statistics(), || vec![0.0; len]);
    let read = |(i, buffer): (usize, &'a mut Vec<f32>)| source.read(Operand::Statistic(i), 0..len, buffer);
    buffers.iter_mut().enumerate().map(read).collect::<Result<_, _>>().map_err(MergeError::Io)
}

/// How a tensor is cut: spans by its shape and the granularity alone, blocks within them.
struct Grid {
    len: usize,
    span: usize,
    block: usize,
}

impl Grid {
    fn new(tensor: &TensorSpec<'_>, granularity: Granularity, block: usize) -> Self {
        let len = tensor.len();
        let unit = match granularity {
            Granularity::Element => 1,
            Granularity::Row => tensor.row_len(),
            Granularity::Tensor => len,
        }
        .max(1);
        let whole = |n: usize| (n / unit).max(1) * unit;
        Self { len, span: whole(Driver::SPAN), block: whole(block) }
    }

    fn spans(&self, within: Option<Vec<Range<usize>>>) -> Vec<Range<usize>> {
        let whole = 0..self.len;
        let within = within.unwrap_or_else(|| Vec::from([whole]));
        let cut = |r: Range<usize>| (r.start..r.end).step_by(self.span).map(move |at| at..(at + self.span).min(r.end));
        within.into_iter().flat_map(cut).collect()
    }

    /// Reads the blocks of a span, in order.
    fn read(
        &self,
        operands: &Operands<'_>,
        scratch: &Scratch,
        span: Range<usize>,
        mut see: impl FnMut(&Block<'_>) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        let Operands { tensor, source, whole } = *operands;
        let widest = self.block.min(span.len());
        let in_parts = tensor.statistic.is_some_and(|statistic| statistic.shape == StatisticShape::Same);
        let n_statistics = if in_parts { tensor.n_statistics() } else { 0 };
        let mut base_buffer = scratch.take(if tensor.has_base { widest } else { 0 });
        let mut buffers: Vec<Vec<f32>> = (0..tensor.n_inputs + n_statistics).map(|_| scratch.take(widest)).collect();
        for offset in span.clone().step_by(self.block) {
            let range = offset..(offset + self.block).min(span.end);
            let base = if tensor.has_base {
                Some(source.read(Operand::Base, range.clone(), &mut base_buffer[..range.len()])?)
            } else {
                None
            };
            let mut parts = Vec::with_capacity(buffers.len());
            for (i, buffer) in buffers.iter_mut().enumerate() {
                let operand = match i.checked_sub(tensor.n_inputs) {
                    None => Operand::Input(i),
                    Some(statistic) => Operand::Statistic(statistic),
                };
                parts.push(source.read(operand, range.clone(), &mut buffer[..range.len()])?);
            }
            let (inputs, own) = parts.split_at(tensor.n_inputs);
            see(&Block { offset, base, inputs, statistics: if in_parts { own } else { whole } })?;
        }
        scratch.give_back(buffers);
        scratch.give_back([base_buffer]);
        Ok(())
    }
}
