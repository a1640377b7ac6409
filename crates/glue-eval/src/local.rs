//! A model in this process as a [`LanguageModel`], with prompts encoded as lm-evaluation-harness does for transformers.
//!
//! - The tokenizer adds its special tokens as it does by default, unless the text begins with BOS already.
//! - White space at the end of a context belongs to the continuation. The continuation is the tokens of both together
//!   after as many as the context alone has.
//! - An empty context is BOS, or the end-of-sequence token of a tokenizer without BOS.
//! - What is too long is cut from its left: to be scored, all but the last token must fit; to generate, the context
//!   must leave room for the longest answer.

use crate::cache::Hasher;
use crate::error::ModelError;
use crate::model::{
    ChatMessage, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest, Sampling, cut,
};
use crate::python::is_space;
use glue_lm::{
    ChatOptions, GenerateOptions, Message, Prompt, RUNTIME_REVISION, SamplingError, ScoreOptions, ScoreRequest,
    TextError, TextModel, Tokenizer,
};
use glue_progress::CancelToken;
use glue_tensor::hub::locate;
use glue_tensor::{ContentHash, ModelDir};
use parking_lot::RwLock;
use rayon::prelude::*;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model and its tokenizer, ready to be scored.
#[derive(Debug, Clone)]
pub struct LocalModel {
    text: Arc<TextModel>,
    name: String,
    directory: Option<PathBuf>,
    hash: Option<String>,
    max_length: usize,
    prefix: u32,
    prefix_text: String,
    cancel: CancelToken,
    encodings: Option<Encodings>,
    memory: Option<u64>,
}

/// Tokens of texts that were encoded, for models with the same tokenizer that are asked the same. Clones share them.
/// They are kept for good, so that it suits the items of some tasks, again and again.
#[derive(Debug, Clone, Default)]
pub struct Encodings {
    /// Without and with special tokens.
    known: Arc<[RwLock<Tokens>; 2]>,
}

type Tokens = HashMap<String, Vec<u32>>;

impl Encodings {
    fn get(
        &self,
        text: &str,
        add_special: bool,
        encode: impl FnOnce() -> Result<Vec<u32>, ModelError>,
    ) -> Result<Vec<u32>, ModelError> {
        let known = &self.known[usize::from(add_special)];
        if let Some(tokens) = known.read().get(text) {
            return Ok(tokens.clone());
        }
        let tokens = encode()?;
        known.write().insert(text.to_string(), tokens.clone());
        Ok(tokens)
    }
}

/// A chat template without a model, to prepare prompts by. It answers nothing.
#[derive(Debug, Clone, Copy)]
pub struct ChatFormat<'a>(
    /// The tokenizer that has the template.
    pub &'a Tokenizer,
);

impl ChatFormat<'_> {
    fn silent<T>() -> Result<T, ModelError> {
        Err(ModelError::new("a chat template alone answers nothing"))
    }
}

impl LanguageModel for ChatFormat<'_> {
    fn name(&self) -> String {
        "chat template".into()
    }

    fn loglikelihoods(
        &self,
        _: &[LogLikelihoodRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        Self::silent()
    }

    fn rolling(&self, _: &[&str], _: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        Self::silent()
    }

    fn generate(
        &self,
        _: &[GenerateRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        Self::silent()
    }

    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        chat(self.0, messages)
    }
}

impl LocalModel {
    /// Opens a model directory, whose path is the name in reports. Its content hash is that of its files.
    ///
    /// # Errors
    /// [`ModelError`] for a model that cannot be run, a tokenizer that cannot be read or does not fit the embedding, or
    /// one with neither BOS nor an end-of-sequence token.
    pub fn open(directory: impl AsRef<Path>) -> Result<LocalModel, ModelError> {
        let given = directory.as_ref();
        let directory = locate(given);
        let text = TextModel::open(&directory).map_err(ModelError::caused_by)?;
        Ok(LocalModel::new(text, given.display().to_string())?.with_directory(directory))
    }

