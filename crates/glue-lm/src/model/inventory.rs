//! What a model is made of, by the names of its stored tensors.

use super::attention_block::{AttentionBlock, Projection};
use super::experts::Expert;
use super::feed_forward::{FeedForward, MixtureOfExperts, Mlp};
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
    /// Names of the stored tensors, each [outputs, width], or [experts, outputs, width] for experts that are stored
    /// together.
    pub weights: Vec<String>,
    /// Numbers in a row of the input.
    pub width: usize,
    /// Their layer, counted from 0; `None` for the head.
    pub layer: Option<usize>,
    /// Of experts that a gate chooses among for each token: how many there are, and which tokens come to them. `None`
    /// for matrices that every token is multiplied with.
    pub routed: Option<RoutedInput>,
}

/// How tokens come to the experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoutedInput {
    /// Number of experts.
    pub experts: usize,
    /// Experts that each token is given to.
    pub per_token: usize,
    /// The number of the expert that the tensors are of; `None` where they hold the matrices of all.
    pub expert: Option<usize>,
}

impl LinearInput {
    /// Matrices in each tensor.
    pub fn matrices(&self) -> usize {
        self.routed.filter(|routed| routed.expert.is_none()).map_or(1, |routed| routed.experts)
    }
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

    /// The inputs of all matrices that rows are multiplied with, in the order in which [`Model::observe`] shows them,
    /// gates and experts of mixtures among them. Not among them is the embedding, a table, even where it is the head
    /// too.
    ///
    /// # Errors
    /// [`LmError::NativeMixture`], [`LmError::LatentKeys`] for multi-head latent attention, [`LmError::OtherLayout`]
    /// for experts whose matrices are not stored [out, in].
    pub fn linear_inputs(&self) -> Result<Vec<LinearInput>, LmError> {
        const WHAT: &str = "inputs of matrices by name";
        let mut found = Vec::new();
        for (number, layer) in self.single_layers(WHAT)?.into_iter().enumerate() {
            let Attention::Heads(attention) = &layer.attention else {
                return Err(LmError::LatentKeys { what: WHAT });
            };
            let mut add = |projections: &[&Projection]| found.push(linear_input(projections, Some(number)));
            add(&[&attention.q, &attention.k, &attention.v]);
            add(&[&attention.o]);
            match &layer.mlp {
                FeedForward::Dense(mlp) => found.extend(mlp_inputs(mlp, number)),
                FeedForward::Experts(mixture) => {
                    found.extend(mixture_inputs(mixture, number).ok_or(LmError::OtherLayout { what: WHAT })?);
                }
            }
        }
        if !self.is_tied() {
            found.push(linear_input(&[&self.head], None));
        }
        Ok(found)
    }

    /// # Errors
    /// [`LmError::NotDense`] for a mixture, [`LmError::LatentKeys`] for multi-head latent attention.
    #[cfg(feature = "gradients")]
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

fn linear_input(projections: &[&Projection], layer: Option<usize>) -> LinearInput {
    let weights = stored_names(projections).into_iter().map(str::to_owned).collect();
    let width = projections.first().map_or(0, |projection| projection.weight.row_len());
    LinearInput { weights, width, layer, routed: None }
}

fn mlp_inputs(mlp: &Mlp, layer: usize) -> [LinearInput; 2] {
    [linear_input(&[&mlp.gate, &mlp.up], Some(layer)), linear_input(&[&mlp.down], Some(layer))]
}

/// `None` where experts have no matrices [out, in] of their own.
fn mixture_inputs(mixture: &MixtureOfExperts, layer: usize) -> Option<Vec<LinearInput>> {
    let router = &mixture.router;
    let mlps: Vec<&Mlp> = mixture.experts.iter().map(Expert::plain).collect::<Option<_>>()?;
    let of_expert = |(number, mlp): (usize, &&Mlp)| {
        let expert = (!mixture.stacked).then_some(number);
        let routed = RoutedInput { experts: router.experts, per_token: router.per_token, expert };
        mlp_inputs(mlp, layer).map(|input| LinearInput { routed: Some(routed), ..input })
    };
    // Experts that are stored together have the same tensors.
    let listed = if mixture.stacked { 1 } else { mlps.len() };
    let gate = router.stored_matrix().map(|name| {
        let width = mlps.first().map_or(0, |mlp| mlp.up.weight.row_len());
        LinearInput { weights: vec![name], width, layer: Some(layer), routed: None }
    });
    let mut found = Vec::from_iter(gate);
    found.extend(mlps.iter().take(listed).enumerate().flat_map(of_expert));
    if let Some(shared) = &mixture.shared {
        found.extend(shared.gate.iter().map(|gate| linear_input(&[gate], Some(layer))));
        found.extend(mlp_inputs(&shared.mlp, layer));
    }
    Some(found)
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
