//! Candidates scored by other processes, and the process that scores them.
//!
//! # The protocol, version 3
//!
//! A worker is started with a command line. Pool and worker exchange JSON documents, one a line, over the standard
//! input and output of the worker. Its standard error is for people; the end of it is shown when the worker dies. Lines
//! before the first document that are not JSON objects are ignored: a launcher may print something.
//!
//! | from | document | when |
//! |---|---|---|
//! | worker | `{"type": "hello", "version": 3}` | first |
//! | pool | `{"type": "setup", "version": 3, "setup": …}` | then; caller and worker agree on the contents of `setup` |
//! | worker | `{"type": "ready"}` or `{"type": "refused", "message": "…"}` | when it can score candidates, or cannot |
//! | pool | `{"type": "score", "id": 7, "recipe": "…", "role": "search", "rival": {…}}` | one at a time |
//! | worker | `{"type": "result", "id": 7, "scores": {…}}` or `{"type": "result", "id": 7, "error": "…"}` | once for each |
//! | worker | `{"type": "stopped"}` | when something else cancelled it |
//!
//! `rival` is null, or what the candidate races against ([`Rival`]): `{"cutoff": 0.5, "incumbent": {…}, "contested":
//! ["0110", …]}`, with the scores of the incumbent, item by item, and for each task one digit per item, 1 if the
//! baselines differ in it. A worker therefore never scores the incumbent itself.
//!
//! A worker ends at the end of its input. Numbers are written with all significant digits: a score is the same to the
//! last bit as in the worker.
//!
//! A worker that dies or breaks the protocol is restarted, and the new one gets its candidate. If that dies too, the
//! candidate has failed, and the search continues.

use crate::contract::{Candidate, CandidateError, ItemRole, Rival, Scorer, Scores, Stopped, Strata};
use crate::parallel;
use glue_progress::{CancelToken, ErrorChain};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The version of the protocol.
pub const VERSION: u32 = 3;

/// Number of last lines of the standard error of a worker that are kept.
const SHOWN_LINES: usize = 12;
/// Maximum length of a line, in bytes.
const MAX_LINE: u64 = 64 << 20;
/// How often cancellation is checked.
const POLL: Duration = Duration::from_millis(20);
/// How long to wait for the last output of a dead worker.
const GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToWorker {
    Setup {
        version: u32,
        setup: Value,
    },
    Score {
        id: u64,
        recipe: String,
        role: ItemRole,
        #[serde(default)]
        rival: Option<RivalMessage>,
    },
}

/// A [`Rival`] in a document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RivalMessage {
    cutoff: f64,
    incumbent: Scores,
    contested: Vec<String>,
}

impl From<Rival<'_>> for RivalMessage {
    fn from(rival: Rival<'_>) -> RivalMessage {
        let digits = |items: &Vec<bool>| items.iter().map(|&contested| if contested { '1' } else { '0' }).collect();
        let contested = rival.strata.contested.iter().map(digits).collect();
        RivalMessage { cutoff: rival.cutoff, incumbent: rival.incumbent.clone(), contested }
    }
}

