//! A mixture run with other gates than the stored ones: what gates read, the losses of answers, and gradients of gates.
//!
//! All other weights are constants, which no gradient reaches.

use crate::error::RouterError;
use crate::error::check_cancelled;
use crate::gate::{Gate, GateMath, matrix_of};
use crate::items::Encoded;
use crate::states::side_by_side;
use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Tensor, Var};
use glue_lm::{GateInfo, Model, Rows, StreamBefore, Tree, Want, batches};
use glue_mixture::{Gate as StoredGate, Pool, Routing};
use glue_progress::{Progress, Unit};
use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Tokens of one pass.
const ROWS: usize = 1024;

/// A mixture whose experts share embeddings, with its gates set from outside.
#[derive(Debug)]
pub struct Through<'a> {
    model: &'a Model,
    infos: Vec<GateInfo>,
}

/// The residual streams of prompts before the layer of the last gate that read them, from where the next gate reads on:
/// all gates together then cost about one pass through the layers, and not one from the embedding for each. They are in
/// a file without a name, so that memory does not grow with the prompts: 4 bytes for each token and unit of width.
#[derive(Debug)]
pub struct Streams {
    directory: PathBuf,
    file: File,
    /// The layer before which they stand; `None` where they do not.
    layer: Option<usize>,
}

impl Streams {
    /// Streams of no prompt yet, on the file system of `directory`, which exists.
    ///
    /// # Errors
    /// [`RouterError::Io`]
    pub fn new(directory: impl Into<PathBuf>) -> Result<Streams, RouterError> {
        let directory = directory.into();
        let file = tempfile::tempfile_in(&directory);
        let file = file.map_err(|error| RouterError::Io { path: directory.clone(), error })?;
        Ok(Streams { directory, file, layer: None })
    }

    fn read(&self, offset: usize, n: usize) -> Result<Vec<f32>, RouterError> {
        let mut values = vec![0.0f32; n];
        let bytes = bytemuck::cast_slice_mut(&mut values);
        self.file.read_exact_at(bytes, 4 * offset as u64).map_err(|error| self.failed(error))?;
        Ok(values)
    }