    /// Takes a model in memory, such as a merge that was never written. It has no content hash.
    ///
    /// # Errors
    /// [`ModelError`] for a tokenizer with neither BOS nor an end-of-sequence token.
    pub fn new(text: impl Into<Arc<TextModel>>, name: impl Into<String>) -> Result<LocalModel, ModelError> {
        let text = text.into();
        let prefix = text.tokenizer.bos().or(text.tokenizer.eos());
        let prefix = prefix.ok_or_else(|| {
            ModelError::new("the tokenizer has neither BOS nor an end-of-sequence token to begin with")
        })?;
        let prefix_text = text.tokenizer.decode(&[prefix], false).map_err(ModelError::caused_by)?;
        let max_length = text.model.max_positions();
        Ok(LocalModel {
            text,
            name: name.into(),
            directory: None,
            hash: None,
            max_length,
            prefix,
            prefix_text,
            cancel: CancelToken::default(),
            encodings: None,
            memory: None,
        })
    }

    /// The same with the content hash of the files in `directory`, from which the model was opened.
    pub fn with_directory(self, directory: impl AsRef<Path>) -> LocalModel {
        LocalModel { directory: Some(directory.as_ref().to_path_buf()), ..self }
    }

    /// The same with this content hash: something that is another one whenever the model could answer otherwise.
    pub fn with_content_hash(self, hash: impl Into<String>) -> LocalModel {
        LocalModel { hash: Some(hash.into()), ..self }
    }

    /// The same with at most this many tokens in a sequence, instead of as many as the configuration has positions.
    pub fn with_max_length(self, max_length: usize) -> LocalModel {
        LocalModel { max_length: max_length.max(1), ..self }
    }

    /// The same, ending its work with an error once it is cancelled.
    pub fn with_cancel(self, cancel: CancelToken) -> LocalModel {
        LocalModel { cancel, ..self }
    }

    /// The same with this memory budget in bytes for what grows with the requests, in place of
    /// [`glue_lm::memory::default_budget`].
    pub fn with_memory(self, bytes: u64) -> LocalModel {
        LocalModel { memory: Some(bytes), ..self }
    }

    /// The same, looking up texts in `encodings` before they are encoded. They must be those of an equal tokenizer.
    pub fn with_encodings(self, encodings: Encodings) -> LocalModel {
        LocalModel { encodings: Some(encodings), ..self }
    }

    /// The content hash of a model directory that is open: of its configuration, weights, tokenizer and generation
    /// defaults, and of the [revision](RUNTIME_REVISION) of the runtime. Reads all of them.
    ///
    /// # Errors
    /// [`ModelError`] for files that can no longer be read.
    pub fn hash_files(files: &ModelDir) -> Result<String, ModelError> {
        hash_of_files(files, None)
    }

    /// Gives back the model and its tokenizer, whose only owner this is unless it was cloned.
    pub fn into_text_model(self) -> Arc<TextModel> {
        self.text
    }

    /// The model and its tokenizer.
    pub fn text_model(&self) -> &TextModel {
        &self.text
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let has_prefix = !self.prefix_text.is_empty() && text.starts_with(&self.prefix_text);
        let add_special = add_special && !has_prefix;
        let encode = || self.text.encode(text, add_special).map_err(ModelError::caused_by);
        match &self.encodings {
            Some(encodings) => encodings.get(text, add_special, encode),
            None => encode(),
        }
    }

