//! A model that an inference server holds.

use super::refusal;
use crate::failure::Failure;
use crate::numbers;
use crate::shell::Shell;
use glue_http_model::{Dialect, HttpModel, ServerError, ServerOptions, ServerToken};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Options of `glue eval` for a server.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// Evaluate the model that the inference server at this address holds: vLLM, SGLang, llama.cpp, or one with
    /// OpenAI's completions. MODEL is its directory or hub name, of which only config.json and the tokenizer are used
    #[arg(long, value_name = "URL", conflicts_with_all = ["evaluator", "cache", "pictures", "max_memory"])]
    server: Option<String>,

    /// Kind of server (default: what the server says)
    #[arg(long, value_name = "KIND", requires = "server", value_parser = dialects())]
    server_dialect: Option<Dialect>,

    /// Name of the model on the server (default: its only model)
    #[arg(long, value_name = "NAME", requires = "server")]
    server_model: Option<String>,

    /// Maximum number of requests under way at once
    #[arg(long, value_name = "N", default_value_t = 16, requires = "server", value_parser = numbers::whole(1..=4096))]
    server_concurrency: usize,

    /// How long the server may take to answer a request, in seconds
    #[arg(long, value_name = "S", default_value_t = 600.0, requires = "server", value_parser = numbers::seconds)]
    server_timeout: f64,

    /// Maximum length of a sequence in tokens, when the server takes fewer than config.json says
    #[arg(long, value_name = "N", requires = "server", value_parser = numbers::whole(2..=1 << 30))]
    server_max_length: Option<usize>,

    /// File with the token that the server asks for (default: the variable OPENAI_API_KEY)
    #[arg(long, value_name = "FILE", requires = "server")]
    server_token_file: Option<PathBuf>,
}

fn dialects() -> impl clap::builder::TypedValueParser<Value = Dialect> {
    use clap::builder::{PossibleValuesParser, TypedValueParser};
    PossibleValuesParser::new(Dialect::ALL.map(Dialect::name)).try_map(|name| name.parse::<Dialect>())
}

/// The model on the server that `args` name, and what the report says of it; `None` without a server.
pub(super) fn open(args: &ServerArgs, model: &Path, shell: &Shell<'_>) -> Result<Option<(HttpModel, Value)>, Failure> {
    let Some(url) = &args.server else { return Ok(None) };
    let token = match &args.server_token_file {
        Some(path) => Some(ServerToken::from_file(path).map_err(failure)?),
        None => ServerToken::from_env(),
    };
    let mut options = ServerOptions::default();
    options.dialect = args.server_dialect;
    options.model = args.server_model.clone();
    options.concurrency = args.server_concurrency;
    options.timeout = Duration::from_secs_f64(args.server_timeout);
    options.token = token;
    options.max_length = args.server_max_length;
    options.cancel = shell.cancel_token();
    let model = HttpModel::connect(model, url, &options).map_err(failure)?;
    if let Some(note) = model.note() {
        shell.note(&note);
    }
    let server = model.server();
    let said = json!({ "url": server.url, "dialect": server.dialect.name(), "model": server.model });
    Ok(Some((model, said)))
}

/// Refuses what a server has only one of.
pub(super) fn check(args: &ServerArgs, models: usize) -> Result<(), Failure> {
    match args.server {
        Some(_) if models != 1 => Err(refusal(format!("--server takes one model, but {models} are given"))),
        _ => Ok(()),
    }
}

fn failure(error: ServerError) -> Failure {
    let hint = match &error {
        ServerError::Network { .. } => Some("is the server running, and is that its address?"),
        ServerError::Status { status: 401 | 403, .. } => {
            Some("give the token with --server-token-file, or set OPENAI_API_KEY")
        }
        _ => None,
    };
    match error {
        ServerError::Cancelled => Failure::Interrupted,
        error @ (ServerError::Url { .. }
        | ServerError::TokenUnprotected { .. }
        | ServerError::Model { .. }
        | ServerError::Mismatch { .. }
        | ServerError::TooLong { .. }
        | ServerError::NoLength { .. }
        | ServerError::UnknownDialect { .. }) => Failure::refused(error),
        error => Failure::failed(error).hint(hint),
    }
}
