//! How each kind of server is asked, and what its answers mean.

pub(crate) mod llama_cpp;
mod openai;
mod sglang;
mod vllm;

use crate::client::{Client, answer};
use crate::error::ServerError;
use glue_eval::Sampling;
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// The server of llama.cpp.
    LlamaCpp,
    /// A server with OpenAI's completions and nothing else.
    OpenAi,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 4] = [Dialect::Vllm, Dialect::Sglang, Dialect::LlamaCpp, Dialect::OpenAi];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Vllm => "vllm",
            Dialect::Sglang => "sglang",
            Dialect::LlamaCpp => "llama-cpp",
            Dialect::OpenAi => "openai",
        }
    }

    /// How many tokens fewer than its limit a server takes to be scored: the engine wants room to generate.
    pub(crate) fn reserved(self) -> usize {
        match self {
            Dialect::Vllm | Dialect::OpenAi => 1,
            // Its scheduler keeps five more for itself.
            Dialect::Sglang => 6,
            // The last token is not sent.
            Dialect::LlamaCpp => 0,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = String;

    /// Reads a [name](Dialect::name).
    fn from_str(text: &str) -> Result<Dialect, String> {
        let found = Dialect::ALL.into_iter().find(|dialect| dialect.name() == text);
        found.ok_or_else(|| format!("expected {}", Dialect::ALL.map(Dialect::name).join(", ")))
    }
}

/// The score of one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TokenScore {
    pub(crate) logprob: f64,
    /// Whether no other token is as likely.
    pub(crate) greedy: bool,
}

/// An answer to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) n_tokens: usize,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    message: String,
    not_a_number: bool,
}

impl Flaw {
    pub(crate) fn new(message: impl Into<String>) -> Flaw {
        Flaw { message: message.into(), not_a_number: false }
    }

    fn not_a_number(message: String) -> Flaw {
        Flaw { message, not_a_number: true }
    }
}

/// A prompt for a continuation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) model: &'a str,
    pub(crate) tokens: &'a [u32],
    pub(crate) max_new_tokens: usize,
    pub(crate) stop: &'a [&'a str],
    pub(crate) end_ids: &'a [u32],
    pub(crate) sampling: &'a Sampling,
    /// Below 2³¹, which all servers take.
    pub(crate) seed: u32,
}

/// The scores of `continuation` after `context`, by a dialect that scores prompts. `model` is the name of the model on
/// the server. llama.cpp scores no prompts: [`llama_cpp::score`] asks it.
pub(crate) fn score(
    client: &Client,
    dialect: Dialect,
    model: &str,
    context: &[u32],
    continuation: &[u32],
) -> Result<Vec<TokenScore>, ServerError> {
    let tokens = [context, continuation].concat();
    let (path, body) = match dialect {
        Dialect::Vllm => vllm::score_request(model, &tokens),
        Dialect::Sglang => sglang::score_request(&tokens, context.len()),
        Dialect::OpenAi | Dialect::LlamaCpp => openai::score_request(model, &tokens),
    };
    let found = client.post(path, &body).map_err(|error| match error {
        ServerError::Status { url, status: status @ (400 | 404 | 405 | 422 | 501), message, .. }
            if dialect == Dialect::OpenAi =>
        {
            ServerError::NoEcho { url, status, message }
        }
        error => error,
    })?;
    let read = match dialect {
        Dialect::Vllm => vllm::scores(&found, &tokens, context.len()),
        Dialect::Sglang => sglang::scores(&found, &tokens, context.len()),
        Dialect::OpenAi | Dialect::LlamaCpp => openai::scores(&found, &tokens, context.len()),
    };
    read.map_err(|flaw| flawed(client, dialect, path, flaw))
}

/// A continuation of a prompt.
pub(crate) fn generate(client: &Client, dialect: Dialect, ask: &Ask<'_>) -> Result<Answer, ServerError> {
    let (path, body) = match dialect {
        Dialect::Vllm => vllm::generate_request(ask),
        Dialect::Sglang => sglang::generate_request(ask),
        Dialect::OpenAi => openai::generate_request(ask),
        Dialect::LlamaCpp => llama_cpp::generate_request(ask),
    };
    let found = client.post(path, &body)?;
    let read = match dialect {
        Dialect::Vllm | Dialect::OpenAi => openai::answer(&found),
        Dialect::Sglang => sglang::answer(&found),
        Dialect::LlamaCpp => llama_cpp::answer(&found),
    };
    let checked = read.and_then(|answer| match answer.n_tokens <= ask.max_new_tokens {
        true => Ok(answer),
        false => {
            let message = format!("expected at most {} new tokens, found {}", ask.max_new_tokens, answer.n_tokens);
            Err(Flaw::new(message))
        }
    });
    checked.map_err(|flaw| flawed(client, dialect, path, flaw))
}

