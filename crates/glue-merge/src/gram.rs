//! All inner products of the operands in one pass.
//!
//! Whatever stays in the span of its inputs – spherical interpolation, spherical means, the centre of Model Stock – is
//! a linear combination whose coefficients follow from these numbers: one reduction, then the linear kernel.

use crate::contract::{Block, Granularity, Plan, Reduction, wrong_answer};
use crate::device::{Gather, Gathered};
use crate::error::MergeError;
use crate::striped_sum::{StripedSum, dots};

/// Which vectors are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vectors {
    /// The inputs.
    Inputs,
    /// The base, then the inputs.
    BaseAndInputs,
    /// The task vectors τi = θi − θ0.
    TaskVectors,
}

/// The matrix of inner products, over the whole tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    n: usize,
    products: Vec<f64>,
}

impl Gram {
    /// Number of vectors.
    pub fn n(&self) -> usize {
        self.n
    }

    /// ⟨vi, vj⟩.
    pub fn dot(&self, i: usize, j: usize) -> f64 {
        self.products[index(i, j)]
    }

    /// ‖vi‖.
    pub fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }

    /// Cosine of the angle between vi and vj; 0 where one of them is 0.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norm(i) * self.norm(j);
        if norms > 0.0 { self.dot(i, j) / norms } else { 0.0 }
    }
}

/// Index of the pair in a lower triangle.
fn index(i: usize, j: usize) -> usize {
    let (i, j) = (i.max(j), i.min(j));
    i * (i + 1) / 2 + j
}

/// A plan that gathers the inner products of `n` vectors and then decides by `then`.
pub fn gram(
    vectors: Vectors,
    n: usize,
    then: impl FnOnce(&Gram) -> Result<Plan, MergeError> + Send + Sync + 'static,
) -> Plan {
    Plan::reduce(GramReduction { vectors, n, then })
}

struct GramReduction<F> {
    vectors: Vectors,
    n: usize,
    then: F,
}

impl<F: FnOnce(&Gram) -> Result<Plan, MergeError> + Send + Sync> Reduction for GramReduction<F> {
    type Accumulator = Vec<StripedSum>;

    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn accumulator(&self) -> Vec<StripedSum> {
        vec![StripedSum::default(); self.n * (self.n + 1) / 2]
    }

    fn observe(&self, sums: &mut Vec<StripedSum>, block: &Block<'_>) {
        match self.vectors {
            Vectors::Inputs => products::<false>(sums, block.offset, block.inputs, &[]),
            Vectors::BaseAndInputs => {
                let all: Vec<&[f32]> = block.base.iter().chain(block.inputs).copied().collect();
                products::<false>(sums, block.offset, &all, &[]);
            }
            Vectors::TaskVectors => products::<true>(sums, block.offset, block.inputs, block.base()),
        }
    }

    fn combine(&self, sums: &mut Vec<StripedSum>, later: Vec<StripedSum>) {
        StripedSum::combine_all(sums, &later);
    }

    fn finish(self, sums: Vec<StripedSum>) -> Result<Plan, MergeError> {
        (self.then)(&Gram { n: self.n, products: sums.iter().map(StripedSum::total).collect() })
    }

    fn describe(&self) -> Option<Gather<'_>> {
        Some(Gather::Products { vectors: self.vectors, n: self.n })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match gathered {
            Gathered::Sums(products) if products.len() == self.n * (self.n + 1) / 2 => {
                (self.then)(&Gram { n: self.n, products })
            }
            other => Err(wrong_answer(&other)),
        }
    }
}

/// Adds the products of the vectors, or of their differences from the base.
fn products<const FROM_BASE: bool>(sums: &mut [StripedSum], offset: usize, vectors: &[&[f32]], base: &[f32]) {
    match *vectors {
        [a, b] => dots::<_, _, FROM_BASE>(sums, offset, [a, b], base, [(0, 0), (1, 0), (1, 1)]),
        [a, b, c] => {
            let pairs = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)];
            dots::<_, _, FROM_BASE>(sums, offset, [a, b, c], base, pairs);
        }
        _ => {
            for (i, x) in vectors.iter().enumerate() {
                let (others, sums) = (&vectors[..i], &mut sums[index(i, 0)..=index(i, i)]);
                let (pairs, own) = sums.split_at_mut(i);
                for (y, sum) in others.iter().zip(pairs) {
                    dots::<_, _, FROM_BASE>(std::slice::from_mut(sum), offset, [x, y], base, [(0, 1)]);
                }
                dots::<_, _, FROM_BASE>(own, offset, [x], base, [(0, 0)]);
            }
        }
    }
}
