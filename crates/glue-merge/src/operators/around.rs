//! What operators that wrap another share: the way of the wrapped operator's surveys.

use crate::contract::{AnyPartial, AnySurvey, Block, Grain, Plan, Survey};
use crate::error::MergeError;
use std::ops::Range;

/// A wrapper of one tensor, as it stands around what the wrapped operator planned.
pub(super) trait Around: Send + Sync + Sized {
    /// The wrapped operator's plan, wrapped.
    fn plan(self, plan: Plan) -> Plan;

    /// Shows `see` the block that the wrapped operator is to see in the place of `block`, once.
    fn show(&self, block: &Block<'_>, see: &mut dyn FnMut(&Block<'_>));
}

/// A survey of the wrapped operator.
pub(super) struct Inner<A> {
    pub(super) survey: Box<dyn AnySurvey>,
    pub(super) around: A,
}

impl<A: Around> Survey for Inner<A> {
    type Partial = AnyPartial;

    fn grain(&self) -> Grain {
        self.survey.grain()
    }

    fn ranges(&self) -> Option<Vec<Range<usize>>> {
        self.survey.ranges()
    }

    fn order_free(&self) -> bool {
        self.survey.order_free()
    }

    fn working_bytes(&self) -> u64 {
        self.survey.working_bytes()
    }

    fn partial(&self) -> AnyPartial {
        self.survey.partial()
    }

    fn observe(&self, partial: &mut AnyPartial, block: &Block<'_>) {
        self.around.show(block, &mut |block| self.survey.observe(partial, block));
    }

    fn join(&self, partial: &mut AnyPartial, later: AnyPartial) {
        self.survey.join(partial, later);
    }

    fn finish(self, total: AnyPartial) -> Result<Plan, MergeError> {
        Ok(self.around.plan(self.survey.finish(total)?))
    }
}
