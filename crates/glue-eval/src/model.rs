//! The boundary to whatever answers: a model in memory, a server, a table in a test.

use crate::error::ModelError;

/// What a language model must be able to do to be scored.
///
/// Each function takes all requests of an evaluation at once, so that the model can order and batch them at its best,
/// and answers in the order of the requests. `progress` is called, from any thread, with the number of requests that
/// have just been answered.
pub trait LanguageModel: Sync {
    /// A name for reports.
    fn name(&self) -> String;

    /// A hash of everything the answers depend on, weights and tokenizer; `None` when there is no such thing, and then
    /// nothing is cached. It is asked for only if there is a cache.
    ///
    /// # Errors
    /// [`ModelError`] for files that can no longer be read.
    fn content_hash(&self) -> Result<Option<String>, ModelError> {
        Ok(None)
    }

    /// Checks that the files behind the model are those that it was opened from, unchanged. Asked after each task or
    /// group of tasks, before their scores are kept. Default: nothing to check.
    ///
    /// # Errors
    /// [`ModelError`] that names the file; it ends the evaluation.
    fn check_unchanged(&self) -> Result<(), ModelError> {
        Ok(())
    }

    /// The log-likelihood of each continuation after its context. Requests with the same context stand together.
    ///
    /// # Errors
    /// [`ModelError`], which ends the evaluation.
    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError>;

    /// The log-likelihood of each text as a whole. A text longer than the model is cut into windows that do not
    /// overlap, each of which sees one token of the one before.
    ///
    /// # Errors
    /// [`ModelError`], which ends the evaluation.
    fn rolling(&self, texts: &[&str], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError>;

    /// `n` answers to each request, each without the stop string that ended it.
    ///
    /// # Errors
    /// [`ModelError`], which ends the evaluation.
    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError>;

    /// Renders a conversation by the model's chat template, ready for the answer of the assistant. A conversation that
    /// ends with the assistant is left open there, so that the model continues its words.
    ///
    /// # Errors
    /// [`ModelError`] for a model without a template, which is the default, or a template that fails.
    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let _ = messages;
        Err(ModelError::new(format!("{} has no chat template", self.name())))
    }
}

/// How likely is this continuation of that context?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLikelihoodRequest<'a> {
    /// What comes before. It may be empty.
    pub context: &'a str,
    /// What is scored, with the delimiter that separates it. Not empty.
    pub continuation: &'a str,
}

/// An answer to a [`LogLikelihoodRequest`], or for a text as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogLikelihood {
    /// Natural logarithm of the probability.
    pub logprob: f64,
    /// Whether each token of the continuation was the most likely one.
    pub greedy: bool,
    /// How many tokens were scored.
    pub n_tokens: usize,
    /// How many tokens of the context were dropped, from its left, because all together are more than the model takes.
    pub truncated: usize,
}

impl LogLikelihood {
    /// That of a text from those of its windows, which the model saw one by one; of a text without a token it is 0.
    pub fn of_windows(windows: impl IntoIterator<Item = LogLikelihood>) -> LogLikelihood {
        let nothing = LogLikelihood { logprob: 0.0, greedy: true, n_tokens: 0, truncated: 0 };
        windows.into_iter().fold(nothing, |sum, window| LogLikelihood {
            logprob: sum.logprob + window.logprob,
            greedy: sum.greedy && window.greedy,
            n_tokens: sum.n_tokens + window.n_tokens,
            truncated: 0,
        })
    }
}

/// Continue this context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateRequest<'a> {
    /// What comes before. It may be empty.
    pub context: &'a str,
    /// Texts that end an answer. The end-of-sequence token always does.
    pub until: &'a [String],
    /// Maximum number of new tokens.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// How many answers are wanted, at least 1.
    pub n: usize,
}

impl GenerateRequest<'_> {
    /// The part of an answer before the first stop string in it.
    pub fn cut<'t>(&self, text: &'t str) -> &'t str {
        cut(text, self.until)
    }
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Sampling temperature; 0 takes the most likely token.
    pub temperature: f64,
    /// Only this many of the most likely tokens are considered; `None` for all.
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability are considered, in (0, 1]; `None` for all.
    pub top_p: Option<f64>,
    /// Only tokens with at least this share of the probability of the most likely one are considered, in [0, 1];
    /// `None` for all.
    pub min_p: Option<f64>,
    /// Scores of tokens that have occurred are divided by it where they are positive, and multiplied where they are
    /// negative; above 0, and 1 for no penalty.
    pub repetition_penalty: f64,
    /// The seed of the random numbers; the answers of one request differ by their number.
    pub seed: u64,
}

impl Sampling {
    /// The most likely token each time.
    pub const GREEDY: Sampling =
        Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: 0 };
}

/// An answer to a [`GenerateRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The text, without the stop string and without special tokens.
    pub text: String,
    /// How many tokens were generated.
    pub n_tokens: usize,
    /// How many tokens of the context were dropped, from its left, to leave room for the answer.
    pub truncated: usize,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The text before the first of these that is in it, one after another.
pub(crate) fn cut<'a>(text: &'a str, until: &[String]) -> &'a str {
    until
        .iter()
        .filter(|stop| !stop.is_empty())
        .fold(text, |text, stop| text.split(stop.as_str()).next().unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_before_the_first_stop() {
        let until = ["\n".to_string(), String::new(), "Q:".to_string()];
        assert_eq!(cut(" 4 Q: b\nx", &until), " 4 ");
        assert_eq!(cut("4", &until), "4");
    }
}
