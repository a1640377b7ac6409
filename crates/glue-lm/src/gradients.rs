//! Gradients of the log-likelihoods of sequences with respect to every stored weight of a dense model, sequence by
//! sequence.
//!
//! A batch of sequences is one forward pass and one backward pass. Sequences share no row of it, so that the rows of
//! one make up its gradient: that of a matrix is Σ δᵀ·x over them, with inputs x and the gradients δ of what the matrix
//! makes of them. [`Gradients`] keeps these factors and gives any rows of any gradient when asked. That of a tensor
//! that is used twice, as embedding and as head, is the sum.

use crate::error::LmError;
use crate::model::{Model, Observer, Unobserved, floats};
use crate::score::{RowSums, row_sums};
use crate::tape::{Entry, Factors, Tape};
use crate::tree::Tree;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result as CandleResult, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use std::collections::HashMap;
use std::ops::Range;

/// A sequence and which of its tokens are predicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoredTokens<'a> {
    /// All tokens, two or more. The last one is only predicted: the model never reads it.
    pub tokens: &'a [u32],
    /// Those whose log-probabilities make up the log-likelihood; from 1 on, and not empty.
    pub scored: Range<usize>,
}

/// Gradients of the log-likelihoods of some sequences, in natural logarithms. See [`Model::gradients`].
#[derive(Debug, Clone)]
pub struct Gradients {
    /// The log-likelihood of each sequence.
    pub log_likelihoods: Vec<f64>,
    entries: Vec<Entry>,
    /// Numbers of the entries of each tensor.
    of: HashMap<String, Vec<usize>>,
    /// Rows of each sequence in the pass.
    rows: Vec<Range<usize>>,
    /// Rows of each sequence among those that the head was given.
    predicting: Vec<Range<usize>>,
    head: String,
}

impl Gradients {
    /// Adds to `out` the gradient of sequence `sequence` with respect to the rows `rows` of the stored tensor `name`. A
    /// vector has rows of one element. False when nothing was added, because the gradient is zero there or there is no
    /// such tensor.
    ///
    /// # Panics
    /// When there are fewer sequences, or `out` does not hold as many elements as these rows have.
    pub fn add_rows(&self, name: &str, sequence: usize, rows: Range<usize>, out: &mut [f32]) -> bool {
        self.add_passed(name, (&self.rows[sequence], &self.predicting[sequence]), rows, out)
    }

