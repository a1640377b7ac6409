//! Mean cosine of corresponding columns.
//!
//! For weights W, V [out, in] with columns w_c, v_c ∈ ℝ^out, what input c is multiplied by:
//!
//! s(W, V) = 1/in · Σ_c ⟨w_c, v_c⟩ / (‖w_c‖ ‖v_c‖),
//!
//! and of two models the mean of s over their matrices. Model-GLUE (arXiv 2410.05357) clusters by it. Invariant to a
//! positive factor on either model. A column that is zero in either model has no cosine and is left out.

use crate::block::Piece;
use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Aggregation, Kernel, Metric, Part};
use crate::panel::{self, LANES, Lane, Product, STEPS, pair, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};

/// `cosine_per_column`.
pub static METRIC: Metric = Metric {
    name: "cosine_per_column",
    summary: "mean cosine of corresponding columns (axis 0 of [out, in]), then mean over matrices",
    reference: "Model-GLUE, arXiv 2410.05357",
    needs_base: false,
    scale: Scale::Similarity,
    aggregation: Aggregation::Mean,
    default_selection: Selection::default,
    kernel: &ColumnCosines,
};

/// A unit is a wide strip of columns over all rows. With all columns in it, neighbouring rows are neighbours in the
/// file.
#[derive(Debug)]
pub(crate) struct ColumnCosines;

/// Rows at a time, summed in f32.
const ROWS: usize = STEPS;
/// Blocks that a strip of [`ROWS`] rows is long. The sums of all its columns are kept; shorter rows take longer to
/// read.
const BLOCKS: usize = 8;

/// Bytes of sums that are kept.
const SUMS: usize = 5 << 19;

/// Columns of a strip.
fn strip(stack: &Stack<'_>) -> usize {
    let by_sums = SUMS / (pairs(stack.n()) * stack.batches * size_of::<f64>());
    ((BLOCKS * stack.block / ROWS).min(by_sums) & !(LANES - 1)).max(LANES)
}

impl Kernel for ColumnCosines {
    fn units(&self, stack: &Stack<'_>) -> usize {
        stack.columns.div_ceil(strip(stack))
    }

    fn sums(&self, stack: &Stack<'_>, _: &[f64], unit: usize, scratch: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        let n = stack.n();
        let first = unit * strip(stack);
        let width = strip(stack).min(stack.columns - first);
        let groups = width.div_ceil(LANES);
        // Inner products of the columns: by batch, then by group of eight columns, then by pair.
        let Scratch { block, panel, totals: dots, .. } = scratch;
        dots.clear();
        dots.resize(stack.batches * groups * pairs(n), [0.0; LANES]);
        panel.resize(ROWS * n, Lane::ZERO);
        for run in &stack.runs {
            let dots = &mut dots[run.batch * groups * pairs(n)..][..groups * pairs(n)];
            for start in run.rows.clone().step_by(ROWS) {
                let rows = start..(start + ROWS).min(run.rows.end);
                let steps = rows.len();
                block.load_rows(stack, rows, first..first + width)?;
                for (dots, at) in dots.chunks_exact_mut(pairs(n)).zip((0..width).step_by(LANES)) {
                    block.fill(
                        stack,
                        panel,
                        Piece { first: at, stride: width, width: (width - at).min(LANES), steps },
                    )?;
                    panel::accumulate::<Product>(&panel[..steps * n], n, dots);
                }
            }
        }
        let dots = dots.as_flattened();
        if stack.batches == 1 {
            return Ok(column_cosines(dots, n));
        }
        let variants = stack.by_variant(dots, groups * pairs(n) * LANES);
        Ok(variants.iter().flat_map(|dots| column_cosines(dots, n)).collect())
    }

    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
        // The units have separated variants already: batches of sums here are variants.
        let part = |two: &[f64; 2]| Part { sum: two[0], weight: two[1] };
        let parts: Vec<Part> = sums.as_chunks().0.iter().map(part).collect();
        let variants = parts.chunks_exact(pairs(stack.n())).map(<[Part]>::to_vec);
        variants.collect()
    }
}

/// For each pair the sum of cosines and their number, from the inner products of groups of columns.
fn column_cosines(dots: &[f64], n: usize) -> Vec<f64> {
    let mut sums = vec![0.0; 2 * pairs(n)];
    let mut inverse = vec![[0.0; LANES]; n];
    let mut nonzero = vec![[0.0; LANES]; n];
    for dots in dots.as_chunks::<LANES>().0.chunks_exact(pairs(n)) {
        for i in 0..n {
            for l in 0..LANES {
                let square = dots[pair(i, i)][l];
                // Columns beyond the last are zero too.
                nonzero[i][l] = if square == 0.0 { 0.0 } else { 1.0 };
                inverse[i][l] = if square == 0.0 { 0.0 } else { 1.0 / square.sqrt() };
            }
        }
        for i in 0..n {
            for j in 0..=i {
                let (mut sum, mut count) = (0.0, 0.0);
                for l in 0..LANES {
                    sum += (dots[pair(i, j)][l] * (inverse[i][l] * inverse[j][l])).clamp(-1.0, 1.0);
                    count += nonzero[i][l] * nonzero[j][l];
                }
                sums[2 * pair(i, j)] += sum;
                sums[2 * pair(i, j) + 1] += count;
            }
        }
    }
    sums
}
