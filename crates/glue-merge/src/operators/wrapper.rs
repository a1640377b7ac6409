//! What operators that wrap another share: the reductions of the wrapped operator, wrapped.

use crate::contract::{AnyAccumulator, AnyReduction, Block, Granularity, Plan, Reduction};
use crate::error::MergeError;
use std::ops::Range;

/// What a wrapping operator does around the plan of the wrapped one, for one tensor.
pub(super) trait Wrapper: Send + Sync + Sized {
    /// The wrapped operator's plan, wrapped.
    fn plan(self, plan: Plan) -> Plan;

    /// Calls `see` once, with the block that the wrapped operator is to see in place of `block`.
    fn show(&self, block: &Block<'_>, see: &mut dyn FnMut(&Block<'_>));
}

/// A reduction of the wrapped operator.
pub(super) struct WrappedReduction<W> {
    pub(super) reduction: Box<dyn AnyReduction>,
    pub(super) wrapper: W,
}

impl<W: Wrapper> Reduction for WrappedReduction<W> {
    type Accumulator = AnyAccumulator;

    fn granularity(&self) -> Granularity {
        self.reduction.granularity()
    }

    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        self.reduction.ranges()
    }

    fn order_free(&self) -> bool {
        self.reduction.order_free()
    }

    fn working_bytes(&self) -> u64 {
        self.reduction.working_bytes()
    }

    fn accumulator(&self) -> AnyAccumulator {
        self.reduction.accumulator()
    }

    fn observe(&self, accumulator: &mut AnyAccumulator, block: &Block<'_>) {
        self.wrapper.show(block, &mut |block| self.reduction.observe(accumulator, block));
    }

    fn combine(&self, accumulator: &mut AnyAccumulator, later: AnyAccumulator) {
        self.reduction.combine(accumulator, later);
    }

    fn finish(self, total: AnyAccumulator) -> Result<Plan, MergeError> {
        Ok(self.wrapper.plan(self.reduction.finish(total)?))
    }
}
