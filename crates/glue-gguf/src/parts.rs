//! Tensors made of rows of other tensors: how one side is put together from the other, block by block.

use crate::error::GgufError;
use std::collections::HashSet;

/// Which values of its source a row of a part has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Rows from `first` on.
    From(usize),
    /// Of each head of so many rows, the two halves in turn.
    Alternating(usize),
    /// What undoes [`Order::Alternating`].
    Halves(usize),
    /// What a [`Grid`] says.
    Grid(Grid),
}

/// A part of a matrix, or two matrices of the same place in two sources, put into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The row of the source that the matrix begins with.
    pub(crate) first: usize,
    /// Values of a row of the source.
    pub(crate) width: usize,
    /// The first column, where not all are taken.
    pub(crate) start: usize,
    /// From one column to the next: 1, or 2 where two matrices take turns in the source, or in what is made of two.
    pub(crate) step: usize,
    /// Whether rows of the part are columns of the source.
    pub(crate) transposed: bool,
}

impl Grid {
    /// All columns of a matrix.
    pub(crate) fn of(first: usize, width: usize, transposed: bool) -> Grid {
        Grid { first, width, start: 0, step: 1, transposed }
    }
}

impl Order {
    fn source(self, row: usize) -> usize {
        match self {
            Order::From(first) => first + row,
            Order::Grid(grid) => grid.first + row,
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
    /// The source of the second half of each row, or of every other value; only with [`Order::Grid`].
    pub(crate) also: Option<String>,
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
/// Values of a block of columns, each of which is read in pieces: the longer they are, the fewer.
const COLUMN_BLOCK: usize = 1 << 22;
/// Columns that are read together are a multiple of what any type stores together.
const COLUMNS: usize = 256;

/// Columns of a block, each of so many values.
fn rows_of_columns(length: usize) -> usize {
    (COLUMN_BLOCK / length.max(1) / COLUMNS).max(1) * COLUMNS
}

impl Part {
    /// Fills `block` with `n` rows from row `done` on.
    fn read_grid(
        &self,
        grid: Grid,
        done: usize,
        n: usize,
        read: &mut impl FnMut(&str, usize, usize, &mut Vec<f32>) -> Result<(), GgufError>,
        piece: &mut Vec<f32>,
        block: &mut [f32],
    ) -> Result<(), GgufError> {
        let Grid { first, width, start, step, transposed } = grid;
        let length = block.len() / n.max(1);
        let sources: Vec<&str> = std::iter::once(&self.source).chain(&self.also).map(String::as_str).collect();
        // Of one source with two matrices, every other value is taken; of two, all.
        let taken = if sources.len() == 1 { step } else { 1 };
        let of_each = length / sources.len();
        for (which, source) in sources.iter().enumerate() {
            let to = |at: usize| if step == 1 { which * of_each + at } else { at * sources.len() + which };
            if transposed {
                // Where values take turns, whole turns are read.
                let (from, offset) = if taken == 1 { (start + done, 0) } else { (done * taken, start) };
                for at in 0..of_each {
                    read(source, (first + at) * width + from, n * taken, piece)?;
                    let target = to(at);
                    for row in 0..n {
                        block[row * length + target] = piece[row * taken + offset];
                    }
                }
            } else {
                for row in 0..n {
                    read(source, (first + done + row) * width, width, piece)?;
                    for at in 0..of_each {
                        block[row * length + to(at)] = piece[start + at * taken];
                    }
                }
            }
        }
        Ok(())
    }
}

impl Output {
    /// The tensors that it is made of, each once, in the order of the first part of each.
    pub(crate) fn sources(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let all = self.parts.iter().flat_map(|part| std::iter::once(&part.source).chain(&part.also));
        all.map(String::as_str).filter(|source| seen.insert(*source)).collect()
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
            let per_block = match part.order {
                Order::Grid(Grid { transposed: true, .. }) => rows_of_columns(width),
                _ => per_block,
            };
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
                    Order::Grid(grid) => {
                        block.clear();
                        block.resize(n * width, 0.0);
                        part.read_grid(grid, done, n, &mut read, &mut other, &mut block)?;
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

    /// What `parts` make of rows of so many values.
    fn made(part: Part, row_length: usize, sources: &[(&str, &[f32])]) -> Vec<f32> {
        let shape = vec![part.rows, row_length];
        let output = Output { name: "y".to_string(), shape, row_length, parts: vec![part], shift: 0.0 };
        let read = |name: &str, first: usize, n: usize, out: &mut Vec<f32>| {
            let (_, values) = sources.iter().find(|(source, _)| *source == name).expect("a source");
            *out = values[first..first + n].to_vec();
            Ok(())
        };
        let mut found = Vec::new();
        let take = |block: &[f32]| {
            found.extend_from_slice(block);
            Ok(())
        };
        output.for_each_block(read, take).unwrap();
        found
    }

    fn grid(also: Option<&str>, rows: usize, grid: Grid) -> Part {
        Part { source: "x".to_string(), also: also.map(str::to_string), rows, order: Order::Grid(grid) }
    }

    #[test]
    fn columns_become_rows() {
        // Rows of four values, of which the second and the third are a matrix.
        let values: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let sources: &[(&str, &[f32])] = &[("x", &values)];
        let all = Grid::of(1, 4, true);
        assert_eq!(made(grid(None, 4, all), 2, sources), [4.0, 8.0, 5.0, 9.0, 6.0, 10.0, 7.0, 11.0]);
        let second_half = Grid { start: 2, ..all };
        assert_eq!(made(grid(None, 2, second_half), 2, sources), [6.0, 10.0, 7.0, 11.0]);
        let odd = Grid { start: 1, step: 2, ..all };
        assert_eq!(made(grid(None, 2, odd), 2, sources), [5.0, 9.0, 7.0, 11.0]);
        let odd_in_rows = Grid { transposed: false, ..odd };
        assert_eq!(made(grid(None, 2, odd_in_rows), 2, sources), [5.0, 7.0, 9.0, 11.0]);
    }

    #[test]
    fn two_matrices_become_one() {
        let (x, y): (Vec<f32>, Vec<f32>) = ((0..6).map(|x| x as f32).collect(), (10..16).map(|x| x as f32).collect());
        let sources: &[(&str, &[f32])] = &[("x", &x), ("y", &y)];
        let columns = Grid::of(0, 3, true);
        let halves = [0.0, 3.0, 10.0, 13.0, 1.0, 4.0, 11.0, 14.0, 2.0, 5.0, 12.0, 15.0];
        assert_eq!(made(grid(Some("y"), 3, columns), 4, sources), halves);
        let turns = [0.0, 10.0, 3.0, 13.0, 1.0, 11.0, 4.0, 14.0, 2.0, 12.0, 5.0, 15.0];
        assert_eq!(made(grid(Some("y"), 3, Grid { step: 2, ..columns }), 4, sources), turns);
        let rows = Grid { step: 2, ..Grid::of(0, 3, false) };
        let in_rows = [0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 3.0, 13.0, 4.0, 14.0, 5.0, 15.0];
        assert_eq!(made(grid(Some("y"), 2, rows), 6, sources), in_rows);
    }

    /// More columns than one block has.
    #[test]
    fn long_columns_are_read_in_blocks() {
        let (rows, columns) = (COLUMN_BLOCK / COLUMNS, 3 * COLUMNS);
        let values: Vec<f32> = (0..rows * columns).map(|x| (x % 65_521) as f32).collect();
        let found = made(grid(None, columns, Grid::of(0, columns, true)), rows, &[("x", &values)]);
        let expected = |at: usize| values[at % rows * columns + at / rows];
        assert!((0..found.len()).all(|at| found[at] == expected(at)) && found.len() == values.len());
    }
}
