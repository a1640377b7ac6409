//! Log-probabilities of continuations, with every shared prefix computed once.
//!
//! Requests are put in the order of their tokens, so that those that begin alike lie together, and packed into trees of up to a
//! number of rows each. A prefix that is long, and shared by more requests than fit in one tree, is run first and its keys and values
//! are used by all of them. Models that route samples see each context as a root of its own. Only rows that predict a token of a continuation go through the end of the last layer and the head.

mod log_softmax;
mod packing;

use crate::cancel;
use crate::error::LmError;
use crate::model::Model;
use crate::tree::{Branch, Tree};
use glue_progress::CancelToken;
pub(crate) use log_softmax::{RowSums, row_sums};
use packing::{Chunk, Packing, Sequence};
use rayon::prelude::*;
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
    /// Whether each of its tokens has the largest logit, so that greedy generation would have written it; of equal logits the
    /// lowest token number counts.
    pub greedy: bool,
}

/// How requests are packed. Affects speed and memory, and results by rounding alone.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ScoreOptions {
    /// Rows of one pass, at least 1; chosen by the size of the model when absent. A single sequence may be longer.
    pub rows: Option<usize>,
    /// Looked at before each pass.
    pub cancel: CancelToken,
}

/// Rows of a pass. Matrix products gain little from more, and activations of tiny models stay in cache.
const ROWS: usize = 1024;

/// Bytes of logits held at a time by one pass.
const LOGITS_BYTES: usize = 64 << 20;

/// Bytes of weights up to which passes run side by side, one thread each; above, the threads share each pass.
const SIDE_BY_SIDE: usize = 64 << 20;

impl Model {
    /// Scores every request: the sum of log-probabilities of its continuation after its context. In the order of `requests`;
    /// the number of threads does not change a result. `progress` is told how many more requests are done, from any thread.
    ///
    /// # Errors
    /// Before anything is computed: [`LmError::Request`] for an empty context or continuation, [`LmError::TooLong`] for one
    /// that takes more than [`Model::max_positions`], [`LmError::Token`]. Later [`LmError::Cancelled`].
    pub fn score(
        &self,
        requests: &[ScoreRequest<'_>],
        options: &ScoreOptions,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Score>, LmError> {
        self.check_requests(requests)?;
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
                regime: self.regimes(input.len()),
                first_wanted: request.context.len() - 1,
                // Its experts are chosen by the whole context, and by nothing else.
                prompt: routes_samples.then_some(request.context.len()),
                tokens: input,
            }
        });
        let packing = Packing::new(sequences.collect(), options.rows.unwrap_or(ROWS).max(1));

        let mut prefixes: Vec<Tree> = Vec::with_capacity(packing.prefixes.len());
        let mut ends = Vec::with_capacity(packing.prefixes.len());
        for prefix in &packing.prefixes {
            cancel::check(&options.cancel)?;
            let (mut tree, parent) = match prefix.parent {
                Some(parent) => (prefixes[parent].clone(), Some(ends[parent])),
                None => (Tree::new(), None),
            };
            ends.push(tree.push(parent, &packing.sequences[prefix.sequence].tokens[prefix.tokens.clone()]));
            let pass = tree.pass();
            self.run(&mut tree, &pass, &[], &[], true)?;
            prefixes.push(tree);
        }

        let run = |chunk: &Chunk| -> Result<Vec<(usize, Score)>, LmError> {
            cancel::check(&options.cancel)?;
            let (mut tree, parent) = match chunk.prefix {
                Some(prefix) => (prefixes[prefix].clone(), Some(ends[prefix])),
                None => (Tree::new(), None),
            };
            let scores = self.score_chunk(&mut tree, parent, &packing, chunk, &distinct)?;
            progress(scores.iter().map(|&(number, _)| distinct[number].1).sum());
            Ok(scores)
        };
        let done: Vec<Vec<(usize, Score)>> = if self.weight_bytes <= SIDE_BY_SIDE {
            packing.chunks.par_iter().map(run).collect::<Result<_, _>>()?
        } else {
            packing.chunks.iter().map(run).collect::<Result<_, _>>()?
        };
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
        let placed = packing.place(chunk, tree, parent);
        let mut wanted: Vec<usize> = placed.iter().flat_map(|(_, rows)| rows).copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        // What is to be looked up: for each row wanted, the tokens whose log-probability it gives.
        let mut lookups = Vec::with_capacity(wanted.len());
        for (request, (number, rows)) in placed.iter().enumerate() {
            for (&token, row) in distinct[*number].0.continuation.iter().zip(rows) {
                lookups.push((wanted.partition_point(|w| w < row), token as usize, request));
            }
        }
        // Stable: the tokens of each request stay in order, so that the sum does not depend on the packing.
        lookups.sort_by_key(|&(row, ..)| row);

        let pass = tree.pass();
        let (states, _) = self.run(tree, &pass, &wanted, &[], false)?;
        let mut scores: Vec<(usize, Score)> = placed
            .iter()
            .map(|&(number, ref rows)| (number, Score { logprob: 0.0, n_tokens: rows.len(), greedy: true }))
            .collect();
        let step = (LOGITS_BYTES / (4 * self.vocab_size())).max(1);
        let mut lookups = lookups.into_iter().peekable();
        for start in (0..wanted.len()).step_by(step) {
            let count = step.min(wanted.len() - start);
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
        Ok(scores)
    }
}
