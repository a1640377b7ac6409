//! `x · Wᵀ + b` on the matrix unit of a processor with AMX, in the precision of `f32`.
//!
//! The unit multiplies bfloat16 and adds in `f32`. A number of `f32` is the exact sum of three of bfloat16: its
//! significand of 24 bits in parts of eight. Inputs are stored in these parts, weights in as many as their type needs:
//! one for bfloat16 and eight-bit types, two for float16, three for the rest. All products of parts are exact, and all
//! are added, so that what is rounded are the sums, as elsewhere.
//!
//! Of AVX-512's dot products of bfloat16 nothing is made: they do 32 multiplications where a fused multiply-add does
//! 16, and three are needed for one.
//!
//! Inputs are packed once, 32 rows and 32 columns at a time, row after row. Weights are packed panel by panel, pairs of
//! columns across rows, as the unit wants its second operand. An element of the output is a sum in an order that
//! depends on the number of columns alone.

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
mod unit;

use super::few_rows::Factor;
use crate::weight::{StoredElements, Weight};
use faer::MatMut;
use glue_tensor::Dtype;
use rayon::prelude::*;
use std::ops::Range;

#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(crate) use unit::Unit;

/// There is none elsewhere.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
impl Unit {
    pub(crate) fn find() -> Option<Unit> {
        None
    }
}

/// Rows of inputs, and rows of weights, that are multiplied at a time: 32 · 32 numbers of the output are in registers.
const BLOCK: usize = 32;

/// Columns that an instruction multiplies.
const COLUMNS: usize = 32;

/// Parts of an input.
const PARTS: usize = 3;

/// Packed numbers of a block of inputs in as many columns: for each part 32 rows.
const INPUT_STEP: usize = PARTS * BLOCK * COLUMNS;

/// Packed numbers of one part of a block of weights in as many columns: two halves of 16 rows, each with 16 pairs of
/// columns of all its rows.
const WEIGHT_STEP: usize = BLOCK * COLUMNS;

/// Steps, rows of weights and rows of inputs of a task. A packed panel of weights takes 64 KiB for each part.
const TILE: (usize, usize, usize) = (16, 64, 256);

/// Packed inputs that there are at a time, in numbers: 32 MiB, or the rows of one tile.
const PACKED: usize = 16 << 20;

/// Numbers of a weight from which it is worth packing. Independent of how many inputs there are, as all is that an
/// element of the output depends on.
const WEIGHT_FROM: usize = 4096;

/// Whether the unit is the way to multiply with a weight.
pub(super) fn suits(weight: &Weight) -> bool {
    weight.shape().iter().product::<usize>() >= WEIGHT_FROM
}

/// Bytes that a number of the inputs is packed into on this machine.
pub(crate) fn packed_bytes() -> usize {
    Unit::find().map_or(0, |_| PARTS * size_of::<u16>())
}