    fn write(&self, offset: usize, values: &[f32]) -> Result<(), RouterError> {
        self.file.write_all_at(bytemuck::cast_slice(values), 4 * offset as u64).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> RouterError {
        RouterError::Io { path: self.directory.clone(), error }
    }
}

/// What a batch of answers says of the gates.
#[derive(Debug, Clone, PartialEq)]
pub struct LmLoss {
    /// Negative natural logarithm of the probability of the answers, per token of them.
    pub cross_entropy: f64,
    /// Tokens of answers.
    pub tokens: usize,
    /// For each gate E·Σₑ fₑ·Pₑ, with fₑ the share of its choices that expert e got and Pₑ its mean probability: 1 when
    /// all get the same (Fedus, Zoph and Shazeer, *Switch Transformers*, arXiv 2101.03961, section 2.2).
    pub balance: Vec<f64>,
    /// For each gate fₑ.
    pub load: Vec<Vec<f64>>,
    /// For each gate how many choices it made: one for each expert of each token or sample.
    pub choices: Vec<f64>,
    /// For each gate that was asked for the gradient of cross-entropy + coefficient · mean balance.
    pub gradients: Vec<Gate>,
}

impl<'a> Through<'a> {
    /// # Errors
    /// [`RouterError::Unsupported`] for a model without gates.
    pub fn new(model: &'a Model) -> Result<Through<'a>, RouterError> {
        let infos = model.gates();
        if infos.is_empty() {
            let reason = "it is no mixture, or one without mixed layers".to_owned();
            return Err(RouterError::Unsupported { what: "training of gates".into(), reason });
        }
        Ok(Through { model, infos })
    }

    /// The gates there are.
    pub fn infos(&self) -> &[GateInfo] {
        &self.infos
    }

    /// The gates as they are stored.
    ///
    /// # Errors
    /// [`RouterError::Model`]
    pub fn stored(&self) -> Result<Vec<Gate>, RouterError> {
        self.model.gate_weights()?.iter().map(|gate| to_arrays(gate, |tensor| Ok(tensor.clone()))).collect()
    }

    /// What gate `gate` reads of each prompt when the mixture runs with these gates, [prompts, width]: pooled as the
    /// mixture does it where it routes by sample, else the mean over the tokens. Gates from `gate` on play no part in
    /// it.
    ///
    /// The prompts are read on from where `streams` has them, if it was filled for an earlier gate: they must be the
    /// same prompts, and gates from that one up to this one have their final weights now. It has them at the layer of
    /// this gate afterwards.
    ///
    /// # Errors
    /// [`RouterError::Stopped`], and those of the model and of the file of the streams.
    pub fn inputs(
        &self,
        prompts: &[&[u32]],
        gates: &[Gate],
        gate: usize,
        streams: &mut Streams,
        progress: &dyn Progress,
    ) -> Result<Array2<f32>, RouterError> {
        let width = self.model.hidden_size();
        let weights = gates.iter().map(constants).collect::<Result<Vec<_>, _>>()?;
        progress.begin(&format!("reading for gate {gate}"), Unit::Sequences, Some(prompts.len() as u64));
        let passes = batches(prompts.iter().map(|prompt| prompt.len()), ROWS);
        let layer = self.infos.get(gate).map(|info| info.layer);
        // Streams above this gate are of no use to it. While they are replaced, they are of none at all.
        let from = streams.layer.take().filter(|from| layer.is_some_and(|layer| *from <= layer));
        let file = &*streams;
        let first = prompts.iter().scan(0, |at, prompt| {
            *at += prompt.len();
            Some(*at - prompt.len())
        });
        let first: Vec<usize> = first.collect();
        let run = |batch: &Range<usize>| -> Result<(Vec<f32>, Option<usize>), RouterError> {
            check_cancelled(progress)?;
            let offset = first[batch.start] * width;
            let prompts = &prompts[batch.clone()];
            let tokens: usize = prompts.iter().map(|prompt| prompt.len()).sum();
            let mut tree = Tree::new();
            for prompt in prompts {
                tree.push(None, prompt);
            }
            let start = match from {
                Some(layer) => {
                    let states = Tensor::from_vec(file.read(offset, tokens * width)?, (tokens, width), &Device::Cpu)?;
                    Some(StreamBefore { layer, states })
                }
                None => None,
            };
            let (read, stream) = self.model.gate_inputs(&tree, &weights, gate, start.as_ref())?;
            let stands = stream.as_ref().map(|stream| stream.layer);
            if let Some(stream) = stream.filter(|stream| from != Some(stream.layer)) {
                file.write(offset, &stream.states.flatten_all()?.to_vec1::<f32>()?)?;
            }
            let values = read.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            progress.advance(prompts.len() as u64);
            if self.routing(gate) != Some(Routing::Token) {
                return Ok((values, stands));
            }
            let mut at = 0;
            let pooled = prompts.iter().flat_map(|prompt| {
                let rows = &values[at * width..(at + prompt.len()) * width];
                at += prompt.len();
                Pool::Mean.pooled(rows, width)
            });
            Ok((pooled.collect(), stands))
        };
        let read: Vec<(Vec<f32>, Option<usize>)> = match side_by_side(width, self.model.num_layers()) {
            true => passes.par_iter().map(run).collect::<Result<_, _>>()?,
            false => passes.iter().map(run).collect::<Result<_, _>>()?,
        };
        // The gate of all passes is the same, and so is where they stand.
        streams.layer = read.first().and_then(|(_, stands)| *stands);
        let rows: Vec<f32> = read.into_iter().flat_map(|(rows, _)| rows).collect();
        let found = rows.len();
        Array2::from_shape_vec((prompts.len(), width), rows).map_err(|_| RouterError::Mismatch {
            what: format!("elements that gate {gate} read"),
            expected: prompts.len() * width,
            found,
        })
    }

    fn routing(&self, gate: usize) -> Option<Routing> {
        self.infos.get(gate).map(|info| info.routing)
    }

    /// The loss of each item's answer in nats, summed over its tokens, with these gates; 0 without an answer.
    ///
    /// # Errors
    /// [`RouterError::Stopped`], and those of the model.
    pub fn losses(&self, items: &[Encoded], gates: &[Gate], progress: &dyn Progress) -> Result<Vec<f64>, RouterError> {
        let weights = gates.iter().map(constants).collect::<Result<Vec<_>, _>>()?;
        let mut losses = Vec::with_capacity(items.len());
        progress.begin("scoring answers", Unit::Sequences, Some(items.len() as u64));
        for batch in batches(items.iter().map(|item| item.prompt.len() + item.answer.len()), ROWS) {
            check_cancelled(progress)?;
            let items: Vec<&Encoded> = items[batch].iter().collect();
            let (_, of_tokens) = self.answers(&items, &weights)?;
            let of_tokens = of_tokens.to_vec1::<f32>()?;
            let mut at = 0;
            for item in &items {
                let tokens = &of_tokens[at..at + item.answer.len()];
                losses.push(tokens.iter().map(|&loss| f64::from(loss)).sum());
                at += tokens.len();
            }
            progress.advance(items.len() as u64);
        }
        Ok(losses)
    }

    /// For each gate the share of its choices that each expert gets from items that all have an answer, as
    /// [`LmLoss::load`] says it of a batch. Passes are bounded, however many items there are.
    ///
    /// # Errors
    /// Those of the model.
    pub fn load(&self, gates: &[Gate], items: &[&Encoded]) -> Result<Vec<Vec<f64>>, RouterError> {
        Ok(self.counted(ROWS, gates, items)?.0)
    }

    /// The loss of each answer by each expert alone, [items, experts].
    ///
    /// # Errors
    /// As [`Through::losses`].
    pub fn losses_of_experts(&self, items: &[Encoded], progress: &dyn Progress) -> Result<Array2<f64>, RouterError> {
        let experts = self.infos.first().map_or(0, |info| info.experts);
        let mut all = Array2::zeros((items.len(), experts));
        for (expert, mut column) in all.axis_iter_mut(Axis(1)).enumerate() {
            column.assign(&Array1::from_vec(self.losses(items, &self.only(expert), progress)?));
        }
        Ok(all)
    }

    /// Gates that choose one expert whatever they read: in `f32` no other one has a probability above zero.
    fn only(&self, expert: usize) -> Vec<Gate> {
        let one = |info: &GateInfo| {
            let mut bias = Array1::zeros(info.experts);
            bias[expert.min(info.experts.saturating_sub(1))] = 200.0;
            Gate::Linear { weight: Array2::zeros((info.experts, self.model.hidden_size())), bias: Some(bias) }
        };
        self.infos.iter().map(one).collect()
    }

    /// Output of the pass over items, and the loss of each token of their answers, [tokens].
    fn answers(
        &self,
        items: &[&Encoded],
        gates: &[StoredGate<Tensor>],
    ) -> Result<(glue_lm::Output, Tensor), RouterError> {
        let mut tree = Tree::new();
        let (mut wanted, mut targets): (Vec<_>, Vec<u32>) = (Vec::new(), Vec::new());
        for item in items {
            let prompt = tree.push(None, &item.prompt);
            let Some((_, before_last)) = item.answer.split_last() else { continue };
            wanted.push((prompt, item.prompt.len() - 1));
            if !before_last.is_empty() {
                let answer = tree.push(Some(prompt), before_last);
                wanted.extend((0..before_last.len()).map(|index| (answer, index)));
            }
            targets.extend(&item.answer);
        }
        let output = self.model.forward_train(&tree, &Want { logits: Rows::Some(&wanted), hidden: &[] }, gates)?;
        if targets.is_empty() {
            return Ok((output, Tensor::zeros(0, DType::F32, &Device::Cpu)?));
        }
        let n = targets.len();
        let logs = log_softmax(&output.logits)?;
        let targets = Tensor::from_vec(targets, (n, 1), &Device::Cpu)?;
        let losses = logs.gather(&targets, D::Minus1)?.squeeze(1)?.neg()?;
        Ok((output, losses))
    }

    /// Cross-entropy and balance of the answers to `items` with these gates, and gradients of the gates whose numbers
    /// `trained` has, with the weight `balance` on the mean over gates of the balance. Where every item has an answer,
    /// passes are bounded, however many items there are: the figures of several passes are combined into those of one
    /// over all items, up to rounding.
    ///
    /// # Errors
    /// [`RouterError::TooFewItems`] when no item has an answer, [`RouterError::NoGradient`] for a gate that the loss
    /// does not depend on, and those of the model.
    pub fn lm_loss(
        &self,
        gates: &[Gate],
        items: &[&Encoded],
        balance: f64,
        trained: &[usize],
    ) -> Result<LmLoss, RouterError> {
        self.lm_loss_in(ROWS, gates, items, balance, trained)
    }

    /// The same in passes of at most so many tokens.
    fn lm_loss_in(
        &self,
        rows: usize,
        gates: &[Gate],
        items: &[&Encoded],
        balance: f64,
        trained: &[usize],
    ) -> Result<LmLoss, RouterError> {
        let tokens: usize = items.iter().map(|item| item.answer.len()).sum();
        if tokens == 0 {
            return Err(RouterError::TooFewItems { purpose: "with an answer", expected: 1, found: 0 });
        }
        let parts = batches(items.iter().map(|item| item.prompt.len() + item.answer.len()), rows);
        // A pass without an answer has no decisions of the last gate.
        if parts.len() == 1 || items.iter().any(|item| item.answer.is_empty()) {
            return self.pass(gates, items, balance, trained, None);
        }
        // The balance is no sum over items: the shares that experts get of all of them come first.
        let (load, choices) = self.counted(rows, gates, items)?;
        let whole = Whole { tokens, load: &load, choices: &choices };
        let mut found = LmLoss {
            cross_entropy: 0.0,
            tokens,
            balance: vec![0.0; load.len()],
            load: load.clone(),
            choices: choices.clone(),
            gradients: Vec::new(),
        };
        let mut gradients: Vec<Vec<f64>> = Vec::new();
        for part in parts {
            let part = self.pass(gates, &items[part], balance, trained, Some(&whole))?;
            found.cross_entropy += part.cross_entropy;
            found.balance.iter_mut().zip(&part.balance).for_each(|(sum, term)| *sum += term);
            let flat = part.gradients.iter().map(GateMath::flat);
            if gradients.is_empty() {
                gradients = flat.collect();
                found.gradients = part.gradients;
            } else {
                let sums = gradients.iter_mut().zip(flat);
                sums.for_each(|(sum, part)| sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x));
            }
        }
        found.gradients.iter_mut().zip(&gradients).for_each(|(gate, sum)| *gate = gate.with_flat(sum));
        Ok(found)
    }

