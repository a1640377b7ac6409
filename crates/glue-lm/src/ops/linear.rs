//! `x · Wᵀ + b` with `W` in its stored type: panels of it are widened into cache and multiplied there.

use super::few_rows::{self, Factor};
use super::{amx, elements, floats};
use crate::tape::{Stored, Tape};
use crate::weight::{StoredElements, Weight};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Multiplications below which a product is not worth handing to other threads.
pub(super) const PARALLEL_FROM: usize = 1 << 19;

/// Floats of a widened block of weights in the backward pass: with its share of the inputs it stays in a core's L2
/// cache.
const BLOCK: usize = 1 << 16;

/// `x · wᵀ + bias` for `x` of shape [T, K], `w` of shape [N, K] and `bias` of length N: [T, N].
pub(crate) fn linear(x: &Tensor, w: &Weight, bias: Option<&[f32]>) -> Result<Tensor> {
    linear_recorded(x, w, bias, None)
}

/// The same; the backward pass records the gradient of the weight where `recording` says.
pub(crate) fn linear_recorded(
    x: &Tensor,
    w: &Weight,
    bias: Option<&[f32]>,
    recording: Option<Recording>,
) -> Result<Tensor> {
    x.apply_op1(Linear { weight: w.clone(), bias: bias.map(<[f32]>::to_vec), recording })
}

/// For each weight [N, K] and its bias `x · wᵀ + bias` [T, N], in one job where `x` [T, K] has few rows or is packed
/// for the matrix unit, and nothing is differentiated; `None` elsewhere, where one product after the other is as good.
pub(crate) fn linear_together(x: &Tensor, factors: &[Factor<'_>]) -> Result<Option<Vec<Tensor>>> {
    let (t, k) = x.dims2()?;
    let fits = |(w, bias): &Factor<'_>| matches!(w.shape(), [n, c] if *c == k && bias.is_none_or(|b| b.len() == *n));
    if t == 0 || k == 0 || x.track_op() || !factors.iter().all(fits) {
        return Ok(None);
    }
    let Some(outputs) = special(&crate::model::floats(x)?, t, k, factors) else { return Ok(None) };
    let outputs = outputs.into_iter();
    let tensor = |y: Vec<f32>| {
        let n = y.len() / t;
        Tensor::from_vec(y, (t, n), &Device::Cpu)
    };
    outputs.map(tensor).collect::<Result<_>>().map(Some)
}

/// The products of a few rows, or those that the matrix unit does; `None` for those that are general.
fn special(x: &[f32], t: usize, k: usize, factors: &[Factor<'_>]) -> Option<Vec<Vec<f32>>> {
    if t <= few_rows::MAX_ROWS {
        return Some(few_rows::products(x, t, k, factors));
    }
    let unit = amx::Unit::find().filter(|_| factors.iter().all(|(weight, _)| amx::suits(weight)))?;
    Some(amx::products(unit, x, k, factors))
}

/// Where the backward pass records the gradient of a weight, and what the weight is called.
pub(crate) struct Recording {
    pub(crate) tape: Tape,
    pub(crate) stored: Stored,
}

struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
    recording: Option<Recording>,
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (t, k) = at.shape().dims2()?;
        let &[n, columns] = self.weight.shape() else {
            bail!("weight of shape {:?} in a product", self.weight.shape())
        };
        if columns != k || self.bias.as_ref().is_some_and(|bias| bias.len() != n) {
            bail!(
                "input of shape [{t}, {k}] with {:?} and bias of {:?}",
                self.weight,
                self.bias.as_ref().map(Vec::len)
            );
        }
        let x = floats(x, at)?;
        if t > 0 && k > 0 {
            let factor: Factor<'_> = (&self.weight, self.bias.as_deref());
            if let Some(mut outputs) = special(x, t, k, &[factor]) {
                return Ok((CpuStorage::F32(outputs.swap_remove(0)), Shape::from((t, n))));
            }
        }
        let mut y = match &self.bias {
            Some(bias) => bias.repeat(t),
            None => vec![0.0; t * n],
        };
        if t > 0 && n > 0 && k > 0 {
            let accumulate = if self.bias.is_some() { Accum::Add } else { Accum::Replace };
            let x = MatRef::from_row_major_slice(x, t, k);
            let y = MatMut::from_row_major_slice_mut(&mut y, t, n);
            product(x, &self.weight.stored(), y, accumulate);
        }
        Ok((CpuStorage::F32(y), Shape::from((t, n))))
    }

    /// The gradient of the input: `grad · W`. The weight is a constant to candle.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (t, n) = grad.dims2()?;
        let k = x.dim(1)?;
        let grad = Arc::new(elements(grad)?);
        if let Some(Recording { tape, stored }) = &self.recording {
            tape.product(stored, x, &grad, self.bias.is_some())?;
        }
        let mut out = vec![0.0; t * k];
        if t > 0 && n > 0 && k > 0 {
            let weight = self.weight.reader();
            let rows = (BLOCK / k).clamp(16, n.next_multiple_of(16));
            // Each task widens the weight for itself, which these many rows pay for.
            let inputs = out.par_chunks_mut(ROWS_BACK * k).zip(grad.par_chunks(ROWS_BACK * n));
            inputs.for_each_init(Vec::new, |scratch, (out, grad)| {
                let t = grad.len() / n;
                for start in (0..n).step_by(rows) {
                    let count = rows.min(n - start);
                    let w = MatRef::from_row_major_slice(weight.get(start..start + count, scratch), count, k);
                    let grad = MatRef::from_row_major_slice(grad, t, n).subcols(start, count);
                    matmul(MatMut::from_row_major_slice_mut(out, t, k), Accum::Add, grad, w, 1.0, Par::Seq);
                }
            });
        }
        Tensor::from_vec(out, (t, k), &Device::Cpu).map(Some)
    }
}

