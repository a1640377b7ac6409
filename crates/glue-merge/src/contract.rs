//! The contract between an operator and whoever runs it: what is known before any element is read, what an operator
//! sees of the elements, and what it decides.

use crate::device::{Gather, Gathered, Kernel};
use crate::error::MergeError;
use crate::statistic::StatisticSpec;
use std::any::Any;
use std::fmt;
use std::ops::Range;

/// What is known of an output tensor before any of its elements is read.
///
/// Made by [`TensorSpec::new`] and the `with_` methods, so that it can grow.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct TensorSpec<'a> {
    /// Name of the tensor; with the seed it keys the random operators.
    pub name: &'a str,
    /// Shape; empty for a scalar.
    pub shape: &'a [usize],
    /// Whether the first axis of three counts matrices, such as those of a layer's experts.
    pub stacked: bool,
    /// Whether a base is among the operands.
    pub has_base: bool,
    /// Number of inputs, the base not counted.
    pub n_inputs: usize,
    /// Position of the layer this tensor belongs to and number of layers; `None` outside of the layers.
    pub layer: Option<(usize, usize)>,
    /// Seed of the random operators.
    pub seed: u64,
    /// The statistic that the operator declares, if it was measured for this tensor on every operand that needs it;
    /// `None` otherwise.
    pub statistic: Option<&'a StatisticSpec>,
}

impl<'a> TensorSpec<'a> {
    /// A tensor of this name and shape, outside the layers, without a base, inputs or a statistic; the seed is 0.
    pub const fn new(name: &'a str, shape: &'a [usize]) -> Self {
        Self { name, shape, stacked: false, has_base: false, n_inputs: 0, layer: None, seed: 0, statistic: None }
    }

    /// The same, merged from these operands.
    #[must_use]
    pub const fn with_operands(mut self, has_base: bool, n_inputs: usize) -> Self {
        self.has_base = has_base;
        self.n_inputs = n_inputs;
        self
    }

    /// The same as a stack of matrices along the first of three axes, or not. Operators on matrices merge a stack
    /// matrix by matrix: [`Operator::unit`](crate::Operator::unit).
    #[must_use]
    pub const fn with_stacked(mut self, stacked: bool) -> Self {
        self.stacked = stacked;
        self
    }

    /// The same in this layer: its position, from 0, and the number of layers; `None` for a tensor outside the layers.
    #[must_use]
    pub const fn with_layer(mut self, layer: Option<(usize, usize)>) -> Self {
        self.layer = layer;
        self
    }

    /// The same with this seed for the random operators.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same with this statistic, or without one.
    #[must_use]
    pub const fn with_statistic(mut self, statistic: Option<&'a StatisticSpec>) -> Self {
        self.statistic = statistic;
        self
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the last axis; 1 for a scalar. What [`Granularity::Row`] calls a row.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Shape of each statistic; `None` if the tensor has none. A stack has one statistic for each matrix, stacked
    /// likewise.
    pub fn statistic_shape(&self) -> Option<Vec<usize>> {
        self.statistic.map(|statistic| statistic.shape_for(self.shape, self.stacked))
    }

    /// Number of statistics: one for each operand that needs one, or 0 if the tensor has none.
    pub fn n_statistics(&self) -> usize {
        self.statistic.map_or(0, |statistic| statistic.of.count(self.n_inputs))
    }
}

/// One of the things that go into a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The base.
    Base,
    /// The input of this position.
    Input(usize),
    /// The statistic of this position. It may have more or fewer elements than the tensor.
    Statistic(usize),
}

/// The same range of elements of the base and of every input, widened to `f32`.
///
/// Outside of this crate it is made by [`Block::new`], so that it can grow.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Block<'a> {
    /// Index in the tensor of the first element.
    pub offset: usize,
    /// Elements of the base, when there is one.
    pub base: Option<&'a [f32]>,
    /// Elements of each input; all slices have the same length.
    pub inputs: &'a [&'a [f32]],
    /// The statistics that the operator declares, in the order of their operands; empty if the tensor has none. A
    /// statistic of the shape [`Same`](crate::StatisticShape::Same) comes with the same range of elements as the
    /// inputs, any other as a whole with every block.
    pub statistics: &'a [&'a [f32]],
}

