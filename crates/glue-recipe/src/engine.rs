//! Merging of planned tensors, out of core: blocks are widened from where the inputs are mapped, merged, narrowed and
//! handed to a destination. Nothing holds a whole tensor, let alone a model.

use crate::low_rank::{Product, all_finite, mend};
use crate::recipe::OnNonfinite;
use glue_merge::device::{Executor, Float, Identity, Stored};
use glue_merge::{
    BoxError, Done, Driver, MergeError, Operand, Operator, Params, Pool, Sink, Source, StatisticSpec, TensorSpec,
};
use glue_progress::Progress;
use glue_tensor::{Dtype, TensorView, first_nonfinite, narrow, widen};
use parking_lot::Mutex;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use crate::low_rank::LowRankView;

/// A value that is no number, in an input.
#[derive(Debug, thiserror::Error)]
#[error("tensor {tensor} of {model} holds {value} at index {index}; every weight must be a finite number")]
pub struct NonFinite {
    /// Name of the tensor.
    pub tensor: String,
    /// The model it is in.
    pub model: String,
    /// Index of the element in the flattened tensor.
    pub index: usize,
    /// What was found.
    pub value: f32,
}

/// An element of a result that the type of the output cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("the result is {value} at index {index}, which {} cannot hold; {}", dtype.torch_name(), self.advice())]
pub struct NonFiniteResult {
    /// Index of the element in the flattened tensor.
    pub index: usize,
    /// What was to be stored; of a device that rounds by itself, what it stored.
    pub value: f32,
    /// Type of the output.
    pub dtype: Dtype,
}

impl NonFiniteResult {
    fn advice(&self) -> &'static str {
        match self.dtype {
            Dtype::F16 | Dtype::F8E4M3 | Dtype::F8E5M2 => {
                "merge with smaller weights, or set `out_dtype` to a type with a larger range, such as bfloat16"
            }
            _ => "merge with smaller weights",
        }
    }
}

/// A number that no statistic holds.
#[derive(Debug, thiserror::Error)]
#[error("statistic {name} in {statistics} holds {value} at index {index}; {expected}")]
pub struct BadStatistic {
    /// Name of the statistic's tensor.
    pub name: String,
    /// What the user calls the statistics it is in.
    pub statistics: String,
    /// Index of the element in the flattened tensor.
    pub index: usize,
    /// What was found.
    pub value: f32,
    /// What it should be, in words.
    pub expected: &'static str,
}

/// One operand of a merge: a tensor in a mapped file or in memory, what an adapter adds to it, and the name of its
/// model for messages.
#[derive(Debug, Clone, Copy)]
pub struct OperandView<'a> {
    /// The tensor.
    pub view: TensorView<'a>,
    /// The low-rank change that is added while the tensor is read.
    pub low_rank: Option<LowRankView<'a>>,
    /// What the user calls the model.
    pub model: &'a str,
    /// Where each index of the first axis is read from; `None` leaves them in their order.
    pub order: Option<&'a [usize]>,
}

impl OperandView<'_> {
    /// Refuses a NaN or an infinity in `bytes`, elements of this tensor from `start` on. What is no floating-point
    /// number passes.
    fn check_finite(&self, start: usize, bytes: &[u8]) -> Result<(), BoxError> {
        let (dtype, size) = (self.view.dtype(), self.view.dtype().size());
        if !dtype.is_float() {
            return Ok(());
        }
        let Some(at) = first_nonfinite(dtype, bytes)? else { return Ok(()) };
        let mut value = [0.0];
        widen(dtype, &bytes[at * size..(at + 1) * size], &mut value)?;
        let (tensor, model) = (self.view.name().into(), self.model.into());
        Err(NonFinite { tensor, model, index: start + at, value: value[0] }.into())
    }
}

