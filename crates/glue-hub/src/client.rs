//! Requests to a hub: who gets the token, which redirects are followed, what an answer means.

use crate::endpoint::{Endpoint, Origin, Token, flag, variable};
use crate::error::HubError;
use crate::listing::{FileHash, Listing, RemoteFile, is_commit, is_safe_path};
use glue_progress::{ErrorChain, Progress};
use glue_tensor::hub::RepositoryKind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::thread::sleep;
use std::time::{Duration, Instant};
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// How often the same request is tried while nothing comes.
pub(crate) const TRIES: u32 = 5;
/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// The longest answer that is no file, in bytes.
const ANSWER_BYTES: u64 = 64 << 20;
/// Files of a repository that are listed at most.
const MAX_FILES: usize = 1 << 20;
/// The longest wait, whatever a hub asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// A connection that is silent for so long counts as broken.
const SILENCE: Duration = Duration::from_secs(30);

/// Characters of a path that are sent as they are.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// The same of a revision, which may hold slashes but is one part of a path.
const REVISION: &AsciiSet = &PATH.add(b'/');

/// A connection to a hub. Clones and threads share its connections.
#[derive(Debug, Clone)]
pub struct HubClient {
    agent: Agent,
    endpoint: Endpoint,
    token: Option<Token>,
    first_wait: Duration,
}

/// What a hub says of a model card.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CardMessages {
    /// Why it would be refused.
    pub errors: Vec<String>,
    /// What it takes, and would have otherwise.
    pub warnings: Vec<String>,
}

/// A repository that is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repository<'a> {
    pub(crate) kind: RepositoryKind,
    pub(crate) id: &'a str,
}

impl Repository<'_> {
    /// What comes before its name in the addresses of the hub's interface.
    fn api(self) -> &'static str {
        match self.kind {
            RepositoryKind::Model => "models",
            RepositoryKind::Dataset => "datasets",
        }
    }

    /// The same in the addresses of its pages and files.
    fn page(self) -> &'static str {
        match self.kind {
            RepositoryKind::Model => "",
            RepositoryKind::Dataset => "datasets/",
        }
    }
}

/// Which hosts an answer may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hosts {
    /// The hub's alone.
    Hub,
    /// Whatever the hub redirects to: large files are kept elsewhere.
    Any,
}

#[derive(Deserialize)]
struct RevisionAnswer {
    sha: String,
}

#[derive(Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: u64,
}

#[derive(Deserialize, Default)]
struct CardAnswer {
    #[serde(default)]
    errors: Vec<CardMessage>,
    #[serde(default)]
    warnings: Vec<CardMessage>,
}

#[derive(Deserialize)]
struct CardMessage {
    message: String,
}