/// Rows of a gradient that a task takes.
const ROWS_BACK: usize = 128;

/// `x · wᵀ` for `x` of shape [T, K] and `w` of shape [N, K], both tensors that may be trained: [T, N].
pub(crate) fn product_of(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&w.contiguous()?, ProductOf)
}

struct ProductOf;

impl CustomOp2 for ProductOf {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((t, k), (n, columns)) = (x_at.shape().dims2()?, w_at.shape().dims2()?);
        if k != columns {
            bail!("input of shape [{t}, {k}] with weights of [{n}, {columns}]")
        }
        let (x, w) = (floats(x, x_at)?, floats(w, w_at)?);
        let x = MatRef::from_row_major_slice(x, t, k);
        let w = MatRef::from_row_major_slice(w, n, k);
        Ok((CpuStorage::F32(sequential(x, w.transpose())), Shape::from((t, n))))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((t, k), (n, _)) = (x.dims2()?, w.dims2()?);
        let (x, w, grad) = (elements(x)?, elements(w)?, elements(grad)?);
        let x = MatRef::from_row_major_slice(&x, t, k);
        let w = MatRef::from_row_major_slice(&w, n, k);
        let grad = MatRef::from_row_major_slice(&grad, t, n);
        let of_x = Tensor::from_vec(sequential(grad, w), (t, k), &Device::Cpu)?;
        let of_w = Tensor::from_vec(sequential(grad.transpose(), x), (n, k), &Device::Cpu)?;
        Ok((Some(of_x), Some(of_w)))
    }
}

/// The product, row-major, on this thread: gates are small.
fn sequential(a: MatRef<'_, f32>, b: MatRef<'_, f32>) -> Vec<f32> {
    let mut out = vec![0.0; a.nrows() * b.ncols()];
    let y = MatMut::from_row_major_slice_mut(&mut out, a.nrows(), b.ncols());
    matmul(y, Accum::Replace, a, b, 1.0, Par::Seq);
    out
}

/// Rows of the weight, rows of `x` and columns of both that a task multiplies at a time. The widened panel of the
/// weight, 256 KiB, and the part of `x`, 512 KiB, stay in a core's second-level cache whatever the shapes are; a panel
/// is widened once for as many rows of `x` as pay for it.
const TILE: (usize, usize, usize) = (128, 256, 512);

/// Tiles of the output, each summed over panels of the weight.
fn product(x: MatRef<'_, f32>, weight: &StoredElements<'_>, y: MatMut<'_, f32>, accumulate: Accum) {
    let (t, k, n) = (x.nrows(), x.ncols(), y.ncols());
    let (rows, inputs, depth) = TILE;
    let tile = |scratch: &mut Vec<f32>, first_input: usize, first_row: usize, mut y: MatMut<'_, f32>| {
        for start in (0..k).step_by(depth) {
            let depth = depth.min(k - start);
            let x = x.submatrix(first_input, start, y.nrows(), depth);
            let w = panel(weight, first_row..first_row + y.ncols(), k, start..start + depth, scratch);
            let accumulate = if start == 0 { accumulate } else { Accum::Add };
            matmul(y.rb_mut(), accumulate, x, w.transpose(), 1.0, Par::Seq);
        }
    };
    // Few multiplications are one task.
    let together = if t * n * k < PARALLEL_FROM { usize::MAX } else { 1 };
    y.par_row_chunks_mut(inputs).enumerate().with_min_len(together).for_each(|(i, y)| {
        let tiles = y.par_col_chunks_mut(rows).enumerate().with_min_len(together);
        tiles.for_each_init(Vec::new, |scratch, (j, y)| tile(scratch, i * inputs, j * rows, y));
    });
}

