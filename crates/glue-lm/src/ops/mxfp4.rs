//! Products with matrices in MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 numbers of 4 bits along a row, with an
//! exponent each, widened block by block where they are used.
//!
//! A number has a sign, two bits of exponent and one of mantissa: ±0, 0.5, 1, 1.5, 2, 3, 4, 6. The first of two in a
//! byte is the lower half. An exponent is stored with 127 added; 255 is NaN.

use super::{PARALLEL_FROM, elements, floats};
use crate::weight::Weight;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, bail};
use faer::linalg::matmul::matmul;
use faer::prelude::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of a block.
pub(crate) const BLOCK: usize = 32;

/// Floats of a widened piece: with its part of the inputs it stays in a core's L2 cache.
const PIECE: usize = 1 << 16;

/// What the 16 codes stand for.
const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// A matrix [rows, width] in MXFP4.
#[derive(Debug, Clone)]
pub(crate) struct Mxfp4 {
    /// Two numbers a byte, [rows, width / 2] in all.
    blocks: Weight,
    /// [rows, width / 32]
    scales: Weight,
    rows: usize,
    width: usize,
}

impl Mxfp4 {
    /// The matrix of `blocks` [rows, width / 32, 16] and `scales` [rows, width / 32], bytes both.
    pub(crate) fn new(blocks: Weight, scales: Weight) -> Option<Mxfp4> {
        let (&[rows, per_row, half], &[other, exponents]) = (blocks.shape(), scales.shape()) else {
            return None;
        };
        let fits = half == BLOCK / 2 && rows == other && per_row == exponents;
        fits.then_some(Mxfp4 { blocks, scales, rows, width: per_row * BLOCK })
    }

    /// Some rows as `f32`.
    fn widen(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        let per_row = self.width / BLOCK;
        let blocks = &self.blocks.bytes()[rows.start * self.width / 2..rows.end * self.width / 2];
        let scales = &self.scales.bytes()[rows.start * per_row..rows.end * per_row];
        out.resize(rows.len() * self.width, 0.0);
        let (blocks, out) = (blocks.as_chunks::<{ BLOCK / 2 }>().0, out.as_chunks_mut::<BLOCK>().0);
        for ((block, &scale), out) in blocks.iter().zip(scales).zip(out) {
            let factor = power_of_two(scale);
            for (byte, out) in block.iter().zip(out.as_chunks_mut::<2>().0) {
                out[0] = VALUES[usize::from(byte & 15)] * factor;
                out[1] = VALUES[usize::from(byte >> 4)] * factor;
            }
        }
    }

    /// Rows of a piece.
    fn piece(&self) -> usize {
        (PIECE / self.width.max(1)).clamp(16, self.rows.next_multiple_of(16).max(16))
    }
}