    /// As [`add_rows`](Self::add_rows), for the sum over all sequences.
    ///
    /// # Panics
    /// When `out` does not hold as many elements as these rows have.
    pub fn add_rows_of_all(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> bool {
        let all = |ranges: &[Range<usize>]| 0..ranges.last().map_or(0, |last| last.end);
        self.add_passed(name, (&all(&self.rows), &all(&self.predicting)), rows, out)
    }

    /// Adds what comes of some rows of the pass, and of some of those that the head was given.
    fn add_passed(
        &self,
        name: &str,
        (pass, predicting): (&Range<usize>, &Range<usize>),
        rows: Range<usize>,
        out: &mut [f32],
    ) -> bool {
        let mut added = false;
        for &number in self.of.get(name).map_or(&[][..], Vec::as_slice) {
            let entry = &self.entries[number];
            let of_head = matches!(&entry.factors, Factors::Product { .. }) && entry.name == self.head;
            let pass = if of_head { predicting.clone() } else { pass.clone() };
            added |= add_entry(entry, pass, &rows, out);
        }
        added
    }
}

/// Adds what `entry` gives over the rows `pass` of a pass to the rows `rows` of its tensor.
fn add_entry(entry: &Entry, pass: Range<usize>, rows: &Range<usize>, out: &mut [f32]) -> bool {
    let length = match &entry.factors {
        Factors::Product { out, .. } => *out,
        Factors::Sum { width, .. } => *width,
        Factors::Lookup { .. } => usize::MAX,
    };
    // What these rows and those of the entry have in common.
    let common = rows.start.max(entry.first_row)..rows.end.min(entry.first_row.saturating_add(length));
    if common.is_empty() {
        return false;
    }
    match &entry.factors {
        Factors::Product { inputs, deltas, width, out: n } => {
            let deltas = MatRef::from_row_major_slice(&deltas[pass.start * n..pass.end * n], pass.len(), *n);
            let deltas = deltas.subcols(common.start - entry.first_row, common.len());
            let inputs = &inputs[pass.start * width..pass.end * width];
            let inputs = MatRef::from_row_major_slice(inputs, pass.len(), *width);
            let out = &mut out[(common.start - rows.start) * width..(common.end - rows.start) * width];
            let out = MatMut::from_row_major_slice_mut(out, common.len(), *width);
            matmul(out, Accum::Add, deltas.transpose(), inputs, 1.0, Par::Seq);
        }
        Factors::Sum { terms, width } => {
            let out = &mut out[common.start - rows.start..common.end - rows.start];
            for row in pass {
                let terms = &terms[row * width..][..*width][common.start - entry.first_row..][..common.len()];
                out.iter_mut().zip(terms).for_each(|(out, term)| *out += term);
            }
        }
        Factors::Lookup { tokens, deltas, width } => {
            let mut found = false;
            for row in pass {
                let token = tokens[row] as usize;
                if common.contains(&token) {
                    let out = &mut out[(token - rows.start) * width..][..*width];
                    out.iter_mut().zip(&deltas[row * width..]).for_each(|(out, delta)| *out += delta);
                    found = true;
                }
            }
            return found;
        }
    }
    true
}

impl Model {
    /// The log-likelihood of each sequence, Σ log p(token | all before it) over the tokens that are scored, and its
    /// gradient with respect to every tensor of [`Model::parameters`]. `observer` is shown what it is by
    /// [`Model::observe`].
    ///
    /// Memory: all activations of the pass and about as much again.
    ///
    /// # Errors
    /// [`LmError::NotDense`] for a mixture, [`LmError::LatentKeys`] for multi-head latent attention;
    /// [`LmError::Request`] for a sequence without scored tokens or with such
    /// outside of it, [`LmError::TooLong`], [`LmError::Token`]: before anything is computed.
    pub fn gradients(&self, sequences: &[ScoredTokens<'_>], observer: &mut dyn Observer) -> Result<Gradients, LmError> {
        self.recorded(sequences, &|log_likelihoods| vec![1.0; log_likelihoods.len()], observer)
    }

    /// As [`Model::gradients`] with the gradient of each sequence multiplied by a factor: the sum over sequences is the
    /// gradient of any function of the log-likelihoods, whose partial derivatives `slopes` gives, one for each
    /// sequence.
    ///
    /// # Errors
    /// Those of [`Model::gradients`].
    pub fn gradients_through(
        &self,
        sequences: &[ScoredTokens<'_>],
        slopes: &dyn Fn(&[f64]) -> Vec<f64>,
    ) -> Result<Gradients, LmError> {
        self.recorded(sequences, slopes, &mut Unobserved)
    }

    fn recorded(
        &self,
        sequences: &[ScoredTokens<'_>],
        slopes: &dyn Fn(&[f64]) -> Vec<f64>,
        observer: &mut dyn Observer,
    ) -> Result<Gradients, LmError> {
        self.refuse_mixture("gradients of weights")?;
        let mut tree = Tree::new();
        let (mut rows, mut predicting) = (Vec::new(), Vec::new());
        let (mut logit_rows, mut targets): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        let mut n_rows = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let read = self.check_sequence(index, sequence)?;
            tree.push(None, read);
            rows.push(n_rows..n_rows + read.len());
            let first = logit_rows.len();
            // The row before a token predicts it.
            logit_rows.extend(sequence.scored.clone().map(|token| (n_rows + token - 1) as u32));
            targets.extend(&sequence.tokens[sequence.scored.clone()]);
            predicting.push(first..logit_rows.len());
            n_rows += read.len();
        }
        let head = self.head_name().to_owned();
        if sequences.is_empty() {
            let (log_likelihoods, entries) = (Vec::new(), Vec::new());
            return Ok(Gradients { log_likelihoods, entries, of: HashMap::new(), rows, predicting, head });
        }

        let tape = Tape::default();
        let states = self.run_recorded(&mut tree, &tape, observer)?;
        let states = states.index_select(&Tensor::from_slice(&logit_rows, logit_rows.len(), &Device::Cpu)?, 0)?;
        let logits = self.logits_recorded(&states, Some(&tape))?;
        let (logprobs, mut deltas) = log_likelihood(&logits, &targets)?;
        let sum = |rows: &Range<usize>| logprobs[rows.clone()].iter().sum();
        let log_likelihoods: Vec<f64> = predicting.iter().map(sum).collect();
        let width = deltas.len() / targets.len().max(1);
        for (rows, slope) in predicting.iter().zip(slopes(&log_likelihoods)) {
            deltas[rows.start * width..rows.end * width].iter_mut().for_each(|delta| *delta *= slope as f32);
        }
        let deltas = Tensor::from_vec(deltas, logits.shape(), &Device::Cpu)?;

        let grads = logits.apply_op1(GivenGradient(deltas))?.backward()?;
        let leaf = tape.leaf().and_then(|leaf| grads.get(leaf.as_tensor()).cloned());
        if let Some(grad) = leaf {
            let scale = self.architecture().embedding_scale;
            let mut deltas = crate::ops::elements(&grad)?;
            deltas.iter_mut().for_each(|delta| *delta *= scale);
            let tokens = sequences.iter().flat_map(|sequence| &sequence.tokens[..sequence.tokens.len() - 1]);
            tape.lookup(self.embedding_name(), tokens.copied().collect(), deltas, self.hidden_size());
        }
        drop(grads);
        let entries = tape.into_entries();
        let mut of: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, entry) in entries.iter().enumerate() {
            of.entry(entry.name.clone()).or_default().push(number);
        }
        Ok(Gradients { log_likelihoods, entries, of, rows, predicting, head })
    }

    /// The tokens of a sequence that the model reads.
    fn check_sequence<'a>(&self, index: usize, sequence: &ScoredTokens<'a>) -> Result<&'a [u32], LmError> {
        let ScoredTokens { tokens, scored } = sequence;
        let (vocab_size, max_positions) = (self.vocab_size(), self.max_positions());
        if scored.is_empty() || scored.start == 0 || scored.end > tokens.len() {
            let reason =
                format!("the tokens {scored:?} of {} are to be scored; the first has nothing before it", tokens.len());
            return Err(LmError::Request { index, reason });
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(LmError::Token { token, vocab_size });
        }
        let read = &tokens[..tokens.len() - 1];
        if read.len() > max_positions {
            return Err(LmError::TooLong { index, length: read.len(), max_positions });
        }
        Ok(read)
    }
}

/// The log-probability of the target of each row of logits, and the gradient of their sum: 1 at the target minus the
/// softmax.
fn log_likelihood(logits: &Tensor, targets: &[u32]) -> CandleResult<(Vec<f64>, Vec<f32>)> {
    let values = floats(logits)?;
    let width = values.len() / targets.len().max(1);
    let mut deltas = vec![0.0; values.len()];
    let mut logprobs = Vec::with_capacity(targets.len());
    let rows = values.chunks_exact(width).zip(deltas.chunks_exact_mut(width)).zip(targets);
    for (((logits, deltas), &target), RowSums { log_sum, .. }) in rows.zip(row_sums(&values, width)) {
        for (delta, &logit) in deltas.iter_mut().zip(logits) {
            *delta = -crate::ops::exp((f64::from(logit) - log_sum) as f32);
        }
        deltas[target as usize] += 1.0;
        logprobs.push(f64::from(logits[target as usize]) - log_sum);
    }
    Ok((logprobs, deltas))
}

/// A number that has this gradient with respect to its argument; its value is not used.
struct GivenGradient(Tensor);

impl CustomOp1 for GivenGradient {
    fn name(&self) -> &'static str {
        "log-likelihood"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests;
