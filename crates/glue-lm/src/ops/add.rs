//! The sum of two tensors, on the threads of the caller's pool: candle has a pool of its own for sums, whose threads
//! wait in loops and take processors from those that work.

use super::floats;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

/// `a + b`, both contiguous and of the same shape.
pub(crate) fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.apply_op2(b, Add)
}

struct Add;

/// Elements per task: long enough to pay for handing it over.
const CHUNK: usize = 1 << 16;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, a: &CpuStorage, a_at: &Layout, b: &CpuStorage, b_at: &Layout) -> Result<(CpuStorage, Shape)> {
        if a_at.shape() != b_at.shape() {
            bail!("a sum of tensors of shapes {:?} and {:?}", a_at.shape(), b_at.shape());
        }
        let (a, b) = (floats(a, a_at)?, floats(b, b_at)?);
        let sum = |(a, b): (&f32, &f32)| a + b;
        let out = if a.len() <= CHUNK {
            a.iter().zip(b).map(sum).collect()
        } else {
            let mut out = vec![0.0; a.len()];
            let parts = out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK));
            parts.for_each(|((out, a), b)| out.iter_mut().zip(a.iter().zip(b)).for_each(|(o, pair)| *o = sum(pair)));
            out
        };
        Ok((CpuStorage::F32(out), a_at.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::check_gradients;
    use candle_core::Device;

    #[test]
    fn short_and_long_sums() {
        for n in [0, 1, 1000, CHUNK + 1] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let tensor = Tensor::from_slice(&a, n, &Device::Cpu).unwrap();
            let sum = add(&tensor, &tensor).unwrap().to_vec1::<f32>().unwrap();
            assert!(sum.iter().zip(&a).all(|(s, a)| *s == 2.0 * a) && sum.len() == n);
        }
        let zeros = |n: usize| Tensor::zeros(n, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(add(&zeros(2), &zeros(3)).is_err());
    }

    #[test]
    fn gradients_are_those_of_differences() {
        check_gradients(&[&[2, 3], &[2, 3]], 1.0, |x| add(&x[0], &x[1]));
    }
}
