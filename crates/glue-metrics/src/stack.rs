//! One tensor of several models, read side by side in stretches.

use crate::error::MetricsError;
use crate::panel::{Lane, STEPS, Total, pairs};
use crate::sample::Run;
use glue_tensor::{TensorView, widen};
use std::ops::Range;

/// A tensor of a model, by the model's name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) model: &'a str,
    pub(crate) view: TensorView<'a>,
}

impl Operand<'_> {
    /// Widens `elements` into `out`, which is as long.
    fn read(&self, elements: Range<usize>, out: &mut [f32]) -> Result<(), MetricsError> {
        let (dtype, size) = (self.view.dtype(), self.view.dtype().size());
        let bytes = &self.view.data()[elements.start * size..elements.end * size];
        match widen(dtype, bytes, out) {
            Ok(true) => Ok(()),
            Ok(false) => Err(MetricsError::NotFinite {
                model: self.model.to_string(),
                tensor: self.view.name().to_string(),
                first: elements.start,
                last: elements.end - 1,
            }),
            Err(error) => Err(MetricsError::Convert {
                model: self.model.to_string(),
                tensor: self.view.name().to_string(),
                error,
            }),
        }
    }
}

/// The same tensor of several models, all of one shape, seen as `rows` × `columns`: the last axis are the columns, all
/// others the rows; a vector is one column.
#[derive(Debug, Clone)]
pub(crate) struct Stack<'a> {
    pub(crate) operands: Vec<Operand<'a>>,
    /// What is subtracted from every operand.
    pub(crate) base: Option<Operand<'a>>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// The rows that are read, in order.
    pub(crate) runs: Vec<Run>,
    pub(crate) batches: usize,
    /// Elements of each operand in a unit of work; see [`crate::Options::block`].
    pub(crate) block: usize,
}

/// Rows and columns of a tensor with the given shape.
pub(crate) fn geometry(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [rows] => (*rows, 1),
        [rest @ .., columns] => (rest.iter().product(), *columns),
    }
}

/// Bytes of widened elements that a thread holds at once, so that they stay in a second-level cache with the sums.
const HELD: usize = 1 << 20;
/// Bytes of sums per column, likewise.
const SUMS: usize = 512 << 10;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The default length of a block for `n` operands: [`STEPS`] rows of as many columns as stay in cache.
pub(crate) fn default_block(n: usize, batches: usize) -> usize {
    let by_elements = HELD / (n.max(1) * STEPS * size_of::<f32>());
    let by_sums = SUMS / (pairs(n.max(1)) * batches * size_of::<f64>());
    STEPS * (by_elements.min(by_sums) & !7).clamp(8, 1024)
}

impl Stack<'_> {
    /// Number of operands.
    pub(crate) fn n(&self) -> usize {
        self.operands.len()
    }

    /// Sums with each batch left out, besides the sum of all of them.
    pub(crate) fn variants(&self) -> usize {
        if self.batches == 1 { 1 } else { 1 + self.batches }
    }

    /// Rows that are read.
    pub(crate) fn rows_read(&self) -> usize {
        self.runs.iter().map(|run| run.rows.len()).sum()
    }

    /// Bytes that are read, of all operands and the base.
    pub(crate) fn bytes_read(&self) -> u64 {
        let size = |operand: &Operand<'_>| operand.view.dtype().size() as u64;
        let elements = self.rows_read() as u64 * self.columns as u64;
        elements * self.operands.iter().chain(&self.base).map(size).sum::<u64>()
    }

    /// The runs, cut into pieces of about `elements` elements of each operand.
    pub(crate) fn spans(&self, elements: usize) -> Vec<Run> {
        let rows = (elements / self.columns.max(1)).max(1);
        let cut = |run: &Run| -> Vec<Run> {
            let starts = run.rows.clone().step_by(rows);
            starts.map(|start| Run { rows: start..(start + rows).min(run.rows.end), batch: run.batch }).collect()
        };
        self.runs.iter().flat_map(cut).collect()
    }

    /// Reads `elements` of every operand, less the base, and hands each to `take`.
    pub(crate) fn read(
        &self,
        elements: Range<usize>,
        buffers: &mut Buffers,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<(), MetricsError> {
        let length = elements.len();
        buffers.values.resize(length.max(buffers.values.len()), 0.0);
        let values = &mut buffers.values[..length];
        if let Some(base) = &self.base {
            buffers.base.resize(length.max(buffers.base.len()), 0.0);
            base.read(elements.clone(), &mut buffers.base[..length])?;
        }
        for (i, operand) in self.operands.iter().enumerate() {
            operand.read(elements.clone(), values)?;
            if self.base.is_some() {
                for (value, base) in values.iter_mut().zip(&buffers.base) {
                    *value -= base;
                }
            }
            take(i, values);
        }
        Ok(())
    }

    /// Brings a part of some rows into cache.
    ///
    /// A strip's rows are far apart, which no hardware prefetcher follows, and the loop that widens has too few loads
    /// under way to hide the latency of memory. Here nothing but loads stands, one for each line.
    pub(crate) fn fetch(&self, rows: Range<usize>, first: usize, width: usize) {
        let mut any = 0;
        for operand in self.operands.iter().chain(&self.base) {
            let (data, size) = (operand.view.data(), operand.view.dtype().size());
            for row in rows.clone() {
                let start = (row * self.columns + first) * size;
                for line in data[start..start + width * size].chunks(LINE) {
                    any |= line[0];
                }
            }
        }
        std::hint::black_box(any);
    }

    /// Reads `elements` of operand `i` alone, as it is.
    pub(crate) fn read_one(&self, i: usize, elements: Range<usize>, out: &mut [f32]) -> Result<(), MetricsError> {
        self.operands[i].read(elements, out)
    }

    /// From sums per batch, `length` for each, the sums of every variant: all batches, then all but the first, all but
    /// the second, and so on.
    pub(crate) fn by_variant(&self, sums: &[f64], length: usize) -> Vec<Vec<f64>> {
        let variant = |variant: usize| {
            let mut total = vec![0.0; length];
            // Added up again rather than subtracted from the whole, so that what is zero in all batches but one is
            // exactly zero without that one.
            for (_, batch) in sums.chunks_exact(length).enumerate().filter(|(batch, _)| batch + 1 != variant) {
                for (total, sum) in total.iter_mut().zip(batch) {
                    *total += sum;
                }
            }
            total
        };
        (0..self.variants()).map(variant).collect()
    }

    /// Rows of the tensor for each one that is read in a variant; `None` when none is.
    pub(crate) fn rows_per_row(&self, variant: usize) -> Option<f64> {
        let left_out = |run: &&Run| variant == 0 || run.batch + 1 != variant;
        let read: usize = self.runs.iter().filter(left_out).map(|run| run.rows.len()).sum();
        (read > 0).then(|| self.rows as f64 / read as f64)
    }
}

/// Buffers of [`Stack::read`].
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    values: Vec<f32>,
    base: Vec<f32>,
}

/// Memory of a thread, kept from unit to unit. What is in it is whatever the last unit left.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) buffers: Buffers,
    pub(crate) panel: Vec<Lane>,
    pub(crate) totals: Vec<Total>,
}
