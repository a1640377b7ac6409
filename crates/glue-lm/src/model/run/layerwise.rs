//! One layer at a time, on residual streams that the caller keeps: a text can then go through layers of several models.
//!
//! [`Model::embedded`], every [`Model::run_layer`] in order and [`Model::observe_head`] show an observer what
//! [`Model::observe`] shows it, to the bit.

use super::super::layer::LayerRows;
use super::super::observer::{Observer, Unobserved};
use super::super::{DecoderLayer, Model, floats};
use super::{Gates, Run};
use crate::error::LmError;
use crate::ops::elements;
use crate::tree::Tree;
use candle_core::{Device, Tensor};
use std::sync::Arc;

impl Model {
    /// The residual streams before the first layer of all pending tokens of `tree`, which stay pending: rows of the
    /// embedding, scaled where the family scales them, [rows, hidden size].
    ///
    /// # Errors
    /// [`LmError::Token`], [`LmError::ForeignTree`].
    pub fn embedded(&self, tree: &Tree) -> Result<Vec<f32>, LmError> {
        let pass = tree.pass();
        self.check(tree, &pass, &[])?;
        Ok(elements(&self.embed(&pass.tokens)?)?)
    }

    /// The residual streams after layer `layer`, counted from 0, given those before it of all pending tokens of `tree`:
    /// [rows, hidden size] in the order of push and extend, both of them. The tokens stay pending, and nothing is kept
    /// in `tree`. Without an observer, nothing is shown.
    ///
    /// # Errors
    /// [`LmError::NativeMixture`], [`LmError::NoSuchLayer`], [`LmError::States`], [`LmError::Token`],
    /// [`LmError::ForeignTree`]: before anything is computed.
    pub fn run_layer(
        &self,
        layer: usize,
        tree: &Tree,
        states: &[f32],
        observer: Option<&mut dyn Observer>,
    ) -> Result<Vec<f32>, LmError> {
        let layers = self.single_layers("single layers")?;
        let Some(&weights) = layers.get(layer) else {
            return Err(LmError::NoSuchLayer { layer, last: layers.len().saturating_sub(1) });
        };
        let pass = tree.pass();
        self.check(tree, &pass, &[])?;
        let x = self.streams(states)?;
        if x.dim(0)? != pass.tokens.len() {
            let expected = pass.tokens.len() * self.hidden_size();
            return Err(LmError::States { expected, found: states.len() });
        }
        let (mut tree, mut unobserved, observing) = (tree.clone(), Unobserved, observer.is_some());
        let observer: &mut dyn Observer = match observer {
            Some(observer) => observer,
            None => &mut unobserved,
        };
        let mut run = Run {
            model: self,
            tree: &mut tree,
            pass: &pass,
            keep: false,
            angles: self.ropes.iter().map(|rope| Arc::new(rope.angles(&pass.positions, &pass.lengths))).collect(),
            factors: self.factors(&pass),
            looks_back: pass.looks_back(),
            segments: None,
            gates: Gates::new(&pass, None),
            observer,
            observing,
            tape: None,
            until: None,
            slot: layer,
            before: None,
        };
        let rows = LayerRows { kv: None, queries: None, output: None };
        Ok(elements(&run.layer(weights, layer, layer, &x, rows)?)?)
    }

    /// Shows `observer` what goes into the head, given residual streams after the last layer, [rows, hidden size].
    /// Nothing where the embedding is the head.
    ///
    /// # Errors
    /// [`LmError::States`] for streams that are no whole rows.
    pub fn observe_head(&self, states: &[f32], observer: &mut dyn Observer) -> Result<(), LmError> {
        if !self.is_tied() {
            let normed = self.norm.forward(&self.streams(states)?, None)?;
            observer.linear_input(&[self.head_name()], &floats(&normed)?);
        }
        Ok(())
    }

    /// Residual streams, [rows, hidden size].
    fn streams(&self, states: &[f32]) -> Result<Tensor, LmError> {
        let (width, found) = (self.hidden_size(), states.len());
        if !found.is_multiple_of(width) {
            return Err(LmError::States { expected: found.next_multiple_of(width), found });
        }
        Ok(Tensor::from_slice(states, (found / width, width), &Device::Cpu)?)
    }

    /// The layers of a model that has each of them once.
    pub(in crate::model) fn single_layers(&self, what: &'static str) -> Result<Vec<&super::Layer>, LmError> {
        let layers: Option<Vec<&super::Layer>> = self.layers.iter().map(DecoderLayer::single).collect();
        layers.filter(|_| self.mixture.is_none()).ok_or(LmError::NativeMixture { what })
    }
}

#[cfg(test)]
mod tests {
    //! Layer by layer against whole passes.
    use super::*;
    use std::path::Path;

    fn open(dir: &str) -> Model {
        Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(dir)).unwrap()
    }

    /// All that is shown of inputs, in order.
    #[derive(Default, PartialEq, Debug)]
    struct Inputs(Vec<(Vec<String>, Option<usize>, Vec<f32>)>);

    impl Observer for Inputs {
        fn linear_input(&mut self, weights: &[&str], values: &[f32]) {
            self.0.push((weights.iter().map(|&name| name.into()).collect(), None, values.to_vec()));
        }

        fn stacked_input(&mut self, weights: &[&str], expert: usize, values: &[f32]) {
            self.0.push((weights.iter().map(|&name| name.into()).collect(), Some(expert), values.to_vec()));
        }
    }

    #[test]
    fn layers_one_by_one_show_what_a_pass_shows() {
        for dir in ["archs/llama2", "archs/gemma2", "archs/phi3", "archs/llama3-scaled-tied", "archs/mixtral"] {
            let model = open(dir);
            let mut tree = Tree::new();
            tree.push(None, &[1, 40, 41, 42]);
            tree.push(None, &[5, 60, 61]);
            let mut expected = Inputs::default();
            model.observe(&mut tree.clone(), &mut expected).unwrap();
            let mut found = Inputs::default();
            let mut states = model.embedded(&tree).unwrap();
            for layer in 0..model.num_layers() {
                let unseen = model.run_layer(layer, &tree, &states, None).unwrap();
                states = model.run_layer(layer, &tree, &states, Some(&mut found)).unwrap();
                assert_eq!(states, unseen);
            }
            model.observe_head(&states, &mut found).unwrap();
            assert_eq!(found, expected, "{dir}");
            assert_eq!(tree.pending(), 7);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let model = open("archs/llama2");
        let mut tree = Tree::new();
        tree.push(None, &[1, 2, 3]);
        let states = model.embedded(&tree).unwrap();
        let run = |layer, states: &[f32]| model.run_layer(layer, &tree, states, None).unwrap_err().to_string();
        let last = model.num_layers() - 1;
        assert_eq!(run(last + 1, &states), format!("layer {} was to be run; there are 0 to {last}", last + 1));
        let (expected, width) = (states.len(), model.hidden_size());
        let says = |found| {
            format!(
                "residual streams hold {found} numbers, expected {expected}: a row of the hidden size for each pending token"
            )
        };
        assert_eq!(run(0, &states[width..]), says(expected - width));
        assert_eq!(run(0, &states[1..]), says(expected - 1));
        let mut wrong = Tree::new();
        wrong.push(None, &[1, 5000]);
        assert!(matches!(model.embedded(&wrong), Err(LmError::Token { token: 5000, .. })));
    }
}
