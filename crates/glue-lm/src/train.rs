//! Gates whose weights come from outside, so that they can be trained through the frozen network.
//!
//! [`Model::forward_train`] computes the same as [`Model::forward`] with candle tensors as the weights of the gates.
//! Logits, hidden states and scores are differentiable with respect to them. Every other weight is a constant that no
//! gradient reaches; the choice of the experts is constant too, their shares are not.

use crate::model::Model;
use glue_mixture::{RouterKind, Routing};
#[cfg(feature = "mixtures")]
use {
    crate::error::LmError,
    crate::model::{Output, Want, widened},
    crate::tree::Tree,
    candle_core::Tensor,
    glue_mixture::Gate,
};

/// Refuses weights that do not fit the gate number `index` of a model of width `hidden`.
#[cfg(feature = "mixtures")]
fn check(gate: &Gate<Tensor>, index: usize, info: &GateInfo, hidden: usize) -> Result<(), LmError> {
    let refuse = |reason: String| Err(LmError::Gate { index, reason });
    let kind = match gate {
        Gate::Linear { .. } => RouterKind::Linear,
        Gate::Mlp { up_weight, .. } => RouterKind::Mlp { hidden_size: up_weight.dims().first().copied().unwrap_or(0) },
    };
    let shapes = Gate::shapes(kind, info.experts, hidden);
    for ((name, tensor), (_, shape)) in gate.tensors().into_iter().zip(shapes.tensors()) {
        if shape != tensor.dims() {
            return refuse(format!("`{name}` should have shape {shape:?}, but has {:?}", tensor.dims()));
        }
        if tensor.dtype() != candle_core::DType::F32 {
            return refuse(format!("`{name}` should be F32, but is {:?}", tensor.dtype()));
        }
    }
    Ok(())
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
    /// Its kind.
    pub kind: RouterKind,
}

/// The residual stream of all pending tokens of a tree before a layer.
#[cfg(feature = "mixtures")]
#[derive(Debug, Clone)]
pub struct StreamBefore {
    /// The layer, counted from 0.
    pub layer: usize,
    /// The stream in `f32`, [tokens, hidden size].
    pub states: Tensor,
}

impl Model {
    /// The gates of a mixture in the order of layers; empty for a dense model.
    pub fn gates(&self) -> Vec<GateInfo> {
        self.routers().map(|router| router.info()).collect()
    }
}

/// With the feature `mixtures`.
#[cfg(feature = "mixtures")]
impl Model {
    /// The weights of the gates as they are stored, widened, in the order of [`Model::gates`].
    ///
    /// # Errors
    /// [`LmError::Compute`]
    pub fn gate_weights(&self) -> Result<Vec<Gate<Tensor>>, LmError> {
        self.routers().map(|router| Ok(widened(&router.gate)?)).collect()
    }

    /// Computes what [`Model::forward`] does with these gates, `f32`, one for each of [`Model::gates`], which may be of
    /// another kind than the stored ones: constants, or tensors of candle's `Var`s. Nothing is kept in `tree`, whose
    /// tokens stay pending; what it holds of earlier passes counts as constant.
    ///
    /// # Errors
    /// [`LmError::Gate`] for weights that do not fit, and those of [`Model::forward`].
    pub fn forward_train(&self, tree: &Tree, want: &Want<'_>, gates: &[Gate<Tensor>]) -> Result<Output, LmError> {
        self.check_gates(gates)?;
        self.forward_with(&mut tree.clone(), want, Some(gates), false)
    }

    /// What the gate number `gate` reads of the pending tokens of `tree` when the mixture runs with these gates,
    /// [decisions, hidden size]: of all tokens, or pooled where samples are routed. Nothing above the gate's layer is
    /// computed and nothing is kept in `tree`; the weights of this gate and of those above it play no part.
    ///
    /// The pass begins with the embedding, or at the layer of `start`, which an earlier call gave for the same tokens
    /// and the same gates below that layer. The stream before the layer of this gate is returned for the next call;
    /// none where the gate stands before experts of all layers.
    ///
    /// # Errors
    /// As [`Model::forward_train`]; [`LmError::Gate`] for a gate that there is not, or that is below the layer of
    /// `start`; [`LmError::States`] for another number of states than tokens have.
    pub fn gate_inputs(
        &self,
        tree: &Tree,
        gates: &[Gate<Tensor>],
        gate: usize,
        start: Option<&StreamBefore>,
    ) -> Result<(Tensor, Option<StreamBefore>), LmError> {
        self.check_gates(gates)?;
        let refuse = |reason: String| LmError::Gate { index: gate, reason };
        let infos = self.gates();
        let info = infos.get(gate).ok_or_else(|| refuse(format!("the model has {} gates", gates.len())))?;
        if let Some(StreamBefore { layer, states }) = start {
            let (tokens, width) = (tree.pass().tokens.len(), self.hidden_size());
            if *layer > info.layer {
                return Err(refuse(format!("it is in layer {}, below layer {layer}", info.layer)));
            }
            if states.dims() != [tokens, width] {
                return Err(LmError::States { expected: tokens * width, found: states.elem_count() });
            }
        }
        let (outputs, before) = self.run_until(&mut tree.clone(), gates, gate, start)?;
        let inputs = outputs.into_iter().find(|output| output.gate == gate).and_then(|output| output.inputs);
        // Without tokens, no gate decides.
        let inputs = inputs.ok_or_else(|| refuse("there are no tokens that it could read".into()))?;
        Ok((inputs, before))
    }

    /// Refuses weights that are not one for each gate.
    fn check_gates(&self, gates: &[Gate<Tensor>]) -> Result<(), LmError> {
        let infos = self.gates();
        if gates.len() != infos.len() {
            let reason = format!("weights of {} gates for a model with {}", gates.len(), infos.len());
            return Err(LmError::Gate { index: gates.len().min(infos.len()), reason });
        }
        for (index, (weights, info)) in gates.iter().zip(&infos).enumerate() {
            check(weights, index, info, self.hidden_size())?;
        }
        Ok(())
    }
}
