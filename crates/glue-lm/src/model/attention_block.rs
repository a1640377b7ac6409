//! Attention with its projections: rotary embedding, norms of queries and keys, grouped heads.

use super::observer::Here;
use crate::norm::RmsNorm;
use crate::ops::{AttentionSpec, Segment, attention, linear};
use crate::rope::{Angles, rotate};
use crate::weight::Weight;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// A weight [out, in] and its bias.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Projection {
    /// [rows, in] to [rows, out].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, self.bias.as_deref())
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
    pub(super) spec: AttentionSpec,
}

impl AttentionBlock {
    /// Keys after norm and rope, and values, [rows, kv_heads · head_dim] each, of `x` [rows, hidden].
    pub(super) fn keys_and_values(&self, x: &Tensor, angles: &Arc<Angles>) -> Result<(Tensor, Tensor)> {
        let k = self.normed_and_turned(&self.k, &self.k_norm, x, angles)?;
        Ok((k, self.v.forward(x)?))
    }

    /// The output [rows, hidden] of queries made of `x`.
    pub(super) fn attend(
        &self,
        x: &Tensor,
        k: &Tensor,
        v: &Tensor,
        angles: &Arc<Angles>,
        segments: Arc<[Segment]>,
        here: &mut Here<'_>,
    ) -> Result<Tensor> {
        let q = self.normed_and_turned(&self.q, &self.q_norm, x, angles)?;
        let y = attention(&q, k, v, segments, &self.spec)?;
        here.attention_output(&y)?;
        self.o.forward(&y)
    }

    fn normed_and_turned(
        &self,
        projection: &Projection,
        norm: &Option<RmsNorm>,
        x: &Tensor,
        angles: &Arc<Angles>,
    ) -> Result<Tensor> {
        let mut y = projection.forward(x)?;
        if let Some(norm) = norm {
            y = norm.forward(&y)?;
        }
        rotate(&y, angles, self.spec.head_dim)
    }
}
