//! The similarity of models to each other and to any linear merge of them, from one pass over their weights.
//!
//! The similarity of two models is the mean cosine of their flattened MLP weight matrices. That of a linear merge
//! M = Σᵢ wᵢ θᵢ to a model θⱼ needs no weights of M: with the Gram matrix Gᵢⱼ = ⟨θᵢ, θⱼ⟩ of a weight matrix,
//!
//! ```text
//! cos(M, θⱼ) = Σᵢ wᵢ Gᵢⱼ / √(Σᵢₖ wᵢ wₖ Gᵢₖ · Gⱼⱼ)
//! ```
//!
//! Only the n(n+1)/2 inner products of each matrix have to be kept.

use glue_metrics::Class;
use glue_tensor::{Checkpoint, ConvertError, Names, widen};
use rayon::prelude::*;

/// Inner products of the MLP matrices of some models.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarity {
    n: usize,
    /// For each matrix, the lower triangle by rows.
    grams: Vec<Vec<f64>>,
}

/// Why models cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimilarityError {
    /// There is no matrix to compare.
    #[error("model `{model}` has no MLP matrix: the similarity of models is unknown")]
    Nothing {
        /// The first model.
        model: String,
    },
    /// A model lacks a tensor or has it in another shape.
    #[error("model `{model}`: expected tensor `{tensor}` of shape {expected:?}, found {found}")]
    Tensor {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// The shape in the first model.
        expected: Vec<usize>,
        /// What was found.
        found: String,
    },
    /// A tensor that does not hold floating-point numbers.
    #[error("model `{model}`: tensor `{tensor}`")]
    Numbers {
        /// The model.
        model: String,
        /// The tensor.
        tensor: String,
        /// Why it cannot be read.
        #[source]
        error: ConvertError,
    },
}

/// Elements that are widened together: those of sixteen models fit into a second-level cache.
const BLOCK: usize = 4096;

impl Similarity {
    /// Reads the MLP matrices of `models`, given with their names, on the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`SimilarityError`]: models of different shapes, or without an MLP.
    pub fn read(models: &[(&str, &Checkpoint)]) -> Result<Similarity, SimilarityError> {
        let Some((first, leader)) = models.first() else {
            return Ok(Similarity { n: 0, grams: Vec::new() });
        };
        let names = Names::infer(leader.tensors().iter().map(|tensor| tensor.name.as_str()));
        let matrices: Vec<&str> = leader
            .tensors()
            .iter()
            .filter(|tensor| Class::of(names.parse(&tensor.name).role, &tensor.shape) == Class::Mlp)
            .map(|tensor| tensor.name.as_str())
            .collect();
        if matrices.is_empty() {
            return Err(SimilarityError::Nothing { model: (*first).into() });
        }
        let grams = matrices.par_iter().map(|name| gram(models, name)).collect::<Result<_, _>>()?;
        Ok(Similarity { n: models.len(), grams })
    }

    /// From Gram matrices: the inner product of models i and j ≤ i is at i(i+1)/2 + j.
    ///
    /// # Panics
    /// When one has another number of entries than n(n+1)/2.
    pub fn from_grams(n: usize, grams: Vec<Vec<f64>>) -> Similarity {
        assert!(grams.iter().all(|gram| gram.len() == n * (n + 1) / 2), "a triangle of {n} models");
        Similarity { n, grams }
    }

    /// Number of models.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The similarity of models `i` and `j`, from -1 to 1.
    pub fn of_models(&self, i: usize, j: usize) -> f64 {
        self.of_merge(&[(i, 1.0)], j)
    }

    /// The similarity of the linear merge with these weights to model `j`, from -1 to 1. That of a matrix of zeros is
    /// 0.
    pub fn of_merge(&self, weights: &[(usize, f64)], j: usize) -> f64 {
        let cosine = |gram: &Vec<f64>| {
            let dot = |a: usize, b: usize| gram[index(a, b)];
            let product: f64 = weights.iter().map(|&(i, w)| w * dot(i, j)).sum();
            let square: f64 =
                weights.iter().flat_map(|&(i, w)| weights.iter().map(move |&(k, v)| w * v * dot(i, k))).sum();
            let norms = (square.max(0.0) * dot(j, j)).sqrt();
            // Rounding may exceed the range by a last digit.
            if norms > 0.0 { (product / norms).clamp(-1.0, 1.0) } else { 0.0 }
        };
        self.grams.iter().map(cosine).sum::<f64>() / self.grams.len().max(1) as f64
    }
}

