//! Short ways of merging, for the tests of operators.

use crate::def::{Operator, OperatorDef};
use crate::error::MergeError;
use crate::host::merge_slices_with_statistics;
use crate::params::Setting;

/// A key and a number; flags are 0 or 1.
pub(crate) type Number = (&'static str, f64);

/// What is merged.
pub(crate) struct Merge<'a> {
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

impl<'a> Merge<'a> {
    /// Of flat inputs, without a base, settings and statistics.
    pub(crate) fn of(def: &'static OperatorDef, inputs: &'a [&'a [f32]]) -> Self {
        Self { def, settings: &[], own: &[], shape: &[], base: None, inputs, statistics: &[] }
    }

    pub(crate) fn run(&self) -> Result<Vec<f32>, MergeError> {
        let number = |(key, value): &Number| (*key, Setting::Number(*value));
        let settings: Vec<_> = self.settings.iter().map(number).collect();
        let own = |i: usize| self.own.get(i).map_or(Vec::new(), |own| own.iter().map(number).collect());
        let operator = Operator::new(self.def);
        let params = operator.params(&settings, &(0..self.inputs.len()).map(own).collect::<Vec<_>>())?;
        let flat = [self.inputs[0].len()];
        let shape = if self.shape.is_empty() { &flat } else { self.shape };
        merge_slices_with_statistics(&operator, &params, shape, self.base, self.inputs, self.statistics)
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
