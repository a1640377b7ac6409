//! `x · Wᵀ + b` for a few rows of `x`, as in decoding, where the time goes into reading the weights.
//!
//! Each row of a weight is read once, in its stored type, and multiplied as it is widened: no block of it is written
//! anywhere. Rows are read four at a time that lie some pages apart. A processor fetches ahead within a page; four
//! streams keep it twice as busy as one. Several weights with the same input are one job, so that threads are called
//! together once for all of them.
//!
//! An element of the output is a sum in a fixed order: it depends neither on threads, nor on what other rows of `x` or
//! other weights are there, nor on the type that the same numbers are stored in.

use super::dots::{LANES, dots, total};
use crate::weight::{StoredElements, Weight};
use rayon::prelude::*;

/// Up to this many rows of `x`, products are done this way.
pub(super) const MAX_ROWS: usize = 4;

/// Rows of a weight that are read at the same time.
const STREAMS: usize = 4;

/// Bytes between the rows that are read at the same time: some pages.
const APART: usize = 24 << 10;

/// Numbers of a row that are widened at a time, where that is not done in registers; a multiple of [`LANES`].
const PIECE: usize = 512;

/// Bytes of weights below which a job is not worth handing to other threads.
const PARALLEL_FROM: usize = 128 << 10;

/// A product that is wanted: a weight [N, K], and a bias of length N.
pub(crate) type Factor<'a> = (&'a Weight, Option<&'a [f32]>);

/// For each weight [N, K] and its bias `x · Wᵀ + b` [T, N], for `x` [T, K] with T up to [`MAX_ROWS`]. Shapes fit.
pub(super) fn products(x: &[f32], t: usize, k: usize, factors: &[Factor<'_>]) -> Vec<Vec<f32>> {
    // Row after row of the weights, for each the products with all rows of `x`.
    let mut columns: Vec<Vec<f32>> = factors.iter().map(|(weight, _)| vec![0.0; weight.shape()[0] * t]).collect();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    let mut bytes = 0;
    for ((weight, bias), out) in factors.iter().zip(&mut columns) {
        let stored = weight.stored();
        let row_bytes = (k * weight.dtype().size()).max(1);
        bytes += weight.shape()[0] * row_bytes;
        let rows = STREAMS * (APART / row_bytes).max(1);
        let parts = out.chunks_mut(rows * t).enumerate();
        tasks.extend(parts.map(|(index, out)| Task { stored, bias: *bias, first: index * rows, out }));
    }
    if bytes < PARALLEL_FROM {
        tasks.iter_mut().for_each(|task| task.run(x, t, k));
    } else {
        tasks.par_iter_mut().for_each(|task| task.run(x, t, k));
    }
    if t > 1 {
        for column in &mut columns {
            let n = column.len() / t;
            *column =
                (0..t).flat_map(|row| (0..n).map(move |j| (row, j))).map(|(row, j)| column[j * t + row]).collect();
        }
    }
    columns
}

/// Some rows of one weight.
struct Task<'a> {
    stored: StoredElements<'a>,
    bias: Option<&'a [f32]>,
    /// The first of the rows.
    first: usize,
    /// [rows, T]
    out: &'a mut [f32],
}

impl Task<'_> {
    fn run(&mut self, x: &[f32], t: usize, k: usize) {
        let mut piece = [0.0; PIECE];
        let rows = self.out.len() / t;
        let apart = rows / STREAMS;
        for row in 0..apart {
            self.together(std::array::from_fn::<_, STREAMS, _>(|stream| stream * apart + row), x, t, k, &mut piece);
        }
        for row in STREAMS * apart..rows {
            self.together([row], x, t, k, &mut piece);
        }
        if let Some(bias) = self.bias {
            for (out, bias) in self.out.chunks_exact_mut(t).zip(&bias[self.first..]) {
                out.iter_mut().for_each(|out| *out += bias);
            }
        }
    }

    /// The products of some rows, by their places in the task, read at the same time.
    #[inline(always)]
    fn together<const N: usize>(&mut self, rows: [usize; N], x: &[f32], t: usize, k: usize, piece: &mut [f32; PIECE]) {
        let elements = |row: usize| (self.first + row) * k..(self.first + row + 1) * k;
        let sums = match (t, self.stored) {
            (1, StoredElements::F32(values)) => dots(x, rows.map(|row| &values[elements(row)]), |w| w),
            (1, StoredElements::Bf16(bits)) => {
                dots(x, rows.map(|row| &bits[elements(row)]), |bits| f32::from_bits(u32::from(bits) << 16))
            }
            _ => {
                let mut lanes = [[[0.0; LANES]; MAX_ROWS]; N];
                for start in (0..k).step_by(PIECE) {
                    let end = (start + PIECE).min(k);
                    for (lanes, row) in lanes.iter_mut().zip(rows) {
                        let first = elements(row).start;
                        let w = self.stored.widen(first + start..first + end, piece);
                        for (lanes, x) in lanes.iter_mut().zip(x.chunks_exact(k)) {
                            add_products(lanes, &x[start..end], w);
                        }
                    }
                }
                for (lanes, row) in lanes.into_iter().zip(rows) {
                    self.out[row * t..][..t].iter_mut().zip(lanes).for_each(|(out, lanes)| *out = total(&lanes));
                }
                return;
            }
        };
        rows.into_iter().zip(sums).for_each(|(row, sum)| self.out[row] = sum);
    }
}

