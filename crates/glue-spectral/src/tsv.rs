//! TSV-Merge: a few singular triples of each task vector, made orthogonal to those of the others. Gargiulo et al.,
//! "Task singular vectors: reducing task interference in model merging", arXiv 2412.00081.
//!
//! Task vectors of layers are of low rank for the most part: of each τi = Ui Σi Viᵀ the first k = ⌊share·min(m,n)/N⌋
//! triples are kept: those of all N models together fit into the matrix. They interfere where the directions of one
//! model are not orthogonal to those of another. With U = [U1 … UN] and V = [V1 … VN] side by side, and Σ = diag(w1
//! Σ1, …, wN ΣN), both are replaced by the nearest matrices with orthonormal columns, their polar factors U⊥ and V⊥
//! ("whitening"): θ0 + λ U⊥ Σ V⊥ᵀ.
//!
//! Where columns depend on each other, as for two equal models, the nearest matrix is not unique; directions outside
//! their span are left out, and N equal models give the first triples of one of them.
//!
//! With `svd: randomised` triples come from [`truncated_svd`], in `f32`, where 2(k + 10) ≤ min(m, n). That is several
//! times as fast where k is a small share, and good where singular values fall off. It is not the default: after long
//! fine-tuning they fall slowly, and the directions found are then others than the first, if nearly as strong.
//!
//! **Known weaknesses.** The share left to each model shrinks with their number, and what is cut off is lost; whitening
//! weakens strong directions that models share, which may be shared for a reason; norms of the models are not
//! balanced. In the study of arXiv 2511.21437 on language models it typically loses against the base, where task
//! arithmetic gains.
//!
//! **Memory**, besides what every operator here holds: 20 copies, of which 4 are U and V.

use crate::matrix::{LAMBDA, MatrixMerge, OUTSIDE_LAYERS, TaskVectors, Triples, WEIGHT, plan, working_of_svd};
use glue_linalg::{LinalgError, Randomised, Svd, product, svd_by_gram, truncated_svd};
use glue_merge::random::ElementRng;
use glue_merge::{BaseRule, BoxError, InputRule, Interval, OperatorDef, ParamSpec};
use ndarray::{Array1, Array2};

/// `tsv_m`.
pub const DEF: OperatorDef = OperatorDef {
    name: "tsv_m",
    summary: "Keeps the first singular triples of each task vector, makes those of all models orthogonal, and adds them up.",
    formula: "τi = Ui Σi Viᵀ, of each the first ⌊share·min(m,n)/N⌋ triples; U⊥, V⊥ the polar factors of [U1 … UN], [V1 … VN]; θ0 + λ U⊥ diag(w1 Σ1, …, wN ΣN) V⊥ᵀ; tensors that are no matrices: θ0 + λ/N Σ wi τi",
    reference: "TSV-Merge, arXiv 2412.00081",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        WEIGHT,
        LAMBDA,
        ParamSpec::number(
            "share",
            "Number of triples of all models together, as a fraction of the rank; each model gets an equal part of it, at least one triple.",
            Interval::above(0.0, 1.0),
            (0.2, 1.0),
        )
        .or(1.0),
        ParamSpec::choice(
            "svd",
            "How triples are found: exact, or randomised, which is faster for a small share and less accurate where singular values fall slowly.",
            &["exact", "randomised"],
            [None, None],
            "exact",
        ),
        OUTSIDE_LAYERS,
    ],
    plan: |tensor, params| {
        let randomised = params.word("svd") == "randomised";
        let seed = |i| {
            let mut words = [0; 2];
            ElementRng::new(tensor.seed, tensor.name, i).fill(0, &mut words);
            u64::from(words[0]) << 32 | u64::from(words[1])
        };
        let seeds = randomised.then(|| (0..tensor.n_inputs).map(seed).collect());
        plan(tensor, params, Tsv { share: params.number("share"), seeds })
    },
    matrices: true,
    ..OperatorDef::DEFAULT
};

struct Tsv {
    share: f64,
    /// One for each model, where triples are found at random.
    seeds: Option<Vec<u64>>,
}

impl Tsv {
    /// The first `k` triples of τi, or as many as it has.
    fn triples(&self, taus: &TaskVectors<'_>, i: usize, k: usize) -> Result<Svd<f64>, LinalgError> {
        let Some(seeds) = &self.seeds else {
            return svd_by_gram(taus.get(i).view());
        };
        let tau = taus.get(i).mapv(|x| x as f32);
        let parts = truncated_svd(tau.view(), k, &Randomised { seed: seeds[i], ..Randomised::default() })?;
        Ok(Svd { u: parts.u.mapv(f64::from), values: parts.values.mapv(f64::from), vt: parts.vt.mapv(f64::from) })
    }
}

