//! Multi-head latent attention (DeepSeek V2, arXiv 2405.04434, §2.1): keys and values are products of one latent vector
//! a token, and a part of the key that all heads share is rotated.
//!
//! Keys and values are never made. A query is brought into the space of the latent vector by the matrix that would make
//! the keys, and what attention gives is brought out of it by the one that would make the values; between them, the
//! latent vector and the rotated part are key and value of a single head. What is kept of a token is that one vector.

use super::attention_block::Projection;
use super::observer::LayerContext;
use super::positions::Positions;
use crate::architecture::Latent;
use crate::norm::RmsNorm;
use crate::ops::{AttentionSpec, Direction, HeadBlock, Segment, attention_with_sinks, by_head};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// The weights of the attention of one layer.
#[derive(Debug)]
pub(super) struct LatentAttention {
    /// From the residual stream to a vector of its own, and its norm; absent where `q` reads the stream.
    pub(super) q_a: Option<(Projection, RmsNorm)>,
    /// To the queries of all heads, each the plain dimensions and then the rotated ones.
    pub(super) q: Projection,
    /// To the latent vector and the rotated part of the key.
    pub(super) kv_a: Projection,
    pub(super) kv_a_norm: RmsNorm,
    /// Of each head the rows that would make its keys, then those of its values.
    pub(super) kv_b: Projection,
    pub(super) o: Projection,
    pub(super) heads: usize,
    pub(super) shape: Latent,
    /// Of the single head of keys.
    pub(super) spec: AttentionSpec,
}

impl LatentAttention {
    /// The latent vector after its norm and the rotated part of the key, [rows, rank + rotated], as key and value.
    pub(super) fn keys_and_values(
        &self,
        x: &Tensor,
        positions: &Positions,
        context: &mut LayerContext<'_>,
    ) -> Result<(Tensor, Tensor)> {
        match &self.q_a {
            Some((q_a, _)) => context.linear_input(x, &[q_a, &self.kv_a])?,
            None => context.linear_input(x, &[&self.q, &self.kv_a])?,
        }
        let both = self.kv_a.forward(x)?;
        let Latent { rank, rotated_dim, .. } = self.shape;
        let latent = self.kv_a_norm.forward(&both.narrow(1, 0, rank)?.contiguous()?, None)?;
        context.linear_input(&latent, &[&self.kv_b])?;
        let rotated = positions.rotated(&both.narrow(1, rank, rotated_dim)?.contiguous()?, rotated_dim)?;
        let key = Tensor::cat(&[&latent, &rotated], 1)?.contiguous()?;
        Ok((key.clone(), key))
    }

    /// Queries [rows, heads · (rank + rotated)], in the space of the latent vector, of `x` [rows, hidden].
    pub(super) fn queries(&self, x: &Tensor, positions: &Positions, context: &mut LayerContext<'_>) -> Result<Tensor> {
        let Latent { rank, plain_dim, rotated_dim, .. } = self.shape;
        let (heads, rows) = (self.heads, x.dim(0)?);
        let q = match &self.q_a {
            None => self.q.forward(x)?,
            Some((q_a, norm)) => {
                let read = norm.forward(&q_a.forward(x)?, None)?;
                context.linear_input(&read, &[&self.q])?;
                self.q.forward(&read)?
            }
        };
        let q = q.reshape((rows, heads, plain_dim + rotated_dim))?;
        let part = |first, width| q.narrow(2, first, width)?.contiguous()?.reshape((rows, heads * width));
        let plain = by_head(&part(0, plain_dim)?, &self.kv_b.weight, self.rows_of_keys(), Direction::IntoColumns)?;
        let rotated = positions.rotated(&part(plain_dim, rotated_dim)?, rotated_dim)?;
        let q = Tensor::cat(&[plain.reshape((rows, heads, rank))?, rotated.reshape((rows, heads, rotated_dim))?], 2)?;
        q.contiguous()?.reshape((rows, heads * (rank + rotated_dim)))
    }

    /// The rows of `kv_b` that would make the keys of each head.
    fn rows_of_keys(&self) -> HeadBlock {
        let Latent { plain_dim, value_dim, .. } = self.shape;
        HeadBlock { heads: self.heads, stride: plain_dim + value_dim, first: 0, rows: plain_dim }
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
        let Latent { rank, plain_dim, rotated_dim, value_dim, .. } = self.shape;
        let (heads, rows) = (self.heads, q.dim(0)?);
        let y = attention_with_sinks(q, k, v, segments, &self.spec, None)?;
        let y = y.reshape((rows, heads, rank + rotated_dim))?.narrow(2, 0, rank)?.contiguous()?;
        let of_values = HeadBlock { first: plain_dim, rows: value_dim, ..self.rows_of_keys() };
        let y = by_head(&y.reshape((rows, heads * rank))?, &self.kv_b.weight, of_values, Direction::IntoRows)?;
        context.attention_output(&y)?;
        context.linear_input(&y, &[&self.o])?;
        self.o.forward(&y)
    }
}