/// Some rows and columns of a weight of `k` columns: in place, or widened into `scratch`.
fn panel<'a>(
    weight: &StoredElements<'a>,
    rows: Range<usize>,
    k: usize,
    columns: Range<usize>,
    scratch: &'a mut Vec<f32>,
) -> MatRef<'a, f32> {
    if let StoredElements::F32(values) = weight {
        let all = MatRef::from_row_major_slice(&values[rows.start * k..rows.end * k], rows.len(), k);
        return all.subcols(columns.start, columns.len());
    }
    scratch.resize(rows.len() * columns.len(), 0.0);
    for (row, out) in rows.clone().zip(scratch.chunks_exact_mut(columns.len())) {
        weight.widen(row * k + columns.start..row * k + columns.end, out);
    }
    MatRef::from_row_major_slice(scratch, rows.len(), columns.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::{check_gradients, numbers};
    use glue_tensor::{Dtype, narrow};

    fn check(t: usize, n: usize, k: usize, dtype: Dtype, with_bias: bool) {
        let (x, w, bias) = (numbers(t * k, 1), numbers(n * k, 2), numbers(n, 3));
        let mut bytes = vec![0; n * k * dtype.size()];
        narrow(dtype, &w, &mut bytes).unwrap();
        let weight = Weight::owned(dtype, vec![n, k], bytes).unwrap();
        let w = weight.to_f32();
        let input = Tensor::from_slice(&x, (t, k), &Device::Cpu).unwrap();
        let y = linear(&input, &weight, with_bias.then_some(&bias[..])).unwrap();
        assert_eq!(y.dims(), [t, n]);
        let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for i in 0..t {
            for j in 0..n {
                let dot: f64 = (0..k).map(|c| f64::from(x[i * k + c]) * f64::from(w[j * k + c])).sum();
                let expected = dot + if with_bias { f64::from(bias[j]) } else { 0.0 };
                // Sums of k products of numbers below 1, each rounded to 2^-24.
                assert!(
                    (f64::from(y[i * n + j]) - expected).abs() < 1e-6 * k as f64,
                    "{t} {n} {k} {dtype} at {i}, {j}"
                );
            }
        }
    }

    #[test]
    fn products_of_every_size_and_type() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4M3, Dtype::F64] {
            for (t, n, k) in
                [(1, 1, 1), (3, 17, 5), (1, 100, 64), (40, 33, 128), (6, 96, 3000), (65, 300, 257), (300, 140, 530)]
            {
                check(t, n, k, dtype, false);
                check(t, n, k, dtype, true);
            }
        }
        check(0, 4, 4, Dtype::F32, true);
    }

    #[test]
    fn threads_change_nothing() {
        let (t, n, k) = (270, 400, 700);
        let weight = Weight::owned(
            Dtype::Bf16,
            vec![n, k],
            numbers(n * k, 5).iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect::<Vec<u8>>(),
        )
        .unwrap();
        let x = Tensor::from_vec(numbers(t * k, 4), (t, k), &Device::Cpu).unwrap();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| linear(&x, &weight, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let one = run(1);
        assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
    }

    #[test]
    fn gradients_are_those_of_differences() {
        for (t, n, k) in [(1, 1, 1), (3, 17, 5), (150, 7, 12)] {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                let mut bytes = vec![0; n * k * dtype.size()];
                narrow(dtype, &numbers(n * k, 2), &mut bytes).unwrap();
                let weight = Weight::owned(dtype, vec![n, k], bytes).unwrap();
                check_gradients(&[&[t, k]], 1.0, |x| linear(&x[0], &weight, Some(&numbers(n, 3))));
            }
        }
        check_gradients(&[&[6, 5], &[3, 5]], 1.0, |x| product_of(&x[0], &x[1]));
        // More rows of the weight than one block holds.
        let (n, k) = (40, 4000);
        let weight = Weight::owned(
            Dtype::F32,
            vec![n, k],
            numbers(n * k, 5).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        )
        .unwrap();
        let x = candle_core::Var::from_vec(numbers(2 * k, 4), (2, k), &Device::Cpu).unwrap();
        let grad = linear(&x, &weight, None).unwrap().sum_all().unwrap().backward().unwrap();
        let grad = elements(grad.get(&x).unwrap()).unwrap();
        let w = weight.to_f32();
        for column in 0..k {
            let sum: f32 = (0..n).map(|row| w[row * k + column]).sum();
            // Forty numbers below 1, added in another order.
            assert!((grad[column] - sum).abs() < 1e-5 && grad[k + column] == grad[column]);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let weight = Weight::owned(Dtype::F32, vec![2, 3], vec![0; 24]).unwrap();
        let x = Tensor::zeros((4, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(linear(&x, &weight, None).is_err());
        let x = Tensor::zeros((4, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(linear(&x, &weight, Some(&[0.0])).is_err());
    }
}
