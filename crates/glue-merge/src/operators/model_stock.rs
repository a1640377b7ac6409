//! Model Stock: how far to go from the base to the average follows from the angle between the fine-tunes.
//! Jang, Yun, Han, "Model Stock: all we need is just a few fine-tuned models", arXiv 2403.19522.
//!
//! The ratio t is one of distances and lies between 0 (orthogonal task vectors: the base) and 1 (parallel ones: the
//! average). The paper assumes that no cosine is negative. The formula has a pole at c = −1/(N−1), the least mean
//! cosine that N vectors can have, and on the way there t falls without bound. Cosines a little below 0 are noise
//! around orthogonal task vectors, and t is what the formula says; it never falls below −1, as far behind the base as
//! the average is ahead. At the pole the average is the base, whatever t is.

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
    formula: "t · mean(θi) + (1−t) · θ0 with t = N c / (1 + (N−1) c), c the mean cosine of pairs of τ, and t ≥ −1",
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

/// The interpolation ratio, from −1 to 1, from the cosines of all pairs.
fn ratio(n: usize, cosine: impl Fn(usize, usize) -> f64) -> f64 {
    let pairs = (n * (n - 1) / 2) as f64;
    let sum: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| cosine(i, j).clamp(-1.0, 1.0)).sum();
    let (n, c) = (n as f64, sum / pairs);
    let distance = 1.0 + (n - 1.0) * c;
    // By rounding the mean cosine may be less than it can be.
    if distance > 0.0 { (n * c / distance).max(-1.0) } else { -1.0 }
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

    /// The mean cosines are −1, where the formula divides by 0; −0.6, where it goes to −3; and −1/3 of four models.
    #[test]
    fn models_that_disagree_are_left_no_further_than_they_are_away() {
        for rows in [[("filter_wise", 0.0)], [("filter_wise", 1.0)]] {
            check(&rows, &[&[2.0, 3.0, 1.5, 1.0], &[0.0, -1.0, 0.5, 1.0]], &[1.0; 4]);
            check(&rows, &[&[1.0, 2.0, 1.0, 2.0], &[1.8, 0.4, 1.8, 0.4]], &[0.6, 0.8, 0.6, 0.8]);
            let (up, down): (&[f32], &[f32]) = (&[1.25; 4], &[0.75; 4]);
            check(&rows, &[up, down, down, up], &[1.0; 4]);
        }
    }

    #[test]
    fn filters_have_ratios_of_their_own() {
        // The first rows agree, the second are orthogonal.
        check(&[("filter_wise", 1.0)], &[&[2.0, 3.0, 3.0, 1.0], &[2.0, 3.0, 1.0, 3.0]], &[2.0, 3.0, 1.0, 1.0]);
    }
}
