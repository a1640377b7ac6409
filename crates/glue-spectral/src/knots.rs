//! KnOTS: TIES in a basis that all task vectors share. Stoica et al., "Model merging with SVD to tie the knots",
//! arXiv 2410.19735.
//!
//! Side by side, [τ1 … τN] = U Σ [V1ᵀ … VNᵀ]: one basis U of the output space for all, and for each model the
//! coefficients Ci = Σ Viᵀ on it, with τi = U Ci. Elements of the Ci mean the same in each model, which those of the
//! τi need not. The Ci are merged by TIES (arXiv 2306.01708): the largest elements of each Ci, the sign with more
//! weight, the mean of the elements that agree. θ0 + λ U C.
//!
//! The sign of a singular vector is arbitrary. It does not affect TIES: with it changes the sign of a row of every Ci.
//!
//! **Known weaknesses.** It was made for adapters, whose task vectors are of low rank and share little; for full
//! fine-tunes the basis is that of nearly everything and the coefficients are nearly as entangled as the weights. TIES
//! itself drops what a minority needs; in the study of arXiv 2511.21437 on language models it typically loses against
//! the base, where task arithmetic gains.
//!
//! **Memory**, besides what every operator here holds: 4 N + 12 copies. The basis is that of the m outputs: a matrix
//! with many more rows than columns takes the most memory and time.

use crate::matrix::{LAMBDA, MatrixMerge, OUTSIDE_LAYERS, TaskVectors, WEIGHT, plan, working_of_svd};
use glue_linalg::{Svd, product, svd_by_gram};
use glue_merge::operators::ties;
use glue_merge::{
    BaseRule, BoxError, InputRule, Interval, Merge, MergeError, Operator, OperatorDef, ParamSpec, Params, Plan,
    TensorSpec,
};
use ndarray::{Array2, Axis, s};

/// `knots`.
pub const DEF: OperatorDef = OperatorDef {
    name: "knots",
    summary: "Expresses all task vectors in one basis of singular vectors and merges the coefficients as TIES does.",
    formula: "[τ1 … τN] = U Σ [V1ᵀ … VNᵀ], Ci = Σ Viᵀ; C of the Ci by TIES with weights wi; θ0 + λ U C; tensors that are no matrices: θ0 + λ/N Σ wi τi",
    reference: "KnOTS-TIES, arXiv 2410.19735",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        WEIGHT,
        ParamSpec::number(
            "density",
            "Fraction of the coefficients of the model that is kept.",
            Interval::above(0.0, 1.0),
            (0.1, 1.0),
        )
        .or(1.0)
        .per_input(),
        LAMBDA,
        ParamSpec::flag("normalize", "Divide by the sum of the weights that take part.", true),
        OUTSIDE_LAYERS,
    ],
    plan: knots,
    matrices: true,
    ..OperatorDef::DEFAULT
};

fn knots(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let operator = Operator::new(&ties::DEF);
    let of_ties = operator.params(tensor.n_inputs).set("normalize", params.flag("normalize"));
    let of_ties = ["weight", "density"].iter().fold(of_ties, |all, key| all.each(key, params.input_numbers(key)));
    plan(tensor, params, Knots { params: of_ties.check()?, ties: operator })
}

struct Knots {
    ties: Operator,
    params: Params,
}

impl MatrixMerge for Knots {
    fn merge(&self, taus: &TaskVectors<'_>) -> Result<Array2<f64>, BoxError> {
        let ((m, n), models) = (taus.dim(), taus.count());
        let mut stacked = Array2::zeros((m, models * n));
        for (i, mut part) in stacked.axis_chunks_iter_mut(Axis(1), n).enumerate() {
            part.assign(&taus.get(i));
        }
        let Svd { u, values, mut vt } = svd_by_gram(stacked.view())?;
        drop(stacked);
        vt *= &values.insert_axis(Axis(1));
        let rank = vt.nrows();
        let of = |i: usize| vt.slice(s![.., i * n..(i + 1) * n]).iter().map(|x| *x as f32).collect();
        let coefficients: Vec<Vec<f32>> = (0..models).map(of).collect();
        drop(vt);
        let (shape, zeros) = ([rank, n], vec![0.0; rank * n]);
        let merged = Merge::new(&self.ties, &self.params).shape(&shape).base(&zeros).inputs(&coefficients).run()?;
        let merged = Array2::from_shape_fn((rank, n), |(r, c)| f64::from(merged[r * n + c]));
        Ok(product(u.view(), merged.view())?)
    }

    fn working(&self, (m, n): (usize, usize), models: usize) -> usize {
        working_of_svd(m, models * n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, check_one_task_is_restored, matrix, near, values};
    use glue_merge::check_operator;

    #[test]
    fn keeps_the_contract() {
        check_operator(&DEF);
    }

    #[test]
    fn one_task_at_density_one_is_restored() {
        check_one_task_is_restored(&DEF, &[]);
    }

    #[test]
    fn where_signs_agree_it_is_the_weighted_mean() {
        // Multiples of one matrix have the same signs on every coefficient.
        let one = matrix(4, 6, 2);
        let (first, second) = (values(&one), values(&(&one * 2.0)));
        let own = vec![vec![("weight", 3.0.into())], vec![("weight", 1.0.into())]];
        near(
            &Case { shape: &[4, 6], own, ..Case::of(&DEF, &[&first, &second]) }.change(),
            &values(&(&one * 1.25)),
            1e-6,
        );
    }

    #[test]
    fn a_minority_is_outvoted_in_the_shared_basis() {
        // On the diagonal, the basis is that of the axes: 3 against -1 in the first, agreement in the second.
        let (first, second): ([f32; 4], [f32; 4]) = ([3.0, 0.0, 0.0, 1.0], [-1.0, 0.0, 0.0, 0.5]);
        near(&Case { shape: &[2, 2], ..Case::of(&DEF, &[&first, &second]) }.change(), &[3.0, 0.0, 0.0, 0.75], 1e-6);
        let own = vec![vec![], vec![("density", 0.25.into())]];
        near(&Case { shape: &[2, 2], own, ..Case::of(&DEF, &[&first, &second]) }.change(), &[3.0, 0.0, 0.0, 1.0], 1e-6);
    }
}
