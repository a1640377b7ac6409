//! Merging of planned tensors, out of core: blocks are widened from where the inputs are mapped, merged, narrowed and
//! handed to a destination. Nothing holds a whole tensor, let alone a model.

use crate::low_rank::{Product, all_finite, mend};
use crate::recipe::OnNonfinite;
use glue_merge::device::{Executor, Float, Identity, Stored};
use glue_merge::{
    BoxError, Done, Driver, MergeError, Operand, Operator, Params, Pool, Sink, Source, StatisticSpec, TensorSpec,
};
use glue_progress::Progress;
use glue_tensor::{Dtype, TensorView, narrow, widen};
use parking_lot::Mutex;
use rayon::prelude::*;
use std::ops::Range;

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

/// One operand of a merge: a tensor in a mapped file, what an adapter adds to it, and the name of
/// its model for messages.
#[derive(Debug, Clone, Copy)]
pub struct OperandView<'a> {
    /// The tensor.
    pub view: TensorView<'a>,
    /// The low-rank change that is added while the tensor is read.
    pub low_rank: Option<LowRankView<'a>>,
    /// What the user calls the model.
    pub model: &'a str,
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

/// Spans of work for each thread that are begun together: so many that a thread seldom waits for the last span of a
/// tensor, so few that little is held of tensors that are under way.
const SPANS_AT_ONCE: usize = 32;

