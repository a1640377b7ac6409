//! The contract with an executor that is not the host's processor: what operators compute, as data, for a device that
//! has kernels of its own and cannot call a closure.
//!
//! An [`Executor`] looks at a plan before the driver does. A map names the kernel that it equals by
//! [`Map::kernel`](crate::Map::kernel), a reduction what it gathers by
//! [`Reduction::describe`](crate::Reduction::describe). What the executor does not know stays with the host.
//!
//! The symbols are those of the operators: θ0 is the base, θi an input, τi = θi − θ0 in `f32`, and τi' is τi with some
//! elements set to 0. Arithmetic is in `f32`, in the order written and without fused multiply-add; sums over elements
//! are in `f64`.

pub use crate::contract::{AnyAccumulator, AnyReduction};
use crate::contract::{Plan, TensorSpec};
use crate::driver::{Sink, Source};
use crate::error::MergeError;
use crate::gram::Vectors;
use crate::random::ElementRng;
use crate::select::{Largest, Threshold};
use std::fmt;

/// Runs plans, or the first steps of them, on something other than the driver's threads.
pub trait Executor: Sync {
    /// Runs as much of a plan as this executor has kernels for and returns the rest for the host: `None` when the whole
    /// tensor went to the sink. Default: the whole plan is left to the host.
    ///
    /// # Errors
    /// What the source, the sink, a reduction or the device refuses.
    fn advance(
        &self,
        plan: Plan,
        tensor: &TensorSpec<'_>,
        source: &dyn Source,
        sink: &dyn Sink,
    ) -> Result<Option<Plan>, MergeError> {
        let _ = (tensor, source, sink);
        Ok(Some(plan))
    }
}

/// Leaves every plan to the driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostExecutor;

impl Executor for HostExecutor {}

/// Maps that a device may run by a kernel of its own instead of calling [`Map::merge`](crate::Map::merge).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Kernel<'a> {
    /// `base · θ0 + Σ inputs[i] · θi`, added in that order; terms whose coefficient is 0 are left out.
    Linear {
        /// Coefficient of the base; 0 where there is none.
        base: f32,
        /// Coefficient of each input.
        inputs: &'a [f32],
    },
    /// The base and a sum of trimmed task vectors.
    Task(TaskKernel<'a>),
    /// With τi' = τi where `threshold` keeps the [variance](Ranking::Variance) and 0 elsewhere, and s = sign(Σ τi'), 0
    /// counting as +: `θ0 + Σ ci·τi' / max(Σ ci, 1e-6)`, both sums over the inputs where τi' is not 0 and ci·τi' has
    /// the sign s.
    Sce {
        /// Which positions are kept, by variance.
        threshold: Threshold,
        /// ci.
        weights: &'a [f32],
    },
    /// For each row of `row` elements: `(1−t)·θ0 + Σ (t/n)·θi`, with t = n·c / (1 + (n−1)·c) and c the mean cosine of
    /// pairs of the row's task vectors, or 0 where that is negative. Products and t are in `f64`, both coefficients are
    /// rounded to `f32`.
    ModelStockRows {
        /// Elements of a row.
        row: usize,
    },
}

/// The base and a sum of trimmed task vectors, di = factors\[i\] · τi'.
///
/// Without `elect`: `θ0 + scale · Σ di`. With it, s = sign(Σ di), 0 counting as +, and `θ0 + lambda · m` where m is the
/// sum of the di that are not 0 and have the sign s, divided by the sum of their weights when `normalize` (a divisor
/// below 1e-8 counts as 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskKernel<'a> {
    /// How τi becomes τi'.
    pub trim: Trimming<'a>,
    /// Weight of each input, times what rescaling asks for.
    pub factors: &'a [f32],
    /// Weight of each input.
    pub weights: &'a [f32],
    /// Factor on the merged task vector.
    pub lambda: f32,
    /// Whether the weights that take part divide the sum.
    pub normalize: bool,
    /// Whether signs are elected.
    pub elect: bool,
}

impl TaskKernel<'_> {
    /// Factor on Σ di where no signs are elected.
    pub fn scale(&self) -> f32 {
        if self.normalize { self.lambda / divisor(self.weights.iter().sum()) } else { self.lambda }
    }
}

/// A divisor, or 1 where it is nearly 0.
#[inline]
pub(crate) fn divisor(x: f32) -> f32 {
    if x.abs() < 1e-8 { 1.0 } else { x }
}

