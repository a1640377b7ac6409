//! Attention with its projections: rotary embedding, norms of queries and keys, grouped heads.

use super::observer::LayerContext;
use super::positions::Positions;
use crate::gradients::{Stored, Tape};
use crate::norm::RmsNorm;
use crate::ops::{AttentionSpec, Recording, Segment, attention_with_sinks, linear, linear_recorded};
use crate::weight::Weight;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// A weight [out, in] and its bias.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Vec<f32>>,
    /// Where the weight is stored.
    pub(crate) stored: Stored,
}

impl Projection {
    /// [rows, in] to [rows, out].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, self.bias.as_deref())
    }

    /// The same; the backward pass records the gradient of the weight on `tape`.
    pub(super) fn forward_recorded(&self, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
        let recording = tape.map(|tape| Recording { tape: tape.clone(), stored: self.stored.clone() });
        linear_recorded(x, &self.weight, self.bias.as_deref(), recording)
    }
}

/// The weights of the attention of one layer.
#[derive(Debug)]
pub(super) struct AttentionBlock {
    pub(super) q: Projection,
    pub(super) k: Projection,
    pub(super) v: Projection,
    pub(super) o: Projection,
    /// Over a head or over all of them, by the number of its weights.
    pub(super) q_norm: Option<RmsNorm>,
    pub(super) k_norm: Option<RmsNorm>,
    /// Whether these norms come after rope.
    pub(super) rope_first: bool,
    /// A score for each head that has no value.
    pub(super) sinks: Option<Arc<[f32]>>,
    pub(super) spec: AttentionSpec,
}

impl AttentionBlock {
    /// Keys after norm and rope, and values, [rows, kv_heads · head_dim] each, of `x` [rows, hidden].
    pub(super) fn keys_and_values(
        &self,
        x: &Tensor,
        positions: &Positions,
        context: &mut LayerContext<'_>,
    ) -> Result<(Tensor, Tensor)> {
        context.linear_input(x, &[&self.q, &self.k, &self.v])?;
        let k = self.normed_and_rotated(&self.k, &self.k_norm, x, positions, context.tape)?;
        Ok((k, self.v.forward_recorded(x, context.tape)?))
    }

    /// The output [rows, hidden] of queries made of `x`.
    pub(super) fn attend(
        &self,
        x: &Tensor,
        k: &Tensor,
        v: &Tensor,
        positions: &Positions,
        segments: Arc<[Segment]>,
        context: &mut LayerContext<'_>,
    ) -> Result<Tensor> {
        let q = self.normed_and_rotated(&self.q, &self.q_norm, x, positions, context.tape)?;
        let q = positions.scaled(q)?;
        let y = attention_with_sinks(&q, k, v, segments, &self.spec, self.sinks.as_ref())?;
        context.attention_output(&y)?;
        context.linear_input(&y, &[&self.o])?;
        self.o.forward_recorded(&y, context.tape)
    }

    fn normed_and_rotated(
        &self,
        projection: &Projection,
        norm: &Option<RmsNorm>,
        x: &Tensor,
        positions: &Positions,
        tape: Option<&Tape>,
    ) -> Result<Tensor> {
        let y = projection.forward_recorded(x, tape)?;
        let (head_dim, rope_first) = (self.spec.head_dim, self.rope_first);
        match norm {
            None => positions.rotated(&y, head_dim),
            Some(norm) if rope_first => norm.forward(&positions.rotated(&y, head_dim)?, tape),
            Some(norm) => positions.rotated(&norm.forward(&y, tape)?, head_dim),
        }
    }
}