    /// One pass over items. With `whole`, what it adds to the figures of all items.
    fn pass(
        &self,
        gates: &[Gate],
        items: &[&Encoded],
        balance: f64,
        trained: &[usize],
        whole: Option<&Whole<'_>>,
    ) -> Result<LmLoss, RouterError> {
        let mut weights = gates.iter().map(constants).collect::<Result<Vec<_>, _>>()?;
        let mut variables: Vec<StoredGate<Var>> = Vec::with_capacity(trained.len());
        for &gate in trained {
            let Some(weights) = weights.get_mut(gate) else {
                return Err(RouterError::Mismatch { what: format!("gate {gate}"), expected: gates.len(), found: gate });
            };
            let variable = |_, tensor: &Tensor| Var::from_tensor(tensor);
            let own = weights.try_map(variable, variable)?;
            let tensor = |variable: &Var| variable.as_tensor().clone();
            *weights = own.map(tensor, tensor);
            variables.push(own);
        }
        let (output, losses) = self.answers(items, &weights)?;
        let tokens = losses.elem_count();
        let cross_entropy = match whole {
            None => losses.mean_all()?,
            Some(whole) => (losses.sum_all()? / whole.tokens as f64)?,
        };
        let mut total = cross_entropy.clone();
        let mut found = LmLoss {
            cross_entropy: f64::from(cross_entropy.to_scalar::<f32>()?),
            tokens,
            balance: Vec::new(),
            load: Vec::new(),
            choices: Vec::new(),
            gradients: Vec::new(),
        };
        let mut outputs: Vec<&glue_lm::GateOutput> = output.routing.iter().collect();
        outputs.sort_by_key(|output| output.gate);
        for (gate, output) in outputs.iter().enumerate() {
            let experts = output.scores.dim(1)?;
            let mut counts = vec![0.0f64; experts];
            output.chosen.iter().flatten().for_each(|&expert| counts[expert] += 1.0);
            let choices = counts.iter().sum::<f64>();
            let load: Vec<f64> = match whole {
                None => counts.iter().map(|count| count / choices.max(1.0)).collect(),
                Some(whole) => whole.load[gate].clone(),
            };
            let shares: Vec<f32> = load.iter().map(|&share| share as f32).collect();
            let shares = Tensor::from_vec(shares, experts, &Device::Cpu)?;
            let mean = log_softmax(&output.scores)?.exp()?.mean(0)?;
            let mut term = ((mean * shares)?.sum_all()? * experts as f64)?;
            if let Some(whole) = whole {
                term = (term * (choices / whole.choices[gate].max(1.0)))?;
            }
            found.balance.push(f64::from(term.to_scalar::<f32>()?));
            found.load.push(load);
            found.choices.push(choices);
            total = (total + (term * (balance / outputs.len() as f64))?)?;
        }
        if !trained.is_empty() {
            let slopes = total.backward()?;
            for (&gate, variables) in trained.iter().zip(&variables) {
                let name = self.infos.get(gate).map_or("", |info| info.name.as_str());
                found.gradients.push(to_arrays(variables, |variable| slope_of(&slopes, variable, name))?);
            }
        }
        Ok(found)
    }

