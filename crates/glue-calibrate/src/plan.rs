//! Which sums are kept of a model, in how many passes, and what that takes; from shapes alone.

use crate::error::CalibrateError;
use crate::statistic::Statistic;
use glue_lm::Model;
use glue_tensor::{Dtype, Layout, TensorSpec};
use std::collections::BTreeSet;
use std::ops::Range;

/// What is gathered, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What is gathered. Default: all there is.
    pub statistics: BTreeSet<Statistic>,
    /// Most bytes of sums at a time, unless one tensor alone needs more; there are as many passes over the sequences as that takes.
    /// Default: one pass.
    pub max_memory: Option<u64>,
    /// Most bytes of tensor data in a file, unless one tensor alone is larger. Default: 5 GB.
    pub max_shard_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { statistics: Statistic::ALL.into(), max_memory: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// One sum, and the tensors that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) statistic: Statistic,
    /// Names of the model's tensors. Where there are several they are multiplied with the same input.
    pub(crate) tensors: Vec<String>,
    /// Shape of the statistic.
    pub(crate) shape: Vec<usize>,
}

impl Site {
    /// Elements in all.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        size_of::<f64>() as u64 * self.elements() as u64
    }
}

/// All sums of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(crate) options: Options,
    pub(crate) sites: Vec<Site>,
    /// The sites of each pass.
    pub(crate) passes: Vec<Range<usize>>,
    /// Bytes of activations for each token that is read: in a pass that gathers inputs, and in one that goes back.
    row_bytes: [u64; 2],
}

/// Tokens of a batch at most: matrix products gain little from more.
const ROWS: usize = 1024;

/// Bytes of activations of a batch, about.
const BATCH_BYTES: u64 = 256 << 20;

/// Bytes of activations of all batches that are run side by side, about.
const SIDE_BY_SIDE_BYTES: u64 = 1 << 30;

/// What the statistics of a model take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// Passes over the sequences.
    pub passes: usize,
    /// Bytes of the sums of the largest pass.
    pub sum_bytes: u64,
    /// Bytes of activations at a time, about.
    pub activation_bytes: u64,
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensor data written.
    pub output_bytes: u64,
}

impl Plan {
    /// Plans what `options` asks for.
    ///
    /// # Errors
    /// [`CalibrateError::Mixture`], [`CalibrateError::NoStatistics`]
    pub fn new(model: &Model, options: &Options) -> Result<Plan, CalibrateError> {
        let (inputs, parameters) = (model.linear_inputs()?, model.parameters()?);
        if options.statistics.is_empty() {
            return Err(CalibrateError::NoStatistics);
        }
        let mut sites = Vec::new();
        for &statistic in &options.statistics {
            match statistic {
                Statistic::Activation | Statistic::Gram => sites.extend(inputs.iter().map(|input| {
                    let extents = if statistic == Statistic::Gram { 2 } else { 1 };
                    Site { statistic, tensors: input.weights.clone(), shape: vec![input.width; extents] }
                })),
                Statistic::Fisher => sites.extend(parameters.iter().map(|parameter| {
                    let (tensors, shape) = (vec![parameter.name.clone()], parameter.shape.clone());
                    Site { statistic, tensors, shape }
                })),
            }
        }
        let passes = passes(&sites, options.max_memory.unwrap_or(u64::MAX));
        let read: usize = inputs.iter().map(|input| input.width).sum();
        let matrices = parameters.iter().filter(|parameter| parameter.shape.len() == 2);
        // Inputs, outputs and gradients of outputs of every matrix, with what lies between them.
        let both_ways = 3 * matrices.map(|matrix| matrix.shape.iter().sum::<usize>()).sum::<usize>();
        let row_bytes = [read, both_ways].map(|floats| (size_of::<f32>() * floats) as u64);
        Ok(Plan { options: options.clone(), sites, passes, row_bytes })
    }

    /// What is gathered.
    pub fn statistics(&self) -> impl Iterator<Item = Statistic> {
        self.options.statistics.iter().copied()
    }

    /// What it takes on `threads` threads, for sequences of `longest` tokens at most.
    pub fn estimate(&self, threads: usize, longest: usize) -> Estimate {
        let of_pass = |pass: &Range<usize>| {
            let rows = self.rows(pass).max(longest) as u64;
            let sums: u64 = self.sites[pass.clone()].iter().map(Site::bytes).sum();
            (sums, rows * self.row_bytes(pass) * self.side_by_side(pass, rows as usize, threads) as u64)
        };
        let all: Vec<(u64, u64)> = self.passes.iter().map(of_pass).collect();
        let outputs = || self.sites.iter().flat_map(|site| site.tensors.iter().map(|_| site.elements() as u64));
        Estimate {
            passes: self.passes.len(),
            sum_bytes: all.iter().map(|pass| pass.0).max().unwrap_or(0),
            activation_bytes: all.iter().map(|pass| pass.1).max().unwrap_or(0),
            tensors: outputs().count(),
            output_bytes: size_of::<f32>() as u64 * outputs().sum::<u64>(),
        }
    }

    /// The tensors of the output, site after site.
    pub(crate) fn layout(&self) -> Result<Layout, glue_tensor::WriteError> {
        let spec = |site: &Site, tensor: &String| TensorSpec {
            name: site.statistic.tensor_name(tensor),
            dtype: Dtype::F32,
            shape: site.shape.clone(),
        };
        let of_site = |site: &Site| site.tensors.iter().map(|tensor| spec(site, tensor)).collect::<Vec<_>>();
        Layout::new(self.sites.iter().flat_map(of_site).collect(), self.options.max_shard_bytes, "model")
    }

    /// Whether a pass needs gradients.
    pub(crate) fn goes_back(&self, pass: &Range<usize>) -> bool {
        self.sites[pass.clone()].iter().any(|site| site.statistic == Statistic::Fisher)
    }

    fn row_bytes(&self, pass: &Range<usize>) -> u64 {
        self.row_bytes[usize::from(self.goes_back(pass))].max(1)
    }

    /// Tokens of a batch.
    pub(crate) fn rows(&self, pass: &Range<usize>) -> usize {
        ((BATCH_BYTES / self.row_bytes(pass)) as usize).clamp(1, ROWS)
    }

    /// Batches of up to `rows` tokens that are run at a time. Their sums are added in their order all the same.
    pub(crate) fn side_by_side(&self, pass: &Range<usize>, rows: usize, threads: usize) -> usize {
        let batch = self.row_bytes(pass).saturating_mul(rows.max(1) as u64);
        ((SIDE_BY_SIDE_BYTES / batch) as usize).clamp(1, threads.max(1))
    }
}

/// Runs of sites whose sums fit into so many bytes.
fn passes(sites: &[Site], max_memory: u64) -> Vec<Range<usize>> {
    let (mut passes, mut start, mut sum) = (Vec::new(), 0, 0u64);
    for (index, site) in sites.iter().enumerate() {
        if index > start && sum.saturating_add(site.bytes()) > max_memory {
            passes.push(start..index);
            (start, sum) = (index, 0);
        }
        sum = sum.saturating_add(site.bytes());
    }
    if start < sites.len() {
        passes.push(start..sites.len());
    }
    passes
}
