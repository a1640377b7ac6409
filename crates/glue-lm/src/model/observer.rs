//! What a pass computes on its way to the logits, for those who compare the units of models.

use super::attention_block::Projection;
use super::floats;
use super::inventory::stored_names;
use crate::tape::Tape;
use candle_core::{Result, Tensor};

/// Is shown activations while a pass runs; see [`crate::Model::observe`].
///
/// Values are row after row, a row for each pending token in the order of push and extend. A layer is counted from 0.
pub trait Observer {
    /// The residual stream, \[rows, hidden size\]: state 0 is the embedding (scaled where the family scales it), state
    /// i the stream after layer i counted from 1.
    fn residual(&mut self, _state: usize, _values: &[f32]) {}

    /// What goes into the output projection of attention, \[rows, query heads · head size\].
    fn attention_output(&mut self, _layer: usize, _values: &[f32]) {}

    /// What goes into the MLP, or into the gate and the experts in its place, \[rows, hidden size\].
    fn mlp_input(&mut self, _layer: usize, _values: &[f32]) {}

    /// What goes into the down projection of the MLP, \[rows, intermediate size\]. Not called for a layer with experts,
    /// which see different tokens each.
    fn neurons(&mut self, _layer: usize, _values: &[f32]) {}

    /// What is multiplied with the stored matrices `weights`, each [outputs, width], \[rows, width\]: one call for
    /// those that have the same input, in the order of the computation, the head last. Not called for an embedding that
    /// is the head too. Of experts, and of layers that gates choose among, with the rows that come there; without any
    /// there is no call.
    fn linear_input(&mut self, _weights: &[&str], _values: &[f32]) {}

    /// The same for matrix `expert` of the stored tensors `weights`, each [experts, outputs, width].
    fn stacked_input(&mut self, _weights: &[&str], _expert: usize, _values: &[f32]) {}
}

/// Looks at nothing.
pub(crate) struct Unobserved;

impl Observer for Unobserved {}

/// Which MLP of a layer is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunningMlp {
    /// The only one.
    Only,
    /// One of several, in tensors of its own.
    OneOfSeveral,
    /// The expert of this number, in tensors that hold all experts.
    Stacked(usize),
}

/// The layer that is running, its observer and its tape.
pub(super) struct LayerContext<'a> {
    /// Who is shown what is computed, if anybody.
    pub(super) observer: Option<&'a mut dyn Observer>,
    pub(super) layer: usize,
    /// Where the backward pass records gradients of weights.
    pub(super) tape: Option<&'a Tape>,
    mlp: RunningMlp,
}

