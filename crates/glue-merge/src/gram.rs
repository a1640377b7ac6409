//! All inner products of the operands in one pass.
//!
//! Whatever stays in the span of its inputs – spherical interpolation, spherical means, the centre of Model Stock – is
//! a linear combination whose coefficients follow from these numbers: one survey, then the linear kernel.

use crate::contract::{Block, Grain, Plan, Survey, no_answer};
use crate::error::MergeError;
use crate::kernel::{Gather, Gathered};
use crate::lanes::Lanes;

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

/// A plan that gathers the inner products of `n` vectors and then asks `then`.
pub fn gram(
    vectors: Vectors,
    n: usize,
    then: impl FnOnce(&Gram) -> Result<Plan, MergeError> + Send + Sync + 'static,
) -> Plan {
    Plan::survey(GramSurvey { vectors, n, then })
}

struct GramSurvey<F> {
    vectors: Vectors,
    n: usize,
    then: F,
}

/// Elements of the differences that are held at once.
const CHUNK: usize = 1024;

impl<F: FnOnce(&Gram) -> Result<Plan, MergeError> + Send + Sync> Survey for GramSurvey<F> {
    type Partial = Vec<Lanes>;

    fn grain(&self) -> Grain {
        Grain::Element
    }

    fn partial(&self) -> Vec<Lanes> {
        vec![Lanes::default(); self.n * (self.n + 1) / 2]
    }

    fn observe(&self, sums: &mut Vec<Lanes>, block: &Block<'_>) {
        match self.vectors {
            Vectors::Inputs => products(sums, block.offset, block.inputs),
            Vectors::BaseAndInputs => {
                let all: Vec<&[f32]> = block.base.iter().chain(block.inputs).copied().collect();
                products(sums, block.offset, &all);
            }
            Vectors::TaskVectors => {
                let mut tau = vec![0.0; self.n * CHUNK.min(block.len())];
                for (c, base) in block.base().chunks(CHUNK).enumerate() {
                    let at = c * CHUNK;
                    for (tau, input) in tau.chunks_mut(CHUNK.min(block.len())).zip(block.inputs) {
                        subtract(&input[at..at + base.len()], base, &mut tau[..base.len()]);
                    }
                    let tau: Vec<&[f32]> = tau.chunks(CHUNK.min(block.len())).map(|t| &t[..base.len()]).collect();
                    products(sums, block.offset + at, &tau);
                }
            }
        }
    }

    fn join(&self, sums: &mut Vec<Lanes>, later: Vec<Lanes>) {
        for (sum, more) in sums.iter_mut().zip(&later) {
            sum.join(more);
        }
    }

    fn finish(self, sums: Vec<Lanes>) -> Result<Plan, MergeError> {
        (self.then)(&Gram { n: self.n, products: sums.iter().map(Lanes::total).collect() })
    }

    fn describe(&self) -> Option<Gather<'_>> {
        Some(Gather::Products { vectors: self.vectors, n: self.n })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match gathered {
            Gathered::Sums(products) if products.len() == self.n * (self.n + 1) / 2 => {
                (self.then)(&Gram { n: self.n, products })
            }
            other => Err(no_answer(&other)),
        }
    }
}

fn products(sums: &mut [Lanes], offset: usize, vectors: &[&[f32]]) {
    for (i, x) in vectors.iter().enumerate() {
        for (j, y) in vectors[..=i].iter().enumerate() {
            sums[index(i, j)].dot(offset, x, y);
        }
    }
}

/// `out = x − y`.
pub(crate) fn subtract(x: &[f32], y: &[f32], out: &mut [f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = x - y;
    }
}
