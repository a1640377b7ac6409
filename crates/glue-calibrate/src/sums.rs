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

/// By the name of a tensor: the number of each of its matrices that anything is multiplied with, and the rows.
pub(crate) type Inputs = HashMap<String, Vec<(usize, Vec<f32>)>>;

/// What was recorded of a batch of sequences.
pub(crate) struct Batch {
    /// Inputs of matrices by the name of the first of them.
    pub(crate) inputs: Inputs,
    /// Gradients of its sequences.
    pub(crate) gradients: Option<Gradients>,
    /// How many sequences there are.
    pub(crate) sequences: usize,
}

/// Records inputs by the name of the first matrix that reads them.
pub(crate) struct Recorder<'a> {
    recorded: &'a HashSet<&'a str>,
    pub(crate) inputs: Inputs,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(recorded: &'a HashSet<&'a str>) -> Recorder<'a> {
        Recorder { recorded, inputs: HashMap::new() }
    }

    fn record(&mut self, weights: &[&str], matrix: usize, values: &[f32]) {
        let name = weights.first().copied().filter(|name| self.recorded.contains(name));
        if let Some(name) = name {
            self.inputs.entry(name.to_owned()).or_default().push((matrix, values.to_vec()));
        }
    }
}

impl Observer for Recorder<'_> {
    fn linear_input(&mut self, weights: &[&str], values: &[f32]) {
        self.record(weights, 0, values);
    }

    fn stacked_input(&mut self, weights: &[&str], expert: usize, values: &[f32]) {
        self.record(weights, expert, values);
    }
}

/// An expert that no token came to: its statistics are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct IdleExpert {
    /// Its layer, counted from 0.
    pub layer: usize,
    /// Its number in the layer.
    pub expert: usize,
}

/// One sum, batch by batch.
pub(crate) struct Accumulator<'a> {
    pub(crate) spec: &'a SumSpec,
    values: Vec<f64>,
    /// Rows of inputs that were added for each matrix.
    rows: Vec<u64>,
}

/// Rows of a Gram matrix that a thread computes at once.
const GRAM_ROWS: usize = 64;

/// Elements of a gradient that a thread computes at once.
const BLOCK: usize = 1 << 16;

impl<'a> Accumulator<'a> {
    pub(crate) fn new(spec: &'a SumSpec) -> Accumulator<'a> {
        Accumulator { spec, values: vec![0.0; spec.elements()], rows: vec![0; spec.matrices()] }
    }

    /// The experts that no token came to.
    pub(crate) fn idle_experts(&self) -> impl Iterator<Item = IdleExpert> {
        let idle = self.rows.iter().enumerate().filter(|(_, rows)| **rows == 0);
        idle.filter_map(|(matrix, _)| {
            let expert = self.spec.routed?.expert.unwrap_or(matrix);
            Some(IdleExpert { layer: self.spec.layer?, expert })
        })
    }

    /// The name under which its input is recorded.
    pub(crate) fn input(spec: &SumSpec) -> Option<&str> {
        (spec.statistic != Statistic::Fisher).then(|| spec.tensors.first().map(String::as_str)).flatten()
    }

    /// Adds a batch.
    pub(crate) fn add(&mut self, batch: &Batch) {
        let Some(name) = self.spec.tensors.first() else { return };
        match (self.spec.statistic, batch.inputs.get(name), &batch.gradients) {
            (Statistic::Fisher, _, Some(gradients)) => self.add_squares(name, gradients, batch.sequences),
            (Statistic::Activation | Statistic::Gram, Some(inputs), _) => {
                inputs.iter().for_each(|(matrix, inputs)| self.add_inputs(*matrix, inputs));
            }
            _ => {}
        }
    }

    /// Adds rows of what is multiplied with a matrix.
    fn add_inputs(&mut self, matrix: usize, inputs: &[f32]) {
        let (width, each) = (self.spec.width(), self.of_matrix());
        self.rows[matrix] += (inputs.len() / width) as u64;
        let sums = &mut self.values[matrix * each..(matrix + 1) * each];
        match self.spec.statistic {
            Statistic::Gram => add_products(sums, inputs, width),
            _ => {
                for row in inputs.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x.abs()));
                }
            }
        }
    }

    /// Numbers of each matrix.
    fn of_matrix(&self) -> usize {
        self.values.len() / self.rows.len()
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
        let (width, each) = (self.spec.width(), self.of_matrix().max(1));
        let symmetric = self.spec.statistic == Statistic::Gram;
        run.map(move |index| {
            let (first, within) = (index - index % each, index % each);
            let (row, column) = (within / width, within % width);
            let place = if symmetric && column > row { first + column * width + row } else { index };
            (self.values[place] / count as f64) as f32
        })
    }
}

/// Adds XᵀX: the blocks of the symmetric matrix on and below the diagonal.
fn add_products(sums: &mut [f64], inputs: &[f32], width: usize) {
    let inputs = ArrayView2::from_shape((inputs.len() / width, width), inputs).expect("inputs are whole rows");
    let blocks = sums.par_chunks_mut(GRAM_ROWS * width).enumerate();
    blocks.for_each_init(Vec::new, |scratch, (block, sums)| {
        let (first, rows) = (block * GRAM_ROWS, sums.len() / width);
        let end = first + rows;
        let mut sums = ArrayViewMut2::from_shape((rows, width), sums).expect("a block holds whole rows");
        let (left, right) = (inputs.slice(s![.., first..end]), inputs.slice(s![.., ..end]));
        add_product_wide(left.reversed_axes(), right, sums.slice_mut(s![.., ..end]), scratch);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(statistic: Statistic, shape: &[usize]) -> SumSpec {
        SumSpec { statistic, tensors: vec!["w".into()], shape: shape.to_vec(), layer: None, routed: None }
    }

    fn batch(inputs: &[f32]) -> Batch {
        let inputs = HashMap::from([("w".to_owned(), vec![(0, inputs.to_vec())])]);
        Batch { inputs, gradients: None, sequences: 1 }
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
