//! One decoder layer: attention and MLP, each added to the residual stream, with norms before, after, or around them.

use super::attention_block::AttentionBlock;
use super::feed_forward::FeedForward;
use super::select;
use crate::norm::RmsNorm;
use crate::ops::{Segment, add};
use crate::rope::Angles;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) before_attention: Option<RmsNorm>,
    pub(super) attention: AttentionBlock,
    pub(super) after_attention: Option<RmsNorm>,
    pub(super) before_mlp: Option<RmsNorm>,
    pub(super) mlp: FeedForward,
    pub(super) after_mlp: Option<RmsNorm>,
}

impl Layer {
    /// What attention reads, and its keys and values, of the residual stream `x` [rows, hidden].
    pub(super) fn keys_and_values(&self, x: &Tensor, angles: &Arc<Angles>) -> Result<(Tensor, Tensor, Tensor)> {
        let normed = apply(&self.before_attention, x)?;
        let (k, v) = self.attention.keys_and_values(&normed, angles)?;
        Ok((normed, k, v))
    }

    /// The residual stream after the layer, of all rows, or of those in `subset`.
    #[expect(clippy::too_many_arguments, reason = "one layer's worth of state, named at its single call")]
    pub(super) fn forward(
        &self,
        x: &Tensor,
        normed: &Tensor,
        k: &Tensor,
        v: &Tensor,
        angles: &Arc<Angles>,
        subset: Option<&[usize]>,
        segments: Arc<[Segment]>,
    ) -> Result<Tensor> {
        let attended = match subset {
            None => self.attention.attend(normed, k, v, angles, segments)?,
            Some(rows) => {
                let numbers: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
                let angles = Arc::new(angles.select(rows));
                let attended = self.attention.attend(&select(normed, &numbers)?, k, v, &angles, segments)?;
                return self.after(&select(x, &numbers)?, &attended);
            }
        };
        self.after(x, &attended)
    }

    /// From the output of attention on.
    fn after(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let x = add(x, &apply(&self.after_attention, attended)?)?;
        let y = self.mlp.forward(&apply(&self.before_mlp, &x)?)?;
        add(&x, &apply(&self.after_mlp, &y)?)
    }
}

fn apply(norm: &Option<RmsNorm>, x: &Tensor) -> Result<Tensor> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
}
