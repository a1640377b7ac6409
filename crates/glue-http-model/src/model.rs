//! A model on a server as a [`LanguageModel`].

use crate::client::Client;
use crate::connect::{Directory, Server, ServerOptions};
use crate::dialect::llama_cpp::{self, Vocabulary};
use crate::dialect::{self, Ask, Dialect, TokenScore};
use crate::error::ServerError;
use crate::workers;
use glue_eval::{
    ChatFormat, ChatMessage, EncodedRequest, GenerateRequest, Generation, LanguageModel, LogLikelihood,
    LogLikelihoodRequest, ModelError, PromptEncoder,
};
use glue_lm::Tokenizer;
use glue_tensor::hub::locate;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// A model that a server holds, and the tokenizer of its directory.
///
/// Answers are not cached, since nothing shows whether the server still holds the same weights: the
/// [content hash](LanguageModel::content_hash) is `None`.
#[derive(Debug)]
pub struct HttpModel {
    client: Client,
    name: String,
    info: ServerInfo,
    tokenizer: Tokenizer,
    end_ids: Vec<u32>,
    /// How what is scored is encoded.
    scored: PromptEncoder,
    /// How what is continued is encoded.
    continued: PromptEncoder,
    vocabulary: Vocabulary,
    workers: usize,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// The address of the server, without a slash at its end.
    pub url: String,
    /// How it is asked.
    pub dialect: Dialect,
    /// The name of the model there.
    pub model: String,
}

impl HttpModel {
    /// Connects to the server at `url`, which must hold the model whose configuration and tokenizer are in `directory`:
    /// a model directory, or the name of a model in the cache of the Hugging Face hub. Weights are not needed.
    /// `directory` is the name in reports.
    ///
    /// # Errors
    /// [`ServerError`]: no server, or one that holds several models or another one, as far as it says; a directory that
    /// lacks what is needed.
    pub fn connect(directory: impl AsRef<Path>, url: &str, options: &ServerOptions) -> Result<HttpModel, ServerError> {
        let given = directory.as_ref();
        let path = locate(given);
        let directory = Directory::open(&path)?;
        let (timeout, first_wait) = (options.timeout, options.first_wait);
        let client = Client::new(url, options.token.clone(), timeout, first_wait, options.cancel.clone())?;
        let server = Server::ask(&client, &path, &directory, options)?;
        let tokenizer = directory.tokenizer;
        let reserved = server.dialect.reserved();
        let at_most = |limit: usize| {
            server
                .limit
                .map_or(server.max_length, |limit_there| server.max_length.min(limit_there.saturating_sub(limit)))
        };
        let broken = |error: ModelError| ServerError::File { path: path.to_path_buf(), message: error.message };
        // Of what is scored, all tokens are sent, with the last one, which a model here only predicts.
        let scored = PromptEncoder::new(&tokenizer, at_most(reserved + 1)).map_err(broken)?;
        let kept = if server.dialect == Dialect::Sglang { reserved } else { 0 };
        let continued = scored.clone().with_max_length(at_most(kept));
        let is_letter = |id: &u32| {
            tokenizer
                .id_to_token(*id)
                .is_some_and(|token| token.len() == 1 && token.as_bytes()[0].is_ascii_alphabetic())
        };
        let harmless = (0..u32::try_from(server.vocab_size).unwrap_or(u32::MAX)).find(is_letter);
        let wanted = options.concurrency.max(1);
        Ok(HttpModel {
            info: ServerInfo { url: client.base().to_string(), dialect: server.dialect, model: server.model },
            client,
            name: given.display().to_string(),
            end_ids: tokenizer.end_ids().iter().copied().collect(),
            tokenizer,
            scored,
            continued,
            vocabulary: Vocabulary { size: server.vocab_size, harmless },
            workers: server.slots.map_or(wanted, |slots| wanted.min(slots)),
        })
    }

    /// What answers.
    pub fn server(&self) -> &ServerInfo {
        &self.info
    }

    /// What people should know before they wait; `None` if nothing.
    pub fn note(&self) -> Option<String> {
        (self.info.dialect == Dialect::LlamaCpp).then(|| {
            "llama.cpp gives no log-probabilities of prompts, so that each token of a choice is a request of its own: \
             multiple choice and perplexity are slow"
                .to_string()
        })
    }

    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        self.tokenizer.encode(text, add_special).map_err(ModelError::caused_by)
    }

    fn score(
        &self,
        pairs: &[EncodedRequest],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        if self.info.dialect == Dialect::LlamaCpp {
            return self.score_by_token(pairs, progress);
        }
        workers::run(pairs.len(), self.workers, |number| {
            let EncodedRequest { context, continuation, truncated } = &pairs[number];
            let scores = dialect::score(&self.client, self.info.dialect, &self.info.model, context, continuation);
            let scores = scores.map_err(|error| of_request(number, error))?;
            progress(1);
            Ok(total(&scores, *truncated))
        })
    }

    /// The same with a request for each token. Pairs with the same context are one job, so that the server finds the
    /// context in its cache, and no token is asked for twice.
    fn score_by_token(
        &self,
        pairs: &[EncodedRequest],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        let groups = ranges(pairs);
        let scored = workers::run(groups.len(), self.workers, |number| {
            let mut known: HashMap<&[u32], TokenScore> = HashMap::new();
            let mut totals = Vec::with_capacity(groups[number].len());
            for number in groups[number].clone() {
                let EncodedRequest { context, continuation, truncated } = &pairs[number];
                let mut prompt = context.clone();
                let mut scores = Vec::with_capacity(continuation.len());
                for (at, &token) in continuation.iter().enumerate() {
                    let score = match known.get(&continuation[..=at]) {
                        Some(score) => *score,
                        None => llama_cpp::score(&self.client, self.vocabulary, &prompt, token)
                            .map_err(|error| of_request(number, error))?,
                    };
                    known.insert(&continuation[..=at], score);
                    scores.push(score);
                    prompt.push(token);
                }
                progress(1);
                totals.push(total(&scores, *truncated));
            }
            Ok(totals)
        })?;
        Ok(scored.into_iter().flatten().collect())
    }
}

