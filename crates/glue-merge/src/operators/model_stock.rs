//! Model Stock: how far to go from the base to the average follows from the angle between the fine-tunes.
//! Jang, Yun, Han, "Model Stock: all we need is just a few fine-tuned models", arXiv 2403.19522.
//!
//! The ratio t is 1 where the task vectors are parallel (the average) and 0 where they are orthogonal (the base). The
//! paper assumes that no cosine is negative. Below 0 the formula goes away from the average, as mergekit does, and has
//! a pole at c = −1/(N−1), the least mean cosine that N vectors can have. Here c is at least −1/N, where unit task
//! vectors add up to a vector of length 1, and t at least −N: with less than that left of them, rounding decides where
//! their average points.

use super::combination::combination;
use crate::contract::{Block, Granularity, Map, Plan, TensorSpec};
use crate::def::{BaseRule, InputRule, OperatorDef};
use crate::device::Kernel;
use crate::error::MergeError;
use crate::gram::{Vectors, gram};
use crate::params::{ParamSpec, Params};
use crate::striped_sum::StripedSum;
use crate::task_vectors::subtract;

/// `model_stock`.
pub const DEF: OperatorDef = OperatorDef {
    name: "model_stock",
    summary: "Between the base and the average of the models, as far as the angle between their task vectors says.",
    formula: "t · mean(θi) + (1−t) · θ0 with t = N c / (1 + (N−1) c), c the mean cosine of pairs of τ, at least −1/N",
    reference: "Model Stock, arXiv 2403.19522",
    inputs: InputRule::at_least(2),
    base: BaseRule::Required,
    params: &[ParamSpec::flag("filter_wise", "A ratio for each row instead of one for the tensor.", false)],
    plan,
    ..OperatorDef::DEFAULT
};

fn plan(tensor: &TensorSpec<'_>, params: &Params) -> Result<Plan, MergeError> {
    let n = tensor.n_inputs;
    if params.flag("filter_wise") {
        return Ok(Plan::map(FilterWise { row_len: tensor.row_len().max(1) }));
    }
    Ok(gram(Vectors::TaskVectors, n, move |g| {
        let t = ratio(n, |i, j| g.cosine(i, j));
        Ok(combination(1.0 - t, vec![t / n as f64; n]))
    }))
}

/// The interpolation ratio, from −n to 1, from the cosines of all pairs.
fn ratio(n: usize, cosine: impl Fn(usize, usize) -> f64) -> f64 {
    let pairs = (n * (n - 1) / 2) as f64;
    let sum: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| cosine(i, j).clamp(-1.0, 1.0)).sum();
    let n = n as f64;
    let c = (sum / pairs).max(-1.0 / n);
    n * c / (1.0 + (n - 1.0) * c)
}

struct FilterWise {
    row_len: usize,
}

impl Map for FilterWise {
    fn granularity(&self) -> Granularity {
        Granularity::Row
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::ModelStockRows { row: self.row_len })
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let n = block.inputs.len();
        let mut tau = vec![0.0; n * self.row_len];
        let mut dots = vec![0.0; n * n];
        for (r, (out, base)) in out.chunks_mut(self.row_len).zip(block.base().chunks(self.row_len)).enumerate() {
            let row = r * self.row_len..r * self.row_len + out.len();
            for (tau, input) in tau.chunks_mut(self.row_len).zip(block.inputs) {
                subtract(&input[row.clone()], base, tau);
            }
            let tau: Vec<&[f32]> = tau.chunks(self.row_len).collect();
            for i in 0..n {
                for j in 0..=i {
                    let mut sum = StripedSum::default();
                    sum.dot(0, tau[i], tau[j]);
                    dots[i * n + j] = sum.total();
                }
            }
            let t = ratio(n, |i, j| {
                let norms = (dots[i * n + i] * dots[j * n + j]).sqrt();
                if norms > 0.0 { dots[i * n + j] / norms } else { 0.0 }
            });
            let (of_base, of_input) = ((1.0 - t) as f32, (t / n as f64) as f32);
            out.iter_mut().zip(base).for_each(|(out, base)| *out = of_base * base);
            for input in block.inputs {
                out.iter_mut().zip(&input[row.clone()]).for_each(|(out, x)| *out += of_input * x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::testing::{Case, Number};

    fn check(settings: &[Number], inputs: &[&[f32]], expected: &[f32]) {
        let base = Some(&[1.0_f32; 4][..]);
        Case { settings, shape: &[2, 2], base, ..Case::of(&DEF, inputs) }.gives(expected);
    }

    #[test]
    fn identical_models_are_taken_whole_and_orthogonal_ones_not_at_all() {
        let model: &[f32] = &[2.0, 0.0, 1.5, 3.0];
        check(&[], &[model, model, model], model);
        check(&[], &[&[3.0, 1.0, 1.0, 1.0], &[1.0, 5.0, 1.0, 1.0]], &[1.0; 4]);
    }

    #[test]
    fn the_ratio_by_hand() {
        // cos 60°: t = 2 · ½ / (1 + ½) = 2/3 of the way to the average.
        let (x, y) = (0.5_f32, 0.75_f32.sqrt());
        check(
            &[],
            &[&[2.0, 1.0, 1.0, 1.0], &[1.0 + x, 1.0 + y, 1.0, 1.0]],
            &[1.0 + (1.0 + x) / 3.0, 1.0 + y / 3.0, 1.0, 1.0],
        );
    }

    /// The mean cosine is −1, where the formula divides by 0, and −0.8, where it goes to −8; t is −2. Of four models it
    /// is −1/3, the pole, and t is −4, which does not show, as their average is the base.
    #[test]
    fn models_that_disagree_have_a_bounded_ratio() {
        for rows in [[("filter_wise", 0.0)], [("filter_wise", 1.0)]] {
            let (up, down): (&[f32], &[f32]) = (&[1.25; 4], &[0.75; 4]);
            check(&rows, &[up, down], &[1.0; 4]);
            check(&rows, &[up, down, down, up], &[1.0; 4]);
            // τ is (1, 0) and (−0.8, 0.6) in either row: 1 − 2 · their mean.
            check(&rows, &[&[2.0, 1.0, 2.0, 1.0], &[0.2, 1.6, 0.2, 1.6]], &[0.8, 0.4, 0.8, 0.4]);
        }
    }

    /// τ is (1, 0) and (−0.28, 0.96): t = −0.56 / 0.72, as mergekit has it.
    #[test]
    fn models_that_disagree_a_little_go_away_from_their_average() {
        let t = -0.56 / 0.72;
        check(&[], &[&[2.0, 1.0, 1.0, 1.0], &[0.72, 1.96, 1.0, 1.0]], &[1.0 + 0.36 * t, 1.0 + 0.48 * t, 1.0, 1.0]);
    }

    #[test]
    fn filters_have_ratios_of_their_own() {
        // The first rows agree, the second are orthogonal.
        check(&[("filter_wise", 1.0)], &[&[2.0, 3.0, 3.0, 1.0], &[2.0, 3.0, 1.0, 3.0]], &[2.0, 3.0, 1.0, 1.0]);
    }
}