impl<'a> Block<'a> {
    /// A block without statistics whose first element has the index `offset` in the tensor. All slices have the same
    /// length.
    pub const fn new(offset: usize, base: Option<&'a [f32]>, inputs: &'a [&'a [f32]]) -> Self {
        Self { offset, base, inputs, statistics: &[] }
    }

    /// The same with these statistics.
    #[must_use]
    pub const fn with_statistics(mut self, statistics: &'a [&'a [f32]]) -> Self {
        self.statistics = statistics;
        self
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.inputs.first().copied().or(self.base).map_or(0, <[f32]>::len)
    }

    /// Whether the block has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of the base. Operators that declare [`BaseRule::Required`](crate::BaseRule::Required) always have one.
    pub fn base(&self) -> &'a [f32] {
        self.base.unwrap_or(&[])
    }
}

/// The smallest piece of a tensor that an operator can work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Granularity {
    /// Any range of elements.
    Element,
    /// Whole rows, that is, complete ranges along the last axis.
    Row,
    /// The whole tensor. Always correct, and the only one whose memory grows with the tensor.
    #[default]
    Tensor,
}

/// What an operator decided about a tensor.
#[non_exhaustive]
pub enum Plan {
    /// The result is this operand, byte for byte.
    Copy(Operand),
    /// Every block of the result follows from the same block of the operands. Made by [`Plan::map`].
    Map(Box<dyn Map>),
    /// Numbers about the whole tensor are needed first. Made by [`Plan::reduce`].
    Reduce(Box<dyn AnyReduction>),
}

impl Plan {
    /// A plan that fills the blocks of the result by `map`.
    pub fn map(map: impl Map + 'static) -> Self {
        Self::Map(Box::new(map))
    }

    /// A plan that reads every block once and then decides.
    pub fn reduce<R: Reduction + 'static>(reduction: R) -> Self {
        Self::Reduce(Box::new(reduction))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy(operand) => f.debug_tuple("Copy").field(operand).finish(),
            Self::Map(_) => f.write_str("Map"),
            Self::Reduce(_) => f.write_str("Reduce"),
        }
    }
}

/// Fills blocks of the result, in any order and from several threads.
pub trait Map: Send + Sync {
    /// Fills `out`, which is as long as the block and holds anything before.
    fn merge(&self, block: &Block<'_>, out: &mut [f32]);

    /// The pieces that a block must consist of. Default: the whole tensor.
    fn granularity(&self) -> Granularity {
        Granularity::default()
    }

    /// The well-known kernel this equals, for an [`Executor`](crate::device::Executor) that has it.
    fn kernel(&self) -> Option<Kernel<'_>> {
        None
    }
}

/// A pass over the operands that gathers numbers about the whole tensor: a parallel fold.
///
/// The driver cuts the tensor into spans that depend on its shape alone, fills one [`Reduction::Accumulator`] for each,
/// and combines them from first to last. Sums therefore have the same bits for any number of threads.
pub trait Reduction: Send + Sync + Sized {
    /// What is gathered over one range of elements.
    type Accumulator: Send + 'static;

    /// The pieces that a block must consist of. Default: the whole tensor.
    fn granularity(&self) -> Granularity {
        Granularity::default()
    }

    /// Which elements to read, ascending; `None` reads all. Ranges begin and end where the granularity allows it.
    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        None
    }

    /// Whether combining gives the same bits in any order and grouping, as counts and maxima do and sums of floats do
    /// not. One accumulator then serves many spans, which matters if it is large.
    fn order_free(&self) -> bool {
        false
    }

    /// Bytes of working memory that observing a block takes, excluding the block itself, if they grow with the tensor.
    /// An estimate of memory adds them for each thread. Default 0.
    fn working_bytes(&self) -> u64 {
        0
    }

    /// An accumulator of no elements.
    fn accumulator(&self) -> Self::Accumulator;

    /// Adds a block to an accumulator. The blocks of a span come in order.
    fn observe(&self, accumulator: &mut Self::Accumulator, block: &Block<'_>);

    /// Adds what was gathered over the elements that follow.
    fn combine(&self, accumulator: &mut Self::Accumulator, later: Self::Accumulator);

    /// Decides, given what was gathered over all elements.
    ///
    /// # Errors
    /// When what was gathered rules the merge out.
    fn finish(self, total: Self::Accumulator) -> Result<Plan, MergeError>;

    /// What this gathers, for an [`Executor`](crate::device::Executor) that can gather it by itself.
    fn describe(&self) -> Option<Gather<'_>> {
        None
    }

    /// Decides, given what an executor gathered as [`Reduction::describe`] asked.
    ///
    /// # Errors
    /// As [`Reduction::finish`], or [`MergeError::Contract`] if the executor gathered something else.
    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        Err(wrong_answer(&gathered))
    }
}

