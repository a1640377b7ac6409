//! The contract between an operator and whoever runs it: what is known beforehand, what is seen, what is decided.

use crate::error::MergeError;
use crate::kernel::{Gather, Gathered, Kernel};
use crate::statistic::StatisticSpec;
use std::any::Any;
use std::fmt;
use std::ops::Range;

/// What is known of an output tensor before any of its elements is read.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec<'a> {
    /// Name of the tensor; with the seed it keys the random operators.
    pub name: &'a str,
    /// Shape; empty for a scalar.
    pub shape: &'a [usize],
    /// Whether a base is among the operands.
    pub has_base: bool,
    /// Number of inputs, the base not counted.
    pub n_inputs: usize,
    /// Position of the layer this tensor belongs to and number of layers; `None` outside of the layers.
    pub layer: Option<(usize, usize)>,
    /// Seed of the random operators.
    pub seed: u64,
    /// The statistic that the operator declares, where there is one of this tensor for every operand that it is wanted
    /// of; `None` where there is none.
    pub statistic: Option<&'a StatisticSpec>,
}

impl TensorSpec<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the last axis; 1 for a scalar. What [`Grain::Row`] calls a row.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of statistics: as many as there are operands that one is wanted of, or 0 where there is none.
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
    /// The statistic of this position. Its elements are counted by themselves: there may be more or fewer of them than
    /// of the tensor.
    Statistic(usize),
}

/// The same run of elements of the base and of every input, widened to `f32`.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Index in the tensor of the first element.
    pub offset: usize,
    /// Elements of the base, when there is one.
    pub base: Option<&'a [f32]>,
    /// Elements of each input; all slices have the same length.
    pub inputs: &'a [&'a [f32]],
    /// The statistics that the operator declares, in the order of the operands they are of; empty where the tensor has
    /// none. Of a statistic of the shape [`Same`](crate::StatisticShape::Same), the same run of elements as of the
    /// inputs; of any other, all of it, the same for every block.
    pub statistics: &'a [&'a [f32]],
}

impl<'a> Block<'a> {
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

/// The least an operator must see at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grain {
    /// Any run of elements.
    Element,
    /// Whole rows: runs along the last axis, complete ones.
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
    /// Every block of the result follows from the same block of the operands.
    Map(Box<dyn Map>),
    /// Numbers about the whole tensor are needed first. Made by [`Plan::survey`].
    Survey(Box<dyn AnySurvey>),
}

impl Plan {
    /// A plan that fills the blocks of the result by `map`.
    pub fn map(map: impl Map + 'static) -> Self {
        Self::Map(Box::new(map))
    }

    /// A plan that reads every block once and then decides.
    pub fn survey<S: Survey + 'static>(survey: S) -> Self {
        Self::Survey(Box::new(survey))
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy(operand) => f.debug_tuple("Copy").field(operand).finish(),
            Self::Map(_) => f.write_str("Map"),
            Self::Survey(_) => f.write_str("Survey"),
        }
    }
}

/// Fills blocks of the result, in any order and from several threads.
pub trait Map: Send + Sync {
    /// Fills `out`, which is as long as the block and holds anything before.
    fn merge(&self, block: &Block<'_>, out: &mut [f32]);

    /// What a block must hold. Default: the whole tensor.
    fn grain(&self) -> Grain {
        Grain::default()
    }

    /// The well-known kernel this equals, for an [`Executor`](crate::Executor) that has it.
    fn kernel(&self) -> Option<Kernel<'_>> {
        None
    }
}

/// A pass over the operands that gathers numbers about the whole tensor.
///
/// The driver cuts the tensor into spans that depend on its shape alone, makes one [`Survey::Partial`] for each, and
/// joins them from first to last: sums come out the same for any number of threads.
pub trait Survey: Send + Sync + Sized {
    /// What is gathered over one run of elements.
    type Partial: Send + 'static;

    /// What a block must hold. Default: the whole tensor.
    fn grain(&self) -> Grain {
        Grain::default()
    }

