//! `cap · tanh(x / cap)`, the soft cap of logits (Gemma 2, arXiv 2408.00118), in one pass.

use super::exp::tanh;
use super::{elements, floats};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `cap · tanh(x / cap)`, element by element; `x` is contiguous.
pub(crate) fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    x.apply_op1(Softcap(cap))
}

struct Softcap(f32);

/// Elements per task: long enough to pay for handing it over.
const CHUNK: usize = 1 << 15;

impl CustomOp1 for Softcap {
    fn name(&self) -> &'static str {
        "soft-cap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, cap) = (floats(x, at)?, self.0);
        let mut out = vec![0.0; x.len()];
        let fill = |(out, x): (&mut [f32], &[f32])| {
            out.iter_mut().zip(x).for_each(|(out, x)| *out = cap * tanh(x / cap));
        };
        if x.len() <= CHUNK {
            fill((&mut out, x));
        } else {
            out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(fill);
        }
        Ok((CpuStorage::F32(out), at.shape().clone()))
    }

    /// 1 − (y / cap)² times the gradient of y.
    fn bwd(&self, _: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let slope = |(y, grad): (&f32, f32)| grad * (1.0 - (y / self.0).powi(2));
        let out: Vec<f32> = elements(y)?.iter().zip(elements(grad)?).map(slope).collect();
        Tensor::from_vec(out, y.shape(), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::{check_gradients, numbers};

    #[test]
    fn long_and_short_are_the_formula() {
        for n in [1, 1000, 2 * CHUNK + 3] {
            let x: Vec<f32> = numbers(n, 1).iter().map(|x| 90.0 * x).collect();
            let y = elements(&softcap(&Tensor::from_slice(&x, n, &Device::Cpu).unwrap(), 30.0).unwrap()).unwrap();
            for (y, x) in y.iter().zip(&x) {
                let expected = 30.0 * (f64::from(*x) / 30.0).tanh();
                // The tanh is within 1e-6.
                assert!((f64::from(*y) - expected).abs() < 4e-5, "{x}: {y} {expected}");
            }
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        check_gradients(&[&[3, 5]], 2.0, |x| softcap(&x[0], 1.5));
    }
}
