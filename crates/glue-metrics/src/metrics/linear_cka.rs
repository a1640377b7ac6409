//! Linear centred kernel alignment of weights.
//!
//! Kornblith, Norouzi, Lee, Hinton 2019, "Similarity of neural network representations revisited", arXiv 1905.00414.
//! For representations X [examples, p] and Y [examples, q] whose features are centred over the examples,
//!
//! CKA(X, Y) = ‖XᵀY‖_F² / (‖XᵀX‖_F ‖YᵀY‖_F) = ⟨XXᵀ, YYᵀ⟩_F / (‖XXᵀ‖_F ‖YYᵀ‖_F).
//!
//! A matrix W [out, in] is taken as the representation it gives the `in` unit inputs: **examples are the columns,
//! features are the rows**, X = Wᵀ, and each row of W is centred over the columns. CKA is therefore invariant to any
//! orthogonal transformation of the outputs, such as a permutation of the neurons that gate and up projections write
//! to, and to a factor on the whole matrix; it is not invariant to a change of the inputs' basis. A vector, a matrix
//! with one column, and a matrix whose rows are constant have none and are left out.
//!
//! The form with Gram matrices XXᵀ = WᵀW [in, in] needs N products for N models where the other needs one for each of
//! N(N+1)/2 pairs. It is computed tile by tile of the Gram matrix, 128 × 128 entries of all N at once (2 MiB per
//! thread for 16 models), never the whole: N·in²·out/2 multiply-adds in all. Each tile reads its two groups of
//! columns again, after one pass for the means of rows: bytes are read from memory more than once, from disk once as
//! long as one tensor of every model fits into the page cache. Sampling reads a fraction of the rows, which are the
//! features; with few features CKA is too high even for unrelated matrices, a bias that the standard error of a
//! sampled figure does not contain.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Aggregation, Kernel, Metric, Part};
use crate::metrics::cosine_flat::parts_of_products;
use crate::panel::{pair, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};
use glue_linalg::add_product_wide;
use ndarray::{ArrayView2, ArrayViewMut2};

/// `linear_cka`.
pub static METRIC: Metric = Metric {
    name: "linear_cka",
    summary: "linear centred kernel alignment, columns as examples and rows as features, then mean over matrices",
    reference: "Kornblith et al. 2019, arXiv 1905.00414",
    needs_base: false,
    scale: Scale::Similarity,
    aggregation: Aggregation::Mean,
    default_selection: Selection::default,
    kernel: &GramTiles,
};

/// Side of a tile of the Gram matrices.
const TILE: usize = 128;
/// The same where there is a tile for every batch of a sample.
const SAMPLED_TILE: usize = 64;
/// Rows that are held at once, and whose products are summed in f32.
const ROWS: usize = 128;

#[derive(Debug)]
struct GramTiles;

fn tile(stack: &Stack<'_>) -> usize {
    if stack.batches == 1 { TILE } else { SAMPLED_TILE }
}

impl Kernel for GramTiles {
    fn units(&self, stack: &Stack<'_>) -> usize {
        pairs(stack.columns.div_ceil(tile(stack)))
    }

    /// Means of the rows that are read, model by model.
    fn prepare(&self, stack: &Stack<'_>) -> Result<Vec<f64>, MetricsError> {
        let mut row = vec![0.0; stack.columns];
        let mut means = Vec::with_capacity(stack.n() * stack.rows_read());
        for i in 0..stack.n() {
            for at in stack.runs.iter().flat_map(|run| run.rows.clone()) {
                stack.read_one(i, at * stack.columns..(at + 1) * stack.columns, &mut row)?;
                means.push(row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64);
            }
        }
        Ok(means)
    }

    fn sums(&self, stack: &Stack<'_>, means: &[f64], unit: usize, _: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        let (n, side) = (stack.n(), tile(stack));
        let (a, b) = position(unit);
        let columns = |tile: usize| tile * side..((tile + 1) * side).min(stack.columns);
        let (a, b) = (columns(a), columns(b));
        let area = side * side;
        // The tile of every batch's Gram matrix, batch by batch, model by model.
        let mut gram = vec![0.0; stack.batches * n * area];
        let mut left = vec![0.0; ROWS * side];
        let mut right = vec![0.0; ROWS * side];
        let mut scratch = Vec::new();
        for i in 0..n {
            let mut read = i * stack.rows_read();
            for run in &stack.runs {
                let gram = &mut gram[(run.batch * n + i) * area..][..area];
                for start in run.rows.clone().step_by(ROWS) {
                    let rows = start..(start + ROWS).min(run.rows.end);
                    let means = &means[read..read + rows.len()];
                    read += rows.len();
                    for (columns, panel) in [(&a, &mut left), (&b, &mut right)] {
                        for ((row, mean), slots) in rows.clone().zip(means).zip(panel.chunks_exact_mut(side)) {
                            let first = row * stack.columns;
                            let slots = &mut slots[..columns.len()];
                            stack.read_one(i, first + columns.start..first + columns.end, slots)?;
                            for slot in slots {
                                *slot = (f64::from(*slot) - mean) as f32;
                            }
                        }
                    }
                    // Columns beyond the matrix hold zeros from the start.
                    let [left, right] = [&left, &right].map(|panel| {
                        let panel = &panel[..rows.len() * side];
                        ArrayView2::from_shape((rows.len(), side), panel).expect("a panel holds whole rows")
                    });
                    let gram = ArrayViewMut2::from_shape((side, side), &mut *gram).expect("a tile is a square");
                    add_product_wide(left.reversed_axes(), right, gram, &mut scratch);
                }
            }
        }
        // Only one of the two tiles that mirror each other is computed.
        let weight = if a == b { 1.0 } else { 2.0 };
        let mut sums = Vec::with_capacity(stack.variants() * pairs(n));
        for gram in stack.by_variant(&gram, n * area) {
            for i in 0..n {
                for j in 0..=i {
                    let (x, y) = (&gram[i * area..][..area], &gram[j * area..][..area]);
                    sums.push(weight * x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>());
                }
            }
        }
        Ok(sums)
    }

    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
        // The units have separated variants already.
        let whole = Stack { batches: 1, ..stack.clone() };
        sums.chunks_exact(pairs(stack.n())).flat_map(|sums| parts_of_products(&whole, sums)).collect()
    }
}

/// Row and column of the tile with the given number in the lower triangle.
fn position(unit: usize) -> (usize, usize) {
    let mut row = 0;
    while pair(row + 1, 0) <= unit {
        row += 1;
    }
    (row, unit - pair(row, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_walk_the_lower_triangle() {
        let walk: Vec<_> = (0..6).map(position).collect();
        assert_eq!(walk, [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]);
    }
}