impl RivalMessage {
    fn strata(&self) -> Strata {
        let items = |digits: &String| digits.bytes().map(|digit| digit == b'1').collect();
        Strata { contested: self.contested.iter().map(items).collect() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromWorker {
    Hello {
        version: u32,
    },
    Ready,
    Refused {
        message: String,
    },
    Result {
        id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores: Option<Scores>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    Stopped,
}

/// Why there are no workers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// No command, or no workers.
    #[error("expected a command and at least one worker, found {found}")]
    Nothing {
        /// What was given.
        found: &'static str,
    },
    /// A worker cannot be started, or does not become ready.
    #[error("worker `{command}`: {problem}{stderr}")]
    Start {
        /// The command.
        command: String,
        /// What happened.
        problem: String,
        /// The end of its standard error, on separate lines; empty if there was none.
        stderr: String,
    },
    /// The caller cancelled.
    #[error("stopped")]
    Stopped,
}

/// Serves requests until the input ends: the worker's side of the protocol. `make` gets the setup and returns a scorer,
/// or why there is none.
///
/// # Errors
/// Those of reading and writing; input that breaks the protocol, which the pool is also notified of.
pub fn serve<'a>(
    input: impl BufRead,
    mut output: impl Write,
    make: impl FnOnce(&Value) -> Result<Box<dyn Scorer + 'a>, String>,
) -> io::Result<()> {
    let mut say = |message: &FromWorker| {
        serde_json::to_writer(&mut output, message)?;
        output.write_all(b"\n")?;
        output.flush()
    };
    say(&FromWorker::Hello { version: VERSION })?;
    let mut make = Some(make);
    let mut scorer: Option<Box<dyn Scorer + 'a>> = None;
    for line in input.lines() {
        let line = line?;
        let refuse = |message: String| (FromWorker::Refused { message: message.clone() }, io::Error::other(message));
        let request = serde_json::from_str(&line)
            .map_err(|error| refuse(format!("invalid request in version {VERSION} of the protocol: {error}")));
        let answer = match (request, &scorer) {
            (Ok(ToWorker::Setup { version, .. }), _) if version != VERSION => {
                Err(refuse(format!("the worker speaks version {VERSION} of the protocol, the pool version {version}")))
            }
            (Ok(ToWorker::Setup { setup, .. }), None) => match make.take().map(|make| make(&setup)) {
                Some(Ok(made)) => {
                    scorer = Some(made);
                    Ok(FromWorker::Ready)
                }
                Some(Err(message)) => Err(refuse(message)),
                None => Err(refuse("a second setup after one that was refused".into())),
            },
            (Ok(ToWorker::Score { id, recipe, role, rival }), Some(scorer)) => {
                let strata = rival.as_ref().map(RivalMessage::strata).unwrap_or_default();
                let rival = rival.as_ref().map(|rival| Rival {
                    cutoff: rival.cutoff,
                    incumbent: &rival.incumbent,
                    strata: &strata,
                });
                let scored = scorer.score(&[Candidate { recipe }], role, rival, &|_, _| {});
                match scored.map(|mut results| results.pop()) {
                    Ok(Some(Ok(scores))) => Ok(FromWorker::Result { id, scores: Some(scores), error: None }),
                    Ok(Some(Err(error))) => Ok(FromWorker::Result { id, scores: None, error: Some(error.message) }),
                    Ok(None) => Err(refuse("the scorer returned no result".into())),
                    Err(Stopped) => return say(&FromWorker::Stopped),
                }
            }
            (Ok(_), _) => Err(refuse("expected one setup, then candidates".into())),
            (Err(refused), _) => Err(refused),
        };
        match answer {
            Ok(answer) => say(&answer)?,
            Err((answer, error)) => {
                say(&answer)?;
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Processes that score candidates, each one at a time.
#[derive(Debug)]
pub struct WorkerPool {
    command: Vec<OsString>,
    setup: Value,
    cancel: CancelToken,
    idle: Mutex<Vec<Worker>>,
    count: usize,
    next_id: AtomicU64,
    restarts: AtomicU64,
}

/// A running worker that is ready.
#[derive(Debug)]
struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    stderr_ended: Receiver<()>,
}

/// Why there is no answer from a worker.
enum Lost {
    Stopped,
    Died(String),
}

impl WorkerPool {
    /// Starts `count` workers with `command`, a program and its arguments, and sends `setup` to each. Once `cancel` is
    /// cancelled, workers are killed and scoring ends.
    ///
    /// # Errors
    /// [`WorkerError`] when one of them does not become ready.
    pub fn start(
        command: Vec<OsString>,
        count: usize,
        setup: Value,
        cancel: CancelToken,
    ) -> Result<WorkerPool, WorkerError> {
        if command.is_empty() || count == 0 {
            return Err(WorkerError::Nothing { found: if count == 0 { "no worker" } else { "no command" } });
        }
        let (idle, next_id, restarts) = (Mutex::default(), AtomicU64::new(0), AtomicU64::new(0));
        let pool = WorkerPool { command, setup, cancel, idle, count, next_id, restarts };
        let started: Vec<Result<Worker, WorkerError>> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..count).map(|_| scope.spawn(|| pool.start_one())).collect();
            let died = || Err(pool.failed("starting it panicked", String::new()));
            starting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect()
        });
        for worker in started {
            pool.idle.lock().push(worker?);
        }
        Ok(pool)
    }

    /// Number of restarts of workers.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    fn failed(&self, problem: impl Into<String>, stderr: String) -> WorkerError {
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        WorkerError::Start { command: words.join(" "), problem: problem.into(), stderr }
    }

    fn start_one(&self) -> Result<Worker, WorkerError> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // An interrupt from the keyboard goes to the pool, which ends its workers.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| self.failed(format!("starting it: {error}"), String::new()))?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // The threads end with the pipes, which close when the worker does.
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            each_line(output, |line| send.send(line).is_ok());
        });
        let stderr: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (kept, (ended, stderr_ended)) = (Arc::clone(&stderr), mpsc::channel());
        std::thread::spawn(move || {
            let Some(errors) = errors else { return };
            each_line(errors, |line| {
                let mut kept = kept.lock();
                if kept.len() == SHOWN_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
                true
            });
            drop(ended);
        });
        let mut worker = Worker { child, input, lines, stderr, stderr_ended };
        match self.greet(&mut worker) {
            Ok(()) => Ok(worker),
            Err(Lost::Stopped) => Err(WorkerError::Stopped),
            Err(Lost::Died(problem)) => {
                let stderr = worker.last_words();
                Err(self.failed(problem, stderr))
            }
        }
    }

    /// Waits for the first document of the worker, sends the setup and waits until it is ready.
    fn greet(&self, worker: &mut Worker) -> Result<(), Lost> {
        let hello = loop {
            let line = self.line_of(worker)?;
            if line.trim_start().starts_with('{') {
                break line;
            }
        };
        match parse(&hello)? {
            FromWorker::Hello { version: VERSION } => {}
            FromWorker::Hello { version } => {
                let problem = format!("expected version {VERSION} of the protocol, found version {version}");
                return Err(Lost::Died(problem));
            }
            other => return Err(unexpected("`hello`", &other)),
        }
        worker.send(&ToWorker::Setup { version: VERSION, setup: self.setup.clone() })?;
        match parse(&self.line_of(worker)?)? {
            FromWorker::Ready => Ok(()),
            FromWorker::Refused { message } => Err(Lost::Died(message)),
            other => Err(unexpected("`ready`", &other)),
        }
    }

    /// The next line of a worker.
    fn line_of(&self, worker: &Worker) -> Result<String, Lost> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Lost::Stopped);
            }
            match worker.lines.recv_timeout(POLL) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Lost::Died("it ended".into())),
            }
        }
    }

    /// Has a worker score a candidate.
    fn ask(
        &self,
        worker: &mut Worker,
        candidate: &Candidate,
        role: ItemRole,
        rival: Option<Rival<'_>>,
    ) -> Result<Result<Scores, CandidateError>, Lost> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (recipe, rival) = (candidate.recipe.clone(), rival.map(RivalMessage::from));
        worker.send(&ToWorker::Score { id, recipe, role, rival })?;
        match parse(&self.line_of(worker)?)? {
            FromWorker::Result { id: of, scores: Some(scores), error: None } if of == id => Ok(Ok(scores)),
            FromWorker::Result { id: of, scores: None, error: Some(message) } if of == id => {
                Ok(Err(CandidateError { message }))
            }
            FromWorker::Refused { message } => Err(Lost::Died(message)),
            other => Err(unexpected("the result of the candidate", &other)),
        }
    }

    /// Scores a candidate with the worker in `slot`, or a new one. A second worker tries if the first one dies.
    fn score_one(
        &self,
        slot: &mut Option<Worker>,
        candidate: &Candidate,
        role: ItemRole,
        rival: Option<Rival<'_>>,
    ) -> Result<Result<Scores, CandidateError>, Stopped> {
        let mut message = String::new();
        for _ in 0..2 {
            let worker = match slot {
                Some(worker) => worker,
                None => {
                    self.restarts.fetch_add(1, Ordering::Relaxed);
                    match self.start_one() {
                        Ok(worker) => slot.insert(worker),
                        Err(WorkerError::Stopped) => return Err(Stopped),
                        Err(error) => {
                            message = error.chain();
                            continue;
                        }
                    }
                }
            };
            match self.ask(worker, candidate, role, rival) {
                Ok(result) => return Ok(result),
                Err(Lost::Stopped) => {
                    *slot = None;
                    return Err(Stopped);
                }
                Err(Lost::Died(problem)) => {
                    let stderr = worker.last_words();
                    message = self.failed(problem, stderr).to_string();
                    *slot = None;
                    if self.cancel.is_cancelled() {
                        return Err(Stopped);
                    }
                }
            }
        }
        Ok(Err(CandidateError { message: format!("two workers died while scoring this candidate: {message}") }))
    }
}

