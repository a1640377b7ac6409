//! Why a server was of no use.

use glue_progress::ErrorChain;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a server could not be asked, or what was wrong with its answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// What was given is no address of a server.
    #[error("`{url}` is no address of a server: expected http://HOST:PORT or https://HOST, without a user or a query")]
    Url {
        /// What was given.
        url: String,
    },
    /// The token would be sent where others can read it.
    #[error(
        "the token is not sent to {url}, since the connection is not encrypted: use https, or a server on this machine"
    )]
    TokenUnprotected {
        /// The address of the server.
        url: String,
    },
    /// A file could not be read, or holds something else.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// No connection, or one that broke.
    #[error("no answer from {url}: {message}")]
    Network {
        /// What was asked for.
        url: String,
        /// What happened.
        message: String,
    },
    /// Nothing came for too long.
    #[error("{url} did not answer within {} s; --server-timeout allows more", .timeout.as_secs_f64())]
    Timeout {
        /// What was asked for.
        url: String,
        /// How long the server had.
        timeout: Duration,
    },
    /// The server refused a request.
    #[error("{url} answered with status {status}{}", said(.message))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said; empty if nothing.
        message: String,
        /// When to try again, where the server says it.
        retry_after: Option<Duration>,
    },
    /// The server redirects, which is not followed: prompts and token are meant for the server that was named.
    #[error("{url} redirects to {target}, which is not followed; name the address that answers")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it leads.
        target: String,
    },
    /// An answer of another form than that of the dialect.
    #[error("{url} did not answer as {dialect} does: {message}")]
    Answer {
        /// What was asked for.
        url: String,
        /// The dialect that was expected.
        dialect: &'static str,
        /// What was expected and found.
        message: String,
    },
    /// The server computed NaN.
    #[error("{url} answered with a log-probability that is not a number: {message}")]
    NotANumber {
        /// What was asked for.
        url: String,
        /// Of what.
        message: String,
    },
    /// The server does not show which kind it is.
    #[error("{url} does not say which kind of server it is; name it with --server-dialect")]
    UnknownDialect {
        /// The address of the server.
        url: String,
    },
    /// It is not clear which of the server's models is meant.
    #[error("{url} has the models {}; {}", listed(.models), choice(.wanted))]
    Model {
        /// The address of the server.
        url: String,
        /// The models that it names.
        models: Vec<String>,
        /// The model that was asked for.
        wanted: Option<String>,
    },
    /// The model of the server is not that of the directory.
    #[error("{url} holds another model than {}: {what} is {found} there and {expected} in the directory{advice}", directory.display())]
    Mismatch {
        /// The address of the server.
        url: String,
        /// The model directory.
        directory: Box<Path>,
        /// What differs.
        what: &'static str,
        /// What it is in the directory.
        expected: Box<str>,
        /// What it is on the server.
        found: Box<str>,
        /// What can be done, after a semicolon; empty if nothing.
        advice: Box<str>,
    },
    /// Nothing says how long a sequence may be.
    #[error("neither {} nor {url} says how many tokens the model takes; say it with --server-max-length", directory.display())]
    NoLength {
        /// The address of the server.
        url: String,
        /// The model directory.
        directory: PathBuf,
    },
    /// The server takes fewer tokens than it should be asked.
    #[error("{url} takes {limit} tokens, fewer than the {wanted} of --server-max-length")]
    TooLong {
        /// The address of the server.
        url: String,
        /// How many tokens were wanted.
        wanted: usize,
        /// How many the server takes.
        limit: usize,
    },
    /// The server scores no prompts.
    #[error(
        "{url} gives no log-probabilities of prompts (status {status}{}), which it was asked for with `echo` and `logprobs`; \
         tasks whose answers are generated need none",
        said(.message)
    )]
    NoEcho {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said; empty if nothing.
        message: String,
    },
    /// The dialect has no way to ask for this.
    #[error("{what}, which {dialect} cannot be asked for")]
    Unsupported {
        /// The dialect.
        dialect: &'static str,
        /// What was wanted.
        what: String,
    },
    /// Somebody ended the work.
    #[error("cancelled")]
    Cancelled,
}

impl ServerError {
    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            ServerError::Network { .. } => true,
            ServerError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether the server has no such address, or does not take such a request.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, ServerError::Status { status: 400 | 404 | 405 | 422 | 501, .. })
    }
}

impl From<ServerError> for glue_eval::ModelError {
    fn from(error: ServerError) -> glue_eval::ModelError {
        let not_a_number = matches!(error, ServerError::NotANumber { .. });
        glue_eval::ModelError { not_a_number, ..glue_eval::ModelError::new(error.chain()) }
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn listed(models: &[String]) -> String {
    if models.is_empty() { "none".into() } else { models.join(", ") }
}

fn choice(wanted: &Option<String>) -> String {
    match wanted {
        Some(name) => format!("`{name}` is none of them"),
        None => "choose one with --server-model".into(),
    }
}
