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
        let terms: Vec<(f32, &[f32])> = block
            .base
            .map(|x| (self.base, x))
            .into_iter()
            .chain(self.inputs.iter().copied().zip(block.inputs.iter().copied()))
            .filter(|(c, _)| *c != 0.0)
            .collect();
        // One pass over `out` for several terms, added in their order.
        let rest = match terms[..] {
            [] => return out.fill(0.0),
            [a] => return begin([a], out),
            [a, b] => return begin([a, b], out),
            [a, b, c] => return begin([a, b, c], out),
            [a, b, c, d, ..] => {
                begin([a, b, c, d], out);
                terms[4..].as_chunks::<2>()
            }
        };
        rest.0.iter().for_each(|two| add(*two, out));
        rest.1.iter().for_each(|one| add([*one], out));
    }
}

/// `out = c0·x0 + c1·x1 + …`.
#[inline(always)]
fn begin<const N: usize>(terms: [(f32, &[f32]); N], out: &mut [f32]) {
    let terms = terms.map(|(c, x)| (c, &x[..out.len()]));
    for (j, out) in out.iter_mut().enumerate() {
        let mut sum = terms[0].0 * terms[0].1[j];
        for (c, x) in &terms[1..] {
            sum += c * x[j];
        }
        *out = sum;
    }
}

/// `out = out + c0·x0 + c1·x1 + …`.
#[inline(always)]
fn add<const N: usize>(terms: [(f32, &[f32]); N], out: &mut [f32]) {
    let terms = terms.map(|(c, x)| (c, &x[..out.len()]));
    for (j, out) in out.iter_mut().enumerate() {
        let mut sum = *out;
        for (c, x) in &terms {
            sum += c * x[j];
        }
        *out = sum;
    }
}
