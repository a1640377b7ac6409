//! Low-rank changes of LoRA adapters, added to blocks of the tensors they change while those are read.
//!
//! Element (i, j) of the tensor becomes w + s·Σₖ L\[i, k\]·R\[k, j\], in `f32`, with the sum in the order of k.
//! With DoRA, row i is then scaled by mᵢ over the norm of the row, or column j by mⱼ over that of the column where the
//! tensor changes by the transpose, with sums in `f64`: the weights are read once more for these norms. Nothing in it
//! depends on where a block begins or ends. L is B and R is A; for a change by the
//! transpose of B·A, L is Aᵀ and R is Bᵀ.
//!
//! Of the matrices of several experts in one tensor each changes by its own product. The factors are then those of one
//! expert after the other.
//!
//! Both factors are held as `f32` while their tensor is merged: 4·r·(rows + columns) bytes, with r far below either
//! unless someone extracted an adapter of full rank. B·A is never held.

use crate::engine::NonFinite;
use crate::recipe::OnNonfinite;
use glue_merge::BoxError;
use glue_tensor::adapter::{Adapter, LowRank};
use glue_tensor::{Checkpoint, TensorView, widen};
use rayon::prelude::*;
use std::ops::Range;

/// The factors of a change in a mapped file.
#[derive(Debug, Clone, Copy)]
pub struct LowRankView<'a> {
    /// A, of shape \[E·r, in\] for E experts.
    pub a: TensorView<'a>,
    /// B, of shape \[out, r·E\]: column k·E + e is of expert e.
    pub b: TensorView<'a>,
    /// E; 1 for a matrix by itself.
    pub experts: usize,
    /// s.
    pub scale: f32,
    /// Whether the tensor changes by the transpose of s·B·A.
    pub transposed: bool,
    /// Norms that the rows of the changed tensor are scaled to (DoRA), its columns if `transposed`, of shape \[out\].
    pub magnitude: Option<TensorView<'a>>,
}

impl<'a> LowRankView<'a> {
    /// The factors of `low_rank`, which is how `adapter` changes the tensor `name` of `model`.
    pub fn of(adapter: &'a Adapter, low_rank: &LowRank, name: &str, model: &Checkpoint) -> LowRankView<'a> {
        LowRankView {
            a: adapter.tensor(&low_rank.a),
            b: adapter.tensor(&low_rank.b),
            scale: low_rank.scale as f32,
            experts: low_rank.experts,
            transposed: adapter.is_transposed(name, low_rank, model),
            magnitude: low_rank.magnitude.as_ref().map(|name| adapter.tensor(name)),
        }
    }
}

/// Bytes that the factors of a change take while their tensor is merged.
pub(crate) fn factor_bytes(adapter: &Adapter, low_rank: &LowRank) -> u64 {
    let names = [&low_rank.a, &low_rank.b].into_iter().chain(&low_rank.magnitude);
    names.map(|name| adapter.tensor(name).info().n_elements() as u64 * 4).sum()
}

/// Columns whose sums are kept in registers at once.
const TILE: usize = 64;

/// Rows whose squares are summed at once where columns have norms. Part of what these are defined by.
const ROWS: usize = 256;

/// Factors of DoRA.
enum Scales {
    /// One for each row.
    Rows(Vec<f32>),
    /// One for each column.
    Columns(Vec<f32>),
}

/// s·L·R, ready to be added to any part of a tensor.
pub(crate) struct Product {
    /// L of each expert, row by row.
    left: Vec<f32>,
    /// R of each expert, row by row.
    right: Vec<f32>,
    rank: usize,
    /// Rows of the matrix of one expert.
    rows: usize,
    columns: usize,
    scale: f32,
    /// With DoRA, what is multiplied with in the end.
    scales: Option<Scales>,
}

/// A row of a tensor with a product added.
type ChangedRow<'a> = dyn Fn(usize) -> Result<Vec<f32>, BoxError> + Sync + 'a;

impl Product {
    /// Reads the factors, and with DoRA the tensor `weight` that they change. `model` is for messages.
    pub(crate) fn read(
        view: &LowRankView<'_>,
        weight: &TensorView<'_>,
        on_nonfinite: OnNonfinite,
        model: &str,
    ) -> Result<Product, BoxError> {
        let mut product = Product::factors(view, on_nonfinite, model)?;
        if let Some(magnitude) = &view.magnitude {
            let norms = widened(magnitude, on_nonfinite, model)?;
            let changed = |row| product.changed_row(row, weight, on_nonfinite, model);
            product.scales = Some(match view.transposed {
                true => Scales::Columns(product.column_scales(&norms, &changed)?),
                false => Scales::Rows(product.row_scales(&norms, &changed)?),
            });
        }
        Ok(product)
    }

