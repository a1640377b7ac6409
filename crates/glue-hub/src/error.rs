//! Why something cannot be fetched.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a request to a hub, or a download, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is not of the form `ORG/NAME[@REVISION]`.
    #[error("`{name}` is no name on the hub: expected ORG/NAME or ORG/NAME@REVISION")]
    Name {
        /// What was given.
        name: String,
    },
    /// The address of the hub is not of the form `https://HOST`.
    #[error("`{endpoint}` is no address of a hub: expected https://HOST")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The environment forbids the network.
    #[error("HF_HUB_OFFLINE is set, so nothing is downloaded")]
    Offline,
    /// The hub was not reached, or the connection broke, as often as it was tried.
    #[error("cannot reach {host}")]
    Network {
        /// The host.
        host: String,
        /// What happened last.
        #[source]
        error: Box<ureq::Error>,
    },
    /// There is no such repository, or it is private.
    #[error("{repository} is not on {host}, or it is private{}", token_advice(*.with_token))]
    NoRepository {
        /// `ORG/NAME`.
        repository: String,
        /// The host.
        host: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no revision `{revision}`")]
    NoRevision {
        /// `ORG/NAME`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// Access has to be asked for.
    #[error(
        "{repository} is gated: ask for access at {page}{}",
        if *.with_token { ", with the account of the token that is used" } else { ", and set HF_TOKEN to a token of that account" }
    )]
    Gated {
        /// `ORG/NAME`.
        repository: String,
        /// Where access is asked for.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub refused a request.
    #[error("{url} answered with status {status}{}", said(.message))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the hub said; empty if nothing.
        message: String,
        /// When to try again, where the hub says it.
        retry_after: Option<Duration>,
    },
    /// An answer of another form than a hub's.
    #[error("{url} did not answer as a hub does: {message}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What was expected and found.
        message: String,
    },
    /// A redirect that is not followed.
    #[error("{url} leads to {target}: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it leads.
        target: String,
        /// Why it is not followed.
        reason: &'static str,
    },
    /// None of a repository's files is one that is wanted.
    #[error("{repository} at commit {commit} has {message}")]
    NoFiles {
        /// `ORG/NAME`.
        repository: String,
        /// The commit.
        commit: String,
        /// What is missing.
        message: String,
    },
    /// A pattern for paths of files that is malformed.
    #[error("`{pattern}` is no pattern for files")]
    Pattern {
        /// What was given.
        pattern: String,
        /// Why.
        #[source]
        error: glob::PatternError,
    },
    /// What was received is not what the hub lists.
    #[error(
        "{file} of {repository} was received with the hash {found}, but the hub lists {expected}; it was discarded"
    )]
    Checksum {
        /// Path in the repository.
        file: String,
        /// `ORG/NAME`.
        repository: String,
        /// What the hub lists.
        expected: String,
        /// What was received.
        found: String,
    },
    /// Downloads do not fit.
    #[error("{} has {available} bytes free, and {needed} more are needed", path.display())]
    Space {
        /// The directory.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The system refused to read or write a file.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A reference of the cache cannot be written.
    #[error(transparent)]
    Write(#[from] glue_tensor::WriteError),
    /// The caller cancelled it. What was received is kept, and the next attempt resumes from there.
    #[error("stopped")]
    Cancelled,
}

impl HubError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> HubError {
        let path = path.into();
        move |error| HubError::Io { path, error }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            HubError::Network { .. } => true,
            HubError::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

fn token_advice(with_token: bool) -> &'static str {
    if with_token { "; the token that is used does not give access" } else { "; for a private one, set HF_TOKEN" }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