    /// For each gate the share of its choices that each expert gets, and how many choices it makes.
    fn counted(
        &self,
        rows: usize,
        gates: &[Gate],
        items: &[&Encoded],
    ) -> Result<(Vec<Vec<f64>>, Vec<f64>), RouterError> {
        let mut counts: Vec<Vec<f64>> = self.infos.iter().map(|info| vec![0.0; info.experts]).collect();
        for batch in batches(items.iter().map(|item| item.prompt.len() + item.answer.len()), rows) {
            let found = self.pass(gates, &items[batch], 0.0, &[], None)?;
            for (counts, (load, choices)) in counts.iter_mut().zip(found.load.iter().zip(&found.choices)) {
                counts.iter_mut().zip(load).for_each(|(count, share)| *count += (share * choices).round());
            }
        }
        let choices: Vec<f64> = counts.iter().map(|counts| counts.iter().sum()).collect();
        for (counts, choices) in counts.iter_mut().zip(&choices) {
            counts.iter_mut().for_each(|count| *count /= choices.max(1.0));
        }
        Ok((counts, choices))
    }
}

/// What is known of all items while one of several passes over them is run.
struct Whole<'a> {
    /// Tokens of answers.
    tokens: usize,
    /// For each gate the share of its choices that each expert gets.
    load: &'a [Vec<f64>],
    /// For each gate how many choices it makes.
    choices: &'a [f64],
}

