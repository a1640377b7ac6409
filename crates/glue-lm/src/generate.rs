//! Continuations of prompts, many at a time.
//!
//! The prompts of a batch stand in one [`crate::Tree`], so that what they share from the beginning is computed once,
//! and samples of one prompt share all of it. Each sequence is a branch that grows by a token per pass. When it ends
//! its memory is given back, and prompts that wait take its place, in the same passes as those that go on. Who stands
//! in a batch follows from the prompts and the memory budget alone, so that the number of threads changes nothing.

mod batch;
mod plan;
mod prefixes;
mod sequence;

use crate::ops::KvCacheType;
use crate::sampling::Sampling;
use crate::text::{TextError, TextModel};
use batch::Batch;
use glue_progress::CancelToken;
use plan::Limits;
pub use plan::{GenerationEstimate, PromptLengths};
use rayon::prelude::*;
use sequence::{Sequence, StopTokens};
use std::ops::ControlFlow;

/// What is to be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub(crate) input: Input,
    pub(crate) stream: Option<u64>,
    /// The expert that it was made for, of a mixture of whole models.
    pub(crate) expert: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Text { text: String, add_special: bool },
    Tokens(Vec<u32>),
}

impl Prompt {
    /// A text; the tokenizer puts its special tokens, such as BOS, around it.
    pub fn text(text: impl Into<String>) -> Prompt {
        Prompt { input: Input::Text { text: text.into(), add_special: true }, stream: None, expert: None }
    }

    /// A text that has its special tokens, such as one that a chat template made.
    pub fn rendered(text: impl Into<String>) -> Prompt {
        Prompt { input: Input::Text { text: text.into(), add_special: false }, stream: None, expert: None }
    }

    /// Token ids.
    pub fn tokens(ids: impl Into<Vec<u32>>) -> Prompt {
        Prompt { input: Input::Tokens(ids.into()), stream: None, expert: None }
    }

    /// The prompt with another number for its random numbers than its index among the prompts, so that they stay when
    /// it is generated from in other company.
    pub fn with_stream(self, stream: u64) -> Prompt {
        Prompt { stream: Some(stream), ..self }
    }
}

/// What to generate. Options that will be added have a default: end a literal with `..GenerateOptions::default()`.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Maximum number of new tokens per sequence, at least 1. Default: 128.
    pub max_new_tokens: usize,
    /// How tokens are chosen. Default: greedy.
    pub sampling: Sampling,
    /// Texts that end a sequence and are not part of it. Default: none.
    pub stop: Vec<String>,
    /// Sequences per prompt, at least 1. Default: 1.
    pub samples: usize,
    /// Whether a prompt that is too long loses its first tokens, which [`Generated::truncated`] reports; otherwise it
    /// is refused. Default: no.
    pub truncate_left: bool,
    /// Whether special tokens are left out of the text. Default: yes.
    pub skip_special: bool,
    /// Maximum number of tokens in one pass, at least 1; fewer where the memory budget is small, and more where more
    /// sequences than that are in the batch. Default: 2048.
    pub rows_per_pass: usize,
    /// Maximum number of sequences in a batch, at least 1; fewer where the memory budget is small. Small models take
    /// fewer, and several such batches at a time. Default: 256.
    pub max_sequences: usize,
    /// Memory budget in bytes for keys, values, activations and logits. One sequence is always run, whatever it takes.
    /// Default: [`crate::memory::default_budget`].
    pub memory: Option<u64>,
    /// The type that keys and values are kept in. Default: `f32`, which rounds nothing.
    pub cache_type: KvCacheType,
    /// Looked at before each pass.
    pub cancel: CancelToken,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 128,
            sampling: Sampling::default(),
            stop: Vec::new(),
            samples: 1,
            truncate_left: false,
            skip_special: true,
            rows_per_pass: 2048,
            max_sequences: 256,
            memory: None,
            cache_type: KvCacheType::F32,
            cancel: CancelToken::default(),
        }
    }
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// A stop string was found: its index in the options.
    Stop(usize),
    /// The model gave an end token.
    Eos,
    /// The maximum number of new tokens was reached.
    Length,
    /// The callback asked to stop.
    Cancelled,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The index of the prompt.
    pub prompt: usize,
    /// The number of the sample of that prompt, from 0.
    pub sample: usize,
    /// The text, without the stop string or the end token.
    pub text: String,
    /// All tokens that were generated, the end token and those of the stop string among them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// How many tokens of the prompt the model saw.
    pub prompt_tokens: usize,
    /// How many tokens were cut off the beginning of the prompt.
    pub truncated: usize,
}

