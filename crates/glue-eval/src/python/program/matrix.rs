//! Arrays of numpy that are filled after they are made: those of `np.zeros`, of one or two dimensions.

use super::Fault;
use super::value::V;
use std::rc::Rc;

/// Numbers in rows; one row where there is one dimension.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    /// Rows and columns; columns alone for one dimension.
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Matrix {
    /// Zeros of a shape as `np.zeros` takes it.
    pub(super) fn zeros(shape: &[i64]) -> Result<Matrix, Fault> {
        if !(1..=2).contains(&shape.len()) {
            return Err(Fault::unsupported(0, format!("numpy.zeros of {} dimensions", shape.len())));
        }
        let sizes = shape.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<Vec<usize>>>();
        let sizes = sizes.ok_or_else(|| Fault::raised("ValueError", "negative dimensions are not allowed"))?;
        let values = sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size)).filter(|&all| all <= 1 << 20);
        let values = values.ok_or_else(|| Fault::unsupported(0, "numpy.zeros of more than a million numbers"))?;
        Ok(Matrix { shape: sizes, data: vec![0.0; values] })
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(super) fn data(&self) -> &[f64] {
        &self.data
    }

    /// The numbers, or the rows.
    pub(super) fn items(&self) -> Vec<V> {
        let numbers = |data: &[f64]| data.iter().copied().map(V::Float).collect::<Vec<V>>();
        match self.shape[..] {
            [rows, columns] => (0..rows)
                .map(|row| V::Array(Rc::new(numbers(&self.data[row * columns..(row + 1) * columns]))))
                .collect(),
            _ => numbers(&self.data),
        }
    }

    pub(super) fn negated(&self) -> Matrix {
        Matrix { shape: self.shape.clone(), data: self.data.iter().map(|number| -number).collect() }
    }

    pub(super) fn get(&self, index: &V) -> Result<V, Fault> {
        if let (V::Int(_), [_, _]) = (index, &self.shape[..]) {
            let row = place(index, self.shape[0])?;
            return Ok(self.items().swap_remove(row));
        }
        Ok(V::Float(self.data[self.place(index)?]))
    }

    pub(super) fn set(&mut self, index: &V, value: &V) -> Result<(), Fault> {
        let number = value.number().ok_or_else(|| Fault::unsupported(0, "setting a part of an array to no number"))?;
        let at = self.place(index)?;
        self.data[at] = number;
        Ok(())
    }

    fn place(&self, index: &V) -> Result<usize, Fault> {
        match (index, &self.shape[..]) {
            (V::Tuple(pair), &[rows, columns]) if pair.len() == 2 => {
                Ok(place(&pair[0], rows)? * columns + place(&pair[1], columns)?)
            }
            (_, &[length]) => place(index, length),
            _ => Err(Fault::unsupported(0, "this part of an array of two dimensions")),
        }
    }
}

fn place(index: &V, length: usize) -> Result<usize, Fault> {
    let at = index.int().ok_or_else(|| Fault::unsupported(0, "parts of an array by anything but numbers"))?;
    let from_end = if at < 0 { at + length as i64 } else { at };
    let at = usize::try_from(from_end).ok().filter(|&at| at < length);
    at.ok_or_else(|| Fault::raised("IndexError", format!("index {index} is out of bounds", index = from_end)))
}
