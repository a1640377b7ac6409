//! What a dense model is made of, by the names of its stored tensors.

use super::attention_block::{AttentionBlock, Projection};
use super::feed_forward::{FeedForward, Mlp};
use super::layer::{Attention, Layer};
use super::{DecoderLayer, Model};
use crate::error::LmError;
use crate::norm::RmsNorm;

/// A stored tensor that the model computes with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Matrices that are multiplied with the same input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinearInput {
    /// Names of the stored tensors, each [outputs, width].
    pub weights: Vec<String>,
    /// Numbers in a row of the input.
    pub width: usize,
}

impl Model {
    /// Every stored tensor that is part of the computation, once: embedding, layers, final norm, head unless it is the
    /// embedding.
    ///
    /// # Errors
    /// [`LmError::NotDense`] for a mixture, [`LmError::LatentKeys`] for multi-head latent attention.
    pub fn parameters(&self) -> Result<Vec<Parameter>, LmError> {
        let mut found = Inventory(Vec::new());
        let layers = self.dense_layers("parameters by name")?;
        found.add(self.embedding_name().to_owned(), self.embedding.shape());
        for (layer, attention, mlp) in layers {
            found.norms([&layer.before_attention, &attention.q_norm, &attention.k_norm]);
            found.projections([&attention.q, &attention.k, &attention.v, &attention.o]);
            found.norms([&layer.after_attention, &layer.before_mlp, &layer.after_mlp]);
            found.projections([&mlp.gate, &mlp.up, &mlp.down]);
        }
        found.add(self.norm.name().to_owned(), &[self.norm.width()]);
        if !self.is_tied() {
            found.projections([&self.head]);
        }
        Ok(found.0)
    }

    /// The inputs of all matrices that rows are multiplied with. Not among them is the embedding, a table, even where
    /// it is the head too.
    ///
    /// # Errors
    /// [`LmError::NotDense`] for a mixture, [`LmError::LatentKeys`] for multi-head latent attention.
    pub fn linear_inputs(&self) -> Result<Vec<LinearInput>, LmError> {
        let mut found = Vec::new();
        for (_, attention, mlp) in self.dense_layers("inputs of matrices by name")? {
            found.push(linear_input(&[&attention.q, &attention.k, &attention.v]));
            found.push(linear_input(&[&attention.o]));
            found.push(linear_input(&[&mlp.gate, &mlp.up]));
            found.push(linear_input(&[&mlp.down]));
        }
        if !self.is_tied() {
            found.push(linear_input(&[&self.head]));
        }
        Ok(found)
    }

    /// # Errors
    /// [`LmError::NotDense`] for a mixture, [`LmError::LatentKeys`] for multi-head latent attention.
    pub(crate) fn refuse_mixture(&self, what: &'static str) -> Result<(), LmError> {
        self.dense_layers(what).map(drop)
    }

    fn dense_layers(&self, what: &'static str) -> Result<Vec<DenseLayer<'_>>, LmError> {
        if self.architecture().latent.is_some() {
            return Err(LmError::LatentKeys { what });
        }
        let layers: Option<Vec<_>> = self.layers.iter().map(dense).collect();
        layers.filter(|_| self.upper.is_none()).ok_or(LmError::NotDense { what })
    }
}

/// A layer with its attention and its MLP.
type DenseLayer<'a> = (&'a Layer, &'a AttentionBlock, &'a Mlp);

fn dense(layer: &DecoderLayer) -> Option<DenseLayer<'_>> {
    let DecoderLayer::Plain(layer) = layer else { return None };
    match (&layer.attention, &layer.mlp) {
        (Attention::Heads(attention), FeedForward::Dense(mlp)) => Some((layer, attention, mlp)),
        _ => None,
    }
}

/// Names of the tensors that some projections are stored in, each once.
pub(super) fn stored_names<'a>(projections: &[&'a Projection]) -> Vec<&'a str> {
    let mut names: Vec<&str> = projections.iter().map(|projection| &*projection.stored.name).collect();
    names.dedup();
    names
}

fn linear_input(projections: &[&Projection]) -> LinearInput {
    let weights = stored_names(projections).into_iter().map(str::to_owned).collect();
    LinearInput { weights, width: projections.first().map_or(0, |projection| projection.weight.row_len()) }
}

struct Inventory(Vec<Parameter>);

impl Inventory {
    /// Adds a tensor, or more rows of one that is there.
    fn add(&mut self, name: String, shape: &[usize]) {
        match self.0.iter_mut().rev().find(|known| known.name == name) {
            Some(known) => known.shape[0] += shape[0],
            None => self.0.push(Parameter { name, shape: shape.to_vec() }),
        }
    }

    fn norms<const N: usize>(&mut self, norms: [&Option<RmsNorm>; N]) {
        let stored = norms.into_iter().flatten().filter(|norm| !norm.name().is_empty());
        stored.for_each(|norm| self.add(norm.name().to_owned(), &[norm.width()]));
    }

    fn projections<const N: usize>(&mut self, projections: [&Projection; N]) {
        for projection in projections {
            self.add(projection.stored.name.to_string(), projection.weight.shape());
            if let Some(bias) = &projection.bias {
                self.add(projection.stored.bias_name(), &[bias.len()]);
            }
        }
    }
}
