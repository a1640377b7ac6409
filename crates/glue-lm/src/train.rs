//! Gates whose weights come from outside, so that they can be trained through the frozen network.
//!
//! [`Model::forward_train`] computes the same as [`Model::forward`] with candle tensors as the weights of the gates. Logits, hidden
//! states and scores are differentiable with respect to them. Every other weight is a constant that no gradient reaches; the
//! choice of the experts is constant too, their shares are not.

use crate::error::LmError;
use crate::model::{Model, Output, Want};
use crate::tree::Tree;
use candle_core::Tensor;
use glue_mixture::{RouterKind, Routing};

/// The weights of a gate, `f32`: constants, or tensors of candle's `Var`s.
#[derive(Debug, Clone)]
pub enum GateWeights {
    /// scores = x · weightᵀ + bias
    Linear {
        /// [experts, hidden size]
        weight: Tensor,
        /// \[experts\]
        bias: Option<Tensor>,
    },
    /// scores = silu(x · up_weightᵀ + up_bias) · down_weightᵀ + down_bias
    Mlp {
        /// [inner, hidden size]
        up_weight: Tensor,
        /// \[inner\]
        up_bias: Tensor,
        /// [experts, inner]
        down_weight: Tensor,
        /// \[experts\]
        down_bias: Tensor,
    },
}

impl GateWeights {
    /// The tensors and the ends of their names: `weight` and `bias`, or `up.weight`, `up.bias`, `down.weight` and `down.bias`.
    pub fn named(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            GateWeights::Linear { weight, bias } => [("weight", Some(weight)), ("bias", bias.as_ref())]
                .into_iter()
                .filter_map(|(n, t)| Some((n, t?)))
                .collect(),
            GateWeights::Mlp { up_weight, up_bias, down_weight, down_bias } => vec![
                ("up.weight", up_weight),
                ("up.bias", up_bias),
                ("down.weight", down_weight),
                ("down.bias", down_bias),
            ],
        }
    }

    fn check(&self, index: usize, gate: &GateInfo, hidden: usize) -> Result<(), LmError> {
        let refuse = |reason: String| Err(LmError::Gate { index, reason });
        let expected = match self {
            GateWeights::Linear { .. } => vec![("weight", vec![gate.experts, hidden]), ("bias", vec![gate.experts])],
            GateWeights::Mlp { up_weight, .. } => {
                let inner = up_weight.dims().first().copied().unwrap_or(0);
                vec![
                    ("up.weight", vec![inner, hidden]),
                    ("up.bias", vec![inner]),
                    ("down.weight", vec![gate.experts, inner]),
                    ("down.bias", vec![gate.experts]),
                ]
            }
        };
        for (name, tensor) in self.named() {
            let shape = expected.iter().find(|(other, _)| *other == name).map(|(_, shape)| shape.as_slice());
            if shape != Some(tensor.dims()) {
                return refuse(format!(
                    "`{name}` should have shape {:?}, but has {:?}",
                    shape.unwrap_or(&[]),
                    tensor.dims()
                ));
            }
            if tensor.dtype() != candle_core::DType::F32 {
                return refuse(format!("`{name}` should be F32, but is {:?}", tensor.dtype()));
            }
        }
        Ok(())
    }
}

/// A gate of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateInfo {
    /// The layer that it belongs to; at level model the first that is mixed.
    pub layer: usize,
    /// What the names of its tensors begin with, such as `model.layers.0.mlp.gate.`.
    pub name: String,
    /// Experts that it scores.
    pub experts: usize,
    /// Experts that are used for a token or a sample.
    pub experts_per_token: usize,
    /// What is routed as one.
    pub routing: Routing,
    /// Its form.
    pub kind: RouterKind,
}

impl Model {
    /// The gates of a mixture in the order of layers; empty for a dense model.
    pub fn gates(&self) -> Vec<GateInfo> {
        self.routers().map(|router| router.info()).collect()
    }

    /// The weights of the gates as they are stored, widened, in the order of [`Model::gates`].
    ///
    /// # Errors
    /// [`LmError::Compute`]
    pub fn gate_weights(&self) -> Result<Vec<GateWeights>, LmError> {
        self.routers().map(|router| Ok(router.gate.weights()?)).collect()
    }

    /// Computes what [`Model::forward`] does with these weights of the gates, one for each of [`Model::gates`], which may have
    /// another form than the stored ones. Nothing is kept in `tree`, whose tokens stay pending; what it holds of earlier passes
    /// counts as constant.
    ///
    /// # Errors
    /// [`LmError::Gate`] for weights that do not fit, and those of [`Model::forward`].
    pub fn forward_train(&self, tree: &Tree, want: &Want<'_>, gates: &[GateWeights]) -> Result<Output, LmError> {
        let infos = self.gates();
        if gates.len() != infos.len() {
            let reason = format!("weights of {} gates for a model with {}", gates.len(), infos.len());
            return Err(LmError::Gate { index: gates.len().min(infos.len()), reason });
        }
        for (index, (weights, info)) in gates.iter().zip(&infos).enumerate() {
            weights.check(index, info, self.hidden_size())?;
        }
        self.forward_with(&mut tree.clone(), want, Some(gates), false)
    }
}