/// What a dialect cannot be asked for among the options of sampling, in words.
pub(crate) fn unsupported(dialect: Dialect, sampling: &Sampling) -> Option<String> {
    if sampling.repetition_penalty != 1.0 && dialect != Dialect::Vllm {
        return Some(format!("a repetition penalty of {}", sampling.repetition_penalty));
    }
    if sampling.temperature == 0.0 {
        return None;
    }
    match dialect {
        Dialect::Vllm | Dialect::LlamaCpp => None,
        Dialect::Sglang => {
            Some(format!("sampling at temperature {} with a seed for each request", sampling.temperature))
        }
        Dialect::OpenAi => {
            let names = [("top_k", sampling.top_k.is_some()), ("min_p", sampling.min_p.is_some())];
            names.into_iter().find(|(_, given)| *given).map(|(name, _)| format!("sampling with {name}"))
        }
    }
}

pub(crate) fn flawed(client: &Client, dialect: Dialect, path: &str, flaw: Flaw) -> ServerError {
    let url = format!("{}{path}", client.base());
    match flaw.not_a_number {
        true => ServerError::NotANumber { url, message: flaw.message },
        false => answer(&url, dialect.name(), flaw.message),
    }
}

/// The list at `place`, with one entry for each of `expected` tokens.
fn list<'a>(value: &'a Value, place: &str, expected: usize) -> Result<&'a [Value], Flaw> {
    let list =
        value.as_array().ok_or_else(|| Flaw::new(format!("expected a list in {place}, found {}", kind(value))))?;
    match list.len() == expected {
        true => Ok(list),
        false => Err(Flaw::new(format!("expected {expected} entries in {place}, found {}", list.len()))),
    }
}

/// The only one of `choices`.
fn choice(value: &Value) -> Result<&Value, Flaw> {
    Ok(&list(&value["choices"], "choices", 1)?[0])
}

/// A log-probability at `place`.
fn logprob(value: &Value, place: &str) -> Result<f64, Flaw> {
    match value {
        // Servers whose JSON has no NaN write null.
        Value::Null => Err(Flaw::not_a_number(format!("{place} is null"))),
        // Rounding may leave a probability a little above 1.
        value => match value.as_f64().filter(|found| *found < 1e-3) {
            Some(found) => Ok(found.min(0.0)),
            None => Err(Flaw::new(format!("expected a log-probability in {place}, found {value}"))),
        },
    }
}

/// The text at `place`.
fn text(value: &Value, place: &str) -> Result<String, Flaw> {
    let text = value.as_str().ok_or_else(|| Flaw::new(format!("expected a text in {place}, found {}", kind(value))))?;
    Ok(text.to_string())
}

/// The number of tokens at `place`.
fn count(value: &Value, place: &str) -> Result<usize, Flaw> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| Flaw::new(format!("expected a number of tokens in {place}, found {}", kind(value))))
}

/// Whether the log-probability of `key` is above that of all others in a map.
fn is_largest(map: &Map<String, Value>, key: &str, logprob: f64) -> bool {
    map.iter().filter(|(other, _)| *other != key).all(|(_, value)| {
        let value = if value.is_object() { &value["logprob"] } else { value };
        value.as_f64().is_some_and(|value| value < logprob)
    })
}

/// What a value is.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert!(Dialect::ALL.into_iter().all(|dialect| dialect.name().parse() == Ok(dialect)));
        assert_eq!("tgi".parse::<Dialect>(), Err("expected vllm, sglang, llama-cpp, openai".into()));
    }

    #[test]
    fn what_is_no_log_probability_is_refused() {
        let check = |text: &str| logprob(&serde_json::from_str(text).unwrap(), "here");
        assert_eq!((check("-1.5"), check("1e-7")), (Ok(-1.5), Ok(0.0)));
        assert_eq!(check("null"), Err(Flaw::not_a_number("here is null".into())));
        for text in ["0.5", "\"-1\"", "[-1]"] {
            assert_eq!(check(text), Err(Flaw::new(format!("expected a log-probability in here, found {text}"))));
        }
    }
}
