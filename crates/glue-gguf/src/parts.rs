//! Tensors made of rows of other tensors: how one side is put together from the other, block by block.

use crate::container::GgufFile;
use crate::error::GgufError;
use glue_tensor::{Checkpoint, widen};

/// Which row of its source a row of a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Rows from `first` on.
    From(usize),
    /// Of each head of so many rows, the two halves in turn.
    Alternating(usize),
    /// What undoes [`Order::Alternating`].
    Halves(usize),
}

impl Order {
    fn source(self, row: usize) -> usize {
        match self {
            Order::From(first) => first + row,
            Order::Alternating(head) => {
                let (start, at) = (row / head * head, row % head);
                start + at % 2 * (head / 2) + at / 2
            }
            Order::Halves(head) => {
                let (start, at) = (row / head * head, row % head);
                start + at % (head / 2) * 2 + at / (head / 2)
            }
        }
    }
}

/// Rows of one source tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// The source.
    pub(crate) source: String,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Their order.
    pub(crate) order: Order,
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Output {
    /// Its name.
    pub(crate) name: String,
    /// Its shape, the outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// Values of a row of all parts. A vector has rows of one value.
    pub(crate) row_length: usize,
    /// What it is made of, one after another.
    pub(crate) parts: Vec<Part>,
    /// What is added to each value.
    pub(crate) shift: f32,
}

/// Where rows come from.
pub(crate) trait Rows {
    /// Reads `n` rows of `row_length` values of the tensor `source` from row `first` on into `out`, emptied before.
    fn read(
        &self,
        source: &str,
        row_length: usize,
        first: usize,
        n: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), GgufError>;
}

impl Rows for Checkpoint {
    fn read(
        &self,
        source: &str,
        row_length: usize,
        first: usize,
        n: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), GgufError> {
        let error = |message: &str| GgufError::Tensor {
            path: self.path().to_path_buf(),
            tensor: source.to_string(),
            message: message.to_string(),
        };
        let view = self.get(source).ok_or_else(|| error("it is not there"))?;
        let bytes = view.dtype().size();
        let range = first * row_length * bytes..(first + n) * row_length * bytes;
        let data = view.data().get(range).ok_or_else(|| error("it has fewer rows than were asked for"))?;
        out.clear();
        out.resize(n * row_length, 0.0);
        widen(view.dtype(), data, out)
            .map(|_| ())
            .map_err(|error| GgufError::Convert { tensor: source.to_string(), error })
    }
}

impl Rows for GgufFile {
    fn read(
        &self,
        source: &str,
        row_length: usize,
        first: usize,
        n: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), GgufError> {
        let Some(tensor) = self.tensor(source) else {
            let (path, tensor) = (self.path().to_path_buf(), source.to_string());
            return Err(GgufError::Tensor { path, tensor, message: "it is not there".to_string() });
        };
        GgufFile::read(self, tensor, first * row_length, n * row_length, out)
    }
}

/// Values of a block, but for the rest of longer rows.
const BLOCK: usize = 1 << 20;

impl Output {
    /// Hands all values to `take`, in blocks of whole rows (of as many values as `multiple`, for vectors), in order.
    ///
    /// # Errors
    /// What reading and `take` return.
    pub(crate) fn for_each_block(
        &self,
        rows: &dyn Rows,
        mut take: impl FnMut(&[f32]) -> Result<(), GgufError>,
    ) -> Result<(), GgufError> {
        let per_block = (BLOCK / self.row_length.max(1)).max(1);
        let (mut block, mut row) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let mut done = 0;
            while done < part.rows {
                let n = per_block.min(part.rows - done);
                if let Order::From(first) = part.order {
                    rows.read(&part.source, self.row_length, first + done, n, &mut block)?;
                } else {
                    block.clear();
                    for at in done..done + n {
                        rows.read(&part.source, self.row_length, part.order.source(at), 1, &mut row)?;
                        block.extend_from_slice(&row);
                    }
                }
                if self.shift != 0.0 {
                    block.iter_mut().for_each(|x| *x += self.shift);
                }
                take(&block)?;
                done += n;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternating_rows_and_halves_undo_each_other() {
        let rows: Vec<usize> = (0..12).collect();
        let alternating: Vec<usize> = rows.iter().map(|&row| Order::Alternating(6).source(row)).collect();
        assert_eq!(alternating, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        let back: Vec<usize> = rows.iter().map(|&row| alternating[Order::Halves(6).source(row)]).collect();
        assert_eq!(back, rows);
    }
}
