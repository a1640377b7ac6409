//! One pass through the layers, of which some hold experts.
//!
//! Rows are grouped by expert, so that the products of each are done once over its rows. Of a sample that does not go
//! through an expert nothing is computed or kept there. Where tokens are routed, every expert of a mixed layer has keys
//! and values of all of them, because any later token may come to it.

mod layerwise;

use super::gate::{Gates, Router, Scored};
use super::layer::{Layer, LayerRows, SomeRows};
use super::observer::{LayerContext, Observer};
use super::positions::Positions;
use super::{DecoderLayer, GateOutput, Model, UpperExperts, floats, select};
use crate::error::LmError;
use crate::ops::{Routes, Segment, combine};
use crate::rope::{Angles, RopeTables};
use crate::tape::Tape;
use crate::tree::{Pass, Tree};
use candle_core::{DType, Device, Tensor};
use glue_mixture::{Gate, Pool};
use std::sync::Arc;

/// What is wanted of a pass.
pub(super) struct Request<'a> {
    /// Rows whose states after the final norm are wanted, ascending.
    pub(super) output_rows: &'a [usize],
    /// Hidden states that are wanted, of all rows.
    pub(super) hidden: &'a [usize],
    /// Whether keys, values and decisions are kept in the tree.
    pub(super) keep: bool,
    /// Weights of the gates, in place of the stored ones.
    pub(super) gates: Option<&'a [Gate<Tensor>]>,
    /// Whether the observer is shown the residual stream of all rows after each layer, and what goes into the head.
    pub(super) observing: bool,
    /// Where the backward pass records gradients of weights.
    pub(super) tape: Option<&'a Tape>,
    /// The gate whose decisions are wanted: nothing after them is computed.
    pub(super) until: Option<Until<'a>>,
}

/// A pass that ends at a gate.
#[derive(Clone, Copy)]
pub(super) struct Until<'a> {
    /// The gate.
    pub(super) gate: usize,
    /// A layer and the residual stream before it, of all rows: where the pass begins, in place of the embedding.
    pub(super) start: Option<(usize, &'a Tensor)>,
}

impl Request<'_> {
    /// The index of the last hidden state that is computed, if nothing but hidden states is wanted.
    fn last_hidden(&self) -> Option<usize> {
        let only = self.output_rows.is_empty() && !self.keep && !self.observing && self.tape.is_none();
        if only && self.until.is_none() { self.hidden.iter().copied().max() } else { None }
    }
}

/// What a pass gave.
pub(super) struct Reply {
    /// After the final norm, of the rows wanted; meaningless where the pass ended early.
    pub(super) states: Tensor,
    pub(super) hidden: Vec<Tensor>,
    pub(super) routing: Vec<GateOutput>,
    /// The last layer that is no expert's, of those that were run, and the residual stream before it: for gates that
    /// are read one after the other, which mixtures have.
    #[cfg_attr(not(feature = "mixtures"), allow(dead_code))]
    pub(super) before: Option<(usize, Tensor)>,
}

