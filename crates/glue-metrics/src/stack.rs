//! One tensor of several models, read side by side in stretches.

use crate::block::Block;
use crate::error::MetricsError;
use crate::panel::{LANES, Lane, STEPS, Total};
use crate::sample::Run;
use glue_tensor::{ConvertError, TensorView, widen};
use std::fs::File;
use std::ops::Range;

/// A tensor of a model, by the model's name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) model: &'a str,
    pub(crate) view: TensorView<'a>,
    /// The file that holds it; without one it is read from the map.
    pub(crate) file: Option<&'a File>,
}

impl Operand<'_> {
    /// Widens `elements` into `out`, which is as long, by way of `bytes`.
    fn read_through(&self, elements: Range<usize>, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<(), MetricsError> {
        bytes.resize(elements.len() * self.view.dtype().size(), 0);
        self.read_bytes(elements.clone(), bytes)?;
        match widen(self.view.dtype(), bytes, out) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.not_finite(elements)),
            Err(error) => Err(self.no_conversion(error)),
        }
    }

    /// Widens `elements` out of the map into `out`, which is as long.
    fn read(&self, elements: Range<usize>, out: &mut [f32]) -> Result<(), MetricsError> {
        let (dtype, size) = (self.view.dtype(), self.view.dtype().size());
        let bytes = &self.view.data()[elements.start * size..elements.end * size];
        match widen(dtype, bytes, out) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.not_finite(elements)),
            Err(error) => Err(self.no_conversion(error)),
        }
    }

    /// Reads the bytes of `elements` into `out`, which is as long.
    pub(crate) fn read_bytes(&self, elements: Range<usize>, out: &mut [u8]) -> Result<(), MetricsError> {
        let size = self.view.dtype().size();
        let bytes = elements.start * size..elements.end * size;
        #[cfg(unix)]
        if let Some(file) = self.file {
            use std::os::unix::fs::FileExt;
            let offset = (self.view.info().range.start + bytes.start) as u64;
            return file.read_exact_at(out, offset).map_err(|error| MetricsError::Read {
                model: self.model.to_string(),
                tensor: self.view.name().to_string(),
                error,
            });
        }
        out.copy_from_slice(&self.view.data()[bytes]);
        Ok(())
    }

    pub(crate) fn not_finite(&self, elements: Range<usize>) -> MetricsError {
        MetricsError::NotFinite {
            model: self.model.to_string(),
            tensor: self.view.name().to_string(),
            first: elements.start,
            last: elements.end.saturating_sub(1),
        }
    }

    pub(crate) fn no_conversion(&self, error: ConvertError) -> MetricsError {
        MetricsError::Convert { model: self.model.to_string(), tensor: self.view.name().to_string(), error }
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
    /// Elements of each operand in a unit of work; see [`crate::SimilarityOptions::block`].
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

/// Bytes of elements that a thread holds at once, at two for each, so that they stay in a second-level cache.
const HELD: usize = 512 << 10;

/// The default length of a block for `n` operands.
pub(crate) fn default_block(n: usize) -> usize {
    let least = STEPS * LANES;
    (HELD / (2 * n.max(1)) / least * least).clamp(least, 128 * least)
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
        let (values, bytes) = (&mut buffers.values[..length], &mut buffers.bytes);
        if let Some(base) = &self.base {
            buffers.base.resize(length.max(buffers.base.len()), 0.0);
            base.read_through(elements.clone(), bytes, &mut buffers.base[..length])?;
        }
        for (i, operand) in self.operands.iter().enumerate() {
            operand.read_through(elements.clone(), bytes, values)?;
            if self.base.is_some() {
                for (value, base) in values.iter_mut().zip(&buffers.base) {
                    *value -= base;
                }
            }
            take(i, values);
        }
        Ok(())
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
    bytes: Vec<u8>,
}

/// Memory of a thread, reused from unit to unit. Its content is undefined.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) buffers: Buffers,
    pub(crate) block: Block,
    pub(crate) panel: Vec<Lane>,
    pub(crate) totals: Vec<Total>,
}