    /// Row `row` of `weight` with this product added.
    fn changed_row(
        &self,
        row: usize,
        weight: &TensorView<'_>,
        on_nonfinite: OnNonfinite,
        model: &str,
    ) -> Result<Vec<f32>, BoxError> {
        let row_bytes = self.columns * weight.dtype().size();
        let mut values = vec![0.0; self.columns];
        let bytes = &weight.data()[row * row_bytes..(row + 1) * row_bytes];
        if !widen(weight.dtype(), bytes, &mut values)? {
            mend(&mut values, on_nonfinite, weight.name(), model, row * self.columns)?;
        }
        self.add_to(row * self.columns..(row + 1) * self.columns, &mut values);
        Ok(values)
    }

    /// What brings each row to its norm.
    fn row_scales(&self, norms: &[f32], changed: &ChangedRow<'_>) -> Result<Vec<f32>, BoxError> {
        let scale = |(row, wanted): (usize, &f32)| -> Result<f32, BoxError> {
            let square: f64 = changed(row)?.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            Ok((f64::from(*wanted) / square.sqrt()) as f32)
        };
        norms.par_iter().enumerate().map(scale).collect()
    }

    /// What brings each column to its norm.
    fn column_scales(&self, norms: &[f32], changed: &ChangedRow<'_>) -> Result<Vec<f32>, BoxError> {
        let squares = |start: usize| -> Result<Vec<f64>, BoxError> {
            let mut sums = vec![0.0; self.columns];
            for row in start..(start + ROWS).min(self.rows) {
                let values = changed(row)?;
                sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(x) * f64::from(x));
            }
            Ok(sums)
        };
        let starts: Vec<usize> = (0..self.rows).step_by(ROWS).collect();
        let parts: Vec<Vec<f64>> = starts.into_par_iter().map(squares).collect::<Result<_, _>>()?;
        let mut sums = vec![0.0; self.columns];
        for part in parts {
            sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Ok(norms.iter().zip(sums).map(|(wanted, square)| (f64::from(*wanted) / square.sqrt()) as f32).collect())
    }

    fn factors(view: &LowRankView<'_>, on_nonfinite: OnNonfinite, model: &str) -> Result<Product, BoxError> {
        let (a, b) = (widened(&view.a, on_nonfinite, model)?, widened(&view.b, on_nonfinite, model)?);
        let experts = view.experts;
        let (rank, inputs, outputs) = (view.a.shape()[0] / experts, view.a.shape()[1], view.b.shape()[0]);
        let (rows, columns) = if view.transposed { (inputs, outputs) } else { (outputs, inputs) };
        let mut left = Vec::with_capacity(experts * rows * rank);
        let mut right = Vec::with_capacity(experts * rank * columns);
        for expert in 0..experts {
            let a = &a[expert * rank * inputs..(expert + 1) * rank * inputs];
            let b = |o: usize, k: usize| b[(o * rank + k) * experts + expert];
            if view.transposed {
                left.extend((0..inputs).flat_map(|i| (0..rank).map(move |k| a[k * inputs + i])));
                right.extend((0..rank).flat_map(|k| (0..outputs).map(move |o| b(o, k))));
            } else {
                left.extend((0..outputs).flat_map(|o| (0..rank).map(move |k| b(o, k))));
                right.extend_from_slice(a);
            }
        }
        Ok(Product { left, right, rank, rows, columns, scale: view.scale, scales: None })
    }

