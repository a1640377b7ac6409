//! Riemannian centre of mass on the unit sphere. Karcher, "Riemannian center of mass and mollifier smoothing", 1977.
//!
//! Fixed-point iteration: the mean moves along the mean of the logarithms of the unit vectors ui until that is short.
//! Mean and tangents stay in the span of the ui, so the iteration runs on coefficients and inner products: the tensors
//! are read once for those and once for the result, whatever the number of iterations.

use super::combination::combination;
use super::multislerp::{inner, length};
use crate::contract::{Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::error::MergeError;
use crate::gram::{Gram, Vectors, gram};
use crate::params::{Interval, ParamSpec, Params};

/// `karcher`.
pub const DEF: OperatorDef = OperatorDef {
    name: "karcher",
    summary: "Riemannian mean of the models on the unit sphere, scaled by their mean norm.",
    formula: "argmin over unit m of Σ ∠(m, θi/‖θi‖)², times the mean of ‖θi‖",
    reference: "Karcher, Communications on Pure and Applied Mathematics 30 (1977)",
    inputs: InputRule::at_least(1),
    base: BaseRule::Unused,
    params: &[
        ParamSpec::integer("max_iter", "Most steps of the iteration.", 1, i64::MAX, 10),
        ParamSpec::number(
            "tol",
            "Length of a step, in radians, below which the iteration ends.",
            Interval::above(0.0, 1.0),
            (1e-5, 1e-5),
        )
        .or(1e-5),
    ],
    plan,
};

/// Norms and sines below this count as zero.
const TINY: f64 = 1e-12;

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let (steps, tol) = (params.integer("max_iter"), params.number("tol"));
    Ok(gram(Vectors::Inputs, tensor.n_inputs, move |g| {
        Ok(combination(0.0, mean(g, steps, tol)))
    }))
}

/// Coefficients on the inputs of their spherical mean.
fn mean(g: &Gram, steps: i64, tol: f64) -> Vec<f64> {
    // A tensor of zeros has no direction; it takes no part.
    let units: Vec<(usize, f64)> = (0..g.n())
        .map(|i| (i, g.norm(i)))
        .filter(|(_, norm)| *norm > TINY)
        .collect();
    let mut m = vec![0.0; g.n()];
    if units.is_empty() {
        return m;
    }
    let share = 1.0 / units.len() as f64;
    units.iter().for_each(|(i, norm)| m[*i] = share / norm);
    if length(g, &m) < TINY {
        m.fill(0.0);
        m[units[0].0] = 1.0 / units[0].1;
    }
    normalise(g, &mut m);
    for _ in 0..steps {
        let mut step = vec![0.0; g.n()];
        for (i, norm) in &units {
            let mut unit = vec![0.0; g.n()];
            unit[*i] = 1.0 / norm;
            let cosine = inner(g, &m, &unit).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle > TINY && angle.sin() > TINY {
                let scale = share * angle / angle.sin();
                step.iter_mut()
                    .zip(&unit)
                    .zip(&m)
                    .for_each(|((s, u), m)| *s += scale * (u - cosine * m));
            }
        }
        let size = length(g, &step);
        if size < tol {
            break;
        }
        m.iter_mut()
            .zip(&step)
            .for_each(|(m, s)| *m = size.cos() * *m + size.sin() / size * s);
        normalise(g, &mut m);
    }
    let norm = units.iter().map(|(_, norm)| norm).sum::<f64>() * share;
    m.iter_mut().for_each(|m| *m *= norm);
    m
}

fn normalise(g: &Gram, m: &mut [f64]) {
    let length = length(g, m);
    if length > TINY {
        m.iter_mut().for_each(|m| *m /= length);
    }
}