/// Adds the product of each pair to the lane of its index, counted from the beginning of these.
#[inline(always)]
fn add_products(lanes: &mut [f32; LANES], x: &[f32], w: &[f32]) {
    let ((x, x_rest), (w, w_rest)) = (x.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    let mut sums = *lanes;
    for (x, w) in x.iter().zip(w) {
        for i in 0..LANES {
            sums[i] += x[i] * w[i];
        }
    }
    for ((sum, x), w) in sums.iter_mut().zip(x_rest).zip(w_rest) {
        *sum += x * w;
    }
    *lanes = sums;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::numbers;
    use glue_tensor::{Dtype, narrow};

    fn weight(dtype: Dtype, n: usize, k: usize, seed: u32) -> Weight {
        let mut bytes = vec![0; n * k * dtype.size()];
        narrow(dtype, &numbers(n * k, seed), &mut bytes).unwrap();
        Weight::owned(dtype, vec![n, k], bytes).unwrap()
    }

    #[test]
    fn sums_are_those_of_f64() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4M3, Dtype::F64] {
            for (t, n, k) in [(1, 1, 1), (1, 7, 31), (2, 17, 32), (3, 5, 600), (4, 9, 1100)] {
                let (x, bias, weight) = (numbers(t * k, 1), numbers(n, 2), weight(dtype, n, k, 3));
                let w = weight.to_f32();
                let found = products(&x, t, k, &[(&weight, None), (&weight, Some(&bias))]);
                for i in 0..t {
                    for j in 0..n {
                        let dot: f64 = (0..k).map(|c| f64::from(x[i * k + c]) * f64::from(w[j * k + c])).sum();
                        for (found, expected) in [(&found[0], dot), (&found[1], dot + f64::from(bias[j]))] {
                            // Sums of k products of numbers below 1, each rounded to 2^-24.
                            let error = (f64::from(found[i * n + j]) - expected).abs();
                            assert!(error < 1e-6 + 1e-7 * k as f64, "{t} {n} {k} {dtype} at {i}, {j}: {error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn neither_company_nor_type_nor_threads_change_a_bit() {
        let (n, k) = (300, 700);
        let bf16 = weight(Dtype::Bf16, n, k, 5);
        let bytes: Vec<u8> = bf16.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect();
        let f32 = Weight::owned(Dtype::F32, vec![n, k], bytes).unwrap();
        let x = numbers(4 * k, 6);
        let alone: Vec<f32> =
            (0..4).flat_map(|row| products(&x[row * k..][..k], 1, k, &[(&bf16, None)]).remove(0)).collect();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| products(&x, 4, k, &[(&bf16, None), (&f32, None)]));
            assert_eq!(found, [alone.clone(), alone.clone()], "{threads} threads");
        }
    }

    #[test]
    fn rows_that_are_not_aligned_are_read_too() {
        let (n, k) = (5, 65);
        let aligned = weight(Dtype::Bf16, n, k, 8);
        // A row of another weight in front, of an odd number of bytes.
        let bytes = [&[7u8; 1][..], aligned.bytes()].concat();
        let whole = Weight::owned(Dtype::F8E4M3, vec![bytes.len()], bytes).unwrap();
        let odd = whole.reinterpreted(1, Dtype::Bf16, vec![n, k]);
        let x = numbers(k, 9);
        assert_eq!(products(&x, 1, k, &[(&odd, None)]), products(&x, 1, k, &[(&aligned, None)]));
    }
}
