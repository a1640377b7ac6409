//! WUDI: least interference with each task vector on its own row space. Cheng et al., "Whoever started the interference
//! should end it: guiding data-free model merging via task vectors", arXiv 2503.08099.
//!
//! The inputs that a layer saw in training lie, for the most part, in the row space of its task vector; what the merged
//! task vector τ does otherwise there than τi should is interference, and τ minimises
//! L = Σi ‖(τ − wi τi) τiᵀ‖² / ‖τi‖². With Gi = τiᵀτi/‖τi‖², G = Σ Gi and R = Σ wi τi Gi the gradient is 2(τ G − R).
//!
//! `closed` solves τ G = R by the eigenvectors of G. G is singular where no task vector has rows, and there R is 0 as
//! well: eigenvalues below n·ε of the largest, ε that of `f64`, are left out, which gives the solution of least norm.
//!
//! `iterative` is what the authors run: Adam (arXiv 1412.6980) from Σ wi τi on, `steps` steps of `learning_rate`, in
//! `f64`, since Adam divides by the size of the gradient and would enlarge rounding in `f32`. It does not come to the
//! minimum in that many steps, which also keeps it from following small directions of G.
//!
//! **Known weaknesses.** That task vectors span the inputs is an assumption about how much was learnt in how few
//! directions. G squares the condition of the task vectors; in its smallest directions the closed form can be larger
//! than all of them together. Steps of Adam are of absolute size: 300 of 10⁻⁵ are much for one layer and little for
//! another. Norms, biases and embeddings are not part of it. The study of arXiv 2511.21437 did not include it; what it
//! says of methods that keep task vectors apart on language models is no encouragement.
//!
//! **Time.** `closed`: N Gram matrices and products, the eigenvectors of one n×n matrix. `iterative`: a product of m×n
//! with n×n for each step, 300 times 137 billion operations for 4096×4096: many minutes for each matrix.
//!
//! **Memory**, besides what every operator here holds: 22 copies; more for a matrix with more columns than rows.

use crate::matrix::{LAMBDA, MatrixMerge, OUTSIDE_LAYERS, TaskVectors, WEIGHT, plan};
use glue_linalg::{LinalgError, gram, product, symmetric_eigen};
use glue_merge::{BaseRule, BoxError, InputRule, Interval, OperatorDef, ParamSpec};
use ndarray::{Array2, Zip, s};

/// `wudi`.
pub const DEF: OperatorDef = OperatorDef {
    name: "wudi",
    summary: "The task vector that differs least from each model's own on the row space of that model's.",
    formula: "θ0 + λ argmin over τ of Σ ‖(τ − wi τi) τiᵀ‖² / ‖τi‖²; tensors that are no matrices: θ0 + λ/N Σ wi τi",
    reference: "WUDI-Merging, arXiv 2503.08099",
    inputs: InputRule::at_least(1),
    base: BaseRule::Required,
    params: &[
        WEIGHT,
        LAMBDA,
        ParamSpec::choice(
            "solver",
            "closed finds the minimum at once, iterative goes towards it from the sum of the task vectors, as the authors do.",
            &["closed", "iterative"],
            [None, None],
            "closed",
        ),
        ParamSpec::integer("steps", "Steps of the iterative solver.", 1, i64::MAX, 300),
        ParamSpec::number(
            "learning_rate",
            "Length of a step of the iterative solver, for each element.",
            Interval::above(0.0, 1.0),
            (1e-6, 1e-4),
        )
        .or(1e-5),
        OUTSIDE_LAYERS,
    ],
    plan: |tensor, params| {
        let steps = (params.word("solver") == "iterative").then(|| params.integer("steps"));
        plan(tensor, params, Wudi { steps, learning_rate: params.number("learning_rate") })
    },
    matrices: true,
    ..OperatorDef::DEFAULT
};

struct Wudi {
    /// Of the iterative solver; none of the closed form.
    steps: Option<i64>,
    learning_rate: f64,
}

impl MatrixMerge for Wudi {
    fn merge(&self, taus: &TaskVectors<'_>) -> Result<Array2<f64>, BoxError> {
        let (m, n) = taus.dim();
        let (mut g, mut r) = (Array2::<f64>::zeros((n, n)), Array2::<f64>::zeros((m, n)));
        for i in 0..taus.count() {
            let tau = taus.get(i);
            let squares: f64 = tau.iter().map(|x| x * x).sum();
            // A model that changed nothing here has no row space.
            if squares > 0.0 {
                let own = gram(tau.view()) / squares;
                r.scaled_add(taus.weight(i), &product(tau.view(), own.view())?);
                g += &own;
            }
        }
        Ok(match self.steps {
            None => closed(&g, &r)?,
            Some(steps) => adam(&g, &r, taus.sum(), steps, self.learning_rate)?,
        })
    }

    fn working(&self, (m, n): (usize, usize), _: usize) -> usize {
        7 * n * n + 4 * m * n
    }
}

