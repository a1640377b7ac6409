//! A stand-in for the Hugging Face hub: what its interface and its files look like to a client, with faults on demand.
//!
//! Repositories are directories, `models/ORG/NAME` and `datasets/ORG/NAME`; `ORG/NAME@REVISION` beside one is another
//! revision of it, where slashes in the revision are written `--`. Large files are kept by another host, as on the hub:
//! another port under the name `localhost`.

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Files of at least so many bytes are large.
const LARGE: usize = 4096;
/// Files on a page of a listing.
const PAGE: usize = 3;

/// What goes wrong, and what is asked for.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Transfers of large files that end early, and after how many bytes.
    pub cuts: usize,
    /// Bytes after which they end.
    pub cut_after: usize,
    /// A part of the path of files of which the last byte arrives changed.
    pub corrupt: Option<String>,
    /// Repositories for which access has to be asked for, and the token that has it.
    pub gated: HashMap<String, String>,
    /// Whether requests for a part of a file are answered with the whole.
    pub ignores_ranges: bool,
    /// Requests that are answered with status 503.
    pub busy: usize,
    /// Where requests about repositories are redirected to.
    pub moved_to: Option<String>,
    /// The size that all large files are said to have.
    pub claimed_size: Option<u64>,
    /// Put before the path of every file in listings.
    pub path_prefix: String,
    /// Time that each piece of a large file takes.
    pub delay: Duration,
    /// Errors that a model card is answered with.
    pub card_errors: Vec<String>,
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// The host that was asked, without port.
    pub host: String,
    /// The path, with what follows a question mark.
    pub path: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The header `Range`.
    pub range: Option<String>,
    /// What was sent.
    pub body: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    behaviour: Behaviour,
    requests: Vec<Request>,
    /// Transfers of large files under way, and the most there were.
    transfers: (usize, usize),
    /// Bytes of large files that were sent.
    sent: u64,
}

/// A hub that is running. Its threads end with the process.
#[derive(Debug, Clone)]
pub struct StandIn {
    root: PathBuf,
    port: u16,
    large_port: u16,
    state: Arc<Mutex<State>>,
}

impl StandIn {
    /// Serves the repositories below `root`, which may change while it runs.
    ///
    /// # Errors
    /// No port can be opened.
    pub fn start(root: impl Into<PathBuf>) -> io::Result<StandIn> {
        let (own, large) = (TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?);
        let (port, large_port) = (own.local_addr()?.port(), large.local_addr()?.port());
        let hub = StandIn { root: root.into(), port, large_port, state: Arc::default() };
        for listener in [own, large] {
            let hub = hub.clone();
            spawn(move || {
                for stream in listener.incoming().flatten() {
                    let hub = hub.clone();
                    // A client that goes away is none of the stand-in's business.
                    spawn(move || hub.answer(&stream));
                }
            });
        }
        Ok(hub)
    }

