//! RegMean: the linear layer whose outputs are nearest, in least squares, to those of each model on its own inputs.
//! Jin et al., "Dataless knowledge fusion by merging weights of language models", arXiv 2212.09849.
//!
//! With Xi the inputs of the layer in model i, a row for each token, and Gi = XiᵀXi, the minimum of Σ wi ‖Xi Wᵀ − Xi
//! Wiᵀ‖² is W = (Σ wi Wi Gi)(Σ wi Gi)⁻¹, for weights of shape \[out, in\] as checkpoints hold them. Off-diagonal
//! elements of each Gi are multiplied by α < 1 first, which the authors found necessary: α = 0.9 for most models.
//!
//! It is computed as W̄ + (Σ wi (Wi − W̄) Gi)(Σ wi Gi)⁻¹ around the weighted mean W̄. What the inputs do not
//! determine stays the mean: a column that no input reaches has zeros in every Gi. The sum S = Σ wi Gi is scaled to a
//! unit diagonal, D^−½ S D^−½, with 1 for such columns. No eigenvalue of that is below 1 − α, however different the
//! sizes of activations are: a Cholesky factor solves it without a ridge. This is also why α is at most 0.99.
//!
//! Tensors that are no matrices, and those without a Gram matrix (norms, biases, embeddings), take the weighted mean,
//! as in the paper.
//!
//! **Known weaknesses.** With statistics of a plain calibration, each layer is fitted to the inputs that it had in its
//! own model, not to those that the merged layers before it will give it; errors add up with depth. RegMean++ (arXiv
//! 2508.03121) measures the inputs of each layer on the layers merged so far: `glue calibrate --merge` does that for a
//! config, and the merge with its statistics is the same closed form. A Gram matrix that is a sum over tokens lets the
//! model with more of them decide; statistics that are means do not. Directions that the data of calibration does not
//! have are fitted to noise as α nears 1. It was made for encoders of a few hundred million parameters.
//!
//! **Memory**, besides inputs and Gram matrices in `f32`: 18 copies of a square matrix in `f32`, as the work is done in
//! `f64`, on as many rows at a time as there are columns. **Time:** one Cholesky factor, and N + 1 products of the size
//! of the matrix with a square one.

use crate::matrix::Finished;
use glue_linalg::{LinalgError, product, solve_positive_definite};
use glue_merge::operators::linear;
use glue_merge::{
    BaseRule, Block, BoxError, Granularity, Interval, MergeError, Operator, OperatorDef, ParamSpec, Params, Plan,
    Reduction, StatisticOf, StatisticShape, StatisticSpec, TensorSpec,
};
use ndarray::{Array1, Array2};
use std::ops::Range;

/// `regmean`.
pub const DEF: OperatorDef = OperatorDef {
    name: "regmean",
    summary: "The linear layers whose outputs are nearest to those of each model on its own inputs.",
    formula: "(Σ wi Wi Gi)(Σ wi Gi)⁻¹ with Gi the Gram matrix of the layer's inputs, off-diagonal elements times off_diagonal; tensors without one: Σ wi θi / Σ wi",
    reference: "RegMean, arXiv 2212.09849",
    base: BaseRule::Unused,
    params: &[
        ParamSpec::number("weight", "Weight of the model.", Interval::closed(0.0, f64::INFINITY), (0.0, 1.0))
            .or(1.0)
            .per_input(),
        ParamSpec::number(
            "off_diagonal",
            "Factor on the off-diagonal elements of each Gram matrix; 0 averages column by column.",
            Interval::closed(0.0, 0.99),
            (0.1, 0.95),
        )
        .or(0.9),
    ],
    statistic: Some(StatisticSpec {
        name: StatisticSpec::GRAM,
        doc: "Products of the columns of what the matrix is multiplied by: XᵀX, as a mean over tokens.",
        shape: StatisticShape::Gram,
        of: StatisticOf::Inputs,
    }),
    plan,
    matrices: true,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let weights = params.input_numbers("weight");
    match *tensor.shape {
        [rows, columns] if tensor.statistic.is_some() && tensor.n_inputs > 1 && !tensor.is_empty() => {
            let total: f64 = weights.iter().sum();
            // The mean refuses weights that cannot be normalised.
            mean(tensor, &weights)?;
            let weights = weights.iter().map(|w| w / total).collect();
            let (off_diagonal, tensor) = (params.number("off_diagonal"), tensor.name.into());
            Ok(Plan::reduce(Regression { tensor, dim: (rows, columns), weights, off_diagonal }))
        }
        _ => mean(tensor, &weights),
    }
}

