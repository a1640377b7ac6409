//! Weighted sums of the operands: what every operator ends in that stays in the span of its inputs.

use crate::contract::{Block, Granularity, Map, Plan};
use crate::device::Kernel;

/// `base · θ0 + Σ inputs[i] · θi`.
pub(crate) struct Combination {
    base: f32,
    inputs: Vec<f32>,
}

/// A plan for `base · θ0 + Σ inputs[i] · θi`; the coefficients are rounded to `f32` here, once.
pub(crate) fn combination(base: f64, inputs: impl IntoIterator<Item = f64>) -> Plan {
    Plan::map(Combination { base: base as f32, inputs: inputs.into_iter().map(|c| c as f32).collect() })
}

impl Map for Combination {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Linear { base: self.base, inputs: &self.inputs })
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let mut terms = block
            .base
            .map(|x| (self.base, x))
            .into_iter()
            .chain(self.inputs.iter().copied().zip(block.inputs.iter().copied()))
            .filter(|(c, _)| *c != 0.0);
        match terms.next() {
            Some((c, x)) => out.iter_mut().zip(x).for_each(|(out, x)| *out = c * x),
            None => out.fill(0.0),
        }
        for (c, x) in terms {
            out.iter_mut().zip(x).for_each(|(out, x)| *out += c * x);
        }
    }
}