impl<'a> LayerContext<'a> {
    pub(super) fn new(
        observer: Option<&'a mut dyn Observer>,
        layer: usize,
        tape: Option<&'a Tape>,
    ) -> LayerContext<'a> {
        LayerContext { observer, layer, tape, mlp: RunningMlp::Only }
    }

    /// The same layer while this MLP of it is running.
    pub(super) fn within(&mut self, mlp: RunningMlp) -> LayerContext<'_> {
        let observer = self.observer.as_mut().map(|observer| &mut **observer as &mut dyn Observer);
        LayerContext { observer, layer: self.layer, tape: self.tape, mlp }
    }

    /// Shows what is multiplied with these.
    pub(super) fn linear_input(&mut self, x: &Tensor, projections: &[&Projection]) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            let names = stored_names(projections);
            match self.mlp {
                RunningMlp::Stacked(expert) => observer.stacked_input(&names, expert, &floats(x)?),
                RunningMlp::Only | RunningMlp::OneOfSeveral => observer.linear_input(&names, &floats(x)?),
            }
        }
        Ok(())
    }

    /// Shows what is multiplied with the matrix called `name`.
    pub(super) fn named_input(&mut self, x: &Tensor, name: &str) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            observer.linear_input(&[name], &floats(x)?);
        }
        Ok(())
    }

    /// Shows what goes into the output projection.
    pub(super) fn attention_output(&mut self, x: &Tensor) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            observer.attention_output(self.layer, &floats(x)?);
        }
        Ok(())
    }

    /// Shows what goes into the MLP.
    pub(super) fn mlp_input(&mut self, x: &Tensor) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            observer.mlp_input(self.layer, &floats(x)?);
        }
        Ok(())
    }

    /// Shows what goes into the down projection.
    pub(super) fn neurons(&mut self, x: &Tensor) -> Result<()> {
        if let Some(observer) = self.observer.as_mut().filter(|_| self.mlp == RunningMlp::Only) {
            observer.neurons(self.layer, &floats(x)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, Tree, Want};
    use candle_core::Device;
    use std::path::Path;

    #[derive(Default)]
    struct All {
        residual: Vec<Vec<f32>>,
        attention: Vec<Vec<f32>>,
        mlp: Vec<Vec<f32>>,
        neurons: Vec<Vec<f32>>,
        linear: Vec<(Vec<String>, Vec<f32>)>,
    }

    fn keep(list: &mut Vec<Vec<f32>>, at: usize, values: &[f32]) {
        assert_eq!(list.len(), at, "in order, each once");
        list.push(values.to_vec());
    }

    impl Observer for All {
        fn residual(&mut self, state: usize, values: &[f32]) {
            keep(&mut self.residual, state, values);
        }

        fn attention_output(&mut self, layer: usize, values: &[f32]) {
            keep(&mut self.attention, layer, values);
        }

        fn mlp_input(&mut self, layer: usize, values: &[f32]) {
            keep(&mut self.mlp, layer, values);
        }

        fn neurons(&mut self, layer: usize, values: &[f32]) {
            keep(&mut self.neurons, layer, values);
        }

        fn linear_input(&mut self, weights: &[&str], values: &[f32]) {
            self.linear.push((weights.iter().map(|&name| name.to_owned()).collect(), values.to_vec()));
        }
    }

    /// Every input of a matrix is seen once by the names of the stored tensors, and is what the other ways to look say
    /// it is.
    fn check_inputs(dir: &str) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(dir);
        let model = Model::open(&dir).unwrap();
        let mut tree = Tree::new();
        tree.push(None, &[1, 30, 31, 32]);
        tree.push(None, &[5, 20, 21]);
        let last = model.num_layers() + 1;
        let output = model.forward(&mut tree.clone(), &Want { hidden: &[last], ..Want::NOTHING }).unwrap();
        let mut all = All::default();
        model.observe(&mut tree, &mut all).unwrap();
        let inputs = model.linear_inputs().unwrap();
        let seen: Vec<&[String]> = all.linear.iter().map(|(names, _)| &names[..]).collect();
        assert_eq!(seen, inputs.iter().map(|input| &input.weights[..]).collect::<Vec<_>>(), "{}", dir.display());
        for (input, (_, values)) in inputs.iter().zip(&all.linear) {
            assert_eq!(values.len(), 7 * input.width, "{input:?}");
        }
        for layer in 0..model.num_layers() {
            let of_layer = &all.linear[4 * layer..4 * layer + 4];
            for (place, values) in [(1, &all.attention[layer]), (2, &all.mlp[layer]), (3, &all.neurons[layer])] {
                assert_eq!(&of_layer[place].1, values, "layer {layer}, {:?}", of_layer[place].0);
            }
            // What queries are made of is normed before, or is the residual stream itself.
            let super::super::DecoderLayer::Plain(weights) = &model.layers[layer] else { panic!("one layer") };
            let stream = Tensor::from_slice(&all.residual[layer], (7, model.hidden_size()), &Device::Cpu).unwrap();
            let normed =
                weights.before_attention.as_ref().map_or(stream.clone(), |n| n.forward(&stream, None).unwrap());
            assert_eq!(of_layer[0].1, crate::ops::elements(&normed).unwrap());
        }
        if let Some((_, head)) = all.linear.get(4 * model.num_layers()) {
            assert_eq!(*head, crate::ops::elements(&output.hidden[0]).unwrap());
        }
    }

    #[test]
    fn inputs_of_matrices_are_seen_by_the_names_of_the_tensors() {
        for dir in ["zoo/base-a", "archs/phi3", "archs/gemma2", "archs/olmo2", "archs/llama3-scaled-tied"] {
            check_inputs(dir);
        }
        for name in ["cohere2", "glm4", "smollm3", "granite"] {
            check_inputs(&format!("archs-extra/{name}"));
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/archs/phi3");
        let inputs = Model::open(&dir).unwrap().linear_inputs().unwrap();
        assert_eq!(inputs[0].weights, ["model.layers.0.self_attn.qkv_proj.weight"]);
        assert_eq!(inputs[2].weights, ["model.layers.0.mlp.gate_up_proj.weight"]);
    }

    #[test]
    fn what_is_seen_makes_up_the_residual_stream() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo/base-a");
        let model = Model::open(&dir).unwrap();
        let tree = || {
            let mut tree = Tree::new();
            let first = tree.push(None, &[1, 40, 41, 42]);
            tree.push(Some(first), &[50, 51]);
            tree.push(None, &[1, 60, 61]);
            tree
        };
        let mut all = All::default();
        model.observe(&mut tree(), &mut all).unwrap();
        let states: Vec<usize> = (0..=model.num_layers()).collect();
        let output = model.forward(&mut tree(), &Want { hidden: &states, ..Want::NOTHING }).unwrap();
        for (seen, state) in all.residual.iter().zip(&output.hidden) {
            assert_eq!(*seen, state.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        assert_eq!((all.residual.len(), all.attention.len(), all.neurons.len()), (5, 4, 4));
        // A layer of a Llama adds two products to the stream.
        for (layer, weights) in model.layers.iter().enumerate() {
            let super::super::DecoderLayer::Plain(weights) = weights else { panic!("one layer") };
            let through = |projection: &super::super::attention_block::Projection, values: &[f32]| {
                let x = Tensor::from_slice(values, (9, values.len() / 9), &Device::Cpu).unwrap();
                projection.forward(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let super::super::layer::Attention::Heads(attention) = &weights.attention else { panic!("no heads") };
            let super::super::feed_forward::FeedForward::Dense(mlp) = &weights.mlp else { panic!("no experts") };
            let attended = through(&attention.o, &all.attention[layer]);
            let mapped = through(&mlp.down, &all.neurons[layer]);
            for (at, (before, after)) in all.residual[layer].iter().zip(&all.residual[layer + 1]).enumerate() {
                // Rounding of f32, of numbers that reach some tens.
                assert!((before + attended[at] + mapped[at] - after).abs() < 1e-4, "layer {layer}, {at}");
            }
        }
    }
}
