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
        ParamSpec::integer("max_iter", "Maximum number of steps.", 1, i64::MAX, 10),
        ParamSpec::number(
            "tol",
            "Length of a step, in radians, below which the iteration ends.",
            Interval::above(0.0, 1.0),
            (1e-5, 1e-5),
        )
        .or(1e-5),
    ],
    plan,
    ..OperatorDef::DEFAULT
};

/// Norms and sines below this count as zero.
const TINY: f64 = 1e-12;

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let (steps, tol) = (params.integer("max_iter"), params.number("tol"));
    Ok(gram(Vectors::Inputs, tensor.n_inputs, move |g| Ok(combination(0.0, mean(g, steps, tol)))))
}

/// Coefficients on the inputs of their spherical mean.
fn mean(g: &Gram, steps: i64, tol: f64) -> Vec<f64> {
    // A tensor of zeros has no direction; it takes no part.
    let units: Vec<(usize, f64)> = (0..g.n()).map(|i| (i, g.norm(i))).filter(|(_, norm)| *norm > TINY).collect();
    let mut m = vec![0.0; g.n()];
    if units.is_empty() {
        return m;
    }
    let weight = 1.0 / units.len() as f64;
    units.iter().for_each(|(i, norm)| m[*i] = weight / norm);
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
                let scale = weight * angle / angle.sin();
                step.iter_mut().zip(&unit).zip(&m).for_each(|((s, u), m)| *s += scale * (u - cosine * m));
            }
        }
        let size = length(g, &step);
        if size < tol {
            break;
        }
        m.iter_mut().zip(&step).for_each(|(m, s)| *m = size.cos() * *m + size.sin() / size * s);
        normalise(g, &mut m);
    }
    let norm = units.iter().map(|(_, norm)| norm).sum::<f64>() * weight;
    m.iter_mut().for_each(|m| *m *= norm);
    m
}

fn normalise(g: &Gram, m: &mut [f64]) {
    let length = length(g, m);
    if length > TINY {
        m.iter_mut().for_each(|m| *m /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::super::slerp;
    use super::*;
    use crate::operators::testing::Case;

    #[test]
    fn of_two_models_it_is_the_middle_of_the_arc() {
        let (a, b): ([f32; 3], [f32; 3]) = ([1.0, 2.0, -2.0], [4.0, 0.0, 3.0]);
        let units = (a.map(|x| x / 3.0), b.map(|x| x / 5.0));
        let middle = Case { settings: &[("t", 0.5)], base: Some(&units.0), ..Case::of(&slerp::DEF, &[&units.1]) }.run();
        let expected: Vec<f32> = middle.unwrap().iter().map(|x| 4.0 * x).collect();
        Case::of(&DEF, &[&a, &b]).gives(&expected);
    }

    #[test]
    fn the_mean_of_orthogonal_axes_is_their_diagonal() {
        let axes: [&[f32]; 3] = [&[3.0, 0.0, 0.0], &[0.0, 6.0, 0.0], &[0.0, 0.0, 9.0]];
        let third = 6.0 / 3.0_f32.sqrt();
        Case::of(&DEF, &axes).gives(&[third, third, third]);
    }

    /// The squared angles to the models add up to less at the mean than anywhere near it.
    #[test]
    fn the_mean_is_a_minimum() {
        let models: [[f32; 3]; 3] = [[1.0, 0.2, 0.0], [0.3, 1.0, 0.4], [-0.2, 0.1, 1.0]];
        let inputs: Vec<&[f32]> = models.iter().map(|m| &m[..]).collect();
        let settings = [("max_iter", 100.0), ("tol", 1e-12)];
        let mean = Case { settings: &settings, ..Case::of(&DEF, &inputs) }.run().unwrap();
        let angles = |m: &[f64]| -> f64 {
            let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
            models
                .iter()
                .map(|model| {
                    let model = model.map(f64::from);
                    let dot: f64 = model.iter().zip(m).map(|(a, b)| a * b).sum();
                    (dot / norm(&model) / norm(m)).acos().powi(2)
                })
                .sum()
        };
        let mean: Vec<f64> = mean.iter().map(|x| f64::from(*x)).collect();
        let least = angles(&mean);
        for (axis, step) in [(0, 1e-2), (0, -1e-2), (1, 1e-2), (1, -1e-2), (2, 1e-2), (2, -1e-2)] {
            let mut moved = mean.clone();
            moved[axis] += step;
            assert!(angles(&moved) > least, "axis {axis}, {step}");
        }
    }

    #[test]
    fn models_of_zeros_take_no_part() {
        Case::of(&DEF, &[&[0.0, 0.0], &[3.0, 4.0]]).gives(&[3.0, 4.0]);
        Case::of(&DEF, &[&[0.0, 0.0], &[0.0, 0.0]]).gives(&[0.0, 0.0]);
    }
}