/// For each weight [N, K] and its bias `x · Wᵀ + b` [T, N], for `x` [T, K]. Shapes fit; K is not 0.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
pub(super) fn products(unit: Unit, x: &[f32], k: usize, factors: &[Factor<'_>]) -> Vec<Vec<f32>> {
    products_with(|| unit.tiles(), x, k, factors)
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", not(miri))))]
pub(super) fn products(unit: Unit, _: &[f32], _: usize, _: &[Factor<'_>]) -> Vec<Vec<f32>> {
    match unit {}
}

/// What the unit does for a thread.
trait Multiply {
    /// Adds to `y` [32, 32] the product of packed inputs and packed weights of as many steps.
    fn add_product(&self, inputs: &[u16], weights: &[u16], y: MatMut<'_, f32>);

    /// Transposes a square of pairs.
    fn transpose(&self, rows: &[[u32; 16]; 16], out: &mut [[u32; 16]; 16]);
}

fn products_with<M: Multiply>(
    tiles: impl Fn() -> M + Sync,
    x: &[f32],
    k: usize,
    factors: &[Factor<'_>],
) -> Vec<Vec<f32>> {
    let t = x.len() / k;
    let mut outputs: Vec<Vec<f32>> = factors
        .iter()
        .map(|(weight, bias)| match bias {
            Some(bias) => bias.repeat(t),
            None => vec![0.0; t * weight.shape()[0]],
        })
        .collect();
    let steps = k.div_ceil(COLUMNS);
    let band = (PACKED / (steps * PARTS * COLUMNS)).next_multiple_of(TILE.2);
    let mut inputs = Vec::new();
    for (first, x) in (0..t).step_by(band).zip(x.chunks(band * k)) {
        pack_inputs(x, k, &mut inputs);
        let rows = x.len() / k;
        let mut tasks = Vec::new();
        for ((weight, _), output) in factors.iter().zip(&mut outputs) {
            let n = weight.shape()[0];
            let y = MatMut::from_row_major_slice_mut(&mut output[first * n..(first + rows) * n], rows, n);
            let stored = weight.stored();
            let parts = parts_of(weight.dtype());
            for (i, y) in row_chunks(y, TILE.2).enumerate() {
                let tile = |(j, y)| Task { stored, parts, k, block: i * TILE.2 / BLOCK, row: j * TILE.1, y };
                tasks.extend(column_chunks(y, TILE.1).enumerate().map(tile));
            }
        }
        let inputs = inputs.as_slice();
        tasks.into_par_iter().for_each_init(Vec::new, |panel, task| task.run(&tiles(), inputs, panel));
    }
    outputs
}

/// Blocks of so many rows; the last may have fewer.
fn row_chunks(mut y: MatMut<'_, f32>, size: usize) -> impl Iterator<Item = MatMut<'_, f32>> {
    let count = y.nrows().div_ceil(size);
    std::iter::repeat_with(move || {
        let rest = std::mem::replace(&mut y, MatMut::from_row_major_slice_mut(&mut [], 0, 0));
        let size = size.min(rest.nrows());
        let (chunk, rest) = rest.split_at_row_mut(size);
        y = rest;
        chunk
    })
    .take(count)
}

/// Blocks of so many columns; the last may have fewer.
fn column_chunks(y: MatMut<'_, f32>, size: usize) -> impl Iterator<Item = MatMut<'_, f32>> {
    row_chunks(y.transpose_mut(), size).map(MatMut::transpose_mut)
}

/// How many numbers of bfloat16 add up to any of this type.
fn parts_of(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bf16 | Dtype::F8E4M3 | Dtype::F8E5M2 => 1,
        Dtype::F16 => 2,
        _ => PARTS,
    }
}

/// Three numbers of bfloat16 with the sum `x`, the largest first. Of what is not finite there is one part.
#[inline(always)]
fn split(x: f32) -> [u16; PARTS] {
    let upper = |x: f32| x.to_bits() & 0xffff_0000;
    let first = upper(x);
    let rest = x - f32::from_bits(first);
    let second = upper(rest);
    let third = rest - f32::from_bits(second);
    let finite = x.is_finite();
    // The upper half of a NaN may be that of an infinity.
    let first = if x.is_nan() { 0x7fc0_0000 } else { first };
    let [second, third] = [second, third.to_bits()].map(|bits| if finite { bits } else { 0 });
    [first, second, third].map(|bits| (bits >> 16) as u16)
}

/// Packs the rows of `x`, each of `k` numbers: for each block of rows, for each step, for each part the rows. What is
/// missing to whole blocks and steps is 0.
fn pack_inputs(x: &[f32], k: usize, packed: &mut Vec<u16>) {
    let per_block = k.div_ceil(COLUMNS) * INPUT_STEP;
    packed.clear();
    packed.resize((x.len() / k).div_ceil(BLOCK) * per_block, 0);
    packed.par_chunks_mut(per_block).zip(x.par_chunks(BLOCK * k)).for_each(|(packed, x)| {
        // Step after step: the rows of a step lie together, those of a row far apart.
        for (step, packed) in packed.chunks_exact_mut(INPUT_STEP).enumerate() {
            let columns = step * COLUMNS..((step + 1) * COLUMNS).min(k);
            let (first, rest) = packed.split_at_mut(BLOCK * COLUMNS);
            let (second, third) = rest.split_at_mut(BLOCK * COLUMNS);
            let parts = [first, second, third].map(|part| part.as_chunks_mut::<COLUMNS>().0);
            let [first, second, third] = parts;
            for (row, x) in x.chunks_exact(k).enumerate() {
                split_row(&x[columns.clone()], [&mut first[row], &mut second[row], &mut third[row]]);
            }
        }
    });
}

/// The parts of some numbers, up to [`COLUMNS`].
fn split_row(x: &[f32], [first, second, third]: [&mut [u16; COLUMNS]; PARTS]) {
    let mut whole = [0.0; COLUMNS];
    whole[..x.len()].copy_from_slice(x);
    for i in 0..COLUMNS {
        [first[i], second[i], third[i]] = split(whole[i]);
    }
}

/// A part of one output.
struct Task<'a> {
    stored: StoredElements<'a>,
    /// Parts of a weight.
    parts: usize,
    k: usize,
    /// The first block of packed inputs.
    block: usize,
    /// The first row of the weight.
    row: usize,
    /// [inputs, rows of the weight]
    y: MatMut<'a, f32>,
}

impl Task<'_> {
    fn run(mut self, tiles: &impl Multiply, inputs: &[u16], panel: &mut Vec<u16>) {
        let steps = self.k.div_ceil(COLUMNS);
        for first in (0..steps).step_by(TILE.0) {
            let depth = TILE.0.min(steps - first);
            let row_blocks = self.y.ncols().div_ceil(BLOCK);
            panel.resize(self.parts * row_blocks * depth * WEIGHT_STEP, 0);
            self.pack_weights(tiles, first..first + depth, panel);
            for (i, rows) in row_chunks(self.y.as_mut(), BLOCK).enumerate() {
                let inputs = &inputs[((self.block + i) * steps + first) * INPUT_STEP..][..depth * INPUT_STEP];
                for (j, mut y) in column_chunks(rows, BLOCK).enumerate() {
                    let weights =
                        |part: usize| &panel[(part * row_blocks + j) * depth * WEIGHT_STEP..][..depth * WEIGHT_STEP];
                    if (y.nrows(), y.ncols()) == (BLOCK, BLOCK) {
                        (0..self.parts).for_each(|part| tiles.add_product(inputs, weights(part), y.as_mut()));
                        continue;
                    }
                    let mut whole = [0.0; BLOCK * BLOCK];
                    let mut whole = MatMut::from_row_major_slice_mut(&mut whole, BLOCK, BLOCK);
                    whole.as_mut().submatrix_mut(0, 0, y.nrows(), y.ncols()).copy_from(&y);
                    (0..self.parts).for_each(|part| tiles.add_product(inputs, weights(part), whole.as_mut()));
                    y.copy_from(whole.submatrix(0, 0, y.nrows(), y.ncols()));
                }
            }
        }
    }

    /// Packs the rows of the weight in the columns of these steps: for each part, for each block of rows, for each
    /// step the two halves. What is missing to whole blocks and steps is 0.
    fn pack_weights(&self, tiles: &impl Multiply, steps: Range<usize>, panel: &mut [u16]) {
        let of_part = panel.len() / self.parts;
        let squares = panel[..of_part].len() / (WEIGHT_STEP / 2);
        for square in 0..squares {
            let (block_and_step, half) = (square / 2, square % 2);
            let (block, step) = (block_and_step / steps.len(), block_and_step % steps.len());
            let first_row = BLOCK * block + half * BLOCK / 2;
            let column = (steps.start + step) * COLUMNS;
            let columns = COLUMNS.min(self.k - column);
            let mut parts = [[[0u16; COLUMNS]; BLOCK / 2]; PARTS];
            for row in 0..(BLOCK / 2).min(self.y.ncols().saturating_sub(first_row)) {
                let start = (self.row + first_row + row) * self.k + column;
                match self.stored {
                    StoredElements::Bf16(bits) if columns == COLUMNS => {
                        parts[0][row].copy_from_slice(&bits[start..start + COLUMNS]);
                    }
                    StoredElements::Bf16(bits) => {
                        parts[0][row][..columns].copy_from_slice(&bits[start..start + columns]);
                    }
                    stored => {
                        let mut scratch = [0.0; COLUMNS];
                        let values = stored.widen(start..start + columns, &mut scratch);
                        let [first, second, third] = &mut parts;
                        split_row(values, [&mut first[row], &mut second[row], &mut third[row]]);
                    }
                }
            }
            for (part, rows) in parts.iter().enumerate().take(self.parts) {
                let rows: &[[u32; 16]; 16] = bytemuck::cast_ref(rows);
                let out = &mut panel[part * of_part + square * WEIGHT_STEP / 2..][..WEIGHT_STEP / 2];
                let mut pairs = [[0; 16]; 16];
                tiles.transpose(rows, &mut pairs);
                out.copy_from_slice(bytemuck::cast_slice(&pairs));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::numbers;
    use glue_tensor::narrow;

    /// The unit in plain Rust.
    struct Emulated;

    impl Multiply for Emulated {
        fn add_product(&self, inputs: &[u16], weights: &[u16], mut y: MatMut<'_, f32>) {
            let number = |bits: u16| f32::from_bits(u32::from(bits) << 16);
            for (inputs, weights) in inputs.chunks_exact(INPUT_STEP).zip(weights.chunks_exact(WEIGHT_STEP)) {
                for part in inputs.chunks_exact(BLOCK * COLUMNS) {
                    for row in 0..BLOCK {
                        for column in 0..BLOCK {
                            let half = &weights[column / 16 * (WEIGHT_STEP / 2)..];
                            for c in 0..COLUMNS {
                                let w = half[c / 2 * 32 + column % 16 * 2 + c % 2];
                                y[(row, column)] += number(part[row * COLUMNS + c]) * number(w);
                            }
                        }
                    }
                }
            }
        }

        fn transpose(&self, rows: &[[u32; 16]; 16], out: &mut [[u32; 16]; 16]) {
            *out = std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]));
        }
    }

    fn weight(dtype: Dtype, n: usize, k: usize) -> Weight {
        let mut bytes = vec![0; n * k * dtype.size()];
        narrow(dtype, &numbers(n * k, 2), &mut bytes).unwrap();
        Weight::owned(dtype, vec![n, k], bytes).unwrap()
    }

    /// Products of every shape and type, and of several weights at once.
    fn check(products: impl Fn(&[f32], usize, &[Factor<'_>]) -> Vec<Vec<f32>>) {
        for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F8E4M3, Dtype::F64] {
            for (t, n, k) in [(1, 1, 1), (5, 33, 40), (32, 32, 32), (70, 65, 31), (33, 100, 1100), (300, 8, 64)] {
                let (x, bias, weight) = (numbers(t * k, 1), numbers(n, 3), weight(dtype, n, k));
                let w = weight.to_f32();
                let found = products(&x, k, &[(&weight, None), (&weight, Some(&bias))]);
                for i in 0..t {
                    for j in 0..n {
                        let dot: f64 = (0..k).map(|c| f64::from(x[i * k + c]) * f64::from(w[j * k + c])).sum();
                        for (found, expected) in [(&found[0], dot), (&found[1], dot + f64::from(bias[j]))] {
                            // Sums of k products of numbers below 1, each rounded to 2^-24.
                            let error = (f64::from(found[i * n + j]) - expected).abs();
                            assert!(error < 1e-6 + 2e-7 * k as f64, "{t} {n} {k} {dtype} at {i}, {j}: {error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn packed_products_are_those_of_f64() {
        check(|x, k, factors| products_with(|| Emulated, x, k, factors));
    }

    #[test]
    fn the_unit_of_this_processor_gives_the_same() {
        let Some(unit) = Unit::find() else {
            println!("this processor has no AMX, or the system does not permit it: only the emulation was tested");
            return;
        };
        check(|x, k, factors| products(unit, x, k, factors));
        let (n, k) = (130, 700);
        let (x, bf16) = (numbers(300 * k, 4), weight(Dtype::Bf16, n, k));
        let run = |threads: usize, rows: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| products(unit, &x[..rows * k], k, &[(&bf16, None)])).remove(0)
        };
        let one = run(1, 300);
        assert!([2, 3].into_iter().all(|threads| run(threads, 300) == one));
        assert!([1, 5, 31, 257].into_iter().all(|rows| run(2, rows) == one[..rows * n]), "rows depend on each other");
    }

    #[test]
    fn parts_add_up_and_what_is_not_finite_stays_so() {
        let number = |bits: u16| f32::from_bits(u32::from(bits) << 16);
        for x in numbers(1000, 7).into_iter().chain([0.0, -0.0, 1.0, f32::MAX, f32::MIN, 1e-30, 16_777_215.0]) {
            let [a, b, c] = split(x).map(number);
            assert_eq!(a + (b + c), x);
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(split(x).map(number), [x, 0.0, 0.0]);
        }
        // A NaN whose upper half is an infinity's.
        for x in [f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert!(number(split(x)[0]).is_nan());
        }
        let mut x = numbers(8 * 64, 8);
        x[64] = f32::INFINITY;
        x[2 * 64] = f32::NAN;
        let weight = weight(Dtype::Bf16, 64, 64);
        let y = products_with(|| Emulated, &x, 64, &[(&weight, None)]).remove(0);
        assert!(y[..64].iter().all(|y| y.is_finite()) && y[3 * 64..].iter().all(|y| y.is_finite()));
        assert!(y[64..3 * 64].iter().all(|y| !y.is_finite()));
    }
}