/// Σ wi θi / Σ wi.
fn mean(tensor: &TensorSpec<'_>, weights: &[f64]) -> Result<Plan, MergeError> {
    let operator = Operator::new(&linear::DEF);
    let params = operator.params(weights.len()).each("weight", weights.iter().copied()).check()?;
    operator.plan(&tensor.with_statistic(None), &params)
}

struct Regression {
    tensor: String,
    dim: (usize, usize),
    /// They add up to 1.
    weights: Vec<f64>,
    off_diagonal: f64,
}

impl Reduction for Regression {
    /// The result, once the matrix was seen.
    type Accumulator = Option<Result<Vec<f32>, LinalgError>>;

    fn granularity(&self) -> Granularity {
        Granularity::Tensor
    }

    fn working_bytes(&self) -> u64 {
        let (rows, columns) = self.dim;
        let piece = rows.min(piece(columns));
        ((4 * columns * columns + 5 * piece * columns) * size_of::<f64>() + rows * columns * size_of::<f32>()) as u64
    }

    fn accumulator(&self) -> Self::Accumulator {
        None
    }

    fn observe(&self, accumulator: &mut Self::Accumulator, block: &Block<'_>) {
        *accumulator = Some(self.fit(block.inputs, block.statistics));
    }

    fn combine(&self, accumulator: &mut Self::Accumulator, later: Self::Accumulator) {
        if later.is_some() {
            *accumulator = later;
        }
    }

    fn finish(self, total: Self::Accumulator) -> Result<Plan, MergeError> {
        match total.transpose() {
            Ok(merged) => Ok(Plan::map(Finished(merged.unwrap_or_default()))),
            Err(error) => {
                let reason: BoxError = format!("its Gram matrices do not add up to one: {error}").into();
                Err(MergeError::NoResult { tensor: self.tensor, reason })
            }
        }
    }
}

/// Rows that are fitted at once: about a square, to compute the factor of S seldom.
fn piece(columns: usize) -> usize {
    columns.max(256)
}

impl Regression {
    fn fit(&self, inputs: &[&[f32]], grams: &[&[f32]]) -> Result<Vec<f32>, LinalgError> {
        let (rows, columns) = self.dim;
        let mut sum = Array2::<f64>::zeros((columns, columns));
        for (weight, gram) in self.weights.iter().zip(grams) {
            sum.scaled_add(*weight, &self.reduced(gram));
        }
        let inverse_root = sum.diag().mapv(|x| if x > 0.0 { x.sqrt().recip() } else { 0.0 });
        for ((j, k), x) in sum.indexed_iter_mut() {
            *x *= inverse_root[j] * inverse_root[k];
            if j == k && inverse_root[j] == 0.0 {
                *x = 1.0;
            }
        }
        let mut merged = Vec::with_capacity(rows * columns);
        for start in (0..rows).step_by(piece(columns)) {
            let range = start..(start + piece(columns)).min(rows);
            self.fit_rows(range, inputs, grams, (&sum, &inverse_root), &mut merged)?;
        }
        Ok(merged)
    }

