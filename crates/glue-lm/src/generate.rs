//! Continuations of prompts, many at a time.
//!
//! The prompts of a group stand in one [`Tree`], so that what they share from the beginning is computed once, and samples
//! of one prompt share all of it. Each sequence is a branch that grows by a token per pass and leaves the batch when it
//! ends. Which sequences form a group follows from the prompts alone, so that the number of threads changes nothing.

mod prefixes;
mod sequence;

use crate::cancel;
use crate::error::LmError;
use crate::model::{Rows, Want, floats};
use crate::sampling::Sampling;
use crate::text::{TextError, TextModel};
use crate::tree::{Branch, Tree};
use candle_core::Tensor;
use glue_progress::CancelToken;
use prefixes::{Node, shared_prefixes, whole_prompts};
use rayon::prelude::*;
use sequence::Sequence;
use std::ops::{ControlFlow, Range};

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

    /// The prompt with another number for its random numbers than its index among the prompts, so that they stay when it is
    /// generated from in other company.
    pub fn with_stream(self, stream: u64) -> Prompt {
        Prompt { stream: Some(stream), ..self }
    }
}

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// The most tokens that are generated per sequence, at least 1. Default: 128.
    pub max_new_tokens: usize,
    /// How tokens are chosen. Default: greedy.
    pub sampling: Sampling,
    /// Texts that end a sequence and are not part of it. Default: none.
    pub stop: Vec<String>,
    /// Sequences per prompt, at least 1. Default: 1.
    pub samples: usize,
    /// Whether a prompt that is too long loses its first tokens, which [`Generated::truncated`] reports; otherwise it is
    /// refused. Default: no.
    pub truncate_left: bool,
    /// Whether special tokens are left out of the text. Default: yes.
    pub skip_special: bool,
    /// The most tokens of prompts in one pass of the model, at least 1; a bound on memory. Default: 2048.
    pub rows_per_pass: usize,
    /// The most sequences that are generated together, at least 1; a bound on memory. Small models take fewer, and
    /// several such groups at a time. Default: 256.
    pub max_sequences: usize,
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
    /// The most tokens were generated.
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

/// Below this many weights in the layers a pass is too short to keep several threads busy, so that groups run in parallel.
const SMALL_MODEL: usize = 4 << 20;
/// Sequences per group of a small model.
const SMALL_GROUP: usize = 64;

impl TextModel {
    /// Continues every prompt, `options.samples` times. The answer to sample `j` of prompt `i` is at `i * samples + j`.
    ///
    /// Greedy continuations do not depend on what else is generated, up to the rounding of the model's scores; random
    /// numbers do not either. `progress` is called, from any thread, with the number of sequences that have just ended.
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
        let requests = self.requests(prompts, options)?;
        let small = self.is_small();
        let size = if small { options.max_sequences.min(SMALL_GROUP) } else { options.max_sequences };
        let groups = self.groups(&requests, options.samples, size);
        let run = |group: &Vec<Member>| Group::new(self, &requests, options, group)?.run(progress, &mut |_| ());
        let groups: Vec<Vec<Generated>> = match small {
            true => groups.par_iter().map(run).collect::<Result<_, _>>()?,
            false => groups.iter().map(run).collect::<Result<_, _>>()?,
        };
        let mut generated: Vec<Generated> = groups.into_iter().flatten().collect();
        generated.sort_by_key(|generated| (generated.prompt, generated.sample));
        Ok(generated)
    }

    /// Continues one prompt and gives each piece of the text to `on_text` as soon as it is certain; all pieces together are
    /// the text. `options.samples` does not count.
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
        let member = Member { prompt: 0, sample: 0 };
        let generated = Group::new(self, &requests, options, &[member])?.run(&|_| (), &mut show)?;
        // A group of one sequence gives one answer.
        generated.into_iter().next().ok_or(TextError::EmptyPrompt { prompt: 0 })
    }

    /// What is generated together: up to `size` sequences whose prompts begin alike, where possible.
    fn groups(&self, requests: &[Request], samples: usize, size: usize) -> Vec<Vec<Member>> {
        let members = |prompt| (0..samples).map(move |sample| Member { prompt, sample });
        let (mut plain, special): (Vec<usize>, Vec<usize>) =
            (0..requests.len()).partition(|&prompt| self.rotates_as_short(requests[prompt].tokens.len()));
        plain.sort_by_key(|&prompt| &requests[prompt].tokens);
        let plain: Vec<Member> = plain.into_iter().flat_map(members).collect();
        let special = special.into_iter().map(|prompt| members(prompt).collect::<Vec<Member>>());
        let special: Vec<Vec<Member>> =
            special.flat_map(|one| one.chunks(size).map(<[_]>::to_vec).collect::<Vec<_>>()).collect();
        plain.chunks(size).map(<[_]>::to_vec).chain(special).collect()
    }

    /// Whether tokens of a text of this length are rotated as those of short texts. Otherwise, with rotary embeddings that
    /// depend on the length, it must run in one pass and can share nothing with shorter ones.
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
                Input::Text { text, add_special } => self.tokenizer.encode(text, *add_special)?,
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
        prompts.par_iter().enumerate().map(request).collect()
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

