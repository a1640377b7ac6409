//! Which sums are gathered from a model, in how many passes, and at what cost; from shapes alone.

use crate::error::CalibrateError;
use crate::statistic::Statistic;
use glue_lm::{LinearInput, Model, RoutedInput};
use glue_tensor::{Dtype, Layout, TensorSpec};
use std::collections::BTreeSet;
use std::ops::Range;

/// What to gather, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CalibrateOptions {
    /// The statistics to gather. Default: all.
    pub statistics: BTreeSet<Statistic>,
    /// Maximum bytes of sums held at a time; the sum of one tensor may take more. Smaller values take more passes
    /// over the sequences. Default: no limit, one pass.
    pub max_memory: Option<u64>,
    /// Maximum bytes of tensor data in a file; a larger tensor gets a file of its own. Default: 5 GB.
    pub max_shard_bytes: u64,
}

impl Default for CalibrateOptions {
    fn default() -> CalibrateOptions {
        CalibrateOptions { statistics: Statistic::ALL.into(), max_memory: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// One sum to gather, and the tensors whose statistic it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SumSpec {
    pub(crate) statistic: Statistic,
    /// Names of the model's tensors. Where there are several they are multiplied with the same input.
    pub(crate) tensors: Vec<String>,
    /// Shape of the statistic. Of experts that are stored together, the first axis counts them.
    pub(crate) shape: Vec<usize>,
    /// The layer of the tensors; `None` outside of the layers, and of gradients.
    pub(crate) layer: Option<usize>,
    /// Of experts, how tokens come to them.
    pub(crate) routed: Option<RoutedInput>,
}

impl SumSpec {
    /// The sum of a statistic of inputs.
    fn of_input(statistic: Statistic, input: &LinearInput) -> SumSpec {
        let extents = if statistic == Statistic::Gram { 2 } else { 1 };
        let of_matrix = std::iter::repeat_n(input.width, extents);
        let stack = input.routed.filter(|routed| routed.expert.is_none()).map(|routed| routed.experts);
        let shape = stack.into_iter().chain(of_matrix).collect();
        SumSpec { statistic, tensors: input.weights.clone(), shape, layer: input.layer, routed: input.routed }
    }

    /// Matrices in each tensor, each with a sum of its own.
    pub(crate) fn matrices(&self) -> usize {
        self.routed.filter(|routed| routed.expert.is_none()).map_or(1, |routed| routed.experts)
    }

    /// The input of each matrix has so many columns.
    pub(crate) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Elements in all.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn bytes(&self) -> u64 {
        size_of::<f64>() as u64 * self.elements() as u64
    }
}

/// Everything a calibration does, decided: the sums of a model and their passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibratePlan {
    pub(crate) options: CalibrateOptions,
    pub(crate) sums: Vec<SumSpec>,
    /// The sums of each pass.
    pub(crate) passes: Vec<Range<usize>>,
    /// Bytes of activations for each token that is read: in a forward pass, and in one with a backward pass.
    row_bytes: [u64; 2],
}

/// Maximum tokens of a batch: matrix products gain little from more.
const ROWS: usize = 1024;

/// Bytes of activations of a batch, about.
const BATCH_BYTES: u64 = 256 << 20;

/// Bytes of activations of all batches that run concurrently, about.
const CONCURRENT_BYTES: u64 = 1 << 30;

/// The cost of gathering the statistics of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CalibrateEstimate {
    /// Passes over the sequences.
    pub passes: usize,
    /// Bytes of the sums of the largest pass.
    pub sum_bytes: u64,
    /// Peak bytes of activations, about.
    pub activation_bytes: u64,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensor data written.
    pub output_bytes: u64,
}

impl CalibratePlan {
    /// Plans what `options` asks for.
    ///
    /// # Errors
    /// [`CalibrateError::NoStatistics`]; [`CalibrateError::Mixture`] for a mixture in the native format,
    /// [`CalibrateError::FisherOfMixture`] for the Fisher information of any other.
    pub fn new(model: &Model, options: &CalibrateOptions) -> Result<CalibratePlan, CalibrateError> {
        if options.statistics.is_empty() {
            return Err(CalibrateError::NoStatistics);
        }
        let inputs = model.linear_inputs()?;
        let parameters = match options.statistics.contains(&Statistic::Fisher) {
            true => model.parameters()?,
            false => Vec::new(),
        };
        let mut sums = Vec::new();
        for &statistic in &options.statistics {
            match statistic {
                Statistic::Activation | Statistic::Gram => {
                    sums.extend(inputs.iter().map(|input| SumSpec::of_input(statistic, input)));
                }
                Statistic::Fisher => sums.extend(parameters.iter().map(|parameter| {
                    let (tensors, shape) = (vec![parameter.name.clone()], parameter.shape.clone());
                    SumSpec { statistic, tensors, shape, layer: None, routed: None }
                })),
            }
        }
        let passes = passes(&sums, options.max_memory.unwrap_or(u64::MAX));
        let read = numbers_read(&inputs);
        let matrices = parameters.iter().filter(|parameter| parameter.shape.len() == 2);
        // Inputs, outputs and gradients of outputs of every matrix, with what lies between them.
        let both_ways = 3 * matrices.map(|matrix| matrix.shape.iter().sum::<usize>()).sum::<usize>();
        let row_bytes = [read, both_ways].map(|floats| (size_of::<f32>() * floats) as u64);
        Ok(CalibratePlan { options: options.clone(), sums, passes, row_bytes })
    }