    /// Its address, for `HF_ENDPOINT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes what goes wrong.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.lock().behaviour);
    }

    /// The requests so far, which are forgotten with this.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().requests)
    }

    /// The most large files that were sent at the same time.
    pub fn most_at_once(&self) -> usize {
        self.lock().transfers.1
    }

    /// Bytes of large files that were sent so far.
    pub fn sent(&self) -> u64 {
        self.lock().sent
    }

    /// The commit of a revision of a repository: `models/ORG/NAME`, with `@REVISION` for another than `main`.
    pub fn commit(&self, repository: &str) -> String {
        Repository::read(&self.root.join(repository)).expect("a repository").commit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        let request = read_request(stream)?;
        self.lock().requests.push(request.clone());
        let head = request.method == "HEAD";
        let path = request.path.clone();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        if let Some(hash) = path.strip_prefix("/large/") {
            return self.send_large(stream, hash, &request);
        }
        if path == "/api/validate-yaml" {
            let errors = self.lock().behaviour.card_errors.clone();
            let status = if errors.is_empty() { 200 } else { 400 };
            let errors: Vec<Value> = errors.iter().map(|message| json!({ "message": message })).collect();
            return Reply::json(status, &json!({ "errors": errors, "warnings": [] })).send(stream, head);
        }
        let busy = self.lock().behaviour.busy;
        if busy > 0 {
            self.behave(|behaviour| behaviour.busy = busy - 1);
            return Reply::new(503).header("Retry-After", "0").send(stream, head);
        }
        let moved_to = self.lock().behaviour.moved_to.clone();
        if let Some(place) = moved_to {
            // On the same host, what it leads to is there.
            self.behave(|behaviour| drop(behaviour.moved_to.take_if(|place| !place.contains("://"))));
            return Reply::new(307).header("Location", &format!("{place}{}", request.path)).send(stream, head);
        }
        match path.strip_prefix("/api/") {
            Some(path) => self.describe(path, query, &request).send(stream, head),
            None => self.file(path, &request).send(stream, head),
        }
    }

    /// What the interface says of a repository: `models/ORG/NAME[/revision/REV | /tree/REV]`.
    fn describe(&self, path: &str, query: &str, request: &Request) -> Reply {
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        let [kind, organisation, name, rest @ ..] = parts.as_slice() else { return Reply::new(404) };
        let (what, revision) = match rest {
            [what, revision] => (*what, decoded(revision)),
            _ => ("revision", "main".to_string()),
        };
        let repository = match self.find(kind, &format!("{organisation}/{name}"), &revision, request) {
            Ok(repository) => repository,
            Err(reply) => return reply,
        };
        let files: Vec<(&String, &Vec<u8>)> = repository.files.iter().collect();
        if what == "revision" {
            let siblings: Vec<Value> = files.iter().map(|(path, _)| json!({ "rfilename": path })).collect();
            let id = format!("{organisation}/{name}");
            return Reply::json(200, &json!({ "id": id, "sha": repository.commit, "siblings": siblings }));
        }
        let start: usize = query.split('&').find_map(|part| part.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
        let behaviour = &self.lock().behaviour;
        let entry = |(path, content): &(&String, &Vec<u8>)| {
            let path = format!("{}{path}", behaviour.path_prefix);
            let mut entry = json!({ "type": "file", "path": path, "size": content.len(), "oid": git_hash(content) });
            if content.len() >= LARGE {
                let size = behaviour.claimed_size.unwrap_or(content.len() as u64);
                entry["size"] = size.into();
                entry["lfs"] = json!({ "oid": sha256(content), "size": size, "pointerSize": 130 });
            }
            entry
        };
        let page: Vec<Value> = files.iter().skip(start).take(PAGE).map(entry).collect();
        let reply = Reply::json(200, &Value::Array(page));
        match start + PAGE < files.len() {
            true => {
                let next = format!("<{}/api/{path}?cursor={}>; rel=\"next\"", self.url(), start + PAGE);
                reply.header("Link", &next)
            }
            false => reply,
        }
    }

    /// A file: `/[datasets/]ORG/NAME/resolve/REV/PATH`.
    fn file(&self, path: &str, request: &Request) -> Reply {
        let path = path.trim_start_matches('/');
        let (kind, path) = match path.strip_prefix("datasets/") {
            Some(path) => ("datasets", path),
            None => ("models", path),
        };
        let parts: Vec<&str> = path.splitn(5, '/').collect();
        let [organisation, name, "resolve", revision, file] = parts.as_slice() else { return Reply::new(404) };
        let (revision, file) = (decoded(revision), decoded(file));
        let repository = match self.find(kind, &format!("{organisation}/{name}"), &revision, request) {
            Ok(repository) => repository,
            Err(reply) => return reply,
        };
        let Some(content) = repository.files.get(&file) else {
            return Reply::new(404).header("X-Error-Code", "EntryNotFound");
        };
        let reply = |status: u16| Reply::new(status).header("X-Repo-Commit", &repository.commit);
        if content.len() < LARGE {
            return reply(200).header("ETag", &format!("\"{}\"", git_hash(content))).body(content.clone());
        }
        let hash = sha256(content);
        reply(302)
            .header("X-Linked-Etag", &format!("\"{hash}\""))
            .header("X-Linked-Size", &content.len().to_string())
            .header("Location", &format!("http://localhost:{}/large/{hash}?signature=secret", self.large_port))
    }

    fn find(&self, kind: &str, id: &str, revision: &str, request: &Request) -> Result<Repository, Reply> {
        let refusal = |status: u16, code: &str| {
            Reply::new(status).header("X-Error-Code", code).header("X-Error-Message", &format!("{code}: {id}"))
        };
        if let Some(token) = self.lock().behaviour.gated.get(id)
            && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
        {
            return Err(refusal(if request.authorization.is_some() { 403 } else { 401 }, "GatedRepo"));
        }
        let base = self.root.join(kind);
        let directory = base.join(id);
        let mut revisions = vec![directory.clone()];
        let (organisation, name) = id.split_once('/').unwrap_or((id, ""));
        let others = fs::read_dir(base.join(organisation)).into_iter().flatten().flatten().map(|entry| entry.path());
        let start = format!("{name}@");
        revisions.extend(others.filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&start))
        }));
        if !directory.is_dir() {
            return Err(refusal(401, "RepoNotFound"));
        }
        let named = format!("{name}@{}", revision.replace('/', "--"));
        let is_named = |path: &Path| match revision {
            "main" => path == directory,
            _ => path.ends_with(&named),
        };
        let found = revisions.iter().filter_map(|path| Some((path, Repository::read(path).ok()?)));
        let mut found = found.filter(|(path, repository)| is_named(path) || repository.commit == revision);
        found.next().map(|(_, repository)| repository).ok_or_else(|| refusal(404, "RevisionNotFound"))
    }

    /// Sends a large file, or the part of it that is asked for.
    fn send_large(&self, mut stream: &TcpStream, hash: &str, request: &Request) -> io::Result<()> {
        let Some((path, content)) = self.large(hash) else { return Reply::new(404).send(stream, false) };
        let (cut, delay, corrupt, ignores_ranges) = {
            let state = &mut *self.lock();
            state.transfers.0 += 1;
            state.transfers.1 = state.transfers.1.max(state.transfers.0);
            let behaviour = &mut state.behaviour;
            let cut = (behaviour.cuts > 0).then_some(behaviour.cut_after);
            behaviour.cuts = behaviour.cuts.saturating_sub(1);
            let corrupt = behaviour.corrupt.as_ref().is_some_and(|part| path.contains(part));
            (cut, behaviour.delay, corrupt, behaviour.ignores_ranges)
        };
        let start = request
            .range
            .as_ref()
            .filter(|_| !ignores_ranges)
            .and_then(|range| range.strip_prefix("bytes=")?.split_once('-')?.0.parse::<usize>().ok());
        let size = content.len();
        let mut body = content[start.unwrap_or(0).min(size)..].to_vec();
        if let Some(last) = body.last_mut().filter(|_| corrupt) {
            *last ^= 1;
        }
        let status = match start {
            Some(start) if start >= size => return Reply::new(416).send(stream, false),
            Some(start) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}", size - 1),
            None => "200 OK".to_string(),
        };
        let mut send = || {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes())?;
            for piece in body[..cut.unwrap_or(body.len()).min(body.len())].chunks(LARGE) {
                sleep(delay);
                stream.write_all(piece)?;
                self.lock().sent += piece.len() as u64;
            }
            stream.flush()
        };
        let sent = send();
        self.lock().transfers.0 -= 1;
        sent
    }

    /// Path and content of the large file with this hash.
    fn large(&self, hash: &str) -> Option<(String, Vec<u8>)> {
        let mut files = BTreeMap::new();
        read_files(&self.root, &self.root, &mut files).ok()?;
        files.into_iter().find(|(_, content)| content.len() >= LARGE && sha256(content) == hash)
    }
}