impl Model {
    /// Runs `pass`, the pending tokens of `tree`.
    pub(super) fn run_observed(
        &self,
        tree: &mut Tree,
        pass: &Pass,
        request: Request<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Reply, LmError> {
        let num_layers = self.num_layers();
        let last_hidden = request.last_hidden();
        let Request { output_rows, hidden, keep, gates, observing, tape, until } = request;
        self.check(tree, pass, hidden)?;
        let routes_samples = self.routes_samples();
        if routes_samples && pass.samples.iter().any(|sample| !sample.decided && sample.prompt.is_empty()) {
            return Err(LmError::NoPrompt);
        }
        // Streams of experts are brought together where one is asked for, and then it is of all rows.
        let last_cheap = self.upper.as_ref().map_or(num_layers, |upper| num_layers.min(upper.router.layer + 1));
        let needs_all = hidden.iter().any(|&index| index >= last_cheap) || output_rows.len() == pass.tokens.len();
        let subset = (!needs_all).then_some(output_rows);

        let angles = |tables: &RopeTables| Arc::new(tables.angles(&pass.positions, &pass.lengths));
        let mut run = Run {
            model: self,
            tree,
            pass,
            keep,
            angles: self.ropes.iter().map(angles).collect(),
            factors: self.factors(pass),
            looks_back: pass.looks_back(),
            segments: None,
            gates: Gates::new(pass, gates),
            observer,
            observing,
            tape,
            until: until.map(|until| until.gate),
            slot: 0,
            before: None,
        };
        let mut states = Vec::new();
        let start = until.and_then(|until| until.start);
        let first = start.map_or(0, |(layer, _)| layer);
        run.slot = self.layers.iter().take(first).map(DecoderLayer::slots).sum();
        let mut x = match start {
            Some((_, states)) => states.clone(),
            None => self.embed(&pass.tokens)?,
        };
        if let Some(tape) = tape {
            x = tape.begins_with(&x)?;
        }
        for (index, layer) in self.layers.iter().enumerate().skip(first) {
            if observing {
                run.observer.residual(index, &floats(&x)?);
            }
            if hidden.contains(&index) {
                states.push((index, x.clone()));
            }
            if last_hidden == Some(index) || run.is_decided() {
                return Ok(run.reply(x, hidden, states));
            }
            let output_rows = subset.filter(|_| index + 1 == num_layers);
            if until.is_some() {
                run.before = Some((index, x.clone()));
            }
            x = match layer {
                DecoderLayer::Plain(layer) => run.plain(layer, index, &x, output_rows)?,
                DecoderLayer::Mixed { router, experts } => run.mixed(router, experts, index, &x, output_rows)?,
            };
        }
        if run.is_decided() {
            return Ok(run.reply(x, hidden, states));
        }
        if let Some(upper) = &self.upper {
            x = run.upper_layers(upper, x, subset, hidden, observing, &mut states)?;
            if run.is_decided() {
                return Ok(run.reply(x, hidden, states));
            }
        }
        if observing {
            run.observer.residual(num_layers, &floats(&x)?);
        }
        if hidden.contains(&num_layers) {
            states.push((num_layers, x.clone()));
        }
        let mut normed = self.norm.forward(&x, tape)?;
        if observing && !self.is_tied() {
            run.observer.linear_input(&[self.head_name()], &floats(&normed)?);
        }
        let kept = std::mem::take(&mut run.gates.kept);
        if hidden.contains(&(num_layers + 1)) {
            states.push((num_layers + 1, normed.clone()));
        }
        if needs_all && output_rows.len() < pass.tokens.len() {
            normed = select(&normed, &output_rows.iter().map(|&row| row as u32).collect::<Vec<_>>())?;
        }
        if keep {
            for (sample, gate, scores) in kept {
                run.tree.keep_scores(&sample, gate, scores);
            }
            run.tree.finish(self.slots());
        }
        if let Some(log) = &self.routing_log {
            log.record(&run.gates.outputs)?;
        }
        Ok(run.reply(normed, hidden, states))
    }
}

impl Model {
    /// Factors on the queries of layers without a rotary embedding, of all rows, where the family has them.
    fn factors(&self, pass: &Pass) -> Option<Arc<[f32]>> {
        let temperature = self.architecture.temperature?;
        Some(pass.positions.iter().map(|&position| temperature.at(position)).collect())
    }
}

/// A pass under way.
struct Run<'a> {
    model: &'a Model,
    tree: &'a mut Tree,
    pass: &'a Pass,
    keep: bool,
    /// Of all rows, for each rotary embedding.
    angles: Vec<Arc<Angles>>,
    /// Factors on the queries of layers without a rotary embedding, of all rows.
    factors: Option<Arc<[f32]>>,
    looks_back: bool,
    /// Segments of all rows, where they are the same in every layer.
    segments: Option<Arc<[Segment]>>,
    gates: Gates<'a>,
    observer: &'a mut dyn Observer,
    /// Whether the observer is shown what layers compute.
    observing: bool,
    tape: Option<&'a Tape>,
    /// The gate after which nothing is wanted.
    until: Option<usize>,
    /// The next place for keys and values.
    slot: usize,
    /// The layer under way, and the residual stream before it.
    before: Option<(usize, Tensor)>,
}

