//! Mean cosine of corresponding rows.
//!
//! As [`super::cosine_per_column`], but of the rows of W [out, in], what one output unit takes from its inputs; a
//! vector is one row. Invariant to a positive factor on either model. A row that is zero in either model is left out.

use crate::error::MetricsError;
use crate::matrix::Scale;
use crate::metric::{Aggregation, Kernel, Metric, Part, cosine, parts_of_ratios};
use crate::panel::{self, LANES, Lane, Product, STEPS, pair, pairs};
use crate::selection::Selection;
use crate::stack::{Scratch, Stack};

/// `cosine_per_row`.
pub static METRIC: Metric = Metric {
    name: "cosine_per_row",
    summary: "mean cosine of corresponding rows (axis 1 of [out, in]), then mean over matrices",
    reference: "the row form of Model-GLUE's measure, arXiv 2410.05357",
    needs_base: false,
    scale: Scale::Similarity,
    aggregation: Aggregation::Mean,
    default_selection: Selection::default,
    kernel: &RowCosines,
};

#[derive(Debug)]
struct RowCosines;

/// Elements of a unit over the length of a block.
const BLOCKS: usize = 16;

impl Kernel for RowCosines {
    fn units(&self, stack: &Stack<'_>) -> usize {
        if stack.columns == 1 { 1 } else { stack.spans(BLOCKS * stack.block).len() }
    }

    fn sums(&self, stack: &Stack<'_>, _: &[f64], unit: usize, scratch: &mut Scratch) -> Result<Vec<f64>, MetricsError> {
        let n = stack.n();
        let (span, length) = match stack.columns {
            1 => (stack.runs[0].clone(), stack.rows),
            columns => (stack.spans(BLOCKS * stack.block)[unit].clone(), columns),
        };
        let mut sums = vec![0.0; stack.batches * 2 * pairs(n)];
        let into = &mut sums[span.batch * 2 * pairs(n)..];
        let Scratch { block, panel, totals: dots, .. } = scratch;
        panel.resize(STEPS * n, Lane::ZERO);
        dots.resize(pairs(n), [0.0; LANES]);
        let mut squares = vec![0.0; n];
        let end = span.rows.end * stack.columns;
        let held = stack.block.max(STEPS * LANES);
        let mut loaded = 0..0;
        for start in (span.rows.start * stack.columns..end).step_by(length) {
            dots.fill([0.0; LANES]);
            for piece in (start..start + length).step_by(STEPS * LANES) {
                let elements = piece..(piece + STEPS * LANES).min(start + length);
                if elements.end > loaded.end {
                    loaded = elements.start..(elements.start + held).min(end);
                    block.load(stack, loaded.clone())?;
                }
                let steps = block.fill_along(stack, panel, elements.start - loaded.start, elements.len())?;
                panel::accumulate::<Product>(&panel[..steps * n], n, dots);
            }
            for (i, square) in squares.iter_mut().enumerate() {
                *square = panel::total(&dots[pair(i, i)]);
            }
            for i in 0..n {
                for j in 0..=i {
                    if let Some(cosine) = cosine(panel::total(&dots[pair(i, j)]), squares[i], squares[j]) {
                        into[2 * pair(i, j)] += cosine;
                        into[2 * pair(i, j) + 1] += 1.0;
                    }
                }
            }
        }
        Ok(sums)
    }

    fn parts(&self, stack: &Stack<'_>, sums: &[f64]) -> Vec<Vec<Part>> {
        parts_of_ratios(stack, sums)
    }
}
