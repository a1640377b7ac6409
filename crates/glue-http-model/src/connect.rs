//! The first contact: what a server is, which model it holds, and whether that is the one of the directory.

use crate::client::{Client, ServerToken, TRIES, answer};
use crate::dialect::Dialect;
use crate::error::ServerError;
use glue_lm::{Architecture, Tokenizer};
use glue_progress::{CancelToken, ErrorChain};
use glue_tensor::Config;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// A text that tokenizers split differently.
const PROBE: &str = "The answer is 1024: it's x_1 == (y + 3.5);\n  return naïve café";

/// How a server is asked.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The kind of server. Default: what the server says it is.
    pub dialect: Option<Dialect>,
    /// The name of the model there. Default: that of its only model.
    pub model: Option<String>,
    /// Requests under way at once, at least 1. Default: 16. Never more than a llama.cpp server has slots.
    pub concurrency: usize,
    /// How long the server may be silent. Default: 10 minutes.
    pub timeout: Duration,
    /// What proves to the server who asks. Default: none.
    pub token: Option<ServerToken>,
    /// At most this many tokens in a sequence. Default: as many as `config.json` says, which is then also what the
    /// server must take.
    pub max_length: Option<usize>,
    /// How long to wait before a request is tried again; twice as long before each further try. Default: one second.
    pub first_wait: Duration,
    /// Ends the work with an error, between two requests. Default: never cancelled.
    pub cancel: CancelToken,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            dialect: None,
            model: None,
            concurrency: 16,
            timeout: Duration::from_secs(600),
            token: None,
            max_length: None,
            first_wait: Duration::from_secs(1),
            cancel: CancelToken::default(),
        }
    }
}

/// What is in a model directory, without weights.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) tokenizer: Tokenizer,
    max_length: Option<usize>,
    vocab_size: Option<usize>,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> Result<Directory, ServerError> {
        let file = |path: &Path, message: String| ServerError::File { path: path.to_path_buf(), message };
        if !path.is_dir() {
            let message = "expected a directory with config.json and the tokenizer of the model that the server holds";
            return Err(file(path, message.into()));
        }
        let config_path = path.join("config.json");
        let config = Config::open(&config_path).map_err(|error| file(&config_path, error.chain()))?;
        let tokenizer = Tokenizer::load(path).map_err(|error| file(path, error.chain()))?;
        // Of families that run here, defaults are known too; others have to say it.
        let known = Architecture::from_config(&config).ok();
        let max_length = config.max_position_embeddings().or(known.as_ref().map(|known| known.max_positions));
        let vocab_size = config.vocab_size().or(known.as_ref().map(|known| known.vocab_size));
        Ok(Directory { tokenizer, max_length, vocab_size })
    }
}

/// What is known of a server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) dialect: Dialect,
    pub(crate) model: String,
    /// Requests that it works on at once, where it says so.
    pub(crate) slots: Option<usize>,
    /// Tokens in a sequence.
    pub(crate) max_length: usize,
    /// Tokens that the server takes, where it says so.
    pub(crate) limit: Option<usize>,
    /// Rows of the embedding.
    pub(crate) vocab_size: usize,
}

impl Server {
    /// Asks a server what it is, and compares it with the model directory at `path`.
    pub(crate) fn ask(
        client: &Client,
        path: &Path,
        directory: &Directory,
        options: &ServerOptions,
    ) -> Result<Server, ServerError> {
        // Tried once: a server that is not there should not take long to say so.
        let list = client.get("/v1/models", 1)?;
        let dialect = match options.dialect {
            Some(dialect) => dialect,
            None => detect(client, list.as_ref())?,
        };
        let models: &[Value] = list.as_ref().and_then(|list| list["data"].as_array()).map_or(&[], Vec::as_slice);
        let (model, card) = choose(client, models, options.model.as_deref())?;
        let mismatch = |what, expected: usize, found: usize, advice: String| ServerError::Mismatch {
            url: client.base().into(),
            directory: path.into(),
            what,
            expected: expected.to_string().into(),
            found: found.to_string().into(),
            advice: advice.into(),
        };
        let (mut limit, mut slots, mut trained) = (number(&card["max_model_len"]), None, None);
        if dialect == Dialect::LlamaCpp {
            trained = number(&card["meta"]["n_ctx_train"]);
            let props = client.get("/props", TRIES)?.unwrap_or_default();
            limit = number(&props["default_generation_settings"]["n_ctx"]);
            slots = number(&props["total_slots"]);
        }
        let vocab_size = number(&card["meta"]["n_vocab"]);
        if let (Some(expected), Some(found)) = (directory.vocab_size, vocab_size)
            && expected != found
        {
            return Err(mismatch("the size of the vocabulary", expected, found, String::new()));
        }
        if let (Some(expected), Some(found)) = (directory.max_length, trained)
            && expected != found
        {
            return Err(mismatch("the maximum length", expected, found, String::new()));
        }
        let max_length = match (options.max_length, directory.max_length, limit) {
            (Some(wanted), _, Some(limit)) if wanted > limit => {
                return Err(ServerError::TooLong { url: client.base().into(), wanted, limit });
            }
            (Some(wanted), ..) => wanted,
            (None, Some(expected), Some(limit)) if limit < expected => {
                let advice = format!("; --server-max-length {limit} cuts what is longer");
                return Err(mismatch("the maximum length", expected, limit, advice));
            }
            // The memory that llama.cpp sets aside may be more than the model was trained for.
            (None, Some(expected), Some(limit)) if limit > expected && dialect != Dialect::LlamaCpp => {
                let advice = format!("; --server-max-length {expected} accepts it");
                return Err(mismatch("the maximum length", expected, limit, advice));
            }
            (None, Some(expected), _) => expected,
            (None, None, Some(limit)) => limit,
            (None, None, None) => {
                return Err(ServerError::NoLength { url: client.base().into(), directory: path.to_path_buf() });
            }
        };
        check_tokenizer(client, dialect, &model, path, &directory.tokenizer)?;
        let vocab_size = vocab_size.or(directory.vocab_size).unwrap_or(directory.tokenizer.vocab_size());
        Ok(Server { dialect, model, slots, max_length, limit, vocab_size })
    }
}

