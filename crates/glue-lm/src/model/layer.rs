//! One decoder layer: attention and MLP, each added to the residual stream, with norms before, after, or around them.

use super::attention_block::AttentionBlock;
use super::feed_forward::FeedForward;
use super::gate::Gates;
use super::observer::LayerContext;
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
pub(super) struct AttentionInput {
    pub(super) normed: Tensor,
    /// The queries of all rows, where they were made with the keys.
    pub(super) q: Option<Tensor>,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
}

/// Rows of a pass, ascending; all that there are when absent.
pub(super) type SomeRows<'a> = Option<&'a [usize]>;

/// Which rows a layer is run for.
#[derive(Clone, Copy)]
pub(super) struct LayerRows<'a> {
    /// Those that the residual stream holds, and whose keys and values are computed.
    pub(super) kv: SomeRows<'a>,
    /// Those whose queries are computed.
    pub(super) queries: SomeRows<'a>,
    /// Those that come out.
    pub(super) output: SomeRows<'a>,
}

impl Layer {
    /// What attention reads, and its keys and values, of the residual stream `x` [rows, hidden]. `with_queries` says
    /// that queries of all rows will be needed.
    pub(super) fn attention_input(
        &self,
        x: &Tensor,
        angles: &Arc<Angles>,
        with_queries: bool,
        context: &mut LayerContext<'_>,
    ) -> Result<AttentionInput> {
        let normed = apply(&self.before_attention, x, context.tape)?;
        let (q, k, v) = self.attention.project(&normed, angles, with_queries, context)?;
        Ok(AttentionInput { normed, q, k, v })
    }

    /// The residual stream after the layer, of the rows wanted. `angles` are those of the rows that have keys.
    #[expect(clippy::too_many_arguments, reason = "one layer's worth of state, named at its single call")]
    pub(super) fn forward(
        &self,
        x: &Tensor,
        input: &AttentionInput,
        angles: &Arc<Angles>,
        rows: LayerRows<'_>,
        segments: Arc<[Segment]>,
        tree: &Tree,
        gates: &mut Gates<'_>,
        mut context: LayerContext<'_>,
    ) -> std::result::Result<Tensor, LmError> {
        let AttentionInput { normed, q, k, v } = input;
        let (x, q) = match (rows.queries, q) {
            (None, Some(q)) => (x.clone(), q.clone()),
            (None, None) => (x.clone(), self.attention.queries(normed, angles, context.tape)?),
            (Some(queries), _) => {
                let place = |row: &usize| rows.kv.map_or(*row, |rows| rows.partition_point(|other| other < row));
                let places: Vec<usize> = queries.iter().map(place).collect();
                let numbers: Vec<u32> = places.iter().map(|&row| row as u32).collect();
                let angles = Arc::new(angles.select(&places));
                let q = self.attention.queries(&select(normed, &numbers)?, &angles, context.tape)?;
                (select(x, &numbers)?, q)
            }
        };
        let attended = self.attention.attend(&q, k, v, segments, &mut context)?;
        let x = add(&x, &apply(&self.after_attention, &attended, context.tape)?)?;
        let read = apply(&self.before_mlp, &x, context.tape)?;
        context.mlp_input(&read)?;
        let present = rows.queries.or(rows.kv);
        let (y, x) = self.mlp.forward(&read, &x, tree, gates, [present, rows.output.or(present)], &mut context)?;
        Ok(add(&x, &apply(&self.after_mlp, &y, context.tape)?)?)
    }
}

fn apply(norm: &Option<RmsNorm>, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, tape))
}