/// One tensor to be merged.
pub struct TensorJob<'a> {
    /// Name, shape, layer and seed, for the operator.
    pub spec: TensorSpec<'a>,
    /// Type that the result is rounded to.
    pub dtype: Dtype,
    /// What merges it.
    pub operator: &'a Operator,
    /// With which parameters.
    pub params: &'a Params,
    /// The base.
    pub base: Option<OperandView<'a>>,
    /// The inputs.
    pub inputs: Vec<OperandView<'a>>,
    /// For each input, a base of its own: the operator gets the difference from it, added to the base, as if that were
    /// the input. Empty where no input has one.
    pub own_bases: Vec<Option<OperandView<'a>>>,
    /// The statistics that the operator gets, each with the name of the statistics it is in.
    pub statistics: Vec<OperandView<'a>>,
}

impl TensorJob<'_> {
    fn operand(&self, operand: Operand) -> Option<&OperandView<'_>> {
        match operand {
            Operand::Base => self.base.as_ref(),
            Operand::Input(i) => self.inputs.get(i),
            Operand::Statistic(i) => self.statistics.get(i),
        }
    }

    /// The base that an input has of its own.
    fn own_base(&self, operand: Operand) -> Option<&OperandView<'_>> {
        match operand {
            Operand::Input(i) => self.own_bases.get(i)?.as_ref(),
            Operand::Base | Operand::Statistic(_) => None,
        }
    }
}

/// Takes the bytes of results, in any order and from several threads.
pub trait Destination: Sync {
    /// Takes `bytes` of the result of job `job`, from byte `offset` on.
    ///
    /// # Errors
    /// Whatever writing meets.
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError>;
}

/// How to merge.
#[derive(Clone, Copy)]
pub struct EngineOptions<'a> {
    /// What runs the operators.
    pub executor: &'a dyn Executor,
    /// What to do about a NaN or an infinity in an input.
    pub on_nonfinite: OnNonfinite,
    /// Elements of a block; no result depends on it.
    pub block: usize,
}

/// Merges every job on the threads of the current rayon pool.
///
/// Jobs are begun in order and cut into spans that threads share. At most as many are under way as there are threads:
/// a thread that finds no span of one tensor works on another, and an operator that sees a tensor whole, on one thread,
/// leaves tensors for the other threads. Memory follows from the number of threads and the length of a block.
///
/// # Errors
/// The first failure, with the name of its tensor, or [`EngineError::Stopped`] once the caller cancelled it, which is
/// asked before every span. `destination` may have received results by then.
pub fn merge_all(
    jobs: &[TensorJob<'_>],
    destination: &dyn Destination,
    options: &EngineOptions<'_>,
    progress: &dyn Progress,
) -> Result<(), EngineError> {
    let stop = || progress.is_cancelled();
    let driver = Driver::default().pool(&RayonPool).executor(options.executor).block(options.block).stop(&stop);
    let (next, failure, buffers) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
    let queue = Queue { jobs, destination, driver, options, progress, next, failure, buffers };
    rayon::scope(|scope| (0..rayon::current_num_threads()).for_each(|_| queue.spawn(scope)));
    match queue.failure.into_inner() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Why a merge ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A tensor cannot be merged.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The caller cancelled it.
    #[error("stopped")]
    Stopped,
}

/// Jobs of which some are under way.
struct Queue<'a> {
    jobs: &'a [TensorJob<'a>],
    destination: &'a dyn Destination,
    driver: Driver<'a>,
    options: &'a EngineOptions<'a>,
    progress: &'a dyn Progress,
    /// The job to begin next.
    next: AtomicUsize,
    /// Of the failures so far, that of the first job.
    failure: Mutex<Option<(usize, EngineError)>>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl<'a> Queue<'a> {
    /// Has some thread do the next job, and then the one after it. Each job is a task of its own: a thread that waits
    /// for the last spans of one takes up at most one other.
    fn spawn<'s>(&'s self, scope: &rayon::Scope<'s>) {
        scope.spawn(move |scope| {
            let j = self.next.fetch_add(1, Ordering::Relaxed);
            if j >= self.jobs.len() || self.failure.lock().is_some() {
                return;
            }
            match self.run(j) {
                Ok(()) => self.spawn(scope),
                Err(error) => {
                    let mut failure = self.failure.lock();
                    if failure.as_ref().is_none_or(|(first, _)| j < *first) {
                        *failure = Some((j, error));
                    }
                }
            }
        });
    }

    fn run(&self, j: usize) -> Result<(), EngineError> {
        let job = &self.jobs[j];
        if self.progress.is_cancelled() {
            return Err(EngineError::Stopped);
        }
        self.progress.item(job.spec.name);
        let sink = Narrowed { destination: self.destination, job: j, dtype: job.dtype, buffers: &self.buffers };
        merge_one(job, &self.driver, self.options, &sink, self.progress).map_err(|error| match error {
            MergeError::Stopped => EngineError::Stopped,
            error => TensorError { tensor: job.spec.name.into(), error }.into(),
        })
    }
}