fn index(i: usize, j: usize) -> usize {
    let (i, j) = (i.max(j), i.min(j));
    i * (i + 1) / 2 + j
}

/// The inner products of one tensor, block after block in order: the sums do not depend on the number of threads.
fn gram(models: &[(&str, &Checkpoint)], name: &str) -> Result<Vec<f64>, SimilarityError> {
    let n = models.len();
    let mut views = Vec::with_capacity(n);
    for (model, checkpoint) in models {
        let expected =
            || views.first().map_or_else(Vec::new, |first: &glue_tensor::TensorView<'_>| first.shape().to_vec());
        let refuse = |found: String| SimilarityError::Tensor {
            model: (*model).into(),
            tensor: name.into(),
            expected: expected(),
            found,
        };
        let view = checkpoint.get(name).ok_or_else(|| refuse("none".into()))?;
        if views.first().is_some_and(|first: &glue_tensor::TensorView<'_>| first.shape() != view.shape()) {
            return Err(refuse(format!("{:?}", view.shape())));
        }
        views.push(view);
    }
    let elements = views[0].info().n_elements();
    let mut sums = vec![0.0; n * (n + 1) / 2];
    let mut blocks = vec![vec![0.0_f32; BLOCK.min(elements)]; n];
    for start in (0..elements).step_by(BLOCK) {
        let length = BLOCK.min(elements - start);
        for ((view, block), (model, _)) in views.iter().zip(&mut blocks).zip(models) {
            let size = view.dtype().size();
            let bytes = &view.data()[start * size..(start + length) * size];
            widen(view.dtype(), bytes, &mut block[..length]).map_err(|error| SimilarityError::Numbers {
                model: (*model).into(),
                tensor: name.into(),
                error,
            })?;
        }
        for i in 0..n {
            for j in 0..=i {
                sums[index(i, j)] += dot(&blocks[i][..length], &blocks[j][..length]);
            }
        }
    }
    Ok(sums)
}

/// An inner product with sums in `f64`, in eight lanes for vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 =
        a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    //! Comparison weights that are merged first and compared then.
    use super::*;
    use std::path::Path;

    fn zoo() -> Vec<Checkpoint> {
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo");
        let open = |name: &str| Checkpoint::open(zoo.join(name)).expect("a model of the zoo");
        ["a-chat", "a-math", "a-noise"].map(open).into()
    }

    fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
        let view = checkpoint.get(name).expect("a tensor");
        let mut values = vec![0.0; view.info().n_elements()];
        widen(view.dtype(), view.data(), &mut values).expect("numbers");
        values.into_iter().map(f64::from).collect()
    }

    fn cosine(a: &[f64], b: &[f64]) -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn the_similarity_of_a_merge_needs_no_merge() {
        let models = zoo();
        let named: Vec<(&str, &Checkpoint)> = models.iter().map(|model| ("m", model)).collect();
        let similarity = Similarity::read(&named).expect("similarity");
        let weights = [(0, 0.7), (1, 0.3)];
        for j in 0..3 {
            let mut expected = Vec::new();
            for layer in 0..4 {
                for part in ["gate_proj", "up_proj", "down_proj"] {
                    let name = format!("model.layers.{layer}.mlp.{part}.weight");
                    let of = |i: usize| values(&models[i], &name);
                    let merge: Vec<f64> = of(0).iter().zip(of(1)).map(|(a, b)| 0.7 * a + 0.3 * b).collect();
                    expected.push(cosine(&merge, &of(j)));
                }
            }
            let expected = expected.iter().sum::<f64>() / 12.0;
            // Sums of 32768 products in double precision, in another order.
            assert!((similarity.of_merge(&weights, j) - expected).abs() < 1e-12, "{j}");
        }
        assert!((similarity.of_models(1, 1) - 1.0).abs() < 1e-12);
        assert_eq!(similarity.of_models(0, 2), similarity.of_models(2, 0));
    }

    #[test]
    fn threads_do_not_matter() {
        let models = zoo();
        let named: Vec<(&str, &Checkpoint)> = models.iter().map(|model| ("m", model)).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| Similarity::read(&named).expect("similarity"))
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn other_shapes_are_refused() {
        let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo");
        let open = |name: &str| Checkpoint::open(zoo.join(name)).expect("a model of the zoo");
        let (a, c) = (open("a-chat"), open("c-chat"));
        let error = Similarity::read(&[("a", &a), ("c", &c)]).expect_err("another architecture");
        assert!(error.to_string().starts_with("model `c`: expected tensor `model.layers."), "{error}");
    }
}
