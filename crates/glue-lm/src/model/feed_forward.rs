//! What follows attention in a layer: a gated MLP, or a mixture of them.
//!
//! The mixture is Mixtral's (arXiv 2401.04088): a softmax over the gate's scores, of which the largest few are kept and
//! brought to sum 1. What other families do is the [rule](super::gate::Rule) of the router: shares may stay as they
//! are, or be sigmoids. An expert for all tokens may be added, in Qwen2-MoE times the sigmoid of its own gate. In Llama
//! 4 shares multiply what experts read.

use super::attention_block::Projection;
use super::experts::Expert;
use super::gate::{Gates, Router};
use super::observer::{LayerContext, RunningMlp};
use super::select;
use crate::architecture::Activation;
use crate::error::LmError;
use crate::ops::{Routes, add, combine, gated};
use crate::tree::Tree;
use candle_core::{Result, Tensor};

/// down(act(gate(x)) · up(x))
#[derive(Debug)]
pub(super) struct Mlp {
    pub(super) gate: Projection,
    pub(super) up: Projection,
    pub(super) down: Projection,
    pub(super) activation: Activation,
}

impl Mlp {
    pub(super) fn forward(&self, x: &Tensor, context: &mut LayerContext<'_>) -> Result<Tensor> {
        let tape = context.tape;
        context.linear_input(x, &[&self.gate, &self.up])?;
        let mut made = Projection::together(&[&self.gate, &self.up], x, tape)?.into_iter().flatten();
        let (gate, up) = match (made.next(), made.next()) {
            (Some(gate), Some(up)) => (gate, up),
            _ => (self.gate.forward_recorded(x, tape)?, self.up.forward_recorded(x, tape)?),
        };
        let y = gated(&gate, &up, self.activation)?;
        context.neurons(&y)?;
        context.linear_input(&y, &[&self.down])?;
        self.down.forward_recorded(&y, tape)
    }
}

/// MLPs of which each token, or each sample, uses a few.
#[derive(Debug)]
pub(super) struct MixtureOfExperts {
    pub(super) router: Router,
    pub(super) experts: Vec<Expert>,
    /// Whether the experts are stored together, in tensors of three axes.
    pub(super) stacked: bool,
    pub(super) shared: Option<SharedExpert>,
    /// Whether shares multiply what experts read, and not what they make of it.
    pub(super) weighs_inputs: bool,
}

/// The MLP that every token uses, and its gate [1, hidden] if it has one.
#[derive(Debug)]
pub(super) struct SharedExpert {
    pub(super) gate: Option<Projection>,
    pub(super) mlp: Mlp,
}

impl MixtureOfExperts {
    /// The output for the rows `output_rows` of `x`, which holds the rows `present`, and the rows themselves: all when
    /// absent.
    fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        tree: &Tree,
        gates: &mut Gates<'_>,
        rows: [Option<&[usize]>; 2],
        context: &mut LayerContext<'_>,
    ) -> std::result::Result<(Tensor, Tensor), LmError> {
        let [present, output_rows] = rows;
        let kept = |x: &Tensor| match (present, output_rows) {
            (Some(present), Some(output_rows)) if present.len() > output_rows.len() => {
                let place = |row: &usize| present.partition_point(|other| other < row) as u32;
                select(x, &output_rows.iter().map(place).collect::<Vec<_>>())
            }
            _ => Ok(x.clone()),
        };
        let (residual, kept_x) = (kept(residual)?, kept(x)?);
        let (scored, decider) = match self.router.pool {
            None => {
                if let Some(name) = self.router.stored_matrix() {
                    context.named_input(&kept_x, &name)?;
                }
                (self.router.score_tokens(gates, &kept_x)?, (0..kept_x.dim(0)?).collect())
            }
            Some(pool) => {
                let scored = self.router.score_samples(pool, tree, gates, x, present)?;
                (scored, Router::samples_of(gates, output_rows.or(present)))
            }
        };
        let x = kept_x;
        let (routes, shares) = scored.route(&decider)?;
        let mut run = |expert: usize, x: &Tensor| {
            let running = if self.stacked { RunningMlp::Stacked(expert) } else { RunningMlp::OneOfSeveral };
            self.experts[expert].forward(x, &mut context.within(running))
        };
        let mut y = match self.weighs_inputs {
            false => mix(&routes, &shares, &x, run)?,
            true => mix(&routes, &shares.ones_like()?, &x, |expert, x| {
                let places = &routes.experts[expert];
                let shares = shares.narrow(0, places.start, places.len())?.unsqueeze(1)?;
                run(expert, &x.broadcast_mul(&shares)?)
            })?,
        };
        if let Some(shared) = &self.shared {
            let mut context = context.within(RunningMlp::OneOfSeveral);
            let factor = match &shared.gate {
                Some(gate) => {
                    context.linear_input(&x, &[gate])?;
                    Some(sigmoid(&gate.forward(&x)?)?)
                }
                None => None,
            };
            let of_all = shared.mlp.forward(&x, &mut context)?;
            y = add(&y, &factor.map_or_else(|| Ok(of_all.clone()), |factor| of_all.broadcast_mul(&factor))?)?;
        }
        Ok((y, residual))
    }
}

/// 1 / (1 + e^-x)
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// The sum by share of what each expert makes of its rows of `x`.
pub(super) fn mix(
    routes: &Routes,
    shares: &Tensor,
    x: &Tensor,
    mut run: impl FnMut(usize, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut outputs = Vec::new();
    for expert in 0..routes.experts.len() {
        let rows = routes.rows_of(expert);
        if rows.len() == routes.n_rows && !rows.is_empty() {
            outputs.push(run(expert, x)?);
        } else if !rows.is_empty() {
            outputs.push(run(expert, &select(x, rows)?)?);
        }
    }
    if outputs.is_empty() {
        return Ok(x.clone());
    }
    combine(&Tensor::cat(&outputs, 0)?, shares, routes)
}

/// Either of the two.
#[derive(Debug)]
pub(super) enum FeedForward {
    Dense(Box<Mlp>),
    Experts(Box<MixtureOfExperts>),
}

impl FeedForward {
    /// The output for the rows `output_rows`, the second of `rows`, of `x`, which holds those of the first, and
    /// `residual` for the same rows: all when absent.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        residual: &Tensor,
        tree: &Tree,
        gates: &mut Gates<'_>,
        rows: [Option<&[usize]>; 2],
        context: &mut LayerContext<'_>,
    ) -> std::result::Result<(Tensor, Tensor), LmError> {
        match self {
            FeedForward::Dense(mlp) => Ok((mlp.forward(x, context)?, residual.clone())),
            FeedForward::Experts(mixture) => mixture.forward(x, residual, tree, gates, rows, context),
        }
    }

    /// The gate that routes samples, if there is one.
    pub(super) fn router(&self) -> Option<&Router> {
        match self {
            FeedForward::Dense(_) => None,
            FeedForward::Experts(mixture) => Some(&mixture.router),
        }
    }
}