/// A failure in one tensor.
#[derive(Debug, thiserror::Error)]
#[error("merging tensor {tensor}")]
pub struct TensorError {
    /// Name of the result.
    pub tensor: String,
    /// What happened.
    #[source]
    pub error: MergeError,
}

fn merge_one(
    job: &TensorJob<'_>,
    driver: &Driver<'_>,
    options: &EngineOptions<'_>,
    sink: &Narrowed<'_>,
    progress: &dyn Progress,
) -> Result<(), MergeError> {
    let source = Operands::new(job, options).map_err(MergeError::Io)?;
    match driver.merge(job.operator, job.params, &job.spec, &source, sink)? {
        Done::Merged => Ok(()),
        Done::Copy(operand) => copy(&source, operand, sink, progress),
    }
}

/// Copies an operand span by span: its bytes where the types agree, its values otherwise.
fn copy(
    source: &Operands<'_>,
    operand: Operand,
    sink: &Narrowed<'_>,
    progress: &dyn Progress,
) -> Result<(), MergeError> {
    let Some(from) = source.job.operand(operand) else {
        return Ok(());
    };
    let (len, data) = (source.job.spec.len(), from.view.data());
    let as_it_is = from.view.dtype() == sink.dtype
        && from.low_rank.is_none()
        && from.order.is_none()
        && source.job.own_base(operand).is_none()
        && (source.options.on_nonfinite == OnNonfinite::Error || !sink.dtype.is_float());
    let size = sink.dtype.size();
    (0..len.div_ceil(Driver::SPAN)).into_par_iter().try_for_each(|s| {
        if progress.is_cancelled() {
            return Err(MergeError::Stopped);
        }
        let span = s * Driver::SPAN..((s + 1) * Driver::SPAN).min(len);
        let copied = if as_it_is {
            let bytes = &data[span.start * size..span.end * size];
            from.check_finite(span.start, bytes).and_then(|()| sink.send(span.start, bytes))
        } else {
            let mut buffer = vec![0.0; span.len()];
            source.read(operand, span.clone(), &mut buffer).and_then(|values| sink.write(span.start, values))
        };
        copied.map_err(MergeError::Io)
    })
}

/// The current rayon pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct RayonPool;

impl Pool for RayonPool {
    fn width(&self) -> usize {
        rayon::current_num_threads()
    }

    fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..n).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// The operands of a job, widened block by block.
pub(crate) struct Operands<'a> {
    job: &'a TensorJob<'a>,
    options: &'a EngineOptions<'a>,
    /// What is added to each operand, the base first.
    products: Vec<Option<Product>>,
    /// What is added to the bases that inputs have of their own.
    own_products: Vec<Option<Product>>,
}

impl<'a> Operands<'a> {
    pub(crate) fn new(job: &'a TensorJob<'a>, options: &'a EngineOptions<'a>) -> Result<Operands<'a>, BoxError> {
        let product = |from: Option<&OperandView<'_>>| match from.and_then(|from| Some((from, from.low_rank?))) {
            Some((from, low_rank)) => Product::read(&low_rank, &from.view, options.on_nonfinite, from.model).map(Some),
            None => Ok(None),
        };
        let all = std::iter::once(job.base.as_ref()).chain(job.inputs.iter().map(Some));
        let products = all.map(product).collect::<Result<_, _>>()?;
        let own_products = job.own_bases.iter().map(|from| product(from.as_ref())).collect::<Result<_, _>>()?;
        Ok(Operands { job, options, products, own_products })
    }

    fn product(&self, operand: Operand) -> Option<&Product> {
        let at = match operand {
            Operand::Base => 0,
            Operand::Input(i) => i + 1,
            Operand::Statistic(_) => return None,
        };
        self.products.get(at)?.as_ref()
    }
}