/// Which elements of each task vector are set to 0.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Trimming<'a> {
    /// None.
    Nothing,
    /// Of input i, those whose magnitude the first threshold drops or the second one keeps.
    Between(&'a [[Threshold; 2]]),
    /// Those whose random word says so.
    Random(&'a [RandomDrop]),
    /// Those whose random word says so, given the rank of their magnitude within their row.
    Ranked {
        /// How each input is trimmed.
        inputs: &'a [RankedDrop],
        /// Elements of a row.
        row: usize,
    },
}

/// Elements are kept where `u64::from(word) < kept_below`, and then multiplied by `scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomDrop {
    /// Where the words come from.
    pub rng: ElementRng,
    /// See [`keep_threshold`](crate::random::keep_threshold). Where it is 2³², nothing is dropped, nor scaled.
    pub kept_below: u64,
    /// Factor on what is kept.
    pub scale: f32,
}

/// Elements are kept where `word >> 1 < start + (rank · rise >> 16)`; rank 0 is the smallest magnitude of the row, and
/// equal ones rank by index.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankedDrop {
    /// Where the words come from.
    pub rng: ElementRng,
    /// Bound at rank 0, of 2³¹.
    pub start: u64,
    /// Rise from rank to rank, in 2⁻¹⁶.
    pub rise: u64,
}

impl RankedDrop {
    /// The bound below which the upper 31 bits of the word of an element of this rank keep it.
    #[inline]
    pub fn bound(&self, rank: u32) -> u32 {
        (self.start + ((u64::from(rank) * self.rise) >> 16)) as u32
    }

    /// Whether nothing is dropped.
    pub fn keeps_all(&self) -> bool {
        self.start >= 1 << 31
    }
}

/// Reductions that a device may make by kernels of its own.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Gather<'a> {
    /// The inner products of `n` vectors; answered by the lower triangle, row by row.
    Products {
        /// Which vectors.
        vectors: Vectors,
        /// How many.
        n: usize,
    },
    /// Σ |τi| and Σ |τi'| of each of `inputs`; answered in that order, two sums for each input.
    Norms {
        /// How τi becomes τi'.
        trim: Trimming<'a>,
        /// Number of inputs.
        inputs: usize,
    },
    /// Σ τi² of each of `inputs` over the positions whose variance `threshold` keeps; answered by a sum for each input.
    Energies {
        /// Which positions are kept.
        threshold: Threshold,
        /// Number of inputs.
        inputs: usize,
    },
    /// Which of some numbers are the largest; answered by thresholds.
    Largest {
        /// What is ranked.
        ranking: Ranking,
        /// Number of rankings: the inputs, or 1.
        streams: usize,
        /// Number of elements.
        elements: usize,
        /// For a stream, how many of its largest elements are kept: a number for each threshold that is asked for.
        counts: &'a (dyn Fn(usize, Largest) -> Vec<usize> + Send + Sync),
    },
}

impl fmt::Debug for Gather<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Products { vectors, n } => {
                f.debug_struct("Products").field("vectors", vectors).field("n", n).finish()
            }
            Self::Norms { trim, inputs } => {
                f.debug_struct("Norms").field("trim", trim).field("inputs", inputs).finish()
            }
            Self::Energies { threshold, inputs } => {
                f.debug_struct("Energies").field("threshold", threshold).field("inputs", inputs).finish()
            }
            Self::Largest { ranking, streams, .. } => {
                f.debug_struct("Largest").field("ranking", ranking).field("streams", streams).finish_non_exhaustive()
            }
        }
    }
}

/// What elements are ranked by, as the bits of a non-negative `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ranking {
    /// |τi|, a stream for each input.
    Magnitudes,
    /// The variance of τ across the inputs, one stream: with δi = τi − τ1 and m = Σ δi / n, Σ (δi − m)² / n.
    Variance,
}

/// What a device gathered.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Gathered {
    /// Sums over elements.
    Sums(Vec<f64>),
    /// Thresholds of each stream, in the order of its counts.
    Thresholds(Vec<Vec<Threshold>>),
}

/// How an element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl Float {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// All elements of an operand as they are stored, little-endian.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Their type.
    pub float: Float,
    /// Their bytes.
    pub bytes: &'a [u8],
    /// The key under which an executor may keep them for later merges; `None` if it must not keep them.
    pub identity: Option<Identity>,
}

/// Stands for elements: within a process, operands of equal identity hold the same elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// What holds them, such as an opened file. No two containers of a process have the same number.
    pub container: u64,
    /// Which part of the container they are.
    pub index: u64,
}
