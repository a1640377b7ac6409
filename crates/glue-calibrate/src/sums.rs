//! The sums behind the means, in `f64`. Batches are added in their order, and every element by one thread, so that the result does not
//! depend on how many there are.

use crate::plan::Site;
use crate::statistic::Statistic;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use glue_lm::{Gradients, Observer};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// What a batch of sequences gave.
pub(crate) struct Batch {
    /// Inputs of matrices by the name of the first of them, row after row.
    pub(crate) inputs: HashMap<String, Vec<f32>>,
    /// Gradients of its sequences.
    pub(crate) gradients: Option<Gradients>,
    /// How many sequences there are.
    pub(crate) sequences: usize,
}

/// Keeps the inputs that are wanted, by the name of the first matrix.
pub(crate) struct Recorder<'a> {
    wanted: &'a HashSet<&'a str>,
    pub(crate) inputs: HashMap<String, Vec<f32>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(wanted: &'a HashSet<&'a str>) -> Recorder<'a> {
        Recorder { wanted, inputs: HashMap::new() }
    }
}

impl Observer for Recorder<'_> {
    fn linear_input(&mut self, weights: &[&str], values: &[f32]) {
        let name = weights.first().copied().filter(|name| self.wanted.contains(name));
        if let Some(name) = name {
            self.inputs.insert(name.to_owned(), values.to_vec());
        }
    }
}

/// One sum.
pub(crate) struct Sums<'a> {
    pub(crate) site: &'a Site,
    values: Vec<f64>,
}

/// Rows of a Gram matrix that are done together.
const GRAM_ROWS: usize = 64;

/// Tokens summed in `f32` before they go into the sum in `f64`.
const DEPTH: usize = 512;

/// Elements of a gradient that are done together.
const BLOCK: usize = 1 << 16;

impl<'a> Sums<'a> {
    pub(crate) fn new(site: &'a Site) -> Sums<'a> {
        Sums { site, values: vec![0.0; site.elements()] }
    }

    /// The name that its input is recorded by.
    pub(crate) fn input(site: &Site) -> Option<&str> {
        (site.statistic != Statistic::Fisher).then(|| site.tensors.first().map(String::as_str)).flatten()
    }

    /// Adds a batch.
    pub(crate) fn add(&mut self, batch: &Batch) {
        let Some(name) = self.site.tensors.first() else { return };
        match (self.site.statistic, batch.inputs.get(name), &batch.gradients) {
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

    /// Of the symmetric matrix what is below the diagonal, and a little more.
    fn add_products(&mut self, inputs: &[f32]) {
        let width = self.site.shape[0];
        let blocks = self.values.par_chunks_mut(GRAM_ROWS * width).enumerate();
        blocks.for_each_init(Vec::new, |product, (block, sums)| {
            let (first, rows) = (block * GRAM_ROWS, sums.len() / width);
            let columns = first + rows;
            product.resize(rows * columns, 0.0f32);
            for inputs in inputs.chunks(DEPTH * width) {
                let inputs = MatRef::from_row_major_slice(inputs, inputs.len() / width, width);
                let (left, right) = (inputs.subcols(first, rows).transpose(), inputs.subcols(0, columns));
                let target = MatMut::from_row_major_slice_mut(product, rows, columns);
                matmul(target, Accum::Replace, left, right, 1.0, Par::Seq);
                for (sums, product) in sums.chunks_exact_mut(width).zip(product.chunks_exact(columns)) {
                    sums.iter_mut().zip(product).for_each(|(sum, &term)| *sum += f64::from(term));
                }
            }
        });
    }

    fn add_squares(&mut self, name: &str, gradients: &Gradients, sequences: usize) {
        let width = self.site.shape.iter().skip(1).product::<usize>().max(1);
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

    /// The elements `run` of the sum divided by `count`, as they are written.
    pub(crate) fn means(&self, run: Range<usize>, count: u64) -> impl Iterator<Item = f32> {
        let width = self.site.shape.last().copied().unwrap_or(1);
        let symmetric = self.site.statistic == Statistic::Gram;
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

    fn site(statistic: Statistic, shape: &[usize]) -> Site {
        Site { statistic, tensors: vec!["w".into()], shape: shape.to_vec() }
    }

    fn batch(inputs: &[f32]) -> Batch {
        Batch { inputs: HashMap::from([("w".to_owned(), inputs.to_vec())]), gradients: None, sequences: 1 }
    }

    #[test]
    fn gram_matrices_are_whole_and_exactly_symmetric() {
        for (width, rows) in [(1, 3), (5, 2), (64, 7), (130, 1100)] {
            let site = site(Statistic::Gram, &[width, width]);
            let inputs: Vec<f32> = (0..rows * width).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
            let mut sums = Sums::new(&site);
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
        let site = site(Statistic::Activation, &[2]);
        let mut sums = Sums::new(&site);
        sums.add(&batch(&[1.0, -2.0, -3.0, 0.0]));
        sums.add(&batch(&[-2.0, 5.0]));
        assert_eq!(sums.means(0..2, 3).collect::<Vec<_>>(), [2.0, 7.0 / 3.0]);
        assert_eq!(sums.means(1..2, 7).collect::<Vec<_>>(), [1.0]);
    }
}