/// The τ of least norm with τ G = R: R Q diag(1/λ) Qᵀ over the eigenvalues that are more than rounding.
fn closed(g: &Array2<f64>, r: &Array2<f64>) -> Result<Array2<f64>, LinalgError> {
    let parts = symmetric_eigen(g.view())?;
    let least = g.nrows() as f64 * f64::EPSILON * parts.values.last().copied().unwrap_or(0.0);
    let dropped = parts.values.iter().take_while(|value| **value <= least).count();
    let (values, vectors) = (parts.values.slice(s![dropped..]), parts.vectors.slice(s![.., dropped..]));
    let coefficients = product(r.view(), vectors)? / values;
    product(coefficients.view(), vectors.t())
}

/// Adam with the constants of its paper, on the gradient 2(τ G − R).
fn adam(
    g: &Array2<f64>,
    r: &Array2<f64>,
    mut tau: Array2<f64>,
    steps: i64,
    rate: f64,
) -> Result<Array2<f64>, LinalgError> {
    const BETA: [f64; 2] = [0.9, 0.999];
    const TINY: f64 = 1e-8;
    let (mut first, mut second) = (Array2::<f64>::zeros(tau.dim()), Array2::<f64>::zeros(tau.dim()));
    let mut decay = [1.0; 2];
    for _ in 0..steps {
        let mut gradient = product(tau.view(), g.view())?;
        gradient -= r;
        decay = [decay[0] * BETA[0], decay[1] * BETA[1]];
        let [lack, lack_of_squares] = decay.map(|d| 1.0 - d);
        Zip::from(&mut tau).and(&gradient).and(&mut first).and(&mut second).for_each(|tau, half, first, second| {
            let x = 2.0 * half;
            *first = BETA[0] * *first + (1.0 - BETA[0]) * x;
            *second = BETA[1] * *second + (1.0 - BETA[1]) * x * x;
            *tau -= rate * (*first / lack) / ((*second / lack_of_squares).sqrt() + TINY);
        });
    }
    Ok(tau)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, check_one_task_is_restored, matrix, near, values};
    use glue_merge::{Conformance, Setting};

    #[test]
    fn keeps_the_contract() {
        Conformance::new(&DEF).symmetric().check();
    }

    #[test]
    fn one_task_is_restored() {
        check_one_task_is_restored(&DEF, &[]);
        check_one_task_is_restored(&DEF, &[("solver", Setting::Text("iterative".into()))]);
    }

    /// The loss, from its definition.
    fn loss(tau: &Array2<f64>, taus: &[Array2<f64>]) -> f64 {
        let squares = |x: &Array2<f64>| x.iter().map(|x| x * x).sum::<f64>();
        taus.iter().map(|own| squares(&(tau - own).dot(&own.t())) / squares(own)).sum()
    }

    #[test]
    fn the_closed_form_is_the_minimum_and_adam_goes_there() {
        for (m, n) in [(12, 5), (5, 12), (7, 7)] {
            let taus: Vec<Array2<f64>> = (2..5).map(|seed| matrix(m, n, seed) * 0.1).collect();
            let flat: Vec<Vec<f32>> = taus.iter().map(values).collect();
            let inputs: Vec<&[f32]> = flat.iter().map(Vec::as_slice).collect();
            let run = |settings: Vec<(&'static str, Setting)>| {
                let change = Case { shape: &[m, n], settings, ..Case::of(&DEF, &inputs) }.change();
                Array2::from_shape_fn((m, n), |(r, c)| f64::from(change[r * n + c]))
            };
            let least = run(vec![]);
            let at = loss(&least, &taus);
            for (r, c, step) in [(0, 0, 1e-3), (0, 0, -1e-3), (m - 1, n - 1, 1e-3), (m / 2, n / 2, -1e-3)] {
                let mut moved = least.clone();
                moved[(r, c)] += step;
                assert!(loss(&moved, &taus) > at, "{m}×{n}, ({r}, {c}) by {step}");
            }
            let iterative = |steps: f64, rate: f64| {
                run(vec![("solver", "iterative".into()), ("steps", steps.into()), ("learning_rate", rate.into())])
            };
            let sum = taus.iter().fold(Array2::zeros((m, n)), |sum, tau| sum + tau);
            let few = loss(&iterative(300.0, 1e-5), &taus);
            assert!(at < few && few < loss(&sum, &taus), "{at} {few}");
            // Steps of 1e-4 go 2 far in all, and turn about within 1e-4 of where they lead.
            let off = (&iterative(20_000.0, 1e-4) - &least).iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            assert!(off < 1e-3, "{m}×{n}: {off}");
        }
    }

    #[test]
    fn models_that_changed_nothing_take_no_part() {
        let (tau, none) = (values(&matrix(4, 3, 6)), vec![0.0; 12]);
        near(&Case { shape: &[4, 3], ..Case::of(&DEF, &[&tau, &none]) }.change(), &tau, 1e-6);
        // Row spaces that do not meet: each has its own.
        let (first, second): ([f32; 4], [f32; 4]) = ([1.0, 0.0, 2.0, 0.0], [0.0, 3.0, 0.0, -1.0]);
        near(&Case { shape: &[2, 2], ..Case::of(&DEF, &[&first, &second]) }.change(), &[1.0, 3.0, 2.0, -1.0], 1e-6);
    }
}
