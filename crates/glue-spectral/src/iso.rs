//! Isotropic merging: the merged task vector stretches every direction equally. Marczak et al., "No task left behind:
//! isotropic model merging with common and task-specific subspaces", arXiv 2502.04959.
//!
//! `iso_c`: with Σ wi τi = U diag(σ) Vᵀ of rank r and σ̄ = Σ σ / r, θ0 + λ σ̄ U Vᵀ. The sum of task vectors is strong
//! in the directions that its models share, and tasks that use others lose; a flat spectrum gives all directions the
//! same say.
//!
//! `iso_cts`: what is weak in the sum may be absent from it. Of the R = min(m, n) directions, a share c of
//! `common_share` comes from the sum – its first left and right vectors Uc, Vc – and each of the N models adds the
//! first s = (R − c)/N triples of what is left of its task vector, τi − Uc Ucᵀ τi. (s is rounded, halves to the even
//! number, and c takes what that leaves.) All left vectors side by side, and all right ones, are replaced by their
//! polar factors, and σ̄ is the mean of all singular values that go with them.
//!
//! r is the numerical rank. Directions that the sum does not have would be filled by whatever rounding suggests and
//! stretched like the others; they stay out.
//!
//! **Known weaknesses.** The smallest directions of a sum are noise – of training, of rounding to bfloat16 – and are
//! enlarged the most. λ needs a search: the norm of the result is another than that of the sum. In the study of
//! arXiv 2511.21437 on language models `iso_c` typically loses against the base, where task arithmetic gains.
//!
//! **Memory**, besides what every operator here holds: `iso_c` 16 copies; `iso_cts` 20, since the vectors are
//! collected.

use crate::matrix::{LAMBDA, MatrixMerge, OUTSIDE_LAYERS, TaskVectors, Triples, WEIGHT, plan, working_of_svd};
use glue_linalg::{product, svd_by_gram};
use glue_merge::{BaseRule, BoxError, InputRule, Interval, OperatorDef, ParamSpec};
use ndarray::Array2;

/// `iso_c`.
pub const C: OperatorDef = OperatorDef {
    name: "iso_c",
    summary: "Adds up the task vectors and gives the sum singular values that are all equal to their mean.",
    formula: "Σ wi τi = U diag(σ) Vᵀ of rank r; θ0 + λ (Σ σ / r) U Vᵀ; tensors that are no matrices: θ0 + λ/N Σ wi τi",
    reference: "Iso-C, arXiv 2502.04959",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[WEIGHT, LAMBDA, OUTSIDE_LAYERS],
    plan: |tensor, params| plan(tensor, params, IsoC),
    matrices: true,
    ..OperatorDef::DEFAULT
};

/// `iso_cts`.
pub const CTS: OperatorDef = OperatorDef {
    name: "iso_cts",
    summary: "As iso_c, with the weakest directions of the sum replaced by directions of each model.",
    formula: "Uc, Vc the first c singular vectors of Σ wi τi, Ui, Vi the first s of wi τi − Uc Ucᵀ wi τi, c + N s = min(m,n); U⊥, V⊥ the polar factors of [U1 … UN Uc], [V1 … VN Vc], σ̄ the mean of their singular values; θ0 + λ σ̄ U⊥ V⊥ᵀ; tensors that are no matrices: θ0 + λ/N Σ wi τi",
    reference: "Iso-CTS, arXiv 2502.04959",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        WEIGHT,
        LAMBDA,
        ParamSpec::number(
            "common_share",
            "Share of the directions that come from the sum of the task vectors.",
            Interval::closed(0.0, 1.0),
            (0.5, 0.95),
        )
        .or(0.8),
        OUTSIDE_LAYERS,
    ],
    plan: |tensor, params| plan(tensor, params, IsoCts { common_share: params.number("common_share") }),
    matrices: true,
    ..OperatorDef::DEFAULT
};

struct IsoC;

impl MatrixMerge for IsoC {
    fn merge(&self, taus: &TaskVectors<'_>) -> Result<Array2<f64>, BoxError> {
        let parts = svd_by_gram(taus.sum().view())?;
        let mean = parts.values.mean().unwrap_or(0.0);
        Ok(product(parts.u.view(), parts.vt.view())? * mean)
    }

    fn working(&self, (m, n): (usize, usize), _: usize) -> usize {
        working_of_svd(m, n)
    }
}

struct IsoCts {
    common_share: f64,
}

impl IsoCts {
    /// Directions of the sum, and of each of `models` models, `rank` together.
    fn split(&self, rank: usize, models: usize) -> (usize, usize) {
        let common = (self.common_share * rank as f64) as usize;
        let each = (((rank - common) as f64 / models as f64).round_ties_even() as usize).min(rank / models);
        (rank - models * each, each)
    }
}