    /// Appends the rows of the result in `range`, given D^−½ S D^−½ and D^−½.
    fn fit_rows(
        &self,
        range: Range<usize>,
        inputs: &[&[f32]],
        grams: &[&[f32]],
        (scaled, inverse_root): (&Array2<f64>, &Array1<f64>),
        merged: &mut Vec<f32>,
    ) -> Result<(), LinalgError> {
        let columns = self.dim.1;
        let shape = (range.len(), columns);
        let of = |input: &[f32]| {
            let part = &input[range.start * columns..range.end * columns];
            Array2::from_shape_fn(shape, |(r, c)| f64::from(part[r * columns + c]))
        };
        let mut mean = Array2::zeros(shape);
        for (weight, input) in self.weights.iter().zip(inputs) {
            mean.scaled_add(*weight, &of(input));
        }
        let mut pulls = Array2::zeros(shape);
        for ((weight, input), gram) in self.weights.iter().zip(inputs).zip(grams) {
            let apart = of(input) - &mean;
            pulls.scaled_add(*weight, &product(apart.view(), self.reduced(gram).view())?);
        }
        pulls *= inverse_root;
        let mut moves = solve_positive_definite(scaled.view(), pulls.t())?.reversed_axes();
        moves *= inverse_root;
        moves += &mean;
        merged.extend(moves.iter().map(|x| *x as f32));
        Ok(())
    }