impl Run<'_> {
    /// Whether the gate has decided after which nothing is wanted.
    fn is_decided(&self) -> bool {
        self.until.is_some_and(|until| self.gates.outputs.iter().any(|output| output.gate == until))
    }

    /// What the pass gave, with the hidden states in the order in which they are wanted.
    fn reply(self, states: Tensor, hidden: &[usize], found: Vec<(usize, Tensor)>) -> Reply {
        let of = |index: &usize| found.iter().find(|(i, _)| i == index).map(|(_, state)| state.clone());
        let hidden = hidden.iter().filter_map(of).collect();
        Reply { states, hidden, routing: self.gates.outputs, before: self.before }
    }

    /// The residual stream after a layer that every row goes through, of all rows or of those wanted.
    fn plain(&mut self, layer: &Layer, index: usize, x: &Tensor, output_rows: SomeRows<'_>) -> Result<Tensor, LmError> {
        let slot = self.slot;
        self.slot += 1;
        // A new prompt must come as far as the gate that reads it.
        let pool = layer.mlp.router().and_then(|router| router.pool);
        let prompts = match (output_rows, pool) {
            (Some(output_rows), Some(pool)) => Some(self.with_prompts(output_rows, pool)),
            _ => None,
        };
        let queries = prompts.as_deref().or(output_rows);
        self.layer(layer, index, slot, x, LayerRows { kv: None, queries, output: output_rows })
    }

    /// These rows, and those of new prompts that a pool reads.
    fn with_prompts(&self, output_rows: &[usize], pool: Pool) -> Vec<usize> {
        let mut rows = output_rows.to_vec();
        for sample in self.pass.samples.iter().filter(|sample| !sample.decided) {
            rows.extend(pool.rows(sample.prompt.clone()));
        }
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// One layer. `x` holds the rows that have keys.
    fn layer(
        &mut self,
        layer: &Layer,
        index: usize,
        slot: usize,
        x: &Tensor,
        rows: LayerRows<'_>,
    ) -> Result<Tensor, LmError> {
        let no_queries = rows.queries.is_some_and(<[usize]>::is_empty);
        let no_rows = || Tensor::zeros((0, self.model.hidden_size()), DType::F32, &Device::Cpu);
        if no_queries && !self.keep {
            return Ok(no_rows()?);
        }
        let rope = self.model.architecture.layers[index].rope;
        let around = Positions {
            angles: rope.map(|rope| Arc::clone(&self.angles[rope])),
            factors: self.factors.clone().filter(|_| rope.is_none()),
        };
        let around = rows.kv.map_or_else(|| around.clone(), |rows| around.select(rows));
        let observer: Option<&mut dyn Observer> = if self.observing { Some(&mut *self.observer) } else { None };
        let mut context = LayerContext::new(observer, index, self.tape);
        let input = layer.attention_input(x, &around, rows.queries.is_none(), &mut context)?;
        let out = if no_queries {
            no_rows()?
        } else {
            let whole = rows.kv.is_none() && rows.queries.is_none();
            let segments = match &self.segments {
                Some(segments) if whole && !self.looks_back => Arc::clone(segments),
                _ => self.tree.attention_segments(self.pass, slot, rows.kv, rows.queries),
            };
            // With keys of earlier passes they are another layer's, and would keep what grows from growing in place.
            if whole && !self.looks_back {
                self.segments = Some(Arc::clone(&segments));
            }
            layer.forward(x, &input, &around, rows, segments, self.tree, &mut self.gates, context)?
        };
        if self.keep {
            self.tree.keep(self.pass, slot, rows.kv, &floats(&input.k)?, &floats(&input.v)?);
        }
        Ok(out)
    }

    /// Scores of `router`, and what decides each of the rows wanted, or of all.
    fn score(
        &mut self,
        router: &Router,
        x: &Tensor,
        output_rows: SomeRows<'_>,
    ) -> Result<(Scored, Vec<usize>), LmError> {
        match router.pool {
            None => {
                let x = output_rows.map_or_else(|| Ok(x.clone()), |rows| select(x, &numbers(rows)))?;
                Ok((router.score_tokens(&mut self.gates, &x)?, (0..x.dim(0)?).collect()))
            }
            Some(pool) => {
                let scored = router.score_samples(pool, self.tree, &mut self.gates, x, None)?;
                Ok((scored, Router::samples_of(&self.gates, output_rows)))
            }
        }
    }

    /// The rows that have keys and values in an expert: all, or those of the samples that go there.
    fn kv_rows(&self, router: &Router, scored: &Scored, expert: usize) -> Option<Vec<usize>> {
        router.pool?;
        let samples = Router::samples_of(&self.gates, None);
        let goes_here = |&row: &usize| scored.chosen[samples[row]].contains(&expert);
        Some((0..samples.len()).filter(goes_here).collect())
    }

    /// The residual stream after a layer of experts, of all rows or of those wanted.
    fn mixed(
        &mut self,
        router: &Router,
        experts: &[Layer],
        index: usize,
        x: &Tensor,
        output_rows: SomeRows<'_>,
    ) -> Result<Tensor, LmError> {
        let first = self.slot;
        self.slot += experts.len();
        let (scored, decider) = self.score(router, x, output_rows)?;
        if self.is_decided() {
            return Ok(x.clone());
        }
        let (routes, shares) = scored.route(&decider)?;
        let mut outputs = Vec::with_capacity(experts.len());
        for (expert, layer) in experts.iter().enumerate() {
            let kv_rows = self.kv_rows(router, &scored, expert);
            let rows = of_pass(&routes, expert, output_rows);
            if kv_rows.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            let own = kv_rows.as_ref().map_or_else(|| Ok(x.clone()), |kv_rows| select(x, &numbers(kv_rows)))?;
            let rows = LayerRows { kv: kv_rows.as_deref(), queries: Some(&rows), output: Some(&rows) };
            outputs.push(self.layer(layer, index, first + expert, &own, rows)?);
        }
        together(&outputs, &shares, &routes, x)
    }

    /// The residual stream after all layers of the experts, of all rows or of those wanted.
    fn upper_layers(
        &mut self,
        upper: &UpperExperts,
        x: Tensor,
        output_rows: SomeRows<'_>,
        hidden: &[usize],
        observing: bool,
        states: &mut Vec<(usize, Tensor)>,
    ) -> Result<Tensor, LmError> {
        let num_layers = self.model.num_layers();
        let first_layer = upper.router.layer;
        let (scored, decider) = self.score(&upper.router, &x, output_rows)?;
        if self.is_decided() {
            return Ok(x);
        }
        let (routes, shares) = scored.route(&decider)?;
        let mut streams = Vec::with_capacity(upper.experts.len());
        for (expert, layers) in upper.experts.iter().enumerate() {
            let kv_rows = self.kv_rows(&upper.router, &scored, expert);
            let rows = of_pass(&routes, expert, output_rows);
            // Without rows that anyone wants, now or later, there is nothing to do.
            let idle = kv_rows.as_ref().is_some_and(Vec::is_empty) || (rows.is_empty() && !self.keep);
            if !idle {
                let x = kv_rows.as_ref().map_or_else(|| Ok(x.clone()), |kv_rows| select(&x, &numbers(kv_rows)))?;
                let first_slot = self.slot + expert * layers.len();
                streams.push(ExpertStream { layers, first_slot, kv_rows, rows, x });
            }
        }
        self.slot += upper.experts.iter().map(Vec::len).sum::<usize>();
        for index in first_layer..num_layers {
            if index > first_layer || observing {
                let asked = hidden.contains(&index);
                if observing || asked {
                    let outputs = streams.iter().map(ExpertStream::output).collect::<Result<Vec<_>, _>>()?;
                    let mixed = if index > first_layer { together(&outputs, &shares, &routes, &x)? } else { x.clone() };
                    self.observer.residual(index, &floats(&mixed)?);
                    if asked {
                        states.push((index, mixed));
                    }
                }
            } else if hidden.contains(&index) {
                states.push((index, x.clone()));
            }
            for stream in &mut streams {
                let rows = (index + 1 == num_layers).then_some(stream.rows.as_slice());
                let rows = LayerRows { kv: stream.kv_rows.as_deref(), queries: rows, output: rows };
                let slot = stream.first_slot + index - first_layer;
                stream.x = self.layer(&stream.layers[index - first_layer], index, slot, &stream.x, rows)?;
            }
        }
        let outputs: Vec<Tensor> = streams.into_iter().map(|stream| stream.x).collect();
        together(&outputs, &shares, &routes, &x)
    }
}

