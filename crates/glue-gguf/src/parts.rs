//! Tensors made of rows of other tensors: how one side is put together from the other, block by block.

use crate::error::GgufError;
use std::collections::HashSet;

/// Which row of its source a row of a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Rows from `first` on.
    From(usize),
    /// Of each head of so many rows, the two halves in turn.
    Alternating(usize),
    /// What undoes [`Order::Alternating`].
    Halves(usize),
    /// The columns of a matrix that begins at row `first` of the source, whose rows are as long as the part has rows.
    Columns(usize),
}

impl Order {
    fn source(self, row: usize) -> usize {
        match self {
            Order::From(first) | Order::Columns(first) => first + row,
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

/// Values of a block, but for the rest of longer rows.
const BLOCK: usize = 1 << 20;

impl Output {
    /// The tensors that it is made of, each once, in the order of the first part of each.
    pub(crate) fn sources(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        self.parts.iter().map(|part| part.source.as_str()).filter(|source| seen.insert(*source)).collect()
    }

    /// Hands all values to `take`, in blocks of whole rows (of as many values as `multiple`, for vectors), in order.
    /// `read` replaces the content of a vector by so many values of a source from one value on.
    ///
    /// # Errors
    /// What `read` and `take` return.
    pub(crate) fn for_each_block(
        &self,
        mut read: impl FnMut(&str, usize, usize, &mut Vec<f32>) -> Result<(), GgufError>,
        mut take: impl FnMut(&[f32]) -> Result<(), GgufError>,
    ) -> Result<(), GgufError> {
        let width = self.row_length;
        let per_block = (BLOCK / width.max(1)).max(1);
        let (mut block, mut other) = (Vec::new(), Vec::new());
        for part in &self.parts {
            let per_block = if matches!(part.order, Order::Columns(_)) { part.rows } else { per_block };
            let mut done = 0;
            while done < part.rows {
                let n = per_block.min(part.rows - done);
                match part.order {
                    Order::From(first) => read(&part.source, (first + done) * width, n * width, &mut block)?,
                    Order::Alternating(_) | Order::Halves(_) => {
                        block.clear();
                        for at in done..done + n {
                            read(&part.source, part.order.source(at) * width, width, &mut other)?;
                            block.extend_from_slice(&other);
                        }
                    }
                    Order::Columns(first) => {
                        read(&part.source, first * n, n * width, &mut other)?;
                        block.clear();
                        block.extend((0..n * width).map(|at| other[at % width * n + at / width]));
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

    #[test]
    fn columns_become_rows_in_one_block() {
        let parts = vec![Part { source: "x".to_string(), rows: 3, order: Order::Columns(1) }];
        let output = Output { name: "y".to_string(), shape: vec![3, 2], row_length: 2, parts, shift: 0.0 };
        // Rows of three values, of which the second and the third are a matrix.
        let values: Vec<f32> = (0..9).map(|x| x as f32).collect();
        let read = |_: &str, first: usize, n: usize, out: &mut Vec<f32>| {
            *out = values[first..first + n].to_vec();
            Ok(())
        };
        let mut found = Vec::new();
        output.for_each_block(read, |block| Ok(found.extend_from_slice(block))).unwrap();
        assert_eq!(found, [3.0, 6.0, 4.0, 7.0, 5.0, 8.0]);
    }
}