    /// The tokens of each request, those of its context and those of its continuation, as its likelihood is computed
    /// from them.
    ///
    /// # Errors
    /// [`ModelError`]: a continuation without a token, or longer than the model takes.
    pub fn tokens(&self, requests: &[LogLikelihoodRequest<'_>]) -> Result<Vec<[Vec<u32>; 2]>, ModelError> {
        Ok(self.pairs(requests)?.into_iter().map(|pair| [pair.context, pair.continuation]).collect())
    }

    /// The tokens of requests, in order; those that stand together with the same context share its encoding.
    fn pairs(&self, requests: &[LogLikelihoodRequest<'_>]) -> Result<Vec<Pair>, ModelError> {
        let groups: Vec<&[LogLikelihoodRequest<'_>]> = requests.chunk_by(|a, b| a.context == b.context).collect();
        let encode = |text: &str, add_special: bool| self.encode(text, add_special);
        let pairs: Vec<Result<Vec<Pair>, ModelError>> =
            groups.par_iter().map(|group| encode_group(group, self.prefix, self.max_length, &encode)).collect();
        let mut all = Vec::with_capacity(requests.len());
        for pairs in pairs {
            let pairs = pairs
                .map_err(|error| ModelError { request: error.request.map(|request| request + all.len()), ..error })?;
            all.extend(pairs);
        }
        Ok(all)
    }

    fn score(&self, pairs: &[Pair], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        let requests: Vec<ScoreRequest<'_>> = pairs
            .iter()
            .map(|pair| ScoreRequest { context: &pair.context, continuation: &pair.continuation })
            .collect();
        let options = ScoreOptions { cancel: self.cancel.clone(), memory: self.memory, ..ScoreOptions::default() };
        let scores = self.text.model.score(&requests, &options, progress).map_err(ModelError::caused_by)?;
        let answer = |(score, pair): (glue_lm::Score, &Pair)| LogLikelihood {
            logprob: score.logprob,
            greedy: score.greedy,
            n_tokens: score.n_tokens,
            truncated: pair.truncated,
        };
        Ok(scores.into_iter().zip(pairs).map(answer).collect())
    }
}

/// A request in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    context: Vec<u32>,
    continuation: Vec<u32>,
    truncated: usize,
}

type Encode<'a> = &'a (dyn Fn(&str, bool) -> Result<Vec<u32>, ModelError> + Sync);

/// Encodes requests with the same context.
fn encode_group(
    group: &[LogLikelihoodRequest<'_>],
    prefix: u32,
    max_length: usize,
    encode: Encode<'_>,
) -> Result<Vec<Pair>, ModelError> {
    let context = group.first().map_or("", |request| request.context);
    let kept = context.trim_end_matches(is_space);
    let moved = &context[kept.len()..];
    let context_tokens = if context.is_empty() { Vec::new() } else { encode(kept, true)? };
    let pair = |(index, request): (usize, &LogLikelihoodRequest<'_>)| {
        let (context, continuation) = if context.is_empty() {
            let tokens = encode(request.continuation, false)?;
            match tokens.split_first() {
                Some((&first, rest)) if first == prefix => (vec![first], rest.to_vec()),
                _ => (vec![prefix], tokens),
            }
        } else {
            let mut whole = encode(&format!("{kept}{moved}{}", request.continuation), true)?;
            let continuation = whole.split_off(context_tokens.len().min(whole.len()));
            // A context of white space alone may have no tokens.
            let context = if context_tokens.is_empty() { vec![prefix] } else { context_tokens.clone() };
            (context, continuation)
        };
        if continuation.is_empty() {
            let message = format!("the continuation {:?} adds no token to its context", request.continuation);
            return Err(ModelError::of_request(index, message));
        }
        if continuation.len() > max_length {
            let message =
                format!("the continuation has {} tokens, but the model takes {max_length}", continuation.len());
            return Err(ModelError::of_request(index, message));
        }
        // The last token is only predicted.
        let truncated = (context.len() + continuation.len()).saturating_sub(max_length.saturating_add(1));
        Ok(Pair { context: context[truncated..].to_vec(), continuation, truncated })
    };
    group.iter().enumerate().map(pair).collect()
}

/// The windows of a text: the first is predicted from `prefix`, each further one from what comes before it, as much of
/// it as fits, but for at least one token.
fn windows(tokens: &[u32], prefix: u32, max_length: usize) -> Vec<Pair> {
    let mut windows = Vec::new();
    let mut done = 0;
    while done < tokens.len() {
        let length = (tokens.len() - done).min(max_length);
        let end = done + length;
        let context = if done == 0 { vec![prefix] } else { tokens[end - max_length - 1..done].to_vec() };
        windows.push(Pair { context, continuation: tokens[done..end].to_vec(), truncated: 0 });
        done = end;
    }
    windows
}

fn hash_of_files(files: &ModelDir, max_length: Option<usize>) -> Result<String, ModelError> {
    let mut hasher = Hasher::new();
    // Writing to a hasher cannot fail.
    let _ = write!(hasher, "{RUNTIME_REVISION} {max_length:?}");
    let _ = write!(hasher, "{:?}", files.config().to_value());
    for file in files.checkpoint().files() {
        let _ = write!(hasher, "{:?}", file.content_hash());
    }
    // Generation defaults among them: they name the tokens that end an answer.
    for path in files.side_files() {
        let bytes = glue_tensor::files::read(&path, glue_tensor::files::DATA_BYTES).map_err(ModelError::caused_by)?;
        let _ = write!(hasher, "{:?} {:?}", path.file_name(), ContentHash::of(&bytes));
    }
    Ok(hasher.finish())
}

impl LanguageModel for LocalModel {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn content_hash(&self) -> Result<Option<String>, ModelError> {
        let (None, Some(directory)) = (&self.hash, &self.directory) else {
            return Ok(self.hash.clone());
        };
        let files = ModelDir::open(directory).map_err(ModelError::caused_by)?;
        hash_of_files(&files, Some(self.max_length)).map(Some)
    }

    fn check_unchanged(&self) -> Result<(), ModelError> {
        self.text.model.check_unchanged().map_err(ModelError::caused_by)
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        self.score(&self.pairs(requests)?, progress)
    }

    fn rolling(&self, texts: &[&str], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        let tokens: Vec<Vec<u32>> = texts.par_iter().map(|text| self.encode(text, true)).collect::<Result<_, _>>()?;
        let windows: Vec<Vec<Pair>> =
            tokens.iter().map(|tokens| windows(tokens, self.prefix, self.max_length)).collect();
        let counts: Vec<usize> = windows.iter().map(Vec::len).collect();
        let mut scores = self.score(&windows.concat(), &|_| {})?.into_iter();
        progress(texts.len());
        let text = |count: &usize| {
            let nothing = LogLikelihood { logprob: 0.0, greedy: true, n_tokens: 0, truncated: 0 };
            scores.by_ref().take(*count).fold(nothing, |sum, window| LogLikelihood {
                logprob: sum.logprob + window.logprob,
                greedy: sum.greedy && window.greedy,
                n_tokens: sum.n_tokens + window.n_tokens,
                truncated: 0,
            })
        };
        Ok(counts.iter().map(text).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let mut prompts: Vec<(Vec<u32>, usize)> = requests
            .par_iter()
            .enumerate()
            .map(|(index, request)| {
                let room = self.max_length.checked_sub(request.max_new_tokens).filter(|&room| room > 0);
                let room = room.ok_or_else(|| {
                    let message = format!(
                        "{} new tokens leave no room for a prompt, since the model takes {}",
                        request.max_new_tokens, self.max_length
                    );
                    ModelError::of_request(index, message)
                })?;
                let mut tokens = self.encode(request.context, true)?;
                if tokens.is_empty() {
                    tokens.push(self.prefix);
                }
                let truncated = tokens.len().saturating_sub(room);
                Ok((tokens.split_off(truncated), truncated))
            })
            .collect::<Result<_, ModelError>>()?;
        let mut answers: Vec<Vec<Generation>> = vec![Vec::new(); requests.len()];
        // Requests that differ in their prompts only are made together.
        let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let same = |&&mut (first, _): &&mut (usize, Vec<usize>)| {
                let other = &requests[first];
                (other.until, other.max_new_tokens, other.n) == (request.until, request.max_new_tokens, request.n)
                    && Sampling { seed: 0, ..other.sampling } == Sampling { seed: 0, ..request.sampling }
            };
            match groups.iter_mut().find(same) {
                Some((_, members)) => members.push(index),
                None => groups.push((index, vec![index])),
            }
        }
        for (first, members) in groups {
            let like = &requests[first];
            let greedy = like.sampling.temperature == 0.0;
            let prompt = |&index: &usize| {
                Prompt::tokens(std::mem::take(&mut prompts[index].0)).with_stream(requests[index].sampling.seed)
            };
            let inputs: Vec<Prompt> = members.iter().map(prompt).collect();
            let options = GenerateOptions {
                cancel: self.cancel.clone(),
                memory: self.memory,
                max_new_tokens: like.max_new_tokens,
                sampling: glue_lm::Sampling {
                    temperature: like.sampling.temperature as f32,
                    top_k: like.sampling.top_k,
                    top_p: like.sampling.top_p.map(|p| p as f32),
                    min_p: like.sampling.min_p.map(|p| p as f32),
                    repetition_penalty: like.sampling.repetition_penalty as f32,
                    ..Default::default()
                },
                stop: like.until.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
                // Without chance all answers of a request are the same.
                samples: if greedy { 1 } else { like.n },
                ..GenerateOptions::default()
            };
            for generated in
                self.text.generate(&inputs, &options, progress).map_err(|error| of_prompt(error, &members))?
            {
                let index = members[generated.prompt];
                let answer = Generation {
                    text: cut(&generated.text, like.until).to_string(),
                    n_tokens: generated.tokens.len(),
                    truncated: prompts[index].1,
                };
                let copies = if greedy { like.n } else { 1 };
                answers[index].extend(std::iter::repeat_n(answer, copies));
            }
        }
        Ok(answers)
    }

    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        chat(&self.text.tokenizer, messages)
            .map_err(|error| ModelError { message: format!("{}: {}", self.name, error.message), ..error })
    }
}

/// Renders a conversation by the template of a tokenizer.
fn chat(tokenizer: &Tokenizer, messages: &[ChatMessage]) -> Result<String, ModelError> {
    let open = messages.last().filter(|message| message.role == "assistant");
    let options = ChatOptions { add_generation_prompt: open.is_none(), ..ChatOptions::default() };
    let template = tokenizer.chat_template(None).map_err(ModelError::caused_by)?;
    let template = template.ok_or_else(|| ModelError::caused_by(TextError::NoChatTemplate))?;
    let render = |messages: &[ChatMessage]| {
        let messages: Vec<Message> =
            messages.iter().map(|message| Message::new(&message.role, message.content.as_str())).collect();
        template.render(&messages, &options)
    };
    // Some templates refuse a system message, and the harness then goes without.
    let text = match (render(messages), messages.split_first()) {
        (Err(_), Some((system, rest))) if system.role == "system" && !rest.is_empty() => render(rest),
        (rendered, _) => rendered,
    };
    let mut text = text.map_err(ModelError::caused_by)?;
    if let Some(open) = open {
        let words = open.content.trim_matches(is_space);
        if let Some(start) = text.rfind(words) {
            text.truncate(start + words.len());
        }
    }
    Ok(text)
}

fn of_prompt(error: TextError, members: &[usize]) -> ModelError {
    let prompt = match &error {
        TextError::EmptyPrompt { prompt }
        | TextError::PromptTooLong { prompt, .. }
        | TextError::Choice { prompt, .. } => Some(*prompt),
        _ => None,
    };
    let request = prompt.and_then(|prompt| members.get(prompt)).copied();
    let not_a_number = matches!(&error, TextError::Choice { error: SamplingError::Score { .. }, .. });
    ModelError { request, not_a_number, ..ModelError::caused_by(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOS: u32 = 1;

    /// A token for each letter, its code; one for each run of spaces with the letter after it.
    fn encode(text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let mut tokens = if add_special { vec![BOS] } else { Vec::new() };
        let mut spaces = 0;
        for c in text.chars() {
            match c {
                '^' => tokens.push(BOS),
                ' ' => spaces += 1,
                c => tokens.push(c as u32 + 1000 * std::mem::take(&mut spaces)),
            }
        }
        Ok(tokens)
    }

    fn check(context: &str, continuation: &str, max_length: usize, expected: (&[u32], &[u32], usize)) {
        let request = LogLikelihoodRequest { context, continuation };
        let pair = encode_group(&[request], BOS, max_length, &encode).unwrap().remove(0);
        assert_eq!(
            (&pair.context[..], &pair.continuation[..], pair.truncated),
            expected,
            "{context:?} {continuation:?}"
        );
    }

    #[test]
    fn contexts_and_continuations_are_split_as_the_harness_does() {
        let (a, b, c) = ('a' as u32, 'b' as u32, 'c' as u32);
        check("ab", " c", 9, (&[BOS, a, b], &[c + 1000], 0));
        check("ab ", "c", 9, (&[BOS, a, b], &[c + 1000], 0));
        check("ab ", " c", 9, (&[BOS, a, b], &[c + 2000], 0));
        check("", "bc", 9, (&[BOS], &[b, c], 0));
        check("", "^bc", 9, (&[BOS], &[b, c], 0));
        check(" ", "c", 9, (&[BOS], &[c + 1000], 0));
    }

    #[test]
    fn what_is_too_long_is_cut_from_the_left() {
        let (a, b, c) = ('a' as u32, 'b' as u32, 'c' as u32);
        check("aab", "c", 4, (&[BOS, a, a, b], &[c], 0));
        check("aab", "c", 3, (&[a, a, b], &[c], 1));
        check("aab", "cc", 2, (&[b], &[c, c], 3));
        let request = LogLikelihoodRequest { context: "a", continuation: "ccc" };
        let error = encode_group(&[request, request], BOS, 2, &encode).unwrap_err();
        assert_eq!(
            (error.request, error.to_string().as_str()),
            (Some(0), "the continuation has 3 tokens, but the model takes 2")
        );
        let empty = LogLikelihoodRequest { context: "a", continuation: " " };
        let error = encode_group(&[empty], BOS, 2, &encode).unwrap_err();
        assert_eq!(error.to_string(), "the continuation \" \" adds no token to its context");
    }

    #[test]
    fn windows_are_those_of_the_harness() {
        // lm_eval 0.4.13: make_disjoint_window of get_rolling_token_windows(list(range(10, 20)), 1, MAX, 1)
        let check = |max_length: usize, expected: &[(&[u32], &[u32])]| {
            let tokens: Vec<u32> = (10..20).collect();
            let windows = windows(&tokens, 1, max_length);
            let windows: Vec<(&[u32], &[u32])> =
                windows.iter().map(|pair| (&pair.context[..], &pair.continuation[..])).collect();
            assert_eq!(windows, expected);
        };
        check(12, &[(&[1], &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19])]);
        check(5, &[(&[1], &[10, 11, 12, 13, 14]), (&[14], &[15, 16, 17, 18, 19])]);
        check(4, &[(&[1], &[10, 11, 12, 13]), (&[13], &[14, 15, 16, 17]), (&[15, 16, 17], &[18, 19])]);
        assert_eq!(windows(&[], 1, 4), []);
    }

    #[test]
    fn answers_end_before_the_first_stop() {
        let until = ["\n".to_string(), String::new(), "Q:".to_string()];
        assert_eq!(cut(" 4 Q: b\nx", &until), " 4 ");
        assert_eq!(cut("4", &until), "4");
    }
}
