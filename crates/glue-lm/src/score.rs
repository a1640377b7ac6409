//! Log-probabilities of continuations, with every shared prefix computed once.
//!
//! Requests are sorted by their tokens, which brings those with a common prefix together, and packed into trees of up
//! to a number of rows each. A prefix that is long, and shared by more requests than fit in one tree, is run first and
//! its keys and values are used by all of them, and given up after the last one. A sequence that is longer than a pass
//! is run in pieces. Models that route samples see each context as a root of its own. Only rows that predict a token of
//! a continuation go through the end of the last layer and the head.

mod log_softmax;
mod packing;
mod shared;

use crate::cancel;
use crate::error::LmError;
use crate::memory::default_budget;
use crate::model::Model;
use crate::ops::KvCacheType;
use crate::tree::{Branch, Tree};
use candle_core::Tensor;
use glue_progress::CancelToken;
pub(crate) use log_softmax::{RowSums, row_sums};
use packing::{Chunk, Packing, Pieces, Sequence};
use rayon::prelude::*;
use shared::SharedPrefixes;
use std::collections::HashMap;

/// A continuation to be scored after its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScoreRequest<'a> {
    /// What comes before; not empty. A text to be scored from its first token on has the BOS or EOS token here.
    pub context: &'a [u32],
    /// What is scored; not empty.
    pub continuation: &'a [u32],
}

/// How likely a continuation is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// Sum over its tokens of the natural logarithm of the probability after all before it.
    pub logprob: f64,
    /// Its tokens.
    pub n_tokens: usize,
    /// Whether each of its tokens has the largest logit, so that greedy generation would have written it; of equal
    /// logits the lowest token number counts.
    pub greedy: bool,
}

/// How requests are packed. Affects speed and memory, and results by rounding alone. Options that will be added have a
/// default: end a literal with `..ScoreOptions::default()`.
#[derive(Debug, Clone, Default)]
pub struct ScoreOptions {
    /// Maximum number of rows of one pass, at least 1. Default: 1024, or fewer where the memory budget is small.
    pub rows: Option<usize>,
    /// Memory budget in bytes for activations, logits, and the keys and values of shared prefixes. One pass and the
    /// prefix it needs are always run. Default: [`crate::memory::default_budget`].
    pub memory: Option<u64>,
    /// Looked at before each pass.
    pub cancel: CancelToken,
}

/// Rows of a pass. Matrix products gain little from more, and activations of tiny models stay in cache.
const ROWS: usize = 1024;

/// Bytes of logits held at a time by one pass.
const LOGITS_BYTES: usize = 64 << 20;

/// Passes that run side by side, as far as memory is planned for them.
const PASSES_SIDE_BY_SIDE: usize = 16;

/// Bytes of weights up to which passes run side by side.
const SIDE_BY_SIDE: usize = 64 << 20;

