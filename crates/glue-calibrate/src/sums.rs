//! The sums behind the means, in `f64`. Batches are added in order, and every element by one thread: the result does
//! not depend on the number of threads.

use crate::plan::SumSpec;
use crate::statistic::Statistic;
use glue_linalg::add_product_wide;
use glue_lm::{Gradients, Observer};
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// What was recorded of a batch of sequences.
pub(crate) struct Batch {
    /// Inputs of matrices by the name of the first of them, row after row.
    pub(crate) inputs: HashMap<String, Vec<f32>>,
    /// Gradients of its sequences.
    pub(crate) gradients: Option<Gradients>,
    /// How many sequences there are.
    pub(crate) sequences: usize,
}

/// Records inputs by the name of the first matrix that reads them.
pub(crate) struct Recorder<'a> {
    recorded: &'a HashSet<&'a str>,
    pub(crate) inputs: HashMap<String, Vec<f32>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(recorded: &'a HashSet<&'a str>) -> Recorder<'a> {
        Recorder { recorded, inputs: HashMap::new() }
    }
}

impl Observer for Recorder<'_> {
    fn linear_input(&mut self, weights: &[&str], values: &[f32]) {
        let name = weights.first().copied().filter(|name| self.recorded.contains(name));
        if let Some(name) = name {
            self.inputs.insert(name.to_owned(), values.to_vec());
        }
    }
}

/// One sum, batch by batch.
pub(crate) struct Accumulator<'a> {
    pub(crate) spec: &'a SumSpec,
    values: Vec<f64>,
}

/// Rows of a Gram matrix that a thread computes at once.
const GRAM_ROWS: usize = 64;

/// Elements of a gradient that a thread computes at once.
const BLOCK: usize = 1 << 16;

impl<'a> Accumulator<'a> {
    pub(crate) fn new(spec: &'a SumSpec) -> Accumulator<'a> {
        Accumulator { spec, values: vec![0.0; spec.elements()] }
    }

    /// The name under which its input is recorded.
    pub(crate) fn input(spec: &SumSpec) -> Option<&str> {
        (spec.statistic != Statistic::Fisher).then(|| spec.tensors.first().map(String::as_str)).flatten()
    }

    /// Adds a batch.
    pub(crate) fn add(&mut self, batch: &Batch) {
        let Some(name) = self.spec.tensors.first() else { return };
        match (self.spec.statistic, batch.inputs.get(name), &batch.gradients) {
            (Statistic::Activation, Some(inputs), _) => self.add_absolute(inputs),
            (Statistic::Gram, Some(inputs), _) => self.add_products(inputs),
            (Statistic::Fisher, _, Some(gradients)) => self.add_squares(name, gradients, batch.sequences),
            _ => {}
        }
    }

    fn add_absolute(&mut self, inputs: &[f32]) {
        for row in inputs.chunks_exact(self.values.len()) {
            self.values.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
        }
    }

    /// Adds XᵀX: the blocks of the symmetric matrix on and below the diagonal.
    fn add_products(&mut self, inputs: &[f32]) {
        let width = self.spec.shape[0];
        let inputs = ArrayView2::from_shape((inputs.len() / width, width), inputs).expect("inputs are whole rows");
        let blocks = self.values.par_chunks_mut(GRAM_ROWS * width).enumerate();
        blocks.for_each_init(Vec::new, |scratch, (block, sums)| {
            let (first, rows) = (block * GRAM_ROWS, sums.len() / width);
            let end = first + rows;
            let mut sums = ArrayViewMut2::from_shape((rows, width), sums).expect("a block holds whole rows");
            let (left, right) = (inputs.slice(s![.., first..end]), inputs.slice(s![.., ..end]));
            add_product_wide(left.reversed_axes(), right, sums.slice_mut(s![.., ..end]), scratch);
        });
    }

    fn add_squares(&mut self, name: &str, gradients: &Gradients, sequences: usize) {
        let width = self.spec.shape.iter().skip(1).product::<usize>().max(1);
        let rows = (BLOCK / width).max(1);
        let blocks = self.values.par_chunks_mut(rows * width).enumerate();
        blocks.for_each_init(Vec::new, |gradient, (block, sums)| {
            gradient.resize(sums.len(), 0.0f32);
            let first = block * rows;
            for sequence in 0..sequences {
                gradient.fill(0.0);
                if gradients.add_rows(name, sequence, first..first + sums.len() / width, gradient) {
                    sums.iter_mut().zip(&*gradient).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
                }
            }
        });
    }

    /// The elements `run` of the mean over `count`, as they are written.
    pub(crate) fn means(&self, run: Range<usize>, count: u64) -> impl Iterator<Item = f32> {
        let width = self.spec.shape.last().copied().unwrap_or(1);
        let symmetric = self.spec.statistic == Statistic::Gram;
        run.map(move |index| {
            let (row, column) = (index / width, index % width);
            let place = if symmetric && column > row { column * width + row } else { index };
            (self.values[place] / count as f64) as f32
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(statistic: Statistic, shape: &[usize]) -> SumSpec {
        SumSpec { statistic, tensors: vec!["w".into()], shape: shape.to_vec() }
    }

    fn batch(inputs: &[f32]) -> Batch {
        Batch { inputs: HashMap::from([("w".to_owned(), inputs.to_vec())]), gradients: None, sequences: 1 }
    }

    #[test]
    fn gram_matrices_are_whole_and_exactly_symmetric() {
        for (width, rows) in [(1, 3), (5, 2), (64, 7), (130, 1100)] {
            let spec = spec(Statistic::Gram, &[width, width]);
            let inputs: Vec<f32> = (0..rows * width).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
            let mut sums = Accumulator::new(&spec);
            let cut = rows / 2 * width;
            sums.add(&batch(&inputs[..cut]));
            sums.add(&batch(&inputs[cut..]));
            let found: Vec<f32> = sums.means(0..width * width, rows as u64).collect();
            for i in 0..width {
                for j in 0..width {
                    let terms = inputs.chunks(width).map(|row| f64::from(row[i]) * f64::from(row[j]));
                    let expected = terms.sum::<f64>() / rows as f64;
                    // Numbers up to 1, of which 512 are added in f32 before they are divided.
                    assert!((f64::from(found[i * width + j]) - expected).abs() < 1e-5, "{width}: {i}, {j}");
                    assert_eq!(found[i * width + j], found[j * width + i]);
                }
            }
        }
    }

    #[test]
    fn activations_are_means_of_absolute_values() {
        let spec = spec(Statistic::Activation, &[2]);
        let mut sums = Accumulator::new(&spec);
        sums.add(&batch(&[1.0, -2.0, -3.0, 0.0]));
        sums.add(&batch(&[-2.0, 5.0]));
        assert_eq!(sums.means(0..2, 3).collect::<Vec<_>>(), [2.0, 7.0 / 3.0]);
        assert_eq!(sums.means(1..2, 7).collect::<Vec<_>>(), [1.0]);
    }
}
