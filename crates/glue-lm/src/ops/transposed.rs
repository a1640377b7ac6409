//! `x · W + b` with `W` stored [in, out]: experts of gpt-oss and Llama 4, all of a layer in one tensor.

use super::linear::linear;
use super::{PARALLEL_FROM, floats};
use crate::weight::Weight;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// Columns done by one task.
const COLUMNS: usize = 128;

/// Rows of the weight widened together: with the columns of a task they stay in a core's L2 cache.
const ROWS: usize = 256;

/// `x · w + bias` for `x` of shape [T, K], `w` of shape [K, N] and `bias` of length N: [T, N].
pub(crate) fn product_transposed(x: &Tensor, w: &Weight, bias: Option<&[f32]>) -> Result<Tensor> {
    x.apply_op1(Transposed { weight: w.clone(), bias: bias.map(<[f32]>::to_vec) })
}

struct Transposed {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

impl CustomOp1 for Transposed {
    fn name(&self) -> &'static str {
        "product-transposed"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (t, k) = at.shape().dims2()?;
        let &[rows, n] = self.weight.shape() else { bail!("weight of shape {:?} in a product", self.weight.shape()) };
        if rows != k || self.bias.as_ref().is_some_and(|bias| bias.len() != n) {
            bail!("input of shape [{t}, {k}] with {:?} and bias of {:?}", self.weight, self.bias.as_ref().map(Vec::len))
        }
        let mut y = match &self.bias {
            Some(bias) => bias.repeat(t),
            None => vec![0.0; t * n],
        };
        if t > 0 && n > 0 && k > 0 {
            let x = MatRef::from_row_major_slice(floats(x, at)?, t, k);
            let weight = self.weight.reader();
            let block = |scratch: &mut Vec<f32>, index: usize, mut y: MatMut<'_, f32>| {
                let (first, width) = (index * COLUMNS, y.ncols());
                for start in (0..k).step_by(ROWS) {
                    let count = ROWS.min(k - start);
                    scratch.resize(count * width, 0.0);
                    for (row, out) in scratch.chunks_exact_mut(width).enumerate() {
                        weight.copy_part(start + row, first, out);
                    }
                    let w = MatRef::from_row_major_slice(scratch, count, width);
                    matmul(y.rb_mut(), Accum::Add, x.subcols(start, count), w, 1.0, Par::Seq);
                }
            };
            let mut y = MatMut::from_row_major_slice_mut(&mut y, t, n);
            if t * n * k < PARALLEL_FROM || n <= COLUMNS {
                let mut scratch = Vec::new();
                for index in 0..n.div_ceil(COLUMNS) {
                    let first = index * COLUMNS;
                    block(&mut scratch, index, y.rb_mut().subcols_mut(first, COLUMNS.min(n - first)));
                }
            } else {
                let blocks = y.par_col_chunks_mut(COLUMNS).enumerate();
                blocks.for_each_init(Vec::new, |scratch, (index, y)| block(scratch, index, y));
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((t, n))))
    }

    /// The gradient of the input, `grad · Wᵀ`; the weight is a constant.
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        linear(&grad.contiguous()?, &self.weight, None).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::{check_gradients, numbers};
    use candle_core::Device;
    use glue_tensor::{Dtype, narrow};

    fn stored(dtype: Dtype, k: usize, n: usize) -> Weight {
        let mut bytes = vec![0; n * k * dtype.size()];
        narrow(dtype, &numbers(n * k, 2), &mut bytes).unwrap();
        Weight::owned(dtype, vec![k, n], bytes).unwrap()
    }

    #[test]
    fn products_of_every_size_and_type_are_the_sums_and_threads_change_nothing() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for (t, k, n) in [(1, 1, 1), (3, 5, 17), (2, 700, 129), (1, 513, 300), (40, 300, 520)] {
                let (weight, x, bias) = (stored(dtype, k, n), numbers(t * k, 1), numbers(n, 3));
                let w = weight.to_f32();
                let input = Tensor::from_slice(&x, (t, k), &Device::Cpu).unwrap();
                let run = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let y = pool.install(|| product_transposed(&input, &weight, Some(&bias)).unwrap());
                    y.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                let y = run(1);
                for (i, y) in y.iter().enumerate() {
                    let (row, column) = (i / n, i % n);
                    let dot: f64 = (0..k).map(|c| f64::from(x[row * k + c]) * f64::from(w[c * n + column])).sum();
                    // Sums of k products of numbers below 1, each rounded to 2^-24.
                    let expected = dot + f64::from(bias[column]);
                    assert!((f64::from(*y) - expected).abs() < 1e-6 * k as f64, "{t} {k} {n} {dtype} at {i}");
                }
                assert_eq!(run(3), y);
            }
        }
    }

    #[test]
    fn gradients_are_those_of_differences_and_shapes_are_checked() {
        let weight = stored(Dtype::Bf16, 5, 17);
        check_gradients(&[&[3, 5]], 1.0, |x| product_transposed(&x[0], &weight, Some(&numbers(17, 3))));
        let x = Tensor::zeros((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(product_transposed(&x, &weight, None).is_err());
    }
}