/// Sequences that are generated together.
struct Group<'a> {
    text_model: &'a TextModel,
    requests: &'a [Request],
    options: &'a GenerateOptions,
    sequences: Vec<Sequence<'a>>,
    tree: Tree,
}

/// A sequence that has not ended, and where in the tree it stands.
#[derive(Debug, Clone, Copy)]
struct Active {
    sequence: usize,
    branch: Branch,
    /// Whether the branch is the sequence's own; otherwise it is a prompt that others continue as well.
    own: bool,
    /// The prompt before the branch, where that is the sequence's own too.
    prompt: Option<Branch>,
}

impl Active {
    /// Gives back what is the sequence's own.
    fn release(&self, tree: &mut Tree) {
        if self.own {
            tree.release(self.branch);
        }
        if let Some(prompt) = self.prompt {
            tree.release(prompt);
        }
    }
}

impl<'a> Group<'a> {
    /// A group of the given prompts and samples, sorted by the tokens of the prompts.
    fn new(
        text_model: &'a TextModel,
        requests: &'a [Request],
        options: &'a GenerateOptions,
        members: &[Member],
    ) -> Result<Group<'a>, TextError> {
        let sequence = |&member: &Member| {
            let request = &requests[member.prompt];
            Sequence::new(&text_model.tokenizer, options, member, request.stream, &request.tokens)
        };
        let sequences = members.iter().map(sequence).collect::<Result<_, _>>()?;
        Ok(Group { text_model, requests, options, sequences, tree: Tree::new() })
    }

    /// Generates all sequences to their end. `show` sees each one after each of its steps.
    fn run(
        mut self,
        progress: &(dyn Fn(usize) + Sync),
        show: &mut dyn FnMut(&mut Sequence<'a>),
    ) -> Result<Vec<Generated>, TextError> {
        let mut active = self.prefill(show)?;
        loop {
            let before = active.len();
            active.retain(|at| {
                let ended = self.sequences[at.sequence].has_ended();
                if ended {
                    at.release(&mut self.tree);
                }
                !ended
            });
            if active.len() < before {
                progress(before - active.len());
            }
            if active.is_empty() {
                break;
            }
            self.step(&mut active, show)?;
        }
        let requests = self.requests;
        Ok(self.sequences.into_iter().map(|sequence| sequence.into_generated(requests)).collect())
    }

    /// Runs the prompts, at most `rows_per_pass` of their tokens at a time, and chooses every first token.
    fn prefill(&mut self, show: &mut dyn FnMut(&mut Sequence<'a>)) -> Result<Vec<Active>, TextError> {
        let requests = self.requests;
        let prompt_of = |sequence: &Sequence<'_>| requests[sequence.prompt()].tokens.as_slice();
        let prompts: Vec<&[u32]> = self.sequences.iter().map(prompt_of).collect();
        // Experts that are chosen by a prompt see it whole and at once.
        let routes_samples = self.text_model.model.routes_samples();
        let nodes = if routes_samples { whole_prompts(&prompts) } else { shared_prefixes(&prompts) };
        let mut active = Vec::with_capacity(prompts.len());
        let mut branches: Vec<Branch> = Vec::with_capacity(nodes.len());
        let whole = prompts.iter().any(|prompt| !self.text_model.rotates_as_short(prompt.len()));
        let rows_per_pass = if whole { usize::MAX } else { self.options.rows_per_pass };
        let mut pass = Pass::default();
        for Node { parent, prompt, range, ends, has_children } in nodes {
            let mut tokens = &prompts[prompt][range];
            let mut branch = None;
            let (end, last) = loop {
                let full = match routes_samples {
                    true => pass.rows > 0 && pass.rows.saturating_add(tokens.len()) > rows_per_pass,
                    false => pass.rows == rows_per_pass,
                };
                if full {
                    self.run_pass(std::mem::take(&mut pass), show)?;
                }
                let room = if routes_samples { usize::MAX } else { rows_per_pass - pass.rows };
                let (now, later) = tokens.split_at(tokens.len().min(room));
                let at = match branch {
                    None => self.tree.push(parent.map(|parent| branches[parent]), now),
                    Some(at) => {
                        self.tree.extend(at, now);
                        at
                    }
                };
                branch = Some(at);
                pass.rows += now.len();
                tokens = later;
                if tokens.is_empty() {
                    break (at, now.len() - 1);
                }
            };
            branches.push(end);
            let own = ends.len() == 1 && !has_children;
            active.extend(ends.clone().map(|sequence| Active { sequence, branch: end, own, prompt: None }));
            if !ends.is_empty() {
                pass.wanted.push((end, last));
                pass.ends.push(ends);
            }
        }
        self.run_pass(pass, show)?;
        Ok(active)
    }

    fn run_pass(&mut self, pass: Pass, show: &mut dyn FnMut(&mut Sequence<'a>)) -> Result<(), TextError> {
        if pass.rows == 0 {
            return Ok(());
        }
        let logits = if pass.wanted.is_empty() { Rows::None } else { Rows::Some(&pass.wanted) };
        cancel::check(&self.options.cancel)?;
        let output = self.text_model.model.forward(&mut self.tree, &Want { logits, hidden: &[] })?;
        let rows = pass.ends.iter().enumerate().flat_map(|(row, ends)| ends.clone().map(move |end| (end, row)));
        self.advance(rows.collect(), &output.logits, show)
    }

    /// Runs the newest token of every active sequence, and chooses the next.
    fn step(&mut self, active: &mut [Active], show: &mut dyn FnMut(&mut Sequence<'a>)) -> Result<(), TextError> {
        for at in active.iter_mut() {
            let sequence = &self.sequences[at.sequence];
            let length = self.tree.len_of(at.branch);
            if !self.text_model.model.same_rotation(length, length + 1) {
                // What is kept was rotated for a shorter text; the whole text runs again.
                at.release(&mut self.tree);
                // The prompt stays a branch of its own, for models that choose experts by it.
                let prompt = self.tree.push(None, &self.requests[sequence.prompt()].tokens);
                let branch = self.tree.push(Some(prompt), sequence.tokens());
                *at = Active { branch, own: true, prompt: Some(prompt), ..*at };
            } else if at.own {
                self.tree.extend(at.branch, sequence.newest());
            } else {
                *at = Active { branch: self.tree.push(Some(at.branch), sequence.newest()), own: true, ..*at };
            }
        }
        cancel::check(&self.options.cancel)?;
        // Not the last of each branch: a prompt that runs again has none that is asked for.
        let last = |at: &Active| (at.branch, self.tree.pending_of(at.branch) - 1);
        let rows: Vec<(Branch, usize)> = active.iter().map(last).collect();
        let want = Want { logits: Rows::Some(&rows), hidden: &[] };
        let output = self.text_model.model.forward(&mut self.tree, &want)?;
        let rows = active.iter().enumerate().map(|(row, at)| (at.sequence, row)).collect();
        self.advance(rows, &output.logits, show)
    }

    /// Chooses the next token of sequences by the row of the scores that belongs to each one.
    fn advance(
        &mut self,
        rows: Vec<(usize, usize)>,
        logits: &Tensor,
        show: &mut dyn FnMut(&mut Sequence<'a>),
    ) -> Result<(), TextError> {
        if rows.is_empty() {
            return Ok(());
        }
        let scores = floats(logits).map_err(LmError::from)?;
        let scores: &[f32] = &scores;
        let width = self.text_model.model.vocab_size();
        let mut row_of = vec![None; self.sequences.len()];
        rows.iter().for_each(|&(sequence, row)| row_of[sequence] = Some(row));
        let advanced =
            self.sequences.par_iter_mut().zip(row_of).filter_map(|(sequence, row)| row.map(|row| (sequence, row)));
        advanced.try_for_each(|(sequence, row)| sequence.advance(&scores[row * width..][..width]))?;
        rows.iter().for_each(|&(sequence, _)| show(&mut self.sequences[sequence]));
        Ok(())
    }
}

/// What one pass of the model over the prompts holds.
#[derive(Default)]
struct Pass {
    rows: usize,
    /// Where prompts end, by branch and the index among its tokens in this pass.
    wanted: Vec<(Branch, usize)>,
    /// The sequences that begin at each of these.
    ends: Vec<Range<usize>>,
}
