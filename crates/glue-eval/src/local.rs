//! A model in this process as a [`LanguageModel`]; [`PromptEncoder`] says how its prompts are encoded.

use crate::cache::Hasher;
use crate::error::ModelError;
use crate::model::{
    ChatMessage, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest, Sampling, cut,
};
use crate::prompts::{EncodedRequest, PromptEncoder};
use crate::python::is_space;
use glue_lm::{
    ChatOptions, GenerateOptions, Message, Prompt, RUNTIME_REVISION, SamplingError, ScoreOptions, ScoreRequest,
    TextError, TextModel, Tokenizer,
};
use glue_progress::CancelToken;
use glue_tensor::hub::locate;
use glue_tensor::{ContentHash, ModelDir};
use parking_lot::RwLock;
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
    prompts: PromptEncoder,
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
        let prompts = PromptEncoder::new(&text.tokenizer, text.model.max_positions())?;
        Ok(LocalModel {
            text,
            name: name.into(),
            directory: None,
            hash: None,
            prompts,
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
        LocalModel { prompts: self.prompts.with_max_length(max_length), ..self }
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

    fn pairs(&self, requests: &[LogLikelihoodRequest<'_>]) -> Result<Vec<EncodedRequest>, ModelError> {
        self.prompts.pairs(requests, &|text, add_special| self.encode(text, add_special))
    }

    fn score(
        &self,
        pairs: &[EncodedRequest],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        let requests: Vec<ScoreRequest<'_>> = pairs
            .iter()
            .map(|pair| ScoreRequest { context: &pair.context, continuation: &pair.continuation })
            .collect();
        let options = ScoreOptions { cancel: self.cancel.clone(), memory: self.memory, ..ScoreOptions::default() };
        let scores = self.text.model.score(&requests, &options, progress).map_err(ModelError::caused_by)?;
        let answer = |(score, pair): (glue_lm::Score, &EncodedRequest)| LogLikelihood {
            logprob: score.logprob,
            greedy: score.greedy,
            n_tokens: score.n_tokens,
            truncated: pair.truncated,
        };
        Ok(scores.into_iter().zip(pairs).map(answer).collect())
    }
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
        hash_of_files(&files, Some(self.prompts.max_length())).map(Some)
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
        let windows = self.prompts.windows(texts, &|text, add_special| self.encode(text, add_special))?;
        let mut scores = self.score(&windows.concat(), &|_| {})?.into_iter();
        progress(texts.len());
        Ok(windows.iter().map(|windows| LogLikelihood::of_windows(scores.by_ref().take(windows.len()))).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let mut prompts = self.prompts.prompts(requests, &|text, add_special| self.encode(text, add_special))?;
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
                Prompt::tokens(std::mem::take(&mut prompts[index].tokens)).with_stream(requests[index].sampling.seed)
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
                    truncated: prompts[index].truncated,
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