impl Scorer for WorkerPool {
    fn score(
        &self,
        candidates: &[Candidate],
        role: ItemRole,
        rival: Option<Rival<'_>>,
        done: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
    ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
        let score = |worker: &mut Option<Worker>, i: usize| match self.cancel.is_cancelled() {
            true => Err(Stopped),
            false => self.score_one(worker, &candidates[i], role, rival),
        };
        let begin = || self.idle.lock().pop();
        let end = |worker: Option<Worker>| self.idle.lock().extend(worker);
        parallel::score_all(candidates.len(), self.count, begin, score, end, done)
    }

    fn parallelism(&self) -> usize {
        self.count
    }
}

impl Worker {
    fn send(&mut self, message: &ToWorker) -> Result<(), Lost> {
        let lost = |error: io::Error| Lost::Died(format!("it accepts no requests: {error}"));
        let mut line = serde_json::to_vec(message).map_err(|error| lost(error.into()))?;
        line.push(b'\n');
        let input = self.input.as_mut().ok_or_else(|| lost(io::ErrorKind::BrokenPipe.into()))?;
        input.write_all(&line).and_then(|()| input.flush()).map_err(lost)
    }

    /// Ends the worker; returns its status and the end of its standard error.
    fn last_words(&mut self) -> String {
        self.input = None;
        // Killing would hide the status of a worker that died by itself, which may take a moment to appear.
        let since = Instant::now();
        let mut status = self.child.try_wait().ok().flatten();
        while status.is_none() && since.elapsed() < GRACE {
            std::thread::sleep(POLL);
            status = self.child.try_wait().ok().flatten();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Returns when the thread that reads has ended.
        let _ = self.stderr_ended.recv_timeout(GRACE);
        let lines: Vec<String> = self.stderr.lock().iter().cloned().collect();
        let status = status.map_or_else(String::new, |status| format!(" ({status})"));
        match lines.as_slice() {
            [] => format!("{status}; its standard error was empty"),
            lines => format!("{status}; its standard error ended with:\n{}", lines.join("\n")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Killing a worker loses nothing: its files are complete at any moment.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes each line, without its end, to `take` until that returns false or the input ends.
fn each_line(input: impl Read, mut take: impl FnMut(String) -> bool) {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    // An endless line must not fill the memory.
    while matches!(input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line), Ok(count) if count > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_string();
        if !take(text) {
            return;
        }
        line.clear();
    }
}

fn parse(line: &str) -> Result<FromWorker, Lost> {
    serde_json::from_str(line).map_err(|error| {
        let begin: String = line.chars().take(200).collect();
        Lost::Died(format!("expected a document in version {VERSION} of the protocol, found `{begin}`: {error}"))
    })
}

fn unexpected(expected: &str, found: &FromWorker) -> Lost {
    let found = serde_json::to_string(found).unwrap_or_default();
    Lost::Died(format!("expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::TaskScore;

    /// Knows one recipe.
    struct Fixed;

    impl Scorer for Fixed {
        fn score(
            &self,
            candidates: &[Candidate],
            role: ItemRole,
            rival: Option<Rival<'_>>,
            _: &(dyn Fn(usize, &Result<Scores, CandidateError>) + Sync),
        ) -> Result<Vec<Result<Scores, CandidateError>>, Stopped> {
            let score = |candidate: &Candidate| match candidate.recipe.as_str() {
                "good" => {
                    let value = 0.1 + 0.2;
                    let task = TaskScore { task: "t".into(), metric: "acc".into(), value, n: 3, items: vec![] };
                    Ok(Scores {
                        tasks: vec![task],
                        average: rival.map_or(value, |rival| rival.cutoff + rival.incumbent.average),
                        stderr: None,
                        dropped: role == ItemRole::Validation,
                    })
                }
                _ => Err(CandidateError { message: "no such recipe".into() }),
            };
            if candidates[0].recipe == "stop" { Err(Stopped) } else { Ok(candidates.iter().map(score).collect()) }
        }
    }

    fn check(input: &[&str], expected: &[&str], ends_well: bool) {
        let mut output = Vec::new();
        let make = |setup: &Value| if setup == 1 { Ok(Box::new(Fixed) as _) } else { Err(format!("setup {setup}")) };
        let ended = serve(input.join("\n").as_bytes(), &mut output, make);
        let output = String::from_utf8(output).unwrap();
        assert_eq!(output.lines().collect::<Vec<_>>(), expected, "{input:?}");
        assert_eq!(ended.is_ok(), ends_well, "{ended:?}");
    }

    const HELLO: &str = r#"{"type":"hello","version":3}"#;
    const SETUP: &str = r#"{"type":"setup","version":3,"setup":1}"#;
    const READY: &str = r#"{"type":"ready"}"#;

    #[test]
    fn a_worker_keeps_to_the_protocol() {
        check(&[], &[HELLO], true);
        let good = r#"{"type":"score","id":7,"recipe":"good","role":"search","rival":null}"#;
        let bad = r#"{"type":"score","id":8,"recipe":"bad","role":"validation"}"#;
        let against = r#"{"type":"score","id":9,"recipe":"good","role":"validation","rival":{"cutoff":0.5,"incumbent":{"tasks":[],"average":0.25},"contested":["01"]}}"#;
        let task = r#""tasks":[{"task":"t","metric":"acc","value":0.30000000000000004,"n":3}]"#;
        let expected = [
            HELLO,
            READY,
            &format!(r#"{{"type":"result","id":7,"scores":{{{task},"average":0.30000000000000004}}}}"#),
            r#"{"type":"result","id":8,"error":"no such recipe"}"#,
            &format!(r#"{{"type":"result","id":9,"scores":{{{task},"average":0.75,"dropped":true}}}}"#),
        ];
        check(&[SETUP, good, bad, against], &expected, true);
        let stop = r#"{"type":"score","id":7,"recipe":"stop","role":"search"}"#;
        check(&[SETUP, stop, good], &[HELLO, READY, r#"{"type":"stopped"}"#], true);
    }

    #[test]
    fn a_broken_protocol_ends_a_worker() {
        let refused = |message: &str| format!(r#"{{"type":"refused","message":"{message}"}}"#);
        check(&[r#"{"type":"setup","version":3,"setup":2}"#], &[HELLO, &refused("setup 2")], false);
        let other = "the worker speaks version 3 of the protocol, the pool version 1";
        check(&[r#"{"type":"setup","version":1,"setup":1}"#], &[HELLO, &refused(other)], false);
        let order = refused("expected one setup, then candidates");
        check(&[SETUP, SETUP], &[HELLO, READY, &order], false);
        check(&[r#"{"type":"score","id":7,"recipe":"good","role":"search"}"#], &[HELLO, &order], false);
        let mut output = Vec::new();
        let make = |_: &Value| Ok(Box::new(Fixed) as _);
        assert!(serve(&b"nonsense\n"[..], &mut output, make).is_err());
        assert!(String::from_utf8(output).unwrap().contains("invalid request in version 3 of the protocol"));
    }
}