    /// Adds the elements `range` of the product, counted through the rows of each expert, to `values`, whose rows DoRA
    /// scales.
    pub(crate) fn add_to(&self, range: Range<usize>, values: &mut [f32]) {
        let mut at = range.start;
        let mut rest = values;
        while !rest.is_empty() {
            let (row, column) = (at / self.columns, at % self.columns);
            let (segment, after) = rest.split_at_mut(rest.len().min(self.columns - column));
            let left = &self.left[row * self.rank..(row + 1) * self.rank];
            let right = &self.right[row / self.rows * self.rank * self.columns..][..self.rank * self.columns];
            at += segment.len();
            let mut start = column;
            let (tiles, last) = segment.as_chunks_mut::<TILE>();
            for tile in tiles {
                self.add_tile((left, right), start, tile);
                start += TILE;
            }
            let mut sums = [0.0; TILE];
            let sums = &mut sums[..last.len()];
            for (k, l) in left.iter().enumerate() {
                let right = &right[k * self.columns + start..][..last.len()];
                sums.iter_mut().zip(right).for_each(|(sum, r)| *sum += l * r);
            }
            last.iter_mut().zip(sums).for_each(|(w, sum)| *w += self.scale * *sum);
            match &self.scales {
                None => {}
                Some(Scales::Rows(scales)) => segment.iter_mut().for_each(|w| *w *= scales[row]),
                Some(Scales::Columns(scales)) => {
                    segment.iter_mut().zip(&scales[column..]).for_each(|(w, scale)| *w *= scale);
                }
            }
            rest = after;
        }
    }

    /// A tile of known length, which the compiler keeps in registers.
    fn add_tile(&self, (left, right): (&[f32], &[f32]), start: usize, tile: &mut [f32; TILE]) {
        let mut sums = [0.0; TILE];
        for (k, l) in left.iter().enumerate() {
            if let Some(right) = right[k * self.columns + start..].first_chunk::<TILE>() {
                sums.iter_mut().zip(right).for_each(|(sum, r)| *sum += l * r);
            }
        }
        tile.iter_mut().zip(&sums).for_each(|(w, sum)| *w += self.scale * sum);
    }
}

/// A tensor as `f32`, with what is not finite refused or read as 0.
fn widened(view: &TensorView<'_>, on_nonfinite: OnNonfinite, model: &str) -> Result<Vec<f32>, BoxError> {
    let mut values = vec![0.0; view.info().n_elements()];
    if !widen(view.dtype(), view.data(), &mut values)? {
        mend(&mut values, on_nonfinite, view.name(), model, 0)?;
    }
    Ok(values)
}

/// Whether every value is a finite number; without a branch for each.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(0, |largest: u32, x| largest.max(x.to_bits() & 0x7fff_ffff)) < 0x7f80_0000
}

/// Reads what is not finite in `values` as 0, or refuses the first of it; `start` is the index of the first value.
pub(crate) fn mend(
    values: &mut [f32],
    on_nonfinite: OnNonfinite,
    tensor: &str,
    model: &str,
    start: usize,
) -> Result<(), NonFinite> {
    match on_nonfinite {
        OnNonfinite::Zero => values.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0),
        OnNonfinite::Error => {
            let found = values.iter().enumerate().find(|(_, x)| !x.is_finite());
            return Err(NonFinite {
                tensor: tensor.into(),
                model: model.into(),
                index: start + found.map_or(0, |(j, _)| j),
                value: found.map_or(f32::NAN, |(_, x)| *x),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Any part of a product is that part of the whole.
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32).map(|i| ((i + seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 1e7 - 0.8).collect()
    }

    #[test]
    fn parts_are_parts_of_the_whole_to_the_bit() {
        for (rows, columns, rank) in [(5, 200, 3), (1, 64, 1), (7, 3, 9), (3, 129, 16)] {
            let (left, right) = (numbers(rows * rank, 1), numbers(rank * columns, 2));
            let (scale, scales) = (0.5, None);
            let (l, r) = (left.clone(), right.clone());
            let product = Product { left: l, right: r, rank, rows, columns, scale, scales };
            let base = numbers(rows * columns, 3);
            let mut whole = base.clone();
            product.add_to(0..base.len(), &mut whole);
            for (e, found) in whole.iter().enumerate() {
                let (i, j) = (e / columns, e % columns);
                let terms = (0..rank).map(|k| f64::from(left[i * rank + k]) * f64::from(right[k * columns + j]));
                let expected = f64::from(base[e]) + 0.5 * terms.sum::<f64>();
                // A sum of at most 16 terms below 1 in f32, each rounding half a unit: 16·6e-8.
                assert!((f64::from(*found) - expected).abs() < 2e-6, "{found} for {expected}");
            }
            for step in [1, 7, 64, 100] {
                let mut parts = base.clone();
                for start in (0..base.len()).step_by(step) {
                    let end = (start + step).min(base.len());
                    product.add_to(start..end, &mut parts[start..end]);
                }
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&parts), bits(&whole), "{rows}×{columns}, rank {rank}, steps of {step}");
            }
        }
    }
}