impl MatrixMerge for Tsv {
    fn merge(&self, taus: &TaskVectors<'_>) -> Result<Array2<f64>, BoxError> {
        let ((m, n), models) = (taus.dim(), taus.count());
        let k = ((self.share * m.min(n) as f64 / models as f64) as usize).max(1);
        let mut triples = Triples::new((m, n), k * models);
        for i in 0..models {
            let parts = self.triples(taus, i, k)?;
            let count = parts.values.iter().take_while(|s| **s > 0.0).count().min(k);
            triples.push(&parts, count, taus.weight(i));
        }
        let (u, vt) = triples.polars()?;
        let u = u * Array1::from(triples.values().to_vec());
        Ok(product(u.view(), vt.view())?)
    }

    fn working(&self, (m, n): (usize, usize), _: usize) -> usize {
        (m + n) * m.min(n) + working_of_svd(m, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, check_one_task_is_restored, matrix, near, polar_factor, values};
    use glue_linalg::svd;
    use glue_merge::check_operator;
    use ndarray::s;

    #[test]
    fn keeps_the_contract() {
        check_operator(&DEF);
    }

    #[test]
    fn one_task_at_full_rank_is_restored() {
        check_one_task_is_restored(&DEF, &[]);
    }

    #[test]
    fn a_share_of_one_task_is_its_best_approximation() {
        let tau = values(&matrix(8, 6, 2));
        let parts = svd(Array2::from_shape_fn((8, 6), |(r, c)| f64::from(tau[r * 6 + c])).view()).unwrap();
        let best = (&parts.u.slice(s![.., ..3]) * &parts.values.slice(s![..3])).dot(&parts.vt.slice(s![..3, ..]));
        let settings = vec![("share", 0.5.into())];
        let taus: [&[f32]; 1] = [&tau];
        near(&Case { shape: &[8, 6], settings, ..Case::of(&DEF, &taus) }.change(), &values(&best), 1e-6);
    }

    #[test]
    fn orthogonal_tasks_add_up_and_equal_ones_count_once() {
        let basis = polar_factor(&matrix(8, 8, 3));
        let other = polar_factor(&matrix(8, 8, 4));
        let of = |range: std::ops::Range<usize>| {
            let (u, v) = (basis.slice(s![.., range.clone()]), other.slice(s![.., range]));
            u.dot(&v.t()) * 0.5
        };
        let (first, second) = (values(&of(0..4)), values(&of(4..8)));
        let sum: Vec<f32> = first.iter().zip(&second).map(|(a, b)| a + b).collect();
        near(&Case { shape: &[8, 8], ..Case::of(&DEF, &[&first, &second]) }.change(), &sum, 1e-6);
        near(&Case { shape: &[8, 8], ..Case::of(&DEF, &[&first, &first]) }.change(), &first, 1e-6);
        let own = vec![vec![("weight", 2.0.into())], vec![("weight", 0.0.into())]];
        let twice: Vec<f32> = first.iter().map(|x| 2.0 * x).collect();
        near(&Case { shape: &[8, 8], own, ..Case::of(&DEF, &[&first, &second]) }.change(), &twice, 1e-6);
    }

    /// The rule of the documentation: falling singular values are found at random as well as exactly, flat ones are
    /// not.
    #[test]
    fn randomised_is_as_good_as_the_singular_values_fall() {
        let (m, n, models) = (120, 90, 3);
        let off = |decay: f64| {
            let taus: Vec<Vec<f32>> = (0..models)
                .map(|i| {
                    let (u, v) = (polar_factor(&matrix(m, n, 5 + 2 * i)), polar_factor(&matrix(n, n, 6 + 2 * i)));
                    let sigma = Array1::from_shape_fn(n, |j| decay.powi(j as i32));
                    values(&(&u * &sigma).dot(&v.t()))
                })
                .collect();
            let inputs: Vec<&[f32]> = taus.iter().map(Vec::as_slice).collect();
            let of = |svd: &str| {
                let settings = vec![("share", 0.4.into()), ("svd", svd.into())];
                Case { shape: &[m, n], settings, ..Case::of(&DEF, &inputs) }.change()
            };
            let (exact, found) = (of("exact"), of("randomised"));
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            norm(&mut exact.iter().zip(&found).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied())
        };
        // 12 of 90 triples and 10 more: what leaks in is about (σ₂₃/σ₁₂)⁵ of the last directions, and rounding of f32.
        assert!(off(0.5) < 1e-5, "{}", off(0.5));
        assert!(off(0.9) < 1e-2, "{}", off(0.9));
        assert!(off(0.999) > 0.05, "{}", off(0.999));
    }
}