fn number(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|&number| number > 0)
}

/// The kind of a server, from its list of models or from what only one kind has.
fn detect(client: &Client, list: Option<&Value>) -> Result<Dialect, ServerError> {
    let owner = list.and_then(|list| list["data"][0]["owned_by"].as_str());
    match owner {
        Some("vllm") => return Ok(Dialect::Vllm),
        Some("sglang") => return Ok(Dialect::Sglang),
        Some("llamacpp") => return Ok(Dialect::LlamaCpp),
        _ => {}
    }
    if client.get("/get_model_info", TRIES)?.is_some_and(|info| info["model_path"].is_string()) {
        return Ok(Dialect::Sglang);
    }
    if client.get("/props", TRIES)?.is_some_and(|props| props["default_generation_settings"].is_object()) {
        return Ok(Dialect::LlamaCpp);
    }
    match list.is_some_and(|list| list["data"].is_array()) {
        true => Ok(Dialect::OpenAi),
        false => Err(ServerError::UnknownDialect { url: client.base().into() }),
    }
}

/// The name of the model that is meant, and what the server says of it.
fn choose(client: &Client, models: &[Value], wanted: Option<&str>) -> Result<(String, Value), ServerError> {
    let name = |model: &Value| model["id"].as_str().map(str::to_string);
    let found = match (wanted, models) {
        // A server without a list has to know the name itself.
        (Some(wanted), []) => Some((wanted.to_string(), Value::Null)),
        (Some(wanted), models) => {
            let card = models.iter().find(|model| model["id"].as_str() == Some(wanted));
            card.map(|card| (wanted.to_string(), card.clone()))
        }
        (None, [one]) => name(one).map(|name| (name, one.clone())),
        (None, _) => None,
    };
    found.ok_or_else(|| ServerError::Model {
        url: client.base().into(),
        models: models.iter().filter_map(name).collect(),
        wanted: wanted.map(str::to_string),
    })
}

/// Compares the tokens of a text, where the server shows them.
fn check_tokenizer(
    client: &Client,
    dialect: Dialect,
    model: &str,
    path: &Path,
    tokenizer: &Tokenizer,
) -> Result<(), ServerError> {
    let body = match dialect {
        Dialect::Vllm | Dialect::Sglang => json!({ "model": model, "prompt": PROBE, "add_special_tokens": false }),
        Dialect::LlamaCpp => json!({ "content": PROBE, "add_special": false, "parse_special": true }),
        Dialect::OpenAi => return Ok(()),
    };
    let Some(found) = client.post_if_there("/tokenize", &body)? else { return Ok(()) };
    let url = format!("{}/tokenize", client.base());
    let tokens = found["tokens"].as_array().and_then(|tokens| tokens.iter().map(Value::as_u64).collect());
    let found: Vec<u64> = tokens.ok_or_else(|| answer(&url, dialect.name(), "expected ids in `tokens`".into()))?;
    let expected = tokenizer.encode(PROBE, false);
    let expected = expected
        .map_err(|error| ServerError::File { path: path.to_path_buf(), message: error.chain() })?
        .into_iter()
        .map(u64::from)
        .collect::<Vec<_>>();
    if expected == found {
        return Ok(());
    }
    let at = expected.iter().zip(&found).take_while(|(expected, found)| expected == found).count();
    let shown = |tokens: &[u64]| match tokens.get(at) {
        Some(token) => format!("{token} at place {at} of {}", tokens.len()),
        None => format!("nothing at place {at} of {}", tokens.len()),
    };
    Err(ServerError::Mismatch {
        url: client.base().into(),
        directory: path.into(),
        what: "a token of the same text",
        expected: shown(&expected).into(),
        found: shown(&found).into(),
        advice: "; the tokenizers differ".into(),
    })
}