/// 2^(code − 127), which is subnormal for the code 0.
fn power_of_two(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

/// `x · wᵀ + bias` for `x` of shape [T, width] and `w` of shape [rows, width]: [T, rows].
pub(crate) fn product_mxfp4(x: &Tensor, w: &Mxfp4, bias: Option<&[f32]>) -> Result<Tensor> {
    x.apply_op1(Product { matrix: w.clone(), bias: bias.map(<[f32]>::to_vec) })
}

struct Product {
    matrix: Mxfp4,
    bias: Option<Vec<f32>>,
}

impl CustomOp1 for Product {
    fn name(&self) -> &'static str {
        "product-mxfp4"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (t, k) = at.shape().dims2()?;
        let Mxfp4 { rows: n, width, .. } = self.matrix;
        if width != k || self.bias.as_ref().is_some_and(|bias| bias.len() != n) {
            bail!("input of shape [{t}, {k}] with weights of [{n}, {width}] and their bias")
        }
        let mut y = match &self.bias {
            Some(bias) => bias.repeat(t),
            None => vec![0.0; t * n],
        };
        if t > 0 && n > 0 && k > 0 {
            let x = MatRef::from_row_major_slice(floats(x, at)?, t, k);
            let rows = self.matrix.piece();
            let piece = |scratch: &mut Vec<f32>, index: usize, y: MatMut<'_, f32>| {
                let count = y.ncols();
                self.matrix.widen(index * rows..index * rows + count, scratch);
                let w = MatRef::from_row_major_slice(scratch, count, k);
                matmul(y, Accum::Add, x, w.transpose(), 1.0, Par::Seq);
            };
            let mut y = MatMut::from_row_major_slice_mut(&mut y, t, n);
            if t * n * k < PARALLEL_FROM || n <= rows {
                let mut scratch = Vec::new();
                for index in 0..n.div_ceil(rows) {
                    let first = index * rows;
                    piece(&mut scratch, index, y.rb_mut().subcols_mut(first, rows.min(n - first)));
                }
            } else {
                let pieces = y.par_col_chunks_mut(rows).enumerate();
                pieces.for_each_init(Vec::new, |scratch, (index, y)| piece(scratch, index, y));
            }
        }
        Ok((CpuStorage::F32(y), Shape::from((t, n))))
    }

    /// The gradient of the input, `grad · W`; the weight is a constant.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (t, k) = x.dims2()?;
        let n = self.matrix.rows;
        let grad = elements(grad)?;
        let mut out = vec![0.0; t * k];
        let mut scratch = Vec::new();
        if t > 0 && n > 0 && k > 0 {
            let grad = MatRef::from_row_major_slice(&grad, t, n);
            let rows = self.matrix.piece();
            for start in (0..n).step_by(rows) {
                let count = rows.min(n - start);
                self.matrix.widen(start..start + count, &mut scratch);
                let w = MatRef::from_row_major_slice(&scratch, count, k);
                let out = MatMut::from_row_major_slice_mut(&mut out, t, k);
                matmul(out, Accum::Add, grad.subcols(start, count), w, 1.0, Par::Seq);
            }
        }
        Tensor::from_vec(out, (t, k), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::{check_gradients, numbers};
    use glue_tensor::Dtype;

    fn matrix(rows: usize, per_row: usize) -> Mxfp4 {
        let byte = |i: usize| ((i * 2_654_435_761) >> 7) as u8;
        let blocks: Vec<u8> = (0..rows * per_row * 16).map(byte).collect();
        // Exponents from -9 to 0.
        let scales: Vec<u8> = (0..rows * per_row).map(|i| 118 + byte(i + 99) % 10).collect();
        let blocks = Weight::owned(Dtype::U8, vec![rows, per_row, 16], blocks).unwrap();
        Mxfp4::new(blocks, Weight::owned(Dtype::U8, vec![rows, per_row], scales).unwrap()).unwrap()
    }

    /// A number of 4 bits by its fields, times its power of two.
    fn number(matrix: &Mxfp4, row: usize, column: usize) -> f64 {
        let at = row * matrix.width + column;
        let byte = matrix.blocks.bytes()[at / 2];
        let code = if at.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
        let (sign, exponent, mantissa) = (code >> 3, (code >> 1) & 3, code & 1);
        let size = match exponent {
            0 => 0.5 * f64::from(mantissa),
            e => (1.0 + 0.5 * f64::from(mantissa)) * 2f64.powi(i32::from(e) - 1),
        };
        let scale = i32::from(matrix.scales.bytes()[at / BLOCK]) - 127;
        if sign == 1 { -size * 2f64.powi(scale) } else { size * 2f64.powi(scale) }
    }

    #[test]
    fn widened_numbers_are_their_fields() {
        let matrix = matrix(7, 3);
        let mut out = Vec::new();
        matrix.widen(2..6, &mut out);
        for (i, found) in out.iter().enumerate() {
            assert_eq!(f64::from(*found), number(&matrix, 2 + i / 96, i % 96), "{i}");
        }
        assert_eq!(power_of_two(0), 2f32.powi(-127));
        assert_eq!([1, 127, 128, 254].map(power_of_two), [-126, 0, 1, 127].map(|power| 2f32.powi(power)));
        assert!(power_of_two(255).is_nan());
    }

    #[test]
    fn products_are_the_sums_and_threads_change_nothing() {
        for (t, n, per_row) in [(1, 1, 1), (3, 40, 2), (33, 300, 12), (70, 97, 4)] {
            let (matrix, k) = (matrix(n, per_row), per_row * BLOCK);
            let (x, bias) = (numbers(t * k, 1), numbers(n, 2));
            let input = Tensor::from_slice(&x, (t, k), &Device::Cpu).unwrap();
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                elements(&pool.install(|| product_mxfp4(&input, &matrix, Some(&bias)).unwrap())).unwrap()
            };
            let y = run(1);
            for (i, y) in y.iter().enumerate() {
                let (row, column) = (i / n, i % n);
                let dot: f64 = (0..k).map(|c| f64::from(x[row * k + c]) * number(&matrix, column, c)).sum();
                // Sums of k products of numbers below 6, each rounded to 2^-24.
                assert!((f64::from(*y) - dot - f64::from(bias[column])).abs() < 3e-6 * k as f64, "{t} {n} {k} at {i}");
            }
            assert_eq!(run(3), y);
        }
    }

    #[test]
    fn gradients_are_those_of_differences_and_shapes_are_checked() {
        let matrix = matrix(10, 2);
        check_gradients(&[&[3, 64]], 1.0, |x| product_mxfp4(&x[0], &matrix, None));
        let x = Tensor::zeros((2, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(product_mxfp4(&x, &matrix, None).is_err());
        let bytes =
            |shape: &[usize]| Weight::owned(Dtype::U8, shape.to_vec(), vec![0; shape.iter().product()]).unwrap();
        assert!(Mxfp4::new(bytes(&[2, 3, 8]), bytes(&[2, 3])).is_none());
        assert!(Mxfp4::new(bytes(&[2, 3, 16]), bytes(&[2, 4])).is_none());
    }
}
