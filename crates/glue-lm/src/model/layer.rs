//! One decoder layer: attention and MLP, each added to the residual stream, with norms before, after, or around them.

use super::attention_block::AttentionBlock;
use super::feed_forward::FeedForward;
use super::gate::Gates;
use super::observer::Here;
use super::select;
use crate::error::LmError;
use crate::gradients::Tape;
use crate::norm::RmsNorm;
use crate::ops::{Segment, add};
use crate::rope::Angles;
use crate::tree::Tree;
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

/// What attention reads, its keys and its values.
pub(super) struct Read {
    pub(super) normed: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
}

/// Rows of a pass, ascending; all that there are when absent.
pub(super) type SomeRows<'a> = Option<&'a [usize]>;

/// Which rows a layer is run for.
#[derive(Clone, Copy)]
pub(super) struct LayerRows<'a> {
    /// Those that the residual stream holds, and that have keys and values.
    pub(super) keyed: SomeRows<'a>,
    /// Those that attention is computed for.
    pub(super) attended: SomeRows<'a>,
    /// Those that come out.
    pub(super) wanted: SomeRows<'a>,
}

impl Layer {
    /// What attention reads, and its keys and values, of the residual stream `x` [rows, hidden].
    pub(super) fn read(&self, x: &Tensor, angles: &Arc<Angles>, here: &mut Here<'_>) -> Result<Read> {
        let normed = apply(&self.before_attention, x, here.tape)?;
        let (k, v) = self.attention.keys_and_values(&normed, angles, here)?;
        Ok(Read { normed, k, v })
    }

    /// The residual stream after the layer, of the rows wanted. `angles` are those of the rows that have keys.
    #[expect(clippy::too_many_arguments, reason = "one layer's worth of state, named at its single call")]
    pub(super) fn forward(
        &self,
        x: &Tensor,
        read: &Read,
        angles: &Arc<Angles>,
        rows: LayerRows<'_>,
        segments: Arc<[Segment]>,
        tree: &Tree,
        gates: &mut Gates<'_>,
        mut here: Here<'_>,
    ) -> std::result::Result<Tensor, LmError> {
        let Read { normed, k, v } = read;
        let (x, attended) = match rows.attended {
            None => (x.clone(), self.attention.attend(normed, k, v, angles, segments, &mut here)?),
            Some(attended) => {
                let place = |row: &usize| rows.keyed.map_or(*row, |keyed| keyed.partition_point(|other| other < row));
                let places: Vec<usize> = attended.iter().map(place).collect();
                let numbers: Vec<u32> = places.iter().map(|&row| row as u32).collect();
                let angles = Arc::new(angles.select(&places));
                let y = self.attention.attend(&select(normed, &numbers)?, k, v, &angles, segments, &mut here)?;
                (select(x, &numbers)?, y)
            }
        };
        let x = add(&x, &apply(&self.after_attention, &attended, here.tape)?)?;
        let read = apply(&self.before_mlp, &x, here.tape)?;
        here.mlp_input(&read)?;
        let present = rows.attended.or(rows.keyed);
        let (y, x) = self.mlp.forward(&read, &x, tree, gates, [present, rows.wanted.or(present)], &mut here)?;
        Ok(add(&x, &apply(&self.after_mlp, &y, here.tape)?)?)
    }
}

fn apply(norm: &Option<RmsNorm>, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, tape))
}