/// A prompt made ready.
struct Request {
    tokens: Vec<u32>,
    truncated: usize,
    stream: u64,
}

/// Below this many weights in the layers a pass is too short to keep several threads busy, so that batches run in
/// parallel.
const SMALL_MODEL: usize = 4 << 20;
/// Sequences per batch of a small model.
const SMALL_BATCH: usize = 64;
/// Batches of a small model that run in parallel, at most.
const BATCHES_SIDE_BY_SIDE: usize = 32;

impl TextModel {
    /// Continues every prompt, `options.samples` times. The answer to sample `j` of prompt `i` is at `i * samples + j`.
    ///
    /// Greedy continuations do not depend on what else is generated, nor on the memory budget, up to the rounding of
    /// the model's scores; random numbers do not either. `progress` is called, from any thread, with the number of
    /// sequences that have just ended.
    ///
    /// # Errors
    /// [`TextError`]
    pub fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Generated>, TextError> {
        check(options)?;
        // On a thread of the pool: each operation of a thread outside would have to wait for one.
        rayon::scope(|_| {
            let requests = self.requests(prompts, options)?;
            let stops = StopTokens::new(&self.tokenizer, &options.stop);
            let batches = self.batches(&requests, options);
            // What a batch holds must not depend on how many threads there are.
            let side_by_side = if self.is_small() { batches.len().clamp(1, BATCHES_SIDE_BY_SIDE) } else { 1 };
            let limits = Limits::new(self.model.footprint(options.cache_type), options, side_by_side);
            let run = |members: &Vec<Member>| {
                Batch::new(self, &requests, options, (&stops, limits), members.clone()).run(progress, &mut |_| ())
            };
            let mut generated: Vec<Generated> = Vec::with_capacity(requests.len() * options.samples);
            for batches in batches.chunks(side_by_side) {
                let done: Vec<Vec<Generated>> = batches.par_iter().map(run).collect::<Result<_, _>>()?;
                generated.extend(done.into_iter().flatten());
            }
            generated.sort_by_key(|generated| (generated.prompt, generated.sample));
            Ok(generated)
        })
    }

    /// Continues one prompt and gives each piece of the text to `on_text` as soon as it is certain; all pieces together
    /// are the text. `options.samples` does not count. Faster on a thread of the pool that is to be used
    /// (`ThreadPool::install`) than on one outside.
    ///
    /// # Errors
    /// [`TextError`]
    pub fn generate_stream(
        &self,
        prompt: &Prompt,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, TextError> {
        check(options)?;
        let requests = self.requests(std::slice::from_ref(prompt), options)?;
        let mut given = 0;
        let mut show = |sequence: &mut Sequence<'_>| {
            let piece = &sequence.text()[given..];
            if !piece.is_empty() && on_text(piece).is_break() {
                sequence.cancel();
            }
            given = sequence.text().len();
        };
        let stops = StopTokens::new(&self.tokenizer, &options.stop);
        let limits = Limits::new(self.model.footprint(options.cache_type), options, 1);
        let member = Member { prompt: 0, sample: 0 };
        let batch = Batch::new(self, &requests, options, (&stops, limits), vec![member]);
        let generated = batch.run(&|_| (), &mut show)?;
        // A batch of one sequence gives one answer.
        generated.into_iter().next().ok_or(TextError::EmptyPrompt { prompt: 0 })
    }