/// The ranges of requests that stand together with the same context.
fn ranges(pairs: &[EncodedRequest]) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |group: &[EncodedRequest]| {
        let start = end;
        end += group.len();
        start..end
    };
    pairs.chunk_by(|a, b| a.context == b.context).map(range).collect()
}

fn total(scores: &[TokenScore], truncated: usize) -> LogLikelihood {
    LogLikelihood {
        logprob: scores.iter().map(|score| score.logprob).sum(),
        greedy: scores.iter().all(|score| score.greedy),
        n_tokens: scores.len(),
        truncated,
    }
}

/// An error of a request, if it is about what was asked and not about the connection.
fn of_request(number: usize, error: ServerError) -> ModelError {
    let own =
        matches!(error, ServerError::Answer { .. } | ServerError::NotANumber { .. } | ServerError::Unsupported { .. });
    ModelError { request: own.then_some(number), ..ModelError::from(error) }
}

/// The seed of an answer, below 2³¹.
fn seed(seed: u64, answer: usize) -> u32 {
    // The last step of SplitMix64.
    let mut bits = seed.wrapping_add((answer as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 33) as u32
}

impl LanguageModel for HttpModel {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        let pairs = self.scored.pairs(requests, &|text, add_special| self.encode(text, add_special))?;
        self.score(&pairs, progress)
    }

    fn rolling(&self, texts: &[&str], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        let windows = self.scored.windows(texts, &|text, add_special| self.encode(text, add_special))?;
        let scores = self.score(&windows.concat(), &|_| {});
        // The number of a window says nothing to whoever gave texts.
        let mut scores = scores.map_err(|error| ModelError { request: None, ..error })?.into_iter();
        progress(texts.len());
        Ok(windows.iter().map(|windows| LogLikelihood::of_windows(scores.by_ref().take(windows.len()))).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let dialect = self.info.dialect;
        for (number, request) in requests.iter().enumerate() {
            if let Some(what) = dialect::unsupported(dialect, &request.sampling) {
                return Err(of_request(number, ServerError::Unsupported { dialect: dialect.name(), what }));
            }
        }
        let prompts = self.continued.prompts(requests, &|text, add_special| self.encode(text, add_special))?;
        // Without chance all answers of a request are the same.
        let asked = |request: &GenerateRequest<'_>| if request.sampling.temperature == 0.0 { 1 } else { request.n };
        let jobs: Vec<(usize, usize)> = requests
            .iter()
            .enumerate()
            .flat_map(|(number, request)| (0..asked(request)).map(move |answer| (number, answer)))
            .collect();
        let generated = workers::run(jobs.len(), self.workers, |job| {
            let (number, answer) = jobs[job];
            let (request, prompt) = (&requests[number], &prompts[number]);
            let stop: Vec<&str> = request.until.iter().map(String::as_str).filter(|stop| !stop.is_empty()).collect();
            let ask = Ask {
                model: &self.info.model,
                tokens: &prompt.tokens,
                max_new_tokens: request.max_new_tokens,
                stop: &stop,
                end_ids: &self.end_ids,
                sampling: &request.sampling,
                seed: seed(request.sampling.seed, answer),
            };
            let found = dialect::generate(&self.client, dialect, &ask).map_err(|error| of_request(number, error))?;
            if answer == 0 {
                progress(1);
            }
            let text = request.cut(&found.text).to_string();
            Ok(Generation { text, n_tokens: found.n_tokens, truncated: prompt.truncated })
        })?;
        let mut answers: Vec<Vec<Generation>> = requests.iter().map(|request| Vec::with_capacity(request.n)).collect();
        for (&(number, _), generation) in jobs.iter().zip(generated) {
            let copies = if requests[number].sampling.temperature == 0.0 { requests[number].n } else { 1 };
            answers[number].extend(std::iter::repeat_n(generation, copies));
        }
        Ok(answers)
    }

    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let rendered = ChatFormat(&self.tokenizer).chat(messages);
        rendered.map_err(|error| ModelError { message: format!("{}: {}", self.name, error.message), ..error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_answer_and_are_small() {
        let seeds: std::collections::BTreeSet<u32> = (0..1000).map(|answer| seed(7, answer)).collect();
        assert_eq!(seeds.len(), 1000);
        assert!(seeds.iter().all(|&seed| seed < 1 << 31));
        assert_ne!(seed(7, 0), seed(8, 0));
    }

    #[test]
    fn jobs_are_runs_of_a_context() {
        let pair = |context: u32| EncodedRequest { context: vec![context], continuation: vec![1], truncated: 0 };
        assert_eq!(ranges(&[1, 1, 2, 1].map(pair)), [0..2, 2..3, 3..4]);
    }
}