/// The refusal of an answer that a reduction did not ask for.
pub(crate) fn wrong_answer(gathered: &Gathered) -> MergeError {
    let found = match gathered {
        Gathered::Sums(sums) => format!("{} sums", sums.len()),
        Gathered::Thresholds(thresholds) => format!("thresholds of {} streams", thresholds.len()),
    };
    MergeError::Contract { reason: format!("an executor answered a reduction with {found}, which it did not ask for") }
}

/// A [`Reduction`] whose type is forgotten. Implemented for every reduction; nothing else needs to.
pub trait AnyReduction: Send + Sync {
    /// See [`Reduction::granularity`].
    fn granularity(&self) -> Granularity;
    /// See [`Reduction::ranges`].
    fn ranges(&self) -> Option<Vec<Range<usize>>>;
    /// See [`Reduction::order_free`].
    fn order_free(&self) -> bool;
    /// See [`Reduction::working_bytes`].
    fn working_bytes(&self) -> u64;
    /// See [`Reduction::accumulator`].
    fn accumulator(&self) -> AnyAccumulator;
    /// See [`Reduction::observe`].
    fn observe(&self, accumulator: &mut AnyAccumulator, block: &Block<'_>);
    /// See [`Reduction::combine`].
    fn combine(&self, accumulator: &mut AnyAccumulator, later: AnyAccumulator);
    /// See [`Reduction::finish`].
    ///
    /// # Errors
    /// As the reduction's.
    fn finish(self: Box<Self>, total: AnyAccumulator) -> Result<Plan, MergeError>;
    /// See [`Reduction::describe`].
    fn describe(&self) -> Option<Gather<'_>>;
    /// See [`Reduction::conclude`].
    ///
    /// # Errors
    /// As the reduction's.
    fn conclude(self: Box<Self>, gathered: Gathered) -> Result<Plan, MergeError>;
}

/// A [`Reduction::Accumulator`] whose type is forgotten.
pub struct AnyAccumulator(Box<dyn Any + Send>);

impl AnyAccumulator {
    fn get<A: 'static>(&mut self) -> &mut A {
        self.0.downcast_mut().expect("an accumulator goes back to the reduction that made it")
    }

    fn take<A: 'static>(self) -> A {
        *self.0.downcast().expect("an accumulator goes back to the reduction that made it")
    }
}

impl<R: Reduction> AnyReduction for R {
    fn granularity(&self) -> Granularity {
        Reduction::granularity(self)
    }
    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        Reduction::ranges(self)
    }
    fn order_free(&self) -> bool {
        Reduction::order_free(self)
    }
    fn working_bytes(&self) -> u64 {
        Reduction::working_bytes(self)
    }
    fn accumulator(&self) -> AnyAccumulator {
        AnyAccumulator(Box::new(Reduction::accumulator(self)))
    }
    fn observe(&self, accumulator: &mut AnyAccumulator, block: &Block<'_>) {
        Reduction::observe(self, accumulator.get(), block);
    }
    fn combine(&self, accumulator: &mut AnyAccumulator, later: AnyAccumulator) {
        Reduction::combine(self, accumulator.get(), later.take());
    }
    fn finish(self: Box<Self>, total: AnyAccumulator) -> Result<Plan, MergeError> {
        Reduction::finish(*self, total.take())
    }
    fn describe(&self) -> Option<Gather<'_>> {
        Reduction::describe(self)
    }
    fn conclude(self: Box<Self>, gathered: Gathered) -> Result<Plan, MergeError> {
        Reduction::conclude(*self, gathered)
    }
}