/// The residual stream of one expert.
struct ExpertStream<'a> {
    layers: &'a [Layer],
    first_slot: usize,
    /// The rows that `x` holds; all when absent.
    kv_rows: Option<Vec<usize>>,
    /// The rows that go to this expert, of those wanted.
    rows: Vec<usize>,
    x: Tensor,
}

impl ExpertStream<'_> {
    /// The states of the rows that go to this expert.
    fn output(&self) -> candle_core::Result<Tensor> {
        let place = |row: &usize| self.kv_rows.as_ref().map_or(*row, |rows| rows.partition_point(|other| other < row));
        select(&self.x, &self.rows.iter().map(|row| place(row) as u32).collect::<Vec<_>>())
    }
}

/// The rows of the pass that go to an expert, when the rows of the routes are those wanted.
fn of_pass(routes: &Routes, expert: usize, output_rows: SomeRows<'_>) -> Vec<usize> {
    let row = |&row: &u32| output_rows.map_or(row as usize, |output_rows| output_rows[row as usize]);
    routes.rows_of(expert).iter().map(row).collect()
}

fn numbers(rows: &[usize]) -> Vec<u32> {
    rows.iter().map(|&row| row as u32).collect()
}

/// The sum by share of what the experts made; as wide as `x`.
fn together(outputs: &[Tensor], shares: &Tensor, routes: &Routes, x: &Tensor) -> Result<Tensor, LmError> {
    if routes.rows.is_empty() {
        return Ok(Tensor::zeros((0, x.dim(1)?), DType::F32, &Device::Cpu)?);
    }
    let outputs: Vec<&Tensor> = outputs.iter().filter(|y| y.elem_count() > 0).collect();
    Ok(combine(&Tensor::cat(&outputs, 0)?, shares, routes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::KvCacheType;
    use crate::{Model, Want};
    use std::path::Path;

    /// The cache was once copied as a whole in each layer of each step, because the layer's segments still held it.
    #[test]
    fn what_is_kept_stays_where_it_is_while_a_text_grows() {
        let archs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/archs");
        for name in ["llama2", "gemma2", "mixtral"] {
            let model = Model::open(archs.join(name)).unwrap();
            for cache_type in [KvCacheType::F32, KvCacheType::Bf16] {
                let mut tree = Tree::with_cache_type(cache_type);
                let branch = tree.push(None, &[1, 2, 3]);
                model.forward(&mut tree, &Want::LAST).unwrap();
                let mut before = tree.addresses(branch);
                assert_eq!(before.len(), model.num_layers());
                for token in 4..40 {
                    tree.extend(branch, &[token]);
                    model.forward(&mut tree, &Want::LAST).unwrap();
                    let now = tree.addresses(branch);
                    for (layer, (before, now)) in before.iter().zip(&now).enumerate() {
                        assert!(now.starts_with(before), "{name}, {cache_type:?}: token {token}, layer {layer}");
                    }
                    before = now;
                }
                // 39 tokens in chunks of 16.
                assert!(before.iter().all(|chunks| chunks.len() == 3), "{name}");
            }
        }
    }
}