/// A repository at a revision.
struct Repository {
    commit: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    fn read(directory: &Path) -> io::Result<Repository> {
        let mut files = BTreeMap::new();
        read_files(directory, directory, &mut files)?;
        let mut hasher = Sha1::new();
        hasher.update(directory.to_string_lossy().as_bytes());
        for (path, content) in &files {
            hasher.update(format!("{path} {}\n", git_hash(content)));
        }
        Ok(Repository { commit: hex(&hasher.finalize()), files })
    }
}

/// Path and content of all files below `directory`.
fn read_files(root: &Path, directory: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_files(root, &path, files)?;
        } else {
            let name = path.strip_prefix(root).expect("a path below").to_string_lossy().into_owned();
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(())
}

pub(crate) fn read_request(stream: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().into(), words.next().unwrap_or_default().into());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let host = headers.get("host").map_or("", |host| host.split(':').next().unwrap_or_default()).to_string();
    let mut get = |name: &str| headers.remove(name);
    Ok(Request { method, host, path, authorization: get("authorization"), range: get("range"), body })
}

/// An answer.
pub(crate) struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Reply {
        Reply { status, headers: String::new(), body: Vec::new() }
    }

    pub(crate) fn json(status: u16, value: &Value) -> Reply {
        Reply::new(status).header("Content-Type", "application/json").body(value.to_string().into_bytes())
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn body(self, body: Vec<u8>) -> Reply {
        Reply { body, ..self }
    }

    pub(crate) fn send(&self, mut stream: &TcpStream, head: bool) -> io::Result<()> {
        let Reply { status, headers, body } = self;
        let length = body.len();
        let start =
            format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(start.as_bytes())?;
        if !head {
            stream.write_all(body)?;
        }
        stream.flush()
    }
}

/// Text without percent signs before hexadecimal digits.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code.filter(|_| first == b'%') {
            Some(code) => (bytes.push(code), rest = &after[2..]).1,
            None => (bytes.push(first), rest = after).1,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn git_hash(content: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}

fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