/// Merges every job on the threads of the current rayon pool.
///
/// Jobs are done in order, as many at a time as keep the threads busy, each cut into spans that threads share: memory
/// follows from the number of threads and the length of a block.
///
/// # Errors
/// The first failure, with the name of its tensor.
pub fn merge_all(
    jobs: &[TensorJob<'_>],
    destination: &dyn Destination,
    options: &EngineOptions<'_>,
    progress: &dyn Progress,
) -> Result<(), TensorError> {
    let driver = Driver::default().pool(&RayonPool).executor(options.executor).block(options.block);
    let buffers = Mutex::default();
    let threads = rayon::current_num_threads();
    let enough = SPANS_AT_ONCE * threads * Driver::SPAN;
    let mut start = 0;
    while start < jobs.len() {
        let mut end = start;
        let mut elements = 0;
        // An operator that sees a tensor whole works on it with one thread: there must be tensors for the others.
        while end < jobs.len() && (end - start < threads || elements < enough) {
            elements += jobs[end].spec.len();
            end += 1;
        }
        (start..end).into_par_iter().try_for_each(|j| {
            let job = &jobs[j];
            if progress.is_cancelled() {
                return Ok(());
            }
            progress.item(job.spec.name);
            merge_one(job, &driver, options, &Narrowed { destination, job: j, dtype: job.dtype, buffers: &buffers })
                .map_err(|error| TensorError { tensor: job.spec.name.into(), error })
        })?;
        start = end;
    }
    Ok(())
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
) -> Result<(), MergeError> {
    let plan = job.operator.plan(&job.spec, job.params)?;
    let source = Operands::new(job, options).map_err(MergeError::Io)?;
    match driver.run(plan, &job.spec, &source, sink)? {
        Done::Merged => Ok(()),
        Done::Copy(operand) => copy(&source, operand, sink, options.block).map_err(MergeError::Io),
    }
}

/// Copies an operand: its bytes where the types agree, its values otherwise.
fn copy(source: &Operands<'_>, operand: Operand, sink: &Narrowed<'_>, block: usize) -> Result<(), BoxError> {
    let Some(from) = source.job.operand(operand) else {
        return Ok(());
    };
    let (len, data) = (source.job.spec.len(), from.view.data());
    let as_it_is = from.view.dtype() == sink.dtype
        && from.low_rank.is_none()
        && (source.options.on_nonfinite == OnNonfinite::Error || !sink.dtype.is_float());
    let size = sink.dtype.size();
    (0..len.div_ceil(Driver::SPAN)).into_par_iter().try_for_each(|s| {
        let span = s * Driver::SPAN..((s + 1) * Driver::SPAN).min(len);
        let mut buffer = vec![0.0; block.min(span.len())];
        for start in span.clone().step_by(block) {
            let range = start..(start + block).min(span.end);
            let length = range.len();
            let values =
                if sink.dtype.is_float() { source.read(operand, range.clone(), &mut buffer[..length])? } else { &[] };
            if as_it_is {
                let bytes = &data[range.start * size..range.end * size];
                sink.destination.write(sink.job, (range.start * size) as u64, bytes)?;
            } else {
                sink.write(start, values)?;
            }
        }
        Ok(())
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
struct Operands<'a> {
    job: &'a TensorJob<'a>,
    options: &'a EngineOptions<'a>,
    /// What is added to each operand, the base first.
    products: Vec<Option<Product>>,
}

impl<'a> Operands<'a> {
    fn new(job: &'a TensorJob<'a>, options: &'a EngineOptions<'a>) -> Result<Operands<'a>, BoxError> {
        let product = |from: Option<&OperandView<'_>>| match from.and_then(|from| Some((from, from.low_rank?))) {
            Some((from, low_rank)) => Product::read(&low_rank, options.on_nonfinite, from.model).map(Some),
            None => Ok(None),
        };
        let all = std::iter::once(job.base.as_ref()).chain(job.inputs.iter().map(Some));
        Ok(Operands { job, options, products: all.map(product).collect::<Result<_, _>>()? })
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

impl Source for Operands<'_> {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        let from = self.job.operand(operand).ok_or("the operator asked for an operand that is not there")?;
        let dtype = from.view.dtype();
        let size = dtype.size();
        let finite = widen(dtype, &from.view.data()[range.start * size..range.end * size], buffer)?;
        if let (Operand::Statistic(_), Some(statistic)) = (operand, self.job.spec.statistic) {
            check_statistic(statistic, self.job.spec.row_len(), from, range.start, buffer)?;
            return Ok(buffer);
        }
        let on_nonfinite = self.options.on_nonfinite;
        if !finite {
            mend(buffer, on_nonfinite, from.view.name(), from.model, range.start)?;
        }
        if let Some(product) = self.product(operand) {
            product.add_to(range.clone(), buffer);
            // Finite terms may have a sum beyond the range.
            if !all_finite(buffer) {
                mend(buffer, on_nonfinite, from.view.name(), from.model, range.start)?;
            }
        }
        Ok(buffer)
    }

    fn stored(&self, operand: Operand) -> Option<Stored<'_>> {
        // What a statistic holds is checked where it is widened, and what an adapter adds is added there.
        let is_as_stored =
            |from: &&OperandView<'_>| from.low_rank.is_none() && !matches!(operand, Operand::Statistic(_));
        let from = self.job.operand(operand).filter(is_as_stored)?;
        let identity = Identity { container: from.view.file().serial(), index: from.view.info().range.start as u64 };
        Some(Stored { float: float(from.view.dtype())?, bytes: from.view.data(), identity: Some(identity) })
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

impl Sink for Narrowed<'_> {
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError> {
        let size = self.dtype.size();
        let buffers = || self.buffers.lock();
        let mut bytes = buffers().pop().unwrap_or_default();
        bytes.resize(values.len() * size, 0);
        narrow(self.dtype, values, &mut bytes)?;
        self.destination.write(self.job, (offset * size) as u64, &bytes)?;
        buffers().push(bytes);
        Ok(())
    }

    fn float(&self) -> Float {
        float(self.dtype).unwrap_or(Float::F32)
    }

    fn write_stored(&self, offset: usize, bytes: &[u8]) -> Result<(), BoxError> {
        if float(self.dtype).is_some() {
            return self.destination.write(self.job, (offset * self.dtype.size()) as u64, bytes);
        }
        let mut values = vec![0.0; bytes.len() / Dtype::F32.size()];
        widen(Dtype::F32, bytes, &mut values)?;
        self.write(offset, &values)
    }
}
