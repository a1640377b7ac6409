//! Experts of two layers paired by their weights alone, for whoever reads the weights itself.
//!
//! The permutation p maximises Σₑ ⟨reference expert e, expert p(e)⟩ over everything that belongs to an expert: its
//! matrices and its row of the router. All permutations have the same sum of squares, so that the sum of squared
//! differences is smallest at the same p. The assignment is exact, as in all of this crate.

use crate::assignment;
use crate::error::AlignError;
use crate::permutation::Permutation;
use glue_linalg::add_product_wide;
use ndarray::{Array2, ArrayView2};

/// Inner products between the experts of a layer and those of a reference, summed block by block.
#[derive(Debug)]
pub struct ExpertProducts {
    sums: Array2<f64>,
    scratch: Vec<f32>,
}

impl ExpertProducts {
    /// Products of so many experts, so far of nothing.
    pub fn new(experts: usize) -> ExpertProducts {
        ExpertProducts { sums: Array2::zeros((experts, experts)), scratch: Vec::new() }
    }

    /// Adds a block of weights: row e of `reference` and of `model` are the same elements of expert e of either.
    ///
    /// # Panics
    /// When the shapes differ, or have another number of rows than there are experts.
    pub fn add(&mut self, reference: ArrayView2<'_, f32>, model: ArrayView2<'_, f32>) {
        add_product_wide(reference, model.t(), self.sums.view_mut(), &mut self.scratch);
    }

    /// Where each expert comes from: the expert of the model that takes the place of each expert of the reference.
    /// Experts stay where they are unless another order is better by more than rounding.
    ///
    /// # Errors
    /// [`AlignError::Assignment`].
    pub fn permutation(self) -> Result<Permutation, AlignError> {
        let n = self.sums.nrows();
        let gains = self.sums.into_iter().collect();
        Ok(assignment::improve(gains, n, &Permutation::identity(n))?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffled_copy_is_paired_with_itself() {
        for (n, len) in [(1, 5), (2, 7), (16, 40), (64, 9)] {
            let hidden = Permutation::random(n, 3, 0);
            let value =
                |e: usize, i: usize| Permutation::random(1000, e as u64, i as u64).source(0) as f32 / 500.0 - 1.0;
            let model = Array2::from_shape_fn((n, len), |(e, i)| value(e, i));
            // Row e of the reference is row p(e) of the model.
            let reference = Array2::from_shape_fn((n, len), |(e, i)| value(hidden.source(e), i));
            let mut products = ExpertProducts::new(n);
            for start in (0..len).step_by(4) {
                let block = ndarray::s![.., start..(start + 4).min(len)];
                products.add(reference.slice(block), model.slice(block));
            }
            assert_eq!(products.permutation().unwrap(), hidden, "{n} experts");
        }
    }

    #[test]
    fn equal_experts_stay() {
        let mut products = ExpertProducts::new(3);
        let same = Array2::ones((3, 2));
        products.add(same.view(), same.view());
        assert!(products.permutation().unwrap().is_identity());
    }
}