impl Model {
    /// Scores every request: the sum of log-probabilities of its continuation after its context. In the order of
    /// `requests`; the number of threads does not change a result. `progress` is called, from any thread, with the
    /// number of requests that have just been done.
    ///
    /// # Errors
    /// Before anything is computed: [`LmError::Request`] for an empty context or continuation, [`LmError::TooLong`] for
    /// one that takes more than [`Model::max_positions`], [`LmError::Token`]. Later [`LmError::Cancelled`].
    pub fn score(
        &self,
        requests: &[ScoreRequest<'_>],
        options: &ScoreOptions,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Score>, LmError> {
        self.check_requests(requests)?;
        // On a thread of the pool: each operation of a thread outside would have to wait for one.
        rayon::scope(|_| self.score_checked(requests, options, progress))
    }

    fn score_checked(
        &self,
        requests: &[ScoreRequest<'_>],
        options: &ScoreOptions,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Score>, LmError> {
        // Requests that are the same are run as one.
        let mut numbers: HashMap<ScoreRequest<'_>, usize> = HashMap::with_capacity(requests.len());
        let mut distinct: Vec<(ScoreRequest<'_>, usize)> = Vec::with_capacity(requests.len());
        let mut number_of = Vec::with_capacity(requests.len());
        for request in requests {
            let number = *numbers.entry(*request).or_insert_with(|| {
                distinct.push((*request, 0));
                distinct.len() - 1
            });
            distinct[number].1 += 1;
            number_of.push(number);
        }
        let routes_samples = self.routes_samples();
        let sequences = distinct.iter().map(|(request, _)| {
            let input = [request.context, &request.continuation[..request.continuation.len() - 1]].concat();
            Sequence {
                length_class: self.length_classes(input.len()),
                first_scored: request.context.len() - 1,
                // Its experts are chosen by the whole context, and by nothing else.
                prompt: routes_samples.then_some(request.context.len()),
                tokens: input,
            }
        });
        // On tiny models passes run side by side, one thread each; on others the threads share each pass. What a pass
        // holds must not depend on how many threads there are.
        let side_by_side = if self.weight_bytes <= SIDE_BY_SIDE { PASSES_SIDE_BY_SIDE } else { 1 };
        let budget = options.memory.unwrap_or_else(default_budget);
        let footprint = self.footprint(KvCacheType::F32);
        let rows = footprint.rows(budget / side_by_side as u64, options.rows.unwrap_or(ROWS).max(1));
        let packing = Packing::new(sequences.collect(), rows);

        let of_passes = (rows as u64 * footprint.activations_per_row + LOGITS_BYTES as u64) * side_by_side as u64;
        let mut prefixes = SharedPrefixes::new(&packing, footprint, budget.saturating_sub(of_passes));
        let mut done: Vec<Vec<(usize, Score)>> = Vec::with_capacity(packing.chunks.len());
        while done.len() < packing.chunks.len() {
            let wave = prefixes.wave(done.len(), if side_by_side > 1 { usize::MAX } else { 1 });
            prefixes.make(self, &wave, &options.cancel)?;
            let run = |chunk: &Chunk| -> Result<Vec<(usize, Score)>, LmError> {
                cancel::check(&options.cancel)?;
                let (mut tree, parent) = prefixes.before(chunk);
                let scores = self.score_chunk(&mut tree, parent, &packing, chunk, &distinct)?;
                progress(scores.iter().map(|&(number, _)| distinct[number].1).sum());
                Ok(scores)
            };
            let chunks = &packing.chunks[wave.clone()];
            let scores: Vec<Vec<(usize, Score)>> = match side_by_side {
                1 => chunks.iter().map(run).collect::<Result<_, _>>()?,
                _ => chunks.par_iter().map(run).collect::<Result<_, _>>()?,
            };
            done.extend(scores);
            prefixes.drop_unused(&wave);
        }
        let mut scores = vec![Score { logprob: 0.0, n_tokens: 0, greedy: false }; distinct.len()];
        for (number, score) in done.into_iter().flatten() {
            scores[number] = score;
        }
        Ok(number_of.into_iter().map(|number| scores[number]).collect())
    }

    fn check_requests(&self, requests: &[ScoreRequest<'_>]) -> Result<(), LmError> {
        let (vocab_size, max_positions) = (self.vocab_size(), self.max_positions());
        for (index, request) in requests.iter().enumerate() {
            for (what, tokens) in [("context", request.context), ("continuation", request.continuation)] {
                if tokens.is_empty() {
                    return Err(LmError::Request { index, reason: format!("the {what} is empty") });
                }
                if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
                    return Err(LmError::Token { token, vocab_size });
                }
            }
            let length = request.context.len() + request.continuation.len() - 1;
            if length > max_positions {
                return Err(LmError::TooLong { index, length, max_positions });
            }
        }
        Ok(())
    }

    /// Runs one tree of requests and sums the log-probabilities of their continuations.
    fn score_chunk(
        &self,
        tree: &mut Tree,
        parent: Option<Branch>,
        packing: &Packing,
        chunk: &Chunk,
        distinct: &[(ScoreRequest<'_>, usize)],
    ) -> Result<Vec<(usize, Score)>, LmError> {
        if let Some(pieces) = packing.pieces(chunk) {
            return self.score_pieces(tree, parent, packing, &pieces, distinct);
        }
        let placed = packing.place(chunk, tree, parent);
        let mut logit_rows: Vec<usize> = placed.iter().flat_map(|(_, rows)| rows).copied().collect();
        logit_rows.sort_unstable();
        logit_rows.dedup();
        // What is to be looked up: for each row wanted, the tokens whose log-probability it gives.
        let mut lookups = Vec::with_capacity(logit_rows.len());
        for (request, (number, rows)) in placed.iter().enumerate() {
            for (&token, row) in distinct[*number].0.continuation.iter().zip(rows) {
                lookups.push((logit_rows.partition_point(|w| w < row), token as usize, request));
            }
        }
        // Stable: the tokens of each request stay in order, so that the sum does not depend on the packing.
        lookups.sort_by_key(|&(row, ..)| row);

        let pass = tree.pass();
        let (states, _) = self.run(tree, &pass, &logit_rows, &[], false)?;
        let mut scores: Vec<(usize, Score)> = placed
            .iter()
            .map(|&(number, ref rows)| (number, Score { logprob: 0.0, n_tokens: rows.len(), greedy: true }))
            .collect();
        self.add_logprobs(&states, lookups, &mut scores)?;
        Ok(scores)
    }

    /// Runs a single request that is longer than a pass, piece by piece.
    fn score_pieces(
        &self,
        tree: &mut Tree,
        parent: Option<Branch>,
        packing: &Packing,
        pieces: &Pieces,
        distinct: &[(ScoreRequest<'_>, usize)],
    ) -> Result<Vec<(usize, Score)>, LmError> {
        let Sequence { tokens, first_scored, .. } = &packing.sequences[pieces.sequence];
        let continuation = distinct[pieces.sequence].0.continuation;
        let mut scores = vec![(pieces.sequence, Score { logprob: 0.0, n_tokens: continuation.len(), greedy: true })];
        let mut branch = None;
        for piece in &pieces.tokens {
            match branch {
                None => branch = Some(tree.push(parent, &tokens[piece.clone()])),
                Some(branch) => tree.extend(branch, &tokens[piece.clone()]),
            }
            let scored = piece.start.max(*first_scored)..piece.end;
            let logit_rows: Vec<usize> = scored.clone().map(|token| token - piece.start).collect();
            let lookup = |(row, token)| (row, continuation[token - first_scored] as usize, 0);
            let lookups = scored.enumerate().map(lookup).collect();
            let pass = tree.pass();
            let (states, _) = self.run(tree, &pass, &logit_rows, &[], piece.end < tokens.len())?;
            self.add_logprobs(&states, lookups, &mut scores)?;
        }
        Ok(scores)
    }

    /// Adds log-probabilities of tokens after some states to the scores of requests. A lookup is the row of a state,
    /// ascending, the token, and the place of the request among `scores`.
    fn add_logprobs(
        &self,
        states: &Tensor,
        lookups: Vec<(usize, usize, usize)>,
        scores: &mut [(usize, Score)],
    ) -> Result<(), LmError> {
        let rows = lookups.last().map_or(0, |&(row, ..)| row + 1);
        let step = (LOGITS_BYTES / (4 * self.vocab_size())).max(1);
        let mut lookups = lookups.into_iter().peekable();
        for start in (0..rows).step_by(step) {
            let count = step.min(rows - start);
            let logits = self.logits(&states.narrow(0, start, count)?)?;
            let logits = crate::model::floats(&logits)?;
            let sums = row_sums(&logits, self.vocab_size());
            while let Some((row, token, request)) = lookups.next_if(|&(row, ..)| row < start + count) {
                let RowSums { log_sum, argmax } = sums[row - start];
                let score = &mut scores[request].1;
                score.logprob += f64::from(logits[(row - start) * self.vocab_size() + token]) - log_sum;
                score.greedy &= argmax == token;
            }
        }
        Ok(())
    }
}