/// The gradient of a tensor of the gate `gate`.
fn slope_of(slopes: &GradStore, variable: &Var, gate: &str) -> Result<Tensor, RouterError> {
    slopes.get(variable.as_tensor()).cloned().ok_or_else(|| {
        let gate = gate.trim_end_matches('.').to_owned();
        RouterError::NoGradient { gate, reason: "the loss does not depend on it".into() }
    })
}

/// log softmax over the last extent, of operations that have gradients.
fn log_softmax(scores: &Tensor) -> candle_core::Result<Tensor> {
    // The largest is a constant: it cancels, and so does its gradient.
    let shifted = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// Constants with the values of a gate.
fn constants(gate: &Gate) -> Result<StoredGate<Tensor>, RouterError> {
    let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
    Ok(gate.try_map(
        |_, matrix| tensor(matrix.iter().map(|&x| x as f32).collect(), matrix.shape()),
        |_, vector| tensor(vector.iter().map(|&x| x as f32).collect(), vector.shape()),
    )?)
}

/// The values of a gate of the runtime, made by `values` of each of its tensors.
fn to_arrays<T>(gate: &StoredGate<T>, values: impl Fn(&T) -> Result<Tensor, RouterError>) -> Result<Gate, RouterError> {
    let wide = |tensor: &Tensor| -> Result<Vec<f64>, RouterError> {
        Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    };
    gate.try_map(
        |name, matrix| {
            let matrix = values(matrix)?;
            let (rows, columns) = matrix.dims2()?;
            matrix_of(name, wide(&matrix)?, rows, columns)
        },
        |_, vector| Ok(Array1::from_vec(wide(&values(vector)?)?)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use glue_progress::{CancelToken, NoProgress};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn several_passes_give_the_loss_and_the_gradients_of_one() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/archs/mixtral");
        let model = Model::open(directory).unwrap();
        let through = Through::new(&model).unwrap();
        let gates = through.stored().unwrap();
        let tokens = |from: u32, n: u32| (from..from + n).map(|token| token * 7 % 99).collect::<Vec<u32>>();
        let item = |i: u32| Encoded { prompt: tokens(i, 3 + i % 4), answer: tokens(40 + 3 * i, 1 + i % 3) };
        let items: Vec<Encoded> = (0..12).map(item).collect();
        let items: Vec<&Encoded> = items.iter().collect();
        let trained: Vec<usize> = (0..gates.len()).collect();
        let one = through.lm_loss_in(usize::MAX, &gates, &items, 0.5, &trained).unwrap();
        for rows in [1, 15, 40] {
            let several = through.lm_loss_in(rows, &gates, &items, 0.5, &trained).unwrap();
            // Sums of f32 in another order.
            let close = |a: f64, b: f64| (a - b).abs() < 1e-5;
            assert!(close(several.cross_entropy, one.cross_entropy), "{rows}");
            assert!(several.balance.iter().zip(&one.balance).all(|(a, b)| close(*a, *b)), "{rows}");
            assert_eq!((&several.load, &several.choices, several.tokens), (&one.load, &one.choices, one.tokens));
            let flat = |loss: &LmLoss| loss.gradients.iter().flat_map(GateMath::flat).collect::<Vec<f64>>();
            let (several, one) = (flat(&several), flat(&one));
            assert!(several.iter().zip(&one).all(|(a, b)| close(*a, *b)), "{rows}");
            assert!(several.len() == one.len() && one.iter().any(|slope| slope.abs() > 1e-3));
        }
        let load = through.load(&gates, &items).unwrap();
        assert_eq!(load, one.load);
    }

    #[test]
    fn gates_read_the_same_from_the_layer_of_an_earlier_one() {
        let root = tempfile::tempdir().unwrap();
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/archs/mixtral");
        let model = Model::open(directory).unwrap();
        let through = Through::new(&model).unwrap();
        let mut gates = through.stored().unwrap();
        assert!(gates.len() > 1);
        // More than one pass.
        let prompts: Vec<Vec<u32>> = (0..300).map(|i| (0..5 + i % 9).map(|j| (i * 7 + j * 3) % 99).collect()).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let streams = || Streams::new(root.path()).unwrap();
        let mut carried = streams();
        for gate in 0..gates.len() {
            let from_embedding = through.inputs(&prompts, &gates, gate, &mut streams(), &NoProgress).unwrap();
            let read = through.inputs(&prompts, &gates, gate, &mut carried, &NoProgress).unwrap();
            assert_eq!(read, from_embedding, "gate {gate}");
            assert_eq!(carried.layer, Some(through.infos()[gate].layer));
            // Training changes a gate, and with it what the next one reads.
            gates[gate] = gates[gate].with_flat(&gates[gate].flat().iter().map(|x| -3.0 * x).collect::<Vec<f64>>());
        }
        // A gate below where they stand is read from the embedding.
        let again = through.inputs(&prompts, &gates, 0, &mut carried, &NoProgress).unwrap();
        assert_eq!(again, through.inputs(&prompts, &gates, 0, &mut streams(), &NoProgress).unwrap());
        // What was interrupted is not read on from.
        let stop = CancelToken::from_flag(Arc::new(AtomicBool::new(true)));
        assert!(through.inputs(&prompts, &gates, 1, &mut carried, &stop).is_err());
        assert_eq!(carried.layer, None);
        let last = through.inputs(&prompts, &gates, 1, &mut carried, &NoProgress).unwrap();
        assert_eq!(last, through.inputs(&prompts, &gates, 1, &mut streams(), &NoProgress).unwrap());
    }

    #[test]
    fn a_gate_that_the_loss_does_not_depend_on_is_named() {
        let var = |x: f32| Var::new(&[x, 2.0 * x], &Device::Cpu).unwrap();
        let (used, idle) = (var(1.0), var(3.0));
        let slopes = used.as_tensor().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let slope = slope_of(&slopes, &used, "model.layers.0.mlp.gate.").unwrap();
        assert_eq!(slope.to_vec1::<f32>().unwrap(), [2.0, 4.0]);
        let error = slope_of(&slopes, &idle, "model.layers.3.mlp.gate.").unwrap_err();
        assert_eq!(
            error.to_string(),
            "gate `model.layers.3.mlp.gate` cannot be trained by this loss: the loss does not depend on it"
        );
    }
}