impl Operands<'_> {
    /// The elements `range` as they are stored, with what an adapter adds.
    fn read_stored(
        &self,
        operand: Operand,
        from: &OperandView<'_>,
        range: Range<usize>,
        buffer: &mut [f32],
    ) -> Result<(), BoxError> {
        if let (Operand::Statistic(_), Some(statistic)) = (operand, self.job.spec.statistic) {
            let size = from.view.dtype().size();
            widen(from.view.dtype(), &from.view.data()[range.start * size..range.end * size], buffer)?;
            check_statistic(statistic, self.job.spec.row_len(), from, range.start, buffer)?;
            return Ok(());
        }
        widen_with(from, self.product(operand), self.options.on_nonfinite, range, buffer)
    }

    /// Makes the elements `range` of input `i` those of the base and the difference from the base of its own, which is
    /// `own`: θ0 + (θi − own).
    fn take_from_own_base(
        &self,
        i: usize,
        own: &OperandView<'_>,
        range: Range<usize>,
        values: &mut [f32],
    ) -> Result<(), BoxError> {
        let on_nonfinite = self.options.on_nonfinite;
        let mut buffer = vec![0.0; range.len()];
        widen_with(own, self.own_products[i].as_ref(), on_nonfinite, range.clone(), &mut buffer)?;
        values.iter_mut().zip(&buffer).for_each(|(x, own)| *x -= own);
        let base = self.read(Operand::Base, range.clone(), &mut buffer)?;
        values.iter_mut().zip(base).for_each(|(x, base)| *x += base);
        // Finite terms may have a sum beyond the range.
        if !all_finite(values) {
            mend(values, on_nonfinite, own.view.name(), own.model, range.start)?;
        }
        Ok(())
    }
}

/// The elements `range` of `from` with what an adapter adds.
fn widen_with(
    from: &OperandView<'_>,
    product: Option<&Product>,
    on_nonfinite: OnNonfinite,
    range: Range<usize>,
    buffer: &mut [f32],
) -> Result<(), BoxError> {
    let (dtype, size) = (from.view.dtype(), from.view.dtype().size());
    if !widen(dtype, &from.view.data()[range.start * size..range.end * size], buffer)? {
        mend(buffer, on_nonfinite, from.view.name(), from.model, range.start)?;
    }
    if let Some(product) = product {
        product.add_to(range.clone(), buffer);
        // Finite terms may have a sum beyond the range.
        if !all_finite(buffer) {
            mend(buffer, on_nonfinite, from.view.name(), from.model, range.start)?;
        }
    }
    Ok(())
}

impl Source for Operands<'_> {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        let from = self.job.operand(operand).ok_or("the operator asked for an operand that is not there")?;
        if let (Operand::Input(i), Some(own)) = (operand, self.job.own_base(operand)) {
            self.read_stored(operand, from, range.clone(), buffer)?;
            self.take_from_own_base(i, own, range, buffer)?;
            return Ok(buffer);
        }
        let Some(order) = from.order else {
            let is_as_stored = self.product(operand).is_none() && !matches!(operand, Operand::Statistic(_));
            let values = from.view.f32s().filter(|_| is_as_stored).map(|values| &values[range.clone()]);
            if let Some(values) = values.filter(|values| all_finite(values)) {
                return Ok(values);
            }
            self.read_stored(operand, from, range, buffer)?;
            return Ok(buffer);
        };
        let each = from.view.info().n_elements() / order.len();
        let (mut at, mut rest) = (range.start, &mut *buffer);
        while !rest.is_empty() {
            let (index, within) = (at / each, at % each);
            let (part, after) = rest.split_at_mut(rest.len().min(each - within));
            let start = order[index] * each + within;
            self.read_stored(operand, from, start..start + part.len(), part)?;
            at += part.len();
            rest = after;
        }
        Ok(buffer)
    }

    fn stored(&self, operand: Operand) -> Option<Stored<'_>> {
        // What a statistic holds is checked where it is widened, and what an adapter adds is added there.
        let is_as_stored = |from: &&OperandView<'_>| {
            from.low_rank.is_none() && from.order.is_none() && !matches!(operand, Operand::Statistic(_))
        };
        let has_own_base = self.job.own_base(operand).is_some();
        let from = self.job.operand(operand).filter(|_| !has_own_base).filter(is_as_stored)?;
        // Memory may hold something else the next time.
        let identity = from.view.file().map(|file| {
            let index = from.view.info().range.start as u64;
            Identity { container: file.serial(), index }
        });
        // Rows of an embedding may be cut.
        let bytes = &from.view.data()[..self.job.spec.len() * from.view.dtype().size()];
        Some(Stored { float: float(from.view.dtype())?, bytes, identity })
    }
}

