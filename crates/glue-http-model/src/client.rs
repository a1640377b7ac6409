//! Requests to a server: who gets the token, what is tried again, how much of an answer is read.

use crate::error::ServerError;
use glue_progress::{CancelToken, ErrorChain};
use serde_json::Value;
use std::fmt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

/// How often the same request is tried while nothing comes.
pub(crate) const TRIES: u32 = 5;
/// The longest answer in bytes: log-probabilities of a large vocabulary as text.
const ANSWER_BYTES: u64 = 256 << 20;
/// The longest file with a token.
const TOKEN_BYTES: u64 = 4096;
/// A time that no wait exceeds, whatever a server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// What proves to a server who asks. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerToken {
    text: String,
    /// Whether it is meant for this server, so that not sending it is an error.
    named: bool,
}

impl ServerToken {
    /// The token in a file, white space around it left out.
    ///
    /// # Errors
    /// [`ServerError::File`] for a file that cannot be read, or holds no token.
    pub fn from_file(path: impl AsRef<Path>) -> Result<ServerToken, ServerError> {
        let path = path.as_ref();
        let file = |message: String| ServerError::File { path: path.to_path_buf(), message };
        let bytes = glue_tensor::files::read(path, TOKEN_BYTES).map_err(|error| file(error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        token(&text, true).ok_or_else(|| file("expected one line of ASCII letters, digits and signs".into()))
    }

    /// The token in `OPENAI_API_KEY`; `None` if that is unset, empty, or no token. It is sent only over encrypted
    /// connections and to this machine.
    pub fn from_env() -> Option<ServerToken> {
        token(&std::env::var("OPENAI_API_KEY").ok()?, false)
    }
}

fn token(text: &str, named: bool) -> Option<ServerToken> {
    let text = text.trim();
    let is_token = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_token.then(|| ServerToken { text: text.to_string(), named })
}

impl fmt::Debug for ServerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerToken(…)")
    }
}

/// A connection to a server, for any thread.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
    token: Option<ServerToken>,
    timeout: Duration,
    first_wait: Duration,
    cancel: CancelToken,
}

impl Client {
    /// A client of the server at `url`, with or without `/v1` at its end.
    pub(crate) fn new(
        url: &str,
        token: Option<ServerToken>,
        timeout: Duration,
        first_wait: Duration,
        cancel: CancelToken,
    ) -> Result<Client, ServerError> {
        let base = url.trim().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).trim_end_matches('/');
        let private = is_private(base).ok_or_else(|| ServerError::Url { url: shown(url) })?;
        let token = match token {
            Some(token) if !private && token.named => {
                return Err(ServerError::TokenUnprotected { url: base.to_string() });
            }
            token => token.filter(|_| private),
        };
        let config = Agent::config_builder()
            .user_agent(concat!("glue-http-model/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(timeout.min(Duration::from_secs(20))))
            .timeout_recv_response(Some(timeout))
            .timeout_per_read(Some(timeout))
            .build();
        Ok(Client { agent: config.into(), base: base.to_string(), token, timeout, first_wait, cancel })
    }

    /// The address of the server, without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The JSON at `path`; `None` where the server has nothing there.
    pub(crate) fn get(&self, path: &str, tries: u32) -> Result<Option<Value>, ServerError> {
        let url = format!("{}{path}", self.base);
        optional(self.patiently(&url, tries, || {
            let mut request = self.agent.get(&url);
            if let Some(token) = &self.token {
                request = request.header("authorization", format!("Bearer {}", token.text));
            }
            request.call()
        }))
    }

    /// The answer to `body`, which is sent to `path`.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, ServerError> {
        let url = format!("{}{path}", self.base);
        let body = body.to_string();
        self.patiently(&url, TRIES, || {
            let mut request = self.agent.post(&url).header("content-type", "application/json");
            if let Some(token) = &self.token {
                request = request.header("authorization", format!("Bearer {}", token.text));
            }
            request.send(body.as_str())
        })
    }

    /// The same; `None` where the server has nothing there.
    pub(crate) fn post_if_there(&self, path: &str, body: &Value) -> Result<Option<Value>, ServerError> {
        optional(self.post(path, body))
    }

