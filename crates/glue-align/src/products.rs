//! Inner products of every unit of one matrix with every unit of another: C = A·Bᵀ, in blocks.
//!
//! Blocks are widened to f32 when they are needed, and multiplied by [`add_product_wide`]. The grid of blocks depends
//! on the shapes alone: the result is the same on any number of threads.

use crate::error::AlignError;
use crate::gather::Grid;
use glue_linalg::{WIDE_DEPTH, add_product_wide};
use glue_tensor::{ConvertError, Dtype, widen};
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

const ROWS: usize = 256;
const COLUMNS: usize = 1024;

/// A matrix with a row of `depth` numbers for each unit.
#[derive(Debug)]
pub(crate) struct Units<'a> {
    values: Values<'a>,
    pub(crate) units: usize,
    depth: usize,
    /// The tensor and the model that the numbers are from, for errors.
    name: &'a str,
    of: &'static str,
}

#[derive(Debug)]
enum Values<'a> {
    Stored(Dtype, Cow<'a, [u8]>),
    Floats(&'a [f32]),
}

impl<'a> Units<'a> {
    /// Units along the axis `axis` of a tensor, whose other axis is permuted by `other` first.
    ///
    /// `run` says which of the indices along the axis, and `units` into how many units they are cut.
    pub(crate) fn of_tensor(
        tensor: &glue_tensor::TensorView<'a>,
        of: &'static str,
        axis: usize,
        run: Range<usize>,
        other: Option<&[u32]>,
        units: usize,
    ) -> Units<'a> {
        let size = tensor.dtype().size();
        let grid = Grid::new(tensor.data(), tensor.shape(), size);
        let (values, row) = if axis == 0 {
            let bytes = match other {
                None => Cow::Borrowed(grid.bytes),
                Some(_) => Cow::Owned(grid.gathered(None, other)),
            };
            (bytes, grid.columns)
        } else {
            let bytes = match other {
                None => grid.transposed(),
                Some(_) => Grid { bytes: &grid.gathered(other, None), ..grid }.transposed(),
            };
            (Cow::Owned(bytes), grid.rows)
        };
        let bytes = run.start * row * size..run.end * row * size;
        let values = match values {
            Cow::Borrowed(all) => Cow::Borrowed(&all[bytes]),
            Cow::Owned(all) if bytes == (0..all.len()) => Cow::Owned(all),
            Cow::Owned(all) => Cow::Owned(all[bytes].to_vec()),
        };
        let depth = run.len() * row / units.max(1);
        Units { values: Values::Stored(tensor.dtype(), values), units, depth, name: tensor.name(), of }
    }

    /// Rows of numbers in memory.
    pub(crate) fn of_floats(values: &'a [f32], units: usize, depth: usize, name: &'a str) -> Units<'a> {
        Units { values: Values::Floats(values), units, depth, name, of: "activations" }
    }

    /// The numbers `depth` of the units `units`, row after row, in the memory of `out`.
    fn load<'b>(
        &self,
        units: Range<usize>,
        depth: Range<usize>,
        out: &'b mut Vec<f32>,
    ) -> Result<ArrayView2<'b, f32>, AlignError> {
        let shape = (units.len(), depth.len());
        out.resize(shape.0 * shape.1, 0.0);
        for (unit, out) in units.zip(out.chunks_exact_mut(depth.len())) {
            let place = unit * self.depth + depth.start..unit * self.depth + depth.end;
            match &self.values {
                Values::Floats(values) => out.copy_from_slice(&values[place]),
                Values::Stored(dtype, bytes) => {
                    let size = dtype.size();
                    let failed = |error: ConvertError| AlignError::Convert { tensor: self.name.to_string(), error };
                    let finite = widen(*dtype, &bytes[place.start * size..place.end * size], out).map_err(failed)?;
                    if !finite {
                        return Err(AlignError::NotFinite { tensor: self.name.to_string(), of: self.of });
                    }
                }
            }
        }
        Ok(ArrayView2::from_shape(shape, out).expect("the length is that of the shape"))
    }
}

/// Adds the inner product of unit i of `a` and unit j of `b` to `sums[i, j]`, for all of them.
pub(crate) fn add_products(a: &Units<'_>, b: &Units<'_>, sums: &mut [f64]) -> Result<(), AlignError> {
    let (depth, columns) = (a.depth.min(b.depth), b.units);
    if columns == 0 || depth == 0 {
        return Ok(());
    }
    sums.par_chunks_mut(ROWS * columns).enumerate().try_for_each(|(block, sums)| {
        let rows = block * ROWS..(block * ROWS + ROWS).min(a.units);
        let (mut left, mut right, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
        let mut sums = ArrayViewMut2::from_shape((rows.len(), columns), sums).expect("a block holds whole rows");
        for first_term in (0..depth).step_by(WIDE_DEPTH) {
            let terms = first_term..(first_term + WIDE_DEPTH).min(depth);
            let left = a.load(rows.clone(), terms.clone(), &mut left)?;
            for first_column in (0..columns).step_by(COLUMNS) {
                let span = first_column..(first_column + COLUMNS).min(columns);
                let right = b.load(span.clone(), terms.clone(), &mut right)?;
                add_product_wide(left, right.reversed_axes(), sums.slice_mut(s![.., span]), &mut scratch);
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f64) -> Vec<f32> {
        (0..count).map(|i| (i as f64 * step).sin() as f32).collect()
    }

    #[test]
    fn products_are_those_of_the_definition_on_any_number_of_threads() {
        for (rows, columns, depth) in [(1, 1, 1), (3, 5, 2), (260, 7, 513), (5, 1030, 1200)] {
            let (a, b) = (numbers(rows * depth, 0.7), numbers(columns * depth, 1.3));
            let (a_units, b_units) =
                (Units::of_floats(&a, rows, depth, "a"), Units::of_floats(&b, columns, depth, "b"));
            let run = |threads| {
                let mut sums = vec![1.0; rows * columns];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| add_products(&a_units, &b_units, &mut sums)).unwrap();
                sums
            };
            let sums = run(1);
            assert_eq!(sums, run(3));
            for (i, sum) in sums.iter().enumerate() {
                let (a, b) = (&a[i / columns * depth..][..depth], &b[i % columns * depth..][..depth]);
                let expected: f64 = 1.0 + a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
                // 512 terms below 1 in f32: 512 · 512 · 2^-24 at most, and a hundredth of that in practice.
                assert!((sum - expected).abs() < 5e-4, "{rows} {columns} {depth}: {sum} and {expected}");
            }
        }
    }
}