    /// A Gram matrix with smaller off-diagonal elements. Of two that should be equal and are not quite, as after
    /// rounding, the mean is taken.
    fn reduced(&self, gram: &[f32]) -> Array2<f64> {
        let n = self.dim.1;
        let at = |j: usize, k: usize| f64::from(gram[j * n + k]);
        Array2::from_shape_fn(
            (n, n),
            |(j, k)| {
                if j == k { at(j, j) } else { self.off_diagonal * 0.5 * (at(j, k) + at(k, j)) }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{matrix, near, values};
    use glue_merge::{Conformance, Merge, check_operator};
    use ndarray::{ArrayView2, s};

    fn merge(
        shape: &[usize],
        inputs: &[&[f32]],
        grams: &[&[f32]],
        settings: &[(&'static str, f64)],
    ) -> Result<Vec<f32>, MergeError> {
        let operator = Operator::new(&DEF);
        let params = operator.params(inputs.len()).set_all(settings.iter().copied()).check()?;
        Merge::new(&operator, &params).shape(shape).inputs(inputs).statistics(grams).run()
    }

    /// XᵀX.
    fn gram(x: &Array2<f64>) -> Vec<f32> {
        values(&x.t().dot(x))
    }

    #[test]
    fn conforms() {
        check_operator(&DEF);
        Conformance::new(&DEF).symmetric().check();
    }

    #[test]
    fn by_hand() {
        // G1 = [[2, 1], [1, 1]], G2 = [[1, 0], [0, 2]]; at off_diagonal 1/2 the sum is [[3, 1/2], [1/2, 3]], whose
        // inverse is [[12, -2], [-2, 12]]/35. With W1 = [1, 0], W2 = [0, 1]: W1 G1 + W2 G2 = [2, 5/2], times that
        // [19, 26]/35.
        let grams: [&[f32]; 2] = [&[2.0, 1.0, 1.0, 1.0], &[1.0, 0.0, 0.0, 2.0]];
        let inputs: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, 1.0]];
        let merged = merge(&[1, 2], &inputs, &grams, &[("off_diagonal", 0.5)]).unwrap();
        near(&merged, &[19.0 / 35.0, 26.0 / 35.0], 1e-6);
        // Without off-diagonal elements, each column is a weighted mean of its own.
        let merged = merge(&[1, 2], &inputs, &grams, &[("off_diagonal", 0.0)]).unwrap();
        near(&merged, &[2.0 / 3.0, 2.0 / 3.0], 1e-6);
    }

    #[test]
    fn equal_gram_matrices_give_the_mean() {
        let (a, b) = (values(&matrix(5, 4, 1)), values(&matrix(5, 4, 2)));
        let g = gram(&matrix(9, 4, 3));
        let merged = merge(&[5, 4], &[&a, &b], &[&g, &g], &[]).unwrap();
        let mean: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
        near(&merged, &mean, 1e-6);
    }

    /// Inputs of the models in spaces that are orthogonal and along the axes, where reduced off-diagonal elements keep
    /// them so: each model's outputs on its own inputs stay what they were.
    #[test]
    fn orthogonal_inputs_restore_each_model() {
        let (w, v) = (matrix(3, 6, 1), matrix(3, 6, 2));
        let (mut x, mut y) = (matrix(20, 6, 3), matrix(20, 6, 4));
        x.slice_mut(s![.., 3..]).fill(0.0);
        y.slice_mut(s![.., ..3]).fill(0.0);
        let inputs: [&[f32]; 2] = [&values(&w), &values(&v)];
        let merged = merge(&[3, 6], &inputs, &[&gram(&x), &gram(&y)], &[]).unwrap();
        let merged = ArrayView2::from_shape((3, 6), &merged).unwrap().mapv(f64::from);
        for (inputs, model) in [(&x, &w), (&y, &v)] {
            let off = inputs.dot(&merged.t()) - inputs.dot(&model.t());
            // Six products of numbers below 1, rounded to f32.
            assert!(off.iter().all(|x| x.abs() < 1e-5), "{off}");
        }
    }

    /// The sizes of activations may lie far apart, and some columns may never be reached.
    #[test]
    fn columns_of_any_size_are_solved_and_unreached_ones_take_the_mean() {
        let (scales, reached) = ([1e-3, 1.0, 0.0, 1e3], [1.0, 1.0, 0.0, 1.0]);
        let (a, b) = (values(&matrix(2, 4, 3)), values(&matrix(2, 4, 4)));
        let fit = |a: &[f32], b: &[f32], scales: [f64; 4]| {
            let inputs = |seed| gram(&(matrix(30, 4, seed) * &Array1::from_iter(scales)));
            merge(&[2, 4], &[a, b], &[&inputs(1), &inputs(2)], &[]).unwrap()
        };
        let merged = fit(&a, &b, scales);
        // Columns of inputs scaled up and of weights scaled down are the same problem.
        let even =
            |w: &[f32]| -> Vec<f32> { w.iter().zip(scales.iter().cycle()).map(|(w, s)| w * *s as f32).collect() };
        let (found, expected) = (even(&merged), fit(&even(&a), &even(&b), reached));
        // Weights of up to 1000, in Gram matrices that were rounded to f32.
        near(&found, &expected, 1e-2);
        for j in [2, 6] {
            near(&merged[j..=j], &[(a[j] + b[j]) / 2.0], 1e-6);
        }
    }

    #[test]
    fn what_has_no_gram_matrix_takes_the_mean() {
        let inputs: [&[f32]; 2] = [&[1.0, 2.0], &[3.0, 6.0]];
        assert_eq!(merge(&[1, 2], &inputs, &[], &[]).unwrap(), [2.0, 4.0]);
        assert_eq!(merge(&[2], &inputs, &[&[1.0, 0.0, 0.0, 9.0], &[3.0, 0.0, 0.0, 1.0]], &[]).unwrap(), [2.0, 4.0]);
    }

    #[test]
    fn what_is_no_gram_matrix_is_refused() {
        let inputs: [&[f32]; 2] = [&[1.0, 2.0], &[3.0, 6.0]];
        let wrong: &[f32] = &[1.0, 5.0, 5.0, 1.0];
        let error = merge(&[1, 2], &inputs, &[wrong, wrong], &[]).unwrap_err();
        assert_eq!(error.to_string(), "tensor unnamed cannot be merged");
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "its Gram matrices do not add up to one: solve_positive_definite: the \
             matrix is not positive definite: pivot 1 is not positive"
        );
        let error = merge(&[1, 2], &inputs, &[wrong, wrong], &[("weight", 0.0)]).unwrap_err();
        assert!(error.to_string().contains("`weight`"), "{error}");
    }
}
