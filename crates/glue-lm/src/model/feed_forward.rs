//! What follows attention in a layer: a gated MLP, or a mixture of them.
//!
//! The mixture is Mixtral's (arXiv 2401.04088): a softmax over the router's logits, of which the largest few are kept and brought
//! to sum 1.

use super::attention_block::Projection;
use super::{floats, select};
use crate::architecture::Activation;
use crate::ops::gated;
use candle_core::{Device, Result, Tensor};

/// down(act(gate(x)) · up(x))
#[derive(Debug)]
pub(super) struct Mlp {
    pub(super) gate: Projection,
    pub(super) up: Projection,
    pub(super) down: Projection,
    pub(super) activation: Activation,
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.down.forward(&gated(&self.gate.forward(x)?, &self.up.forward(x)?, self.activation)?)
    }
}

/// MLPs of which each token uses a few.
#[derive(Debug)]
pub(super) struct MixtureOfExperts {
    /// [experts, hidden]
    pub(super) router: Projection,
    pub(super) experts: Vec<Mlp>,
    pub(super) per_token: usize,
}

impl MixtureOfExperts {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward(x)?;
        let mut chosen: Vec<(Vec<u32>, Vec<f32>)> = vec![Default::default(); self.experts.len()];
        for (row, logits) in floats(&logits)?.chunks_exact(self.experts.len()).enumerate() {
            for (expert, weight) in top_experts(logits, self.per_token) {
                chosen[expert].0.push(row as u32);
                chosen[expert].1.push(weight);
            }
        }
        let mut sum = x.zeros_like()?;
        for (expert, (rows, weights)) in self.experts.iter().zip(chosen) {
            if rows.is_empty() {
                continue;
            }
            let y = expert.forward(&select(x, &rows)?)?;
            let n = rows.len();
            let y = y.broadcast_mul(&Tensor::from_vec(weights, (n, 1), &Device::Cpu)?)?;
            sum = sum.index_add(&Tensor::from_vec(rows, n, &Device::Cpu)?, &y, 0)?;
        }
        Ok(sum)
    }
}

/// The experts with the largest logits and their shares, which sum to 1; of equal logits the lower number is first.
fn top_experts(logits: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    order.truncate(count);
    // A softmax over all, brought to sum 1 over some, is the softmax over those.
    let largest = order.first().map_or(0.0, |&first| logits[first]);
    let exponentials: Vec<f32> = order.iter().map(|&expert| (logits[expert] - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    order.into_iter().zip(exponentials).map(|(expert, e)| (expert, e / sum)).collect()
}

/// Either of the two.
#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Experts(MixtureOfExperts),
}

impl FeedForward {
    /// [rows, hidden] to [rows, hidden].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            FeedForward::Dense(mlp) => mlp.forward(x),
            FeedForward::Experts(mixture) => mixture.forward(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_a_softmax_over_all_brought_to_one() {
        let logits = [0.5f32, 2.0, -1.0, 1.0];
        let all: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp()).collect();
        let kept = all[1] + all[3];
        let found = top_experts(&logits, 2);
        assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 3]);
        for (expert, share) in found {
            // Rounding of f32.
            assert!((f64::from(share) - all[expert] / kept).abs() < 1e-6);
        }
    }

    #[test]
    fn equal_logits_choose_the_lower_numbers() {
        assert_eq!(top_experts(&[1.0, 1.0, 1.0], 2), [(0, 0.5), (1, 0.5)]);
    }
}