    /// The statistics to gather.
    pub fn statistics(&self) -> impl Iterator<Item = Statistic> {
        self.options.statistics.iter().copied()
    }

    /// The cost on `threads` threads, for sequences of up to `longest` tokens.
    pub fn estimate(&self, threads: usize, longest: usize) -> CalibrateEstimate {
        let of_pass = |pass: &Range<usize>| {
            let rows = self.rows(pass).max(longest) as u64;
            let sums: u64 = self.sums[pass.clone()].iter().map(SumSpec::bytes).sum();
            (sums, rows * self.row_bytes(pass) * self.concurrent_batches(pass, rows as usize, threads) as u64)
        };
        let all: Vec<(u64, u64)> = self.passes.iter().map(of_pass).collect();
        let outputs = || self.sums.iter().flat_map(|spec| spec.tensors.iter().map(|_| spec.elements() as u64));
        CalibrateEstimate {
            passes: self.passes.len(),
            sum_bytes: all.iter().map(|pass| pass.0).max().unwrap_or(0),
            activation_bytes: all.iter().map(|pass| pass.1).max().unwrap_or(0),
            tensors: outputs().count(),
            output_bytes: size_of::<f32>() as u64 * outputs().sum::<u64>(),
        }
    }

    /// The tensors of the output, sum after sum.
    pub(crate) fn layout(&self) -> Result<Layout, glue_tensor::WriteError> {
        layout(&self.sums, self.options.max_shard_bytes, "model")
    }

    /// Whether a pass needs gradients.
    pub(crate) fn needs_gradients(&self, pass: &Range<usize>) -> bool {
        self.sums[pass.clone()].iter().any(|spec| spec.statistic == Statistic::Fisher)
    }

    /// Bytes of activations for each token in a pass.
    pub(crate) fn row_bytes(&self, pass: &Range<usize>) -> u64 {
        self.row_bytes[usize::from(self.needs_gradients(pass))].max(1)
    }

    /// Tokens of a batch.
    pub(crate) fn rows(&self, pass: &Range<usize>) -> usize {
        ((BATCH_BYTES / self.row_bytes(pass)) as usize).clamp(1, ROWS)
    }

    /// How many batches of up to `rows` tokens run concurrently. Their sums are added in order all the same.
    pub(crate) fn concurrent_batches(&self, pass: &Range<usize>, rows: usize, threads: usize) -> usize {
        let batch = self.row_bytes(pass).saturating_mul(rows.max(1) as u64);
        ((CONCURRENT_BYTES / batch) as usize).clamp(1, threads.max(1))
    }
}

/// The tensors of some sums, in files whose names start with `base_name`.
pub(crate) fn layout(
    sums: &[SumSpec],
    max_shard_bytes: u64,
    base_name: &str,
) -> Result<Layout, glue_tensor::WriteError> {
    let tensor_spec = |spec: &SumSpec, tensor: &String| TensorSpec {
        name: spec.statistic.tensor_name(tensor),
        dtype: Dtype::F32,
        shape: spec.shape.clone(),
    };
    let of_sum = |spec: &SumSpec| spec.tensors.iter().map(|tensor| tensor_spec(spec, tensor)).collect::<Vec<_>>();
    Layout::new(sums.iter().flat_map(of_sum).collect(), max_shard_bytes, base_name)
}

/// Numbers that are recorded for each token: of experts, those of the ones that it comes to.
fn numbers_read(inputs: &[LinearInput]) -> usize {
    let of_input = |input: &LinearInput| match input.routed {
        Some(routed) => (input.width * input.matrices() * routed.per_token).div_ceil(routed.experts.max(1)),
        None => input.width,
    };
    inputs.iter().map(of_input).sum()
}

/// Ranges of sums that fit into `max_memory` bytes.
pub(crate) fn passes(sums: &[SumSpec], max_memory: u64) -> Vec<Range<usize>> {
    let (mut passes, mut start, mut sum) = (Vec::new(), 0, 0u64);
    for (index, spec) in sums.iter().enumerate() {
        if index > start && sum.saturating_add(spec.bytes()) > max_memory {
            passes.push(start..index);
            (start, sum) = (index, 0);
        }
        sum = sum.saturating_add(spec.bytes());
    }
    if start < sums.len() {
        passes.push(start..sums.len());
    }
    passes
}
