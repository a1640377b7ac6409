//! Attention with its projections: rotary embedding, norms of queries and keys, grouped heads.

use super::observer::LayerContext;
use super::positions::Positions;
use crate::norm::RmsNorm;
use crate::ops::{AttentionSpec, Recording, Segment, attention_with_sinks, linear, linear_recorded, linear_together};
use crate::tape::{Stored, Tape};
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

    /// What each of `projections` makes of `x`, all at once where that is faster; `None` elsewhere.
    pub(super) fn together(
        projections: &[&Projection],
        x: &Tensor,
        tape: Option<&Tape>,
    ) -> Result<Option<Vec<Tensor>>> {
        if tape.is_some() {
            return Ok(None);
        }
        let factors: Vec<_> = projections.iter().map(|p| (&p.weight, p.bias.as_deref())).collect();
        linear_together(x, &factors)
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
    /// Keys after norm and rope, and values, [rows, kv_heads · head_dim] each, of `x` [rows, hidden]; with queries of
    /// the same rows, where they are wanted and cheaper to make now than later.
    pub(super) fn project(
        &self,
        x: &Tensor,
        positions: &Positions,
        with_queries: bool,
        context: &mut LayerContext<'_>,
    ) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        context.linear_input(x, &[&self.q, &self.k, &self.v])?;
        let all = [&self.k, &self.v, &self.q];
        let made = Projection::together(&all[..if with_queries { 3 } else { 2 }], x, context.tape)?;
        let mut made = made.into_iter().flatten();
        if let (Some(k), Some(v)) = (made.next(), made.next()) {
            let k = self.normed_and_rotated(k, &self.k_norm, positions, context.tape)?;
            let q = made.next().map(|q| self.finished(q, positions, context.tape)).transpose()?;
            return Ok((q, k, v));
        }
        let k = self.k.forward_recorded(x, context.tape)?;
        let k = self.normed_and_rotated(k, &self.k_norm, positions, context.tape)?;
        Ok((None, k, self.v.forward_recorded(x, context.tape)?))
    }

    /// Queries after norm, rope and the factors of their positions, [rows, heads · head_dim], of `x` [rows, hidden].
    pub(super) fn queries(&self, x: &Tensor, positions: &Positions, tape: Option<&Tape>) -> Result<Tensor> {
        self.finished(self.q.forward_recorded(x, tape)?, positions, tape)
    }

    fn finished(&self, q: Tensor, positions: &Positions, tape: Option<&Tape>) -> Result<Tensor> {
        positions.scaled(self.normed_and_rotated(q, &self.q_norm, positions, tape)?)
    }

    /// The output [rows, hidden] of these queries.
    pub(super) fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        segments: Arc<[Segment]>,
        context: &mut LayerContext<'_>,
    ) -> Result<Tensor> {
        let y = attention_with_sinks(q, k, v, segments, &self.spec, self.sinks.as_ref())?;
        context.attention_output(&y)?;
        context.linear_input(&y, &[&self.o])?;
        self.o.forward_recorded(&y, context.tape)
    }

    fn normed_and_rotated(
        &self,
        y: Tensor,
        norm: &Option<RmsNorm>,
        positions: &Positions,
        tape: Option<&Tape>,
    ) -> Result<Tensor> {
        let (head_dim, rope_first) = (self.spec.head_dim, self.rope_first);
        match norm {
            None => positions.rotated(&y, head_dim),
            Some(norm) if rope_first => norm.forward(&positions.rotated(&y, head_dim)?, tape),
            Some(norm) => positions.rotated(&norm.forward(&y, tape)?, head_dim),
        }
    }
}