    /// Tries until there is an answer, at most `tries` times, and reads it.
    fn patiently(
        &self,
        url: &str,
        tries: u32,
        attempt: impl Fn() -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Value, ServerError> {
        let mut failures = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ServerError::Cancelled);
            }
            let found = attempt().map_err(|error| self.network(url, error));
            match found.and_then(|response| self.read(url, response)) {
                Err(error) if error.is_transient() && failures + 1 < tries => {
                    failures += 1;
                    self.wait(failures, &error)?;
                }
                other => return other,
            }
        }
    }

    fn read(&self, url: &str, mut response: Response<Body>) -> Result<Value, ServerError> {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        if (300..400).contains(&status) {
            let target = shown(header("location").unwrap_or_default());
            return Err(ServerError::Redirect { url: url.into(), target });
        }
        let retry_after = header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let bytes = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec();
        if !(200..300).contains(&status) {
            let message = complaint(&bytes.unwrap_or_default());
            return Err(ServerError::Status { url: url.into(), status, message, retry_after });
        }
        let bytes = bytes.map_err(|error| self.network(url, error))?;
        serde_json::from_slice(&bytes).map_err(|error| match has_nan(&bytes) {
            // What Python writes, and JSON does not have.
            true => ServerError::NotANumber { url: url.into(), message: "NaN in the answer".into() },
            false => answer(url, "a server", format!("{error} in what should be JSON")),
        })
    }

    fn network(&self, url: &str, error: ureq::Error) -> ServerError {
        match error {
            ureq::Error::Timeout(_) => ServerError::Timeout { url: url.into(), timeout: self.timeout },
            ureq::Error::BodyExceedsLimit(bytes) => {
                answer(url, "a server", format!("an answer of more than {bytes} bytes"))
            }
            error => ServerError::Network { url: url.into(), message: error.chain() },
        }
    }

    /// Waits after so many failures on end, as long as the server asks for, or twice as long each time.
    fn wait(&self, failures: u32, error: &ServerError) -> Result<(), ServerError> {
        let asked = match error {
            ServerError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let usual = self.first_wait * (1 << (failures - 1).min(10));
        let end = Instant::now() + asked.unwrap_or(usual).min(LONGEST_WAIT);
        loop {
            if self.cancel.is_cancelled() {
                return Err(ServerError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(Duration::from_millis(100)));
        }
    }
}

/// An answer of another form.
pub(crate) fn answer(url: &str, dialect: &'static str, message: String) -> ServerError {
    ServerError::Answer { url: url.to_string(), dialect, message }
}

fn optional(found: Result<Value, ServerError>) -> Result<Option<Value>, ServerError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_refusal() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether what is sent to `base` stays unread on the way: encrypted, or on this machine. `None` for what is no
/// address.
fn is_private(base: &str) -> Option<bool> {
    let uri: Uri = base.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    if uri.query().is_some() || uri.authority()?.as_str().contains('@') {
        return None;
    }
    match uri.scheme_str()? {
        "https" => Some(true),
        "http" => Some(matches!(host.to_ascii_lowercase().as_str(), "127.0.0.1" | "localhost" | "[::1]")),
        _ => None,
    }
}

/// What a server says of an error, as its dialects write it.
fn complaint(bytes: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(bytes).ok().and_then(|value| {
        let places = [&value["error"]["message"], &value["error"], &value["message"], &value["detail"]];
        places.into_iter().find_map(|place| place.as_str().map(str::to_string))
    });
    shown(&said.unwrap_or_else(|| String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned()))
}

/// Whether there is a NaN that is no part of a word.
fn has_nan(bytes: &[u8]) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'"');
    let at = |start: usize| &bytes[start..start + 3] == b"NaN";
    let alone =
        |start: usize| !is_word(start.checked_sub(1).and_then(|at| bytes.get(at))) && !is_word(bytes.get(start + 3));
    (0..bytes.len().saturating_sub(2)).any(|start| at(start) && alone(start))
}

/// The beginning of what somebody else wrote.
fn shown(text: &str) -> String {
    let text = text.split_once('?').filter(|(address, _)| address.contains("://")).map_or(text, |(address, _)| address);
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        let base = |url: &str| {
            let client = Client::new(url, None, Duration::from_secs(1), Duration::ZERO, CancelToken::default());
            client.map(|client| client.base).map_err(|error| error.to_string())
        };
        for url in
            ["http://localhost:8000", "http://localhost:8000/", "http://localhost:8000/v1", "http://localhost:8000/v1/"]
        {
            assert_eq!(base(url).as_deref(), Ok("http://localhost:8000"));
        }
        assert_eq!(base("https://host/models/v1").as_deref(), Ok("https://host/models"));
        for url in ["", "localhost:8000", "ftp://host", "http://", "http://user:word@host", "http://host?x=1"] {
            assert!(base(url).is_err_and(|why| why.contains("is no address of a server")), "{url}");
        }
    }

    #[test]
    fn a_token_is_neither_shown_nor_sent_where_others_read_it() {
        let client = |url: &str, named: bool| {
            let token = token(" secret\n", named);
            Client::new(url, token, Duration::from_secs(1), Duration::ZERO, CancelToken::default())
        };
        for (url, named, sent) in [
            ("http://127.0.0.1:1", true, Some(true)),
            ("https://host", true, Some(true)),
            ("http://host", false, Some(false)),
            ("http://host", true, None),
        ] {
            let client = client(url, named);
            assert!(!format!("{client:?}").contains("secret"));
            assert_eq!(client.ok().map(|client| client.token.is_some()), sent, "{url}");
        }
        assert!(["", " ", "a b", "a\nb"].iter().all(|text| token(text, true).is_none()));
    }

    #[test]
    fn numbers_that_are_none_are_told_from_words() {
        assert!(has_nan(b"[-1.5,NaN]") && has_nan(b"NaN"));
        assert!(!has_nan(b"{\"NaN\": 1") && !has_nan(b"BaNaNa") && !has_nan(b"Na"));
    }

    #[test]
    fn complaints_of_all_dialects() {
        for text in [
            "{\"error\":{\"message\":\"no\"}}",
            "{\"error\":\"no\"}",
            "{\"message\":\"no\"}",
            "{\"detail\":\"no\"}",
            "no",
        ] {
            assert_eq!(complaint(text.as_bytes()), "no", "{text}");
        }
    }
}
