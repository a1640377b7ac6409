//! Short ways of merging, for the tests of operators.

use crate::def::{Operator, OperatorDef};
use crate::error::MergeError;
use crate::merge::Merge;

/// A key and a number; flags are 0 or 1.
pub(crate) type Number = (&'static str, f64);

/// What is merged.
pub(crate) struct Case<'a> {
    pub(crate) def: &'static OperatorDef,
    /// Settings for the tensor or for every input.
    pub(crate) settings: &'a [Number],
    /// Settings of each input; none when empty.
    pub(crate) own: &'a [&'a [Number]],
    pub(crate) shape: &'a [usize],
    pub(crate) base: Option<&'a [f32]>,
    pub(crate) inputs: &'a [&'a [f32]],
    /// Those that the operator declares; none when empty.
    pub(crate) statistics: &'a [&'a [f32]],
}

impl<'a> Case<'a> {
    /// Of flat inputs, without a base, settings and statistics.
    pub(crate) fn of(def: &'static OperatorDef, inputs: &'a [&'a [f32]]) -> Self {
        Self { def, settings: &[], own: &[], shape: &[], base: None, inputs, statistics: &[] }
    }

    pub(crate) fn run(&self) -> Result<Vec<f32>, MergeError> {
        let operator = Operator::new(self.def);
        let all = operator.params(self.inputs.len()).set_all(self.settings.iter().copied());
        let params = self.own.iter().enumerate().fold(all, |params, (i, own)| params.input(i, own.iter().copied()));
        let params = params.check()?;
        let flat = [self.inputs[0].len()];
        let shape = if self.shape.is_empty() { &flat } else { self.shape };
        let merge = Merge::new(&operator, &params).shape(shape).inputs(self.inputs).statistics(self.statistics);
        match self.base {
            Some(base) => merge.base(base).run(),
            None => merge.run(),
        }
    }

    /// Checks that the result is `expected`, but for a few roundings of `f32`.
    pub(crate) fn gives(&self, expected: &[f32]) {
        close(&self.run().unwrap(), expected);
    }

    /// Checks that the merge is refused with this message.
    pub(crate) fn refused(&self, expected: &str) {
        assert_eq!(self.run().unwrap_err().to_string(), expected);
    }
}

/// Checks that all elements are equal, but for a few roundings of `f32`.
pub(crate) fn close(found: &[f32], expected: &[f32]) {
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * (1.0 + b.abs());
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(near),
        "found {found:?}\nexpected {expected:?}"
    );
}
