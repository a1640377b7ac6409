//! One decoder layer: attention and MLP, each added to the residual stream, with norms before, after, or around them,
//! or one norm before the two side by side.

use super::attention_block::AttentionBlock;
use super::feed_forward::FeedForward;
use super::gate::Gates;
use super::latent::LatentAttention;
use super::observer::LayerContext;
use super::positions::Positions;
use super::select;
use crate::error::LmError;
use crate::norm::RmsNorm;
use crate::ops::{Segment, add};
use crate::tape::Tape;
use crate::tree::Tree;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// The weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) before_attention: Option<RmsNorm>,
    pub(super) attention: Attention,
    pub(super) after_attention: Option<RmsNorm>,
    pub(super) before_mlp: Option<RmsNorm>,
    pub(super) mlp: FeedForward,
    pub(super) after_mlp: Option<RmsNorm>,
    /// Whether the MLP reads what attention reads.
    pub(super) parallel: bool,
    /// Factor on what is added to the residual stream.
    pub(super) residual_scale: f32,
}

/// Attention of either kind.
#[derive(Debug)]
pub(super) enum Attention {
    /// Keys and values for each head.
    Heads(Box<AttentionBlock>),
    /// One latent vector for all.
    Latent(Box<LatentAttention>),
}

impl Attention {
    /// Queries, where they were made with the keys, keys and values.
    fn project(
        &self,
        x: &Tensor,
        positions: &Positions,
        with_queries: bool,
        context: &mut LayerContext<'_>,
    ) -> Result<(Option<Tensor>, Tensor, Tensor)> {
        match self {
            Attention::Heads(block) => block.project(x, positions, with_queries, context),
            Attention::Latent(latent) => latent.keys_and_values(x, positions, context).map(|(k, v)| (None, k, v)),
        }
    }

    fn queries(&self, x: &Tensor, positions: &Positions, context: &mut LayerContext<'_>) -> Result<Tensor> {
        match self {
            Attention::Heads(block) => block.queries(x, positions, context.tape),
            Attention::Latent(latent) => latent.queries(x, positions, context),
        }
    }

    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        segments: Arc<[Segment]>,
        context: &mut LayerContext<'_>,
    ) -> Result<Tensor> {
        match self {
            Attention::Heads(block) => block.attend(q, k, v, segments, context),
            Attention::Latent(latent) => latent.attend(q, k, v, segments, context),
        }
    }
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
        positions: &Positions,
        with_queries: bool,
        context: &mut LayerContext<'_>,
    ) -> Result<AttentionInput> {
        let normed = apply(&self.before_attention, x, context.tape)?;
        let (q, k, v) = self.attention.project(&normed, positions, with_queries, context)?;
        Ok(AttentionInput { normed, q, k, v })
    }

    /// The residual stream after the layer, of the rows wanted. `positions` are those of the rows that have keys.
    #[expect(clippy::too_many_arguments, reason = "one layer's worth of state, named at its single call")]
    pub(super) fn forward(
        &self,
        x: &Tensor,
        input: &AttentionInput,
        positions: &Positions,
        rows: LayerRows<'_>,
        segments: Arc<[Segment]>,
        tree: &Tree,
        gates: &mut Gates<'_>,
        mut context: LayerContext<'_>,
    ) -> std::result::Result<Tensor, LmError> {
        let AttentionInput { normed, q, k, v } = input;
        let (x, read, q) = match (rows.queries, q) {
            (None, Some(q)) => (x.clone(), normed.clone(), q.clone()),
            (None, None) => (x.clone(), normed.clone(), self.attention.queries(normed, positions, &mut context)?),
            (Some(queries), _) => {
                let place = |row: &usize| rows.kv.map_or(*row, |rows| rows.partition_point(|other| other < row));
                let places: Vec<usize> = queries.iter().map(place).collect();
                let numbers: Vec<u32> = places.iter().map(|&row| row as u32).collect();
                let read = select(normed, &numbers)?;
                let q = self.attention.queries(&read, &positions.select(&places), &mut context)?;
                (select(x, &numbers)?, read, q)
            }
        };
        let attended = self.attention.attend(&q, k, v, segments, &mut context)?;
        let x = add(&x, &self.scaled(apply(&self.after_attention, &attended, context.tape)?)?)?;
        let read = if self.parallel { read } else { apply(&self.before_mlp, &x, context.tape)? };
        context.mlp_input(&read)?;
        let present = rows.queries.or(rows.kv);
        let (y, x) = self.mlp.forward(&read, &x, tree, gates, [present, rows.output.or(present)], &mut context)?;
        Ok(add(&x, &self.scaled(apply(&self.after_mlp, &y, context.tape)?)?)?)
    }

    fn scaled(&self, x: Tensor) -> Result<Tensor> {
        if self.residual_scale == 1.0 { Ok(x) } else { x * f64::from(self.residual_scale) }
    }
}

fn apply(norm: &Option<RmsNorm>, x: &Tensor, tape: Option<&Tape>) -> Result<Tensor> {
    norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x, tape))
}
