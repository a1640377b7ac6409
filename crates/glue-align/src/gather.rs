//! Tensors of one or two axes with their axes permuted, as bytes in the stored type: nothing is widened.

use std::ops::Range;

/// A tensor's bytes as a matrix of `rows` by `columns` elements of `size` bytes, row after row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) size: usize,
}

impl<'a> Grid<'a> {
    /// A tensor of one axis is a column, so that its axis 0 is always the rows; a scalar is one element.
    pub(crate) fn new(bytes: &'a [u8], shape: &[usize], size: usize) -> Grid<'a> {
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product();
        Grid { bytes, rows, columns, size }
    }

    fn row(&self, row: usize) -> &'a [u8] {
        let stride = self.columns * self.size;
        &self.bytes[row * stride..(row + 1) * stride]
    }

    /// Writes rows `rows` of the permuted matrix to `out`: its row i is row `by_row[i]` of this one, its column j is
    /// column `by_column[j]`; without a list the order stays.
    pub(crate) fn gather(&self, rows: Range<usize>, by_row: Option<&[u32]>, by_column: Option<&[u32]>, out: &mut [u8]) {
        let stride = self.columns * self.size;
        if stride == 0 {
            return;
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(stride)) {
            let source = self.row(by_row.map_or(row, |by| by[row] as usize));
            match by_column {
                None => out.copy_from_slice(source),
                Some(by) => match self.size {
                    1 => gather_elements::<1>(source, by, out),
                    2 => gather_elements::<2>(source, by, out),
                    4 => gather_elements::<4>(source, by, out),
                    _ => gather_elements::<8>(source, by, out),
                },
            }
        }
    }

    /// The whole matrix, permuted.
    pub(crate) fn gathered(&self, by_row: Option<&[u32]>, by_column: Option<&[u32]>) -> Vec<u8> {
        let mut out = vec![0; self.bytes.len()];
        self.gather(0..self.rows, by_row, by_column, &mut out);
        out
    }

    /// The matrix with its rows as columns.
    pub(crate) fn transposed(&self) -> Vec<u8> {
        let mut out = vec![0; self.bytes.len()];
        match self.size {
            1 => transpose::<1>(self, &mut out),
            2 => transpose::<2>(self, &mut out),
            4 => transpose::<4>(self, &mut out),
            _ => transpose::<8>(self, &mut out),
        }
        out
    }
}

fn gather_elements<const N: usize>(source: &[u8], by: &[u32], out: &mut [u8]) {
    let source = source.as_chunks::<N>().0;
    for (out, &from) in out.as_chunks_mut::<N>().0.iter_mut().zip(by) {
        *out = source[from as usize];
    }
}

fn transpose<const N: usize>(grid: &Grid<'_>, out: &mut [u8]) {
    // A tile of this many elements each way lies in L1 on both sides.
    const TILE: usize = 32;
    let (rows, columns) = (grid.rows, grid.columns);
    let source = grid.bytes.as_chunks::<N>().0;
    let out = out.as_chunks_mut::<N>().0;
    for first_row in (0..rows).step_by(TILE) {
        for first_column in (0..columns).step_by(TILE) {
            for row in first_row..(first_row + TILE).min(rows) {
                for column in first_column..(first_column + TILE).min(columns) {
                    out[column * rows + row] = source[row * columns + column];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permutation::Permutation;
    use glue_tensor::{Dtype, narrow};
    use proptest::prelude::*;

    #[test]
    fn rows_and_columns_move() {
        let bytes = [0, 1, 2, 10, 11, 12];
        let grid = Grid::new(&bytes, &[2, 3], 1);
        assert_eq!(grid.gathered(Some(&[1, 0]), Some(&[2, 0, 1])), [12, 10, 11, 2, 0, 1]);
        assert_eq!(grid.gathered(None, Some(&[2, 0, 1])), [2, 0, 1, 12, 10, 11]);
        assert_eq!(grid.gathered(Some(&[1, 0]), None), [10, 11, 12, 0, 1, 2]);
        assert_eq!(grid.transposed(), [0, 10, 1, 11, 2, 12]);
        let column = Grid::new(&bytes, &[3], 2);
        assert_eq!(column.gathered(Some(&[2, 0, 1]), None), [11, 12, 0, 1, 2, 10]);
        assert!(Grid::new(&[], &[3, 0], 2).gathered(Some(&[2, 1, 0]), None).is_empty());
    }

    proptest! {
        #[test]
        fn permuting_commutes_with_narrowing(rows in 1usize..9, columns in 1usize..70, seed: u64, kind in 0usize..6) {
            let dtype = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4M3, Dtype::F8E5M2][kind];
            let values: Vec<f32> = (0..rows * columns).map(|i| ((i as f32 + (seed % 97) as f32) * 0.37).sin()).collect();
            let shape = [rows, columns];
            let narrowed = |values: &[f32]| {
                let mut bytes = vec![0; values.len() * dtype.size()];
                narrow(dtype, values, &mut bytes).unwrap();
                bytes
            };
            let (p, q) = (Permutation::random(rows, seed, 0), Permutation::random(columns, seed, 1));
            let (by_row, by_column) = (Some(p.sources()), Some(q.sources()));
            let permuted: Vec<f32> = (0..rows * columns)
                .map(|i| values[p.source(i / columns) * columns + q.source(i % columns)])
                .collect();
            let bytes = narrowed(&values);
            let grid = Grid::new(&bytes, &shape, dtype.size());
            let moved = grid.gathered(by_row, by_column);
            prop_assert_eq!(&moved, &narrowed(&permuted));
            let (p, q) = (p.inverse(), q.inverse());
            let back = Grid::new(&moved, &shape, dtype.size()).gathered(Some(p.sources()), Some(q.sources()));
            prop_assert_eq!(&back, &bytes);
            let turned = grid.transposed();
            prop_assert_eq!(Grid::new(&turned, &[columns, rows], dtype.size()).transposed(), bytes);
        }
    }
}