/// The name that executors have for a type, if they have one.
fn float(dtype: Dtype) -> Option<Float> {
    match dtype {
        Dtype::F32 => Some(Float::F32),
        Dtype::F16 => Some(Float::F16),
        Dtype::Bf16 => Some(Float::Bf16),
        _ => None,
    }
}

/// What a statistic cannot hold is refused whatever the recipe says of NaN in weights: it was measured wrongly.
fn check_statistic(
    statistic: &StatisticSpec,
    columns: usize,
    from: &OperandView<'_>,
    offset: usize,
    values: &[f32],
) -> Result<(), BadStatistic> {
    let Some(index) = statistic.shape.first_refused(columns, offset, values) else { return Ok(()) };
    let value = values[index - offset];
    let expected = if value.is_finite() { "it must not be negative" } else { "it must be a finite number" };
    Err(BadStatistic { name: from.view.name().into(), statistics: from.model.into(), index, value, expected })
}

/// Rounds blocks of a result to its type on their way to the destination.
struct Narrowed<'a> {
    destination: &'a dyn Destination,
    job: usize,
    dtype: Dtype,
    /// Buffers that are used again.
    buffers: &'a Mutex<Vec<Vec<u8>>>,
}

impl Narrowed<'_> {
    /// Hands elements from `offset` on to the destination.
    fn send(&self, offset: usize, bytes: &[u8]) -> Result<(), BoxError> {
        self.destination.write(self.job, (offset * self.dtype.size()) as u64, bytes)
    }

    /// The refusal of elements from `offset` on, one of which is not finite; `values` is what they were before they
    /// were rounded, where that is known.
    #[cold]
    fn refuse(&self, offset: usize, bytes: &[u8], values: Option<&[f32]>) -> Result<(), BoxError> {
        let (dtype, size) = (self.dtype, self.dtype.size());
        let at = first_nonfinite(dtype, bytes)?.unwrap_or(0);
        let mut stored = [0.0];
        widen(dtype, &bytes[at * size..(at + 1) * size], &mut stored)?;
        let value = values.map_or(stored[0], |values| values[at]);
        Err(NonFiniteResult { index: offset + at, value, dtype }.into())
    }
}

impl Sink for Narrowed<'_> {
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError> {
        let size = self.dtype.size();
        let buffers = || self.buffers.lock();
        let mut bytes = buffers().pop().unwrap_or_default();
        bytes.resize(values.len() * size, 0);
        if !narrow(self.dtype, values, &mut bytes)? {
            return self.refuse(offset, &bytes, Some(values));
        }
        self.send(offset, &bytes)?;
        buffers().push(bytes);
        Ok(())
    }

    fn float(&self) -> Float {
        float(self.dtype).unwrap_or(Float::F32)
    }

    fn write_stored(&self, offset: usize, bytes: &[u8]) -> Result<(), BoxError> {
        if float(self.dtype).is_some() {
            return match first_nonfinite(self.dtype, bytes)? {
                None => self.send(offset, bytes),
                Some(_) => self.refuse(offset, bytes, None),
            };
        }
        let mut values = vec![0.0; bytes.len() / Dtype::F32.size()];
        widen(Dtype::F32, bytes, &mut values)?;
        self.write(offset, &values)
    }
}