impl HubClient {
    /// A client of this hub. Certificates are checked against those in `SSL_CERT_FILE` or `REQUESTS_CA_BUNDLE` where
    /// one is set, else against Mozilla's roots; proxies are those of the environment.
    ///
    /// # Errors
    /// [`HubError::Io`] for certificates that cannot be read.
    pub fn new(endpoint: Endpoint, token: Option<Token>) -> Result<HubClient, HubError> {
        let tls = TlsConfig::builder().root_certs(root_certificates()?).build();
        let config = Agent::config_builder()
            .user_agent(concat!("glue-hub/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .tls_config(tls)
            .build();
        Ok(HubClient { agent: config.into(), endpoint, token, first_wait: Duration::from_secs(1) })
    }

    /// The client that the environment describes: [`Endpoint::from_env`] and [`Token::from_env`].
    ///
    /// # Errors
    /// [`HubError::Offline`] with `HF_HUB_OFFLINE`; [`HubError::Endpoint`]; [`HubError::Io`].
    pub fn from_env() -> Result<HubClient, HubError> {
        if flag("HF_HUB_OFFLINE") {
            return Err(HubError::Offline);
        }
        HubClient::new(Endpoint::from_env()?, Token::from_env())
    }

    /// Waits so long before a request is tried for the second time, and twice as long before each further try. Default:
    /// one second.
    pub fn first_wait(self, first_wait: Duration) -> HubClient {
        HubClient { first_wait, ..self }
    }

    /// The hub.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The files of a repository at the commit that `revision` names now.
    ///
    /// # Errors
    /// [`HubError::NoRepository`], [`HubError::NoRevision`], [`HubError::Gated`], or what the connection met.
    pub fn listing(
        &self,
        kind: RepositoryKind,
        id: &str,
        revision: &str,
        progress: &dyn Progress,
    ) -> Result<Listing, HubError> {
        let repository = Repository { kind, id };
        let base = format!("{}/api/{}/{}", self.endpoint.url(), repository.api(), utf8_percent_encode(id, PATH));
        let url = format!("{base}/revision/{}", utf8_percent_encode(revision, REVISION));
        let (answer, _) = self.json::<RevisionAnswer>(&url, repository, revision, progress)?;
        let commit = answer.sha;
        if !is_commit(&commit) {
            return Err(HubError::Answer { url, message: "expected a commit of 40 hexadecimal digits".into() });
        }
        let mut files = Vec::new();
        let mut next = Some(format!("{base}/tree/{commit}?recursive=true&limit=1000"));
        while let Some(url) = next {
            let (entries, more) = self.json::<Vec<TreeEntry>>(&url, repository, &commit, progress)?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let (hash, size) = match &entry.lfs {
                    Some(large) => (large.oid.strip_prefix("sha256:").unwrap_or(&large.oid), large.size),
                    None => (entry.oid.as_str(), entry.size),
                };
                let malformed = |message: String| HubError::Answer { url: url.clone(), message };
                if !is_safe_path(&entry.path) {
                    return Err(malformed(format!("{:?} is no path in a repository", entry.path)));
                }
                let hash = FileHash::parse(hash)
                    .ok_or_else(|| malformed(format!("the hash of {} is {hash:?}", entry.path)))?;
                files.push(RemoteFile { path: entry.path, size, hash });
            }
            if files.len() > MAX_FILES {
                return Err(HubError::Answer { url, message: format!("more than {MAX_FILES} files") });
            }
            // A page that names itself as the next one would never end.
            next = more.filter(|more| *more != url);
        }
        Ok(Listing { commit, files })
    }

    /// What the hub thinks of the text of a model card, front matter included.
    ///
    /// # Errors
    /// What the connection met.
    pub fn check_card(&self, card: &str, progress: &dyn Progress) -> Result<CardMessages, HubError> {
        let url = format!("{}/api/validate-yaml", self.endpoint.url());
        let body = serde_json::json!({ "content": card, "repoType": "model" }).to_string();
        let (_, bytes) = self.patiently(progress, || {
            let mut response = self
                .agent
                .post(&url)
                .header("content-type", "application/json")
                .send(body.as_str())
                .map_err(|error| self.network(error))?;
            // A card with errors is answered with status 400, and the errors.
            let status = response.status().as_u16();
            if status != 200 && status != 400 {
                return Err(status_error(&url, &response));
            }
            Ok((status, self.body(&mut response)?))
        })?;
        let answer: CardAnswer = serde_json::from_slice(&bytes)
            .map_err(|error| HubError::Answer { url: url.clone(), message: error.to_string() })?;
        let texts = |messages: Vec<CardMessage>| messages.into_iter().map(|message| shown(&message.message)).collect();
        Ok(CardMessages { errors: texts(answer.errors), warnings: texts(answer.warnings) })
    }

    /// The content of a file from byte `start` on, tried once: the first byte that comes, which is 0 where the hub does
    /// not take requests for parts, and the connection.
    pub(crate) fn content(
        &self,
        repository: Repository<'_>,
        commit: &str,
        file: &RemoteFile,
        start: u64,
    ) -> Result<(u64, Response<Body>), HubError> {
        let path = utf8_percent_encode(&file.path, PATH);
        let url = format!("{}/{}{}/resolve/{commit}/{path}", self.endpoint.url(), repository.page(), repository.id);
        let range = (start > 0).then_some(start);
        let response = self.get(&url, range, Hosts::Any, Some((repository, commit)))?;
        if response.status().as_u16() != 206 {
            return Ok((0, response));
        }
        let stated = header(&response, "content-range").unwrap_or_default();
        let expected = format!("bytes {start}-{}/{}", file.size.saturating_sub(1), file.size);
        if stated != expected {
            return Err(HubError::Answer { url, message: format!("expected `{expected}`, found `{stated}`") });
        }
        Ok((start, response))
    }

    /// An answer in JSON, and the address of the page that follows.
    fn json<T: DeserializeOwned>(
        &self,
        url: &str,
        repository: Repository<'_>,
        revision: &str,
        progress: &dyn Progress,
    ) -> Result<(T, Option<String>), HubError> {
        let (link, bytes) = self.patiently(progress, || {
            let mut response = self.get(url, None, Hosts::Hub, Some((repository, revision)))?;
            let link = header(&response, "link").and_then(next_page);
            Ok((link, self.body(&mut response)?))
        })?;
        let answer = serde_json::from_slice(&bytes)
            .map_err(|error| HubError::Answer { url: url.to_string(), message: error.to_string() })?;
        Ok((answer, link.map(|link| absolute(url, &link)).transpose()?))
    }

    /// A request, tried once. Redirects are followed; the token goes to the hub's own host only.
    fn get(
        &self,
        url: &str,
        from: Option<u64>,
        hosts: Hosts,
        about: Option<(Repository<'_>, &str)>,
    ) -> Result<Response<Body>, HubError> {
        let mut target = url.to_string();
        for _ in 0..=REDIRECTS {
            let refuse = |reason| HubError::Redirect { url: url.into(), target: shown(&target), reason };
            let origin = target.parse::<Uri>().ok().as_ref().and_then(Origin::of);
            let origin = origin.ok_or_else(|| refuse("that is no address"))?;
            let own = origin == *self.endpoint.origin();
            if self.endpoint.origin().encrypted && !origin.encrypted {
                return Err(refuse("that is not encrypted"));
            }
            if hosts == Hosts::Hub && !own {
                return Err(refuse("that is another host"));
            }
            let mut request = self.agent.get(&target);
            if let Some(token) = self.token.as_ref().filter(|_| own && origin.is_private()) {
                request = request.header("authorization", token.header());
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|error| network(&origin.host, error))?;
            match response.status().as_u16() {
                200 | 206 => return Ok(response),
                301 | 302 | 303 | 307 | 308 => {
                    let location = header(&response, "location").unwrap_or_default();
                    target = absolute(&target, location)?;
                }
                _ => return Err(self.refusal(&target, &response, about.filter(|_| own))),
            }
        }
        Err(HubError::Redirect { url: url.into(), target: shown(&target), reason: "that is one redirect too many" })
    }

    /// What an answer without success means.
    fn refusal(&self, url: &str, response: &Response<Body>, about: Option<(Repository<'_>, &str)>) -> HubError {
        let status = response.status().as_u16();
        let code = header(response, "x-error-code").unwrap_or_default();
        let Some((repository, revision)) = about else { return status_error(url, response) };
        let (id, with_token) = (repository.id.to_string(), self.sends_token());
        match (status, code) {
            (_, "GatedRepo") => {
                let page = format!("{}/{}{id}", self.endpoint.url(), repository.page());
                HubError::Gated { repository: id, page, with_token }
            }
            (_, "RevisionNotFound") => HubError::NoRevision { repository: id, revision: revision.to_string() },
            // To a stranger, the hub does not say whether a private repository exists.
            (_, "RepoNotFound") | (401, _) | (404, "") => {
                HubError::NoRepository { repository: id, host: self.endpoint.origin().host.clone(), with_token }
            }
            _ => status_error(url, response),
        }
    }

    fn sends_token(&self) -> bool {
        self.token.is_some() && self.endpoint.origin().is_private()
    }

    fn body(&self, response: &mut Response<Body>) -> Result<Vec<u8>, HubError> {
        response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec().map_err(|error| self.network(error))
    }

    fn network(&self, error: ureq::Error) -> HubError {
        network(&self.endpoint.origin().host, error)
    }

    /// Tries until there is an answer, or [`TRIES`] times.
    fn patiently<T>(
        &self,
        progress: &dyn Progress,
        mut attempt: impl FnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        for failures in 1.. {
            match attempt() {
                Err(error) if error.is_transient() && failures < TRIES => {
                    self.wait(failures, &error, progress, &|| progress.is_cancelled())?;
                }
                other => return other,
            }
        }
        unreachable!("an attempt returns")
    }

    /// Waits after so many failures on end, as long as a hub asks for, or twice as long each time. After none, when a
    /// connection broke that had brought something, only for a moment.
    pub(crate) fn wait(
        &self,
        failures: u32,
        error: &HubError,
        progress: &dyn Progress,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), HubError> {
        if failures > 0 {
            progress.message(&format!("{}; trying again", error.chain()));
        }
        let asked = match error {
            HubError::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        let usual = match failures {
            0 => self.first_wait / 4,
            _ => self.first_wait * (1 << (failures - 1).min(10)),
        };
        let wait = asked.unwrap_or(usual).min(LONGEST_WAIT);
        let end = Instant::now() + wait;
        loop {
            if stop() {
                return Err(HubError::Cancelled);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(Duration::from_millis(100)));
        }
    }
}

/// A failure of a connection to `host`.
pub(crate) fn network(host: &str, error: ureq::Error) -> HubError {
    HubError::Network { host: host.to_string(), error: Box::new(error) }
}

fn status_error(url: &str, response: &Response<Body>) -> HubError {
    let seconds = header(response, "retry-after").and_then(|text| text.parse().ok());
    HubError::Status {
        url: shown(url),
        status: response.status().as_u16(),
        message: shown(header(response, "x-error-message").unwrap_or_default()),
        retry_after: seconds.map(Duration::from_secs),
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The beginning of what somebody else wrote: addresses of files hold signatures behind a question mark.
fn shown(text: &str) -> String {
    let text = match text.split_once('?') {
        Some((address, _)) if address.contains("://") => address,
        _ => text,
    };
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// The address of the next page in a header `Link`.
fn next_page(link: &str) -> Option<String> {
    let of_next = |part: &str| {
        let (address, rest) = part.trim().strip_prefix('<')?.split_once('>')?;
        rest.replace(' ', "").contains("rel=\"next\"").then(|| address.to_string())
    };
    link.split(", ").find_map(of_next)
}

/// The address that `location`, in an answer to `url`, leads to.
fn absolute(url: &str, location: &str) -> Result<String, HubError> {
    if location.contains("://") {
        return Ok(location.to_string());
    }
    let start = url.find("://").map_or(0, |at| at + 3);
    let host = url[start..].find('/').map_or(url, |at| &url[..start + at]);
    match location.starts_with('/') && !location.starts_with("//") {
        true => Ok(format!("{host}{location}")),
        false => Err(HubError::Redirect { url: shown(url), target: shown(location), reason: "that is no address" }),
    }
}

/// Whom to trust.
fn root_certificates() -> Result<RootCerts, HubError> {
    let Some(path) = variable("SSL_CERT_FILE").or_else(|| variable("REQUESTS_CA_BUNDLE")) else {
        return Ok(RootCerts::WebPki);
    };
    let pem = std::fs::read(&path).map_err(HubError::io(&path))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if certificates.is_empty() {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "expected certificates in PEM form");
        return Err(HubError::Io { path: path.into(), error });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_links() {
        let link = "<https://hub/api/models/a/b/tree/c?cursor=x>; rel=\"next\", <https://hub/>; rel=\"first\"";
        assert_eq!(next_page(link).as_deref(), Some("https://hub/api/models/a/b/tree/c?cursor=x"));
        assert_eq!(next_page("<https://hub/>; rel=\"first\""), None);
    }

    #[test]
    fn locations_are_absolute_or_of_the_same_host() {
        let at = |location| absolute("https://hub:1/a/b?c", location).ok();
        assert_eq!(at("/x/y").as_deref(), Some("https://hub:1/x/y"));
        assert_eq!(at("http://other/x").as_deref(), Some("http://other/x"));
        assert_eq!((at("x"), at("//other/x"), at("")), (None, None, None));
    }

    #[test]
    fn signatures_are_not_shown() {
        assert_eq!(shown("https://cdn/file?signature=secret"), "https://cdn/file");
        assert_eq!(shown("what?\nno"), "what?no");
    }
}