impl MatrixMerge for IsoCts {
    fn merge(&self, taus: &TaskVectors<'_>) -> Result<Array2<f64>, BoxError> {
        let ((m, n), models) = (taus.dim(), taus.count());
        let rank = m.min(n);
        let (common, each) = self.split(rank, models);
        let parts = svd_by_gram(taus.sum().view())?;
        let common = common.min(parts.values.len());
        // The polar factors do not depend on the order of the columns.
        let mut triples = Triples::new((m, n), rank);
        triples.push(&parts, common, 1.0);
        drop(parts);
        let others = if each > 0 { models } else { 0 };
        for i in 0..others {
            let mut rest = taus.get(i) * taus.weight(i);
            let shared = triples.left(common);
            let within = product(shared.t(), rest.view())?;
            rest -= &product(shared, within.view())?;
            let parts = svd_by_gram(rest.view())?;
            triples.push(&parts, each.min(parts.values.len()), 1.0);
        }
        let values = triples.values();
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (u, vt) = triples.polars()?;
        Ok(product(u.view(), vt.view())? * mean)
    }

    fn working(&self, (m, n): (usize, usize), _: usize) -> usize {
        (m + n) * m.min(n) + working_of_svd(m, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, matrix, near, polar_factor, values};
    use glue_linalg::singular_values;
    use glue_merge::Conformance;

    #[test]
    fn both_keep_the_contract() {
        Conformance::new(&C).symmetric().check();
        Conformance::new(&CTS).symmetric().check();
    }

    #[test]
    fn one_task_has_its_mean_singular_value_everywhere() {
        for (m, n) in [(9, 5), (5, 9), (6, 6)] {
            let tau = matrix(m, n, 1).mapv(|x| f64::from(x as f32));
            let mean = singular_values(tau.view()).unwrap().mean().unwrap();
            let expected = polar_factor(&tau) * mean;
            let tau = values(&tau);
            let taus: [&[f32]; 1] = [&tau];
            near(&Case { shape: &[m, n], ..Case::of(&C, &taus) }.change(), &values(&expected), 1e-6);
            // Of one task, sum and task are the same, wherever directions are said to come from.
            for share in [0.0, 0.5, 1.0] {
                let settings = vec![("common_share", share.into())];
                near(&Case { shape: &[m, n], settings, ..Case::of(&CTS, &taus) }.change(), &values(&expected), 1e-5);
            }
        }
    }

    #[test]
    fn with_all_directions_common_both_are_the_same() {
        let taus: Vec<Vec<f32>> = (2..5).map(|seed| values(&matrix(7, 10, seed))).collect();
        let taus: Vec<&[f32]> = taus.iter().map(Vec::as_slice).collect();
        let settings = vec![("common_share", 1.0.into())];
        let cts = Case { shape: &[7, 10], settings, ..Case::of(&CTS, &taus) }.change();
        near(&cts, &Case { shape: &[7, 10], ..Case::of(&C, &taus) }.change(), 1e-6);
    }

    #[test]
    fn directions_that_are_not_there_stay_out() {
        // Rank 2 of 6: the mean is over two values, and the rest is 0.
        let tau = matrix(8, 2, 5).dot(&matrix(2, 6, 6)).mapv(|x| f64::from(x as f32));
        let values_of = singular_values(tau.view()).unwrap();
        let tau = values(&tau);
        let taus: [&[f32]; 1] = [&tau];
        let merged = Case { shape: &[8, 6], ..Case::of(&C, &taus) }.change();
        let merged = Array2::from_shape_fn((8, 6), |(r, c)| f64::from(merged[r * 6 + c]));
        let found = singular_values(merged.view()).unwrap();
        // Rounding of the product to f32 leaves singular values of about 1e-7 of the first, which may count as rank.
        let mean = (values_of[0] + values_of[1]) / 2.0;
        assert!((found[0] - mean).abs() < 1e-5 && (found[1] - mean).abs() < 1e-5 && found[2] < 1e-5, "{found}, {mean}");
    }

    #[test]
    fn room_is_divided() {
        let check = |share, rank, models, expected| {
            assert_eq!(IsoCts { common_share: share }.split(rank, models), expected);
        };
        check(0.8, 100, 4, (80, 5));
        check(0.8, 10, 3, (7, 1));
        check(0.0, 3, 4, (3, 0));
        check(0.0, 8, 4, (0, 2));
        check(1.0, 8, 4, (8, 0));
    }
}