    /// What [`TextModel::generate`] takes at most for these prompts and options. Nothing is run but the tokenizer.
    ///
    /// # Errors
    /// [`TextError`]
    pub fn estimate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<GenerationEstimate, TextError> {
        check(options)?;
        let requests = self.requests(prompts, options)?;
        let lengths = requests.iter().map(|request| request.tokens.len());
        let lengths = PromptLengths { sum: lengths.clone().sum::<usize>() as u64, longest: lengths.max().unwrap_or(0) };
        let batches = if self.is_small() { self.batches(&requests, options).len() } else { 1 };
        let footprint = |cache_type| self.model.footprint(cache_type);
        Ok(GenerationEstimate::of_batches(footprint, lengths, requests.len(), options, batches))
    }

    /// The sequences of each batch, sorted by the tokens of the prompts.
    fn batches(&self, requests: &[Request], options: &GenerateOptions) -> Vec<Vec<Member>> {
        let members = |prompt| (0..options.samples).map(move |sample| Member { prompt, sample });
        let (mut plain, special): (Vec<usize>, Vec<usize>) =
            (0..requests.len()).partition(|&prompt| self.rotates_as_short(requests[prompt].tokens.len()));
        plain.sort_by_key(|&prompt| &requests[prompt].tokens);
        let plain: Vec<Member> = plain.into_iter().flat_map(members).collect();
        // One batch takes in all, unless several run side by side.
        let size = if self.is_small() { options.max_sequences.min(SMALL_BATCH) } else { plain.len().max(1) };
        let special = special.into_iter().map(|prompt| members(prompt).collect::<Vec<Member>>());
        plain.chunks(size).map(<[_]>::to_vec).chain(special).collect()
    }

    /// Whether tokens of a text of this length are rotated as those of short texts. Otherwise, with rotary embeddings
    /// that depend on the length, it must run in one pass and can share nothing with shorter ones.
    fn rotates_as_short(&self, length: usize) -> bool {
        self.model.same_rotation(1, length)
    }

    fn is_small(&self) -> bool {
        let hidden = self.model.hidden_size();
        12 * hidden * hidden * self.model.num_layers() < SMALL_MODEL
    }

    fn requests(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<Vec<Request>, TextError> {
        let max_positions = self.model.max_positions();
        let request = |(prompt, given): (usize, &Prompt)| {
            let mut tokens = match &given.input {
                Input::Text { text, add_special } => self.encode(text, *add_special)?,
                Input::Tokens(tokens) => tokens.clone(),
            };
            if tokens.is_empty() {
                return Err(TextError::EmptyPrompt { prompt });
            }
            let max_new_tokens = options.max_new_tokens;
            let room = max_positions.saturating_sub(max_new_tokens);
            let truncated = tokens.len().saturating_sub(room);
            if truncated > 0 && (room == 0 || !options.truncate_left) {
                let tokens = tokens.len();
                return Err(TextError::PromptTooLong { prompt, tokens, max_new_tokens, max_positions });
            }
            tokens.drain(..truncated);
            Ok(Request { tokens, truncated, stream: given.stream.unwrap_or(prompt as u64) })
        };
        // Which of several errors a parallel collection returns is chance; the first one is wanted.
        let requests: Vec<_> = prompts.par_iter().enumerate().map(request).collect();
        requests.into_iter().collect()
    }
}

fn check(options: &GenerateOptions) -> Result<(), TextError> {
    options.sampling.check()?;
    let numbers = [
        ("max_new_tokens", options.max_new_tokens),
        ("samples", options.samples),
        ("rows_per_pass", options.rows_per_pass),
        ("max_sequences", options.max_sequences),
    ];
    if let Some((name, found)) = numbers.into_iter().find(|(_, number)| *number == 0) {
        return Err(TextError::Option { name, found: found.to_string(), expected: "at least 1" });
    }
    if options.stop.iter().any(String::is_empty) {
        return Err(TextError::Option {
            name: "stop",
            found: format!("{:?}", options.stop),
            expected: "no empty string",
        });
    }
    Ok(())
}

/// One sequence that is wanted.
#[derive(Debug, Clone, Copy)]
struct Member {
    prompt: usize,
    sample: usize,
}
