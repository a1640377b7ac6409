//! What gates read: states of the tokens of prompts at sites of a model, and pools of them.

use crate::error::RouterError;
use crate::error::check_cancelled;
use glue_lm::{Model, Observer, Tree, batches};
use glue_mixture::Pool;
use glue_progress::{Progress, Unit};
use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// Where in a decoder a gate can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidualSite {
    /// The residual stream: 0 is the embedding, l what leaves the l-th layer counted from 1 and enters layer l counted
    /// from 0, and the number of layers plus 1 the state after the final norm.
    Residual(usize),
    /// What the MLP of layer l, counted from 0, reads: the stream after attention and the norm before the MLP.
    MlpInput(usize),
}

/// Something that computes states of tokens.
pub trait TokenStates: Sync {
    /// Width of a state.
    fn width(&self) -> usize;

    /// Number of layers.
    fn layers(&self) -> usize;

    /// For each site the states of all tokens, [tokens of all sequences, width], one sequence after the other. Each
    /// sequence stands alone, from position 0; none is empty.
    ///
    /// # Errors
    /// [`RouterError`], such as for a site that the model does not have.
    fn states(&self, sequences: &[&[u32]], sites: &[ResidualSite]) -> Result<Vec<Vec<f32>>, RouterError>;
}

/// A dense model whose states are read.
#[derive(Debug)]
pub struct DenseStates {
    model: Model,
}

impl DenseStates {
    /// Opens a model directory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<DenseStates, RouterError> {
        Ok(DenseStates::new(Model::open(directory)?))
    }

    /// Takes a model.
    pub fn new(model: Model) -> DenseStates {
        DenseStates { model }
    }

    /// The model itself.
    pub fn model(&self) -> &Model {
        &self.model
    }
}

/// A tree of sequences that share nothing.
fn tree(sequences: &[&[u32]]) -> Tree {
    let mut tree = Tree::new();
    for sequence in sequences {
        tree.push(None, sequence);
    }
    tree
}

/// Keeps what the MLPs of some layers read.
struct MlpInputs<'a> {
    layers: &'a [usize],
    found: Vec<Vec<f32>>,
}

impl Observer for MlpInputs<'_> {
    fn mlp_input(&mut self, layer: usize, values: &[f32]) {
        for (wanted, found) in self.layers.iter().zip(&mut self.found) {
            if *wanted == layer {
                *found = values.to_vec();
            }
        }
    }
}

impl TokenStates for DenseStates {
    fn width(&self) -> usize {
        self.model.hidden_size()
    }

    fn layers(&self) -> usize {
        self.model.num_layers()
    }

    fn states(&self, sequences: &[&[u32]], sites: &[ResidualSite]) -> Result<Vec<Vec<f32>>, RouterError> {
        let (mut streams, mut mlps) = (Vec::new(), Vec::new());
        for site in sites {
            match site {
                ResidualSite::Residual(index) => streams.push(*index),
                ResidualSite::MlpInput(layer) if *layer < self.layers() => mlps.push(*layer),
                ResidualSite::MlpInput(layer) => {
                    let reason = format!("the model has {} layers, counted from 0", self.layers());
                    return Err(RouterError::Unsupported { what: format!("the MLP of layer {layer}"), reason });
                }
            }
        }
        let mut of_streams = Vec::new();
        if !streams.is_empty() {
            for tensor in &self.model.hidden_states(&tree(sequences), &streams)? {
                of_streams.push(tensor.flatten_all()?.to_vec1::<f32>()?);
            }
        }
        let mut of_mlps = MlpInputs { layers: &mlps, found: vec![Vec::new(); mlps.len()] };
        if !mlps.is_empty() {
            self.model.observe(&mut tree(sequences), &mut of_mlps)?;
        }
        let (mut of_streams, mut of_mlps) = (of_streams.into_iter(), of_mlps.found.into_iter());
        let one = |site: &ResidualSite| match site {
            ResidualSite::Residual(_) => of_streams.next().unwrap_or_default(),
            ResidualSite::MlpInput(_) => of_mlps.next().unwrap_or_default(),
        };
        Ok(sites.iter().map(one).collect())
    }
}

/// Tokens of one pass: more gain little, and fewer leave threads without work.
const ROWS: usize = 1024;

/// Whether passes through a model of this width and depth run side by side, a thread each; those of larger models share
/// the threads.
pub(crate) fn side_by_side(width: usize, layers: usize) -> bool {
    width * layers <= 1 << 15
}

/// Sequences that are different, in passes of at most [`ROWS`] tokens, and for each sequence which of those it is.
struct Batches<'a> {
    distinct: Vec<&'a [u32]>,
    number_of: Vec<usize>,
    passes: Vec<std::ops::Range<usize>>,
}

impl<'a> Batches<'a> {
    fn new(sequences: &'a [Vec<u32>]) -> Batches<'a> {
        let mut numbers: HashMap<&[u32], usize> = HashMap::with_capacity(sequences.len());
        let mut distinct: Vec<&[u32]> = Vec::new();
        let mut number_of = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let next = distinct.len();
            let number = *numbers.entry(sequence).or_insert(next);
            if number == next {
                distinct.push(sequence);
            }
            number_of.push(number);
        }
        let passes = batches(distinct.iter().map(|sequence| sequence.len()), ROWS);
        Batches { distinct, number_of, passes }
    }
}

/// The pooled states of each sequence: for each site [sequences, width]. Sums are kept in `f64`. There is no padding: a
/// pool is one of the sequence's own tokens.
///
/// # Errors
/// [`RouterError::EmptyPrompt`], [`RouterError::Stopped`], and those of `model`.
pub fn pooled_states(
    model: &dyn TokenStates,
    sequences: &[Vec<u32>],
    sites: &[ResidualSite],
    pool: Pool,
    progress: &dyn Progress,
) -> Result<Vec<Array2<f32>>, RouterError> {
    if let Some(index) = sequences.iter().position(Vec::is_empty) {
        return Err(RouterError::EmptyPrompt { prompt: format!("number {index}") });
    }
    let width = model.width();
    let batches = Batches::new(sequences);
    progress.begin("reading states", Unit::Sequences, Some(batches.distinct.len() as u64));
    let run = |range: &std::ops::Range<usize>| -> Result<Vec<Vec<f32>>, RouterError> {
        check_cancelled(progress)?;
        let sequences = &batches.distinct[range.clone()];
        let states = model.states(sequences, sites)?;
        let pooled = states.iter().map(|states| {
            let mut at = 0;
            let one = |sequence: &&[u32]| {
                let rows = &states[at..at + sequence.len() * width];
                at += rows.len();
                pool.pooled(rows, width)
            };
            sequences.iter().flat_map(one).collect()
        });
        let pooled = pooled.collect();
        progress.advance(sequences.len() as u64);
        Ok(pooled)
    };
    let done: Vec<Vec<Vec<f32>>> = if side_by_side(width, model.layers()) {
        batches.passes.par_iter().map(run).collect::<Result<_, _>>()?
    } else {
        batches.passes.iter().map(run).collect::<Result<_, _>>()?
    };
    let of_site = |site: usize| {
        let rows: Vec<f32> = done.iter().flat_map(|run| &run[site]).copied().collect();
        Array2::from_shape_fn((sequences.len(), width), |(i, j)| rows[batches.number_of[i] * width + j])
    };
    Ok((0..sites.len()).map(of_site).collect())
}