    /// Where to look, in elements and ascending; `None` is everywhere. Ranges begin and end where the grain allows.
    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        None
    }

    /// Whether joining gives the same bits in any order and grouping, as counts and maxima do and sums of floats do
    /// not. Then one partial serves many spans, which matters where a partial is large.
    fn order_free(&self) -> bool {
        false
    }

    /// Bytes that observing a block takes besides the block, where they grow with the tensor; an estimate of memory adds
    /// them for each thread. Default 0.
    fn working_bytes(&self) -> u64 {
        0
    }

    /// A partial of no elements.
    fn partial(&self) -> Self::Partial;

    /// Takes in a block. The blocks of a span come in order.
    fn observe(&self, partial: &mut Self::Partial, block: &Block<'_>);

    /// Takes in what was gathered over the elements that follow.
    fn join(&self, partial: &mut Self::Partial, later: Self::Partial);

    /// Decides, knowing all.
    ///
    /// # Errors
    /// When what was gathered rules the merge out.
    fn finish(self, total: Self::Partial) -> Result<Plan, MergeError>;

    /// What this gathers, for an [`Executor`](crate::Executor) that can gather it by itself.
    fn describe(&self) -> Option<Gather<'_>> {
        None
    }

    /// Decides from what an executor gathered, as [`Survey::describe`] asked.
    ///
    /// # Errors
    /// As [`Survey::finish`]; or the answer is none to what was asked.
    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        Err(no_answer(&gathered))
    }
}

/// The refusal of an answer that a survey did not ask for.
pub(crate) fn no_answer(gathered: &Gathered) -> MergeError {
    let found = match gathered {
        Gathered::Sums(sums) => format!("{} sums", sums.len()),
        Gathered::Cuts(cuts) => format!("cuts of {} streams", cuts.len()),
    };
    MergeError::Io(format!("an executor answered a survey with {found}, which it did not ask for").into())
}

/// A [`Survey`] whose type is forgotten. Implemented for every survey; nothing else needs to.
pub trait AnySurvey: Send + Sync {
    /// See [`Survey::grain`].
    fn grain(&self) -> Grain;
    /// See [`Survey::ranges`].
    fn ranges(&self) -> Option<Vec<Range<usize>>>;
    /// See [`Survey::order_free`].
    fn order_free(&self) -> bool;
    /// See [`Survey::working_bytes`].
    fn working_bytes(&self) -> u64;
    /// See [`Survey::partial`].
    fn partial(&self) -> AnyPartial;
    /// See [`Survey::observe`].
    fn observe(&self, partial: &mut AnyPartial, block: &Block<'_>);
    /// See [`Survey::join`].
    fn join(&self, partial: &mut AnyPartial, later: AnyPartial);
    /// See [`Survey::finish`].
    ///
    /// # Errors
    /// As the survey's.
    fn finish(self: Box<Self>, total: AnyPartial) -> Result<Plan, MergeError>;
    /// See [`Survey::describe`].
    fn describe(&self) -> Option<Gather<'_>>;
    /// See [`Survey::conclude`].
    ///
    /// # Errors
    /// As the survey's.
    fn conclude(self: Box<Self>, gathered: Gathered) -> Result<Plan, MergeError>;
}

/// A [`Survey::Partial`] whose type is forgotten.
pub struct AnyPartial(Box<dyn Any + Send>);

impl AnyPartial {
    fn get<P: 'static>(&mut self) -> &mut P {
        self.0.downcast_mut().expect("a partial is handed to the survey that made it")
    }

    fn take<P: 'static>(self) -> P {
        *self.0.downcast().expect("a partial is handed to the survey that made it")
    }
}

impl<S: Survey> AnySurvey for S {
    fn grain(&self) -> Grain {
        Survey::grain(self)
    }
    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        Survey::ranges(self)
    }
    fn order_free(&self) -> bool {
        Survey::order_free(self)
    }
    fn working_bytes(&self) -> u64 {
        Survey::working_bytes(self)
    }
    fn partial(&self) -> AnyPartial {
        AnyPartial(Box::new(Survey::partial(self)))
    }
    fn observe(&self, partial: &mut AnyPartial, block: &Block<'_>) {
        Survey::observe(self, partial.get(), block);
    }
    fn join(&self, partial: &mut AnyPartial, later: AnyPartial) {
        Survey::join(self, partial.get(), later.take());
    }
    fn finish(self: Box<Self>, total: AnyPartial) -> Result<Plan, MergeError> {
        Survey::finish(*self, total.take())
    }
    fn describe(&self) -> Option<Gather<'_>> {
        Survey::describe(self)
    }
    fn conclude(self: Box<Self>, gathered: Gathered) -> Result<Plan, MergeError> {
        Survey::conclude(*self, gathered)
    }
}
