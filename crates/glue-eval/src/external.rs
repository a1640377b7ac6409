//! Evaluators that are programs of their own: any harness can score a model in a search or a report, whatever it is
//! written in.
//!
//! # The agreement
//!
//! The program is given one JSON document on its standard input, and its end:
//!
//! ```json
//! {"model": "/path/of/a/model/directory", "tasks": ["arith", "/path/of/tasks"], "split": "test", "limit": null,
//!  "seed": 1234}
//! ```
//!
//! `model` is absolute. What `tasks` and `split` mean is up to the program; `limit` is the maximum number of items of
//! each task, or null for all; `split` and `seed` may be null, which leaves them to the program. It answers on its
//! standard output with one JSON document, as `glue eval --json` does, and leaves with status 0:
//!
//! ```json
//! {"model": "…", "tasks": {"arith": {"exact_match": 0.328, "n": 250}}, "average": 0.328}
//! ```
//!
//! Each task has at least one metric, a finite number, and `n`, the number of items. What else stands in the document
//! is ignored, as are values in a task that are no numbers. Where `average` is missing, it is the mean over the tasks
//! of each one's first metric that is not a standard error (whose name ends with `stderr`). What the program says on
//! its standard error is handed on line by line.
//!
//! # Its end
//!
//! When an evaluation ends, with an answer, an error, at its time limit or because it was stopped, the program and
//! everything that it started is killed: its process group, and on Linux every process that inherited a variable of its
//! environment, `GLUE_EVALUATOR_…`, which is another one for each evaluation, so that a process in a session of its own
//! does not stay behind. What is not held: a process that cleared its environment and left the group, one of another
//! user, and what the program had somebody else start, such as a daemon.

use glue_progress::CancelToken;
use serde::Serialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many of the last lines of its standard error an error shows.
const SHOWN_LINES: usize = 12;
/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: u64 = 256 << 20;
/// How long output may stay open after the program has ended, by a process that it left behind.
const GRACE: Duration = Duration::from_secs(2);

/// What is to be scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Request<'a> {
    /// The model directory. A relative path is made absolute before it is sent.
    pub model: &'a Path,
    /// Names or paths, as the program understands them.
    pub tasks: &'a [String],
    /// Which items: `test`, for example; `None` leaves it to the program.
    pub split: Option<&'a str>,
    /// Maximum number of items of each task; `None` for all.
    pub limit: Option<usize>,
    /// Of what is random in it; `None` leaves it to the program.
    pub seed: Option<u64>,
}

/// The scores of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskScores {
    /// Its name.
    pub task: String,
    /// Each metric and its value, in the order of the document.
    pub metrics: Vec<(String, f64)>,
    /// How many items were scored.
    pub n: usize,
}

/// What an evaluator answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Every task, in the order of the document; at least one.
    pub tasks: Vec<TaskScores>,
    /// Over the tasks; the program's, or else the mean of each task's first metric.
    pub average: f64,
}

/// Why there are no scores. Every message begins with the command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// The command cannot be split into words, or has none.
    #[error("evaluator `{command}`: expected a program and its arguments, {problem}")]
    Command {
        /// As it was given.
        command: String,
        /// What is wrong.
        problem: String,
    },
    /// The program cannot be started, or the system fails in between.
    #[error("evaluator `{command}`: {doing}")]
    Io {
        /// The command.
        command: String,
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The program ended with another status than 0.
    #[error("evaluator `{command}`: expected exit status 0, found {status}{}", Shown(stderr))]
    Status {
        /// The command.
        command: String,
        /// Its status or signal.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// The program took too long and was ended.
    #[error("evaluator `{command}`: ended because it took longer than {} s{}", limit.as_secs_f64(), Shown(stderr))]
    TimedOut {
        /// The command.
        command: String,
        /// The time it had.
        limit: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// The caller asked to end.
    #[error("evaluator `{command}`: stopped")]
    Stopped {
        /// The command.
        command: String,
    },
    /// The answer is not of the agreed form.
    #[error("evaluator `{command}`: its answer: expected {expected}, found {found}{}", Shown(stderr))]
    Answer {
        /// The command.
        command: String,
        /// What should have been there, and where.
        expected: String,
        /// The value found.
        found: String,
        /// The end of its standard error.
        stderr: String,
    },
}

/// The end of a standard error within a message.
struct Shown<'a>(&'a str);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            f.write_str("; it said nothing on its standard error")
        } else {
            write!(f, "; it said:\n{}", self.0)
        }
    }
}

/// A program that scores models; see the [module](self).
#[derive(Debug, Clone)]
pub struct ExternalEvaluator {
    argv: Vec<OsString>,
    timeout: Option<Duration>,
    cancel: CancelToken,
}

impl ExternalEvaluator {
    /// From one string, split into words as a POSIX shell does: at spaces, but for quotes and backslashes. No shell
    /// runs: there are no variables, no patterns and no pipes; `sh -c '…'` has them.
    ///
    /// # Errors
    /// If a quote is not closed, or there is no word.
    pub fn new(command: &str) -> Result<ExternalEvaluator, ExternalError> {
        let refuse =
            |problem: &str| ExternalError::Command { command: command.to_owned(), problem: problem.to_owned() };
        let words =
            shlex::split(command).ok_or_else(|| refuse("found a quote or a backslash that is not completed"))?;
        if words.is_empty() {
            return Err(refuse("found nothing"));
        }
        Ok(ExternalEvaluator {
            argv: words.into_iter().map(OsString::from).collect(),
            timeout: None,
            cancel: CancelToken::default(),
        })
    }

    /// From a program and its arguments, taken as they are.
    pub fn from_argv(
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> ExternalEvaluator {
        let argv = std::iter::once(program.into()).chain(arguments.into_iter().map(Into::into)).collect();
        ExternalEvaluator { argv, timeout: None, cancel: CancelToken::default() }
    }

    /// With a limit on the time of each [`evaluate`](Self::evaluate); there is none by default.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> ExternalEvaluator {
        self.timeout = Some(timeout);
        self
    }

    /// Ended, with what it started, once `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancelToken) -> ExternalEvaluator {
        self.cancel = cancel;
        self
    }

    /// The command for people, quoted where it must be.
    pub fn command(&self) -> String {
        let words: Vec<String> = self.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        // A word with a NUL byte cannot be quoted; it could not be started either.
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }

    /// Runs the program and reads its answer; `stderr` gets each line of its standard error as it comes, on this
    /// thread.
    ///
    /// The program and what it started are killed when this returns, with or without an answer.
    ///
    /// # Errors
    /// If it cannot be started, ends with another status than 0, takes too long, or its answer is not of the agreed
    /// form.
    pub fn evaluate(&self, request: &Request<'_>, stderr: &dyn Fn(&str)) -> Result<Scores, ExternalError> {
        let failed =
            |doing: &'static str| move |source: io::Error| ExternalError::Io { command: self.command(), doing, source };
        let model = std::path::absolute(request.model).map_err(failed("the model's path"))?;
        let request = Request { model: &model, ..request.clone() };
        let document = serde_json::to_vec(&request).map_err(|error| failed("writing the request")(error.into()))?;

        let started = Instant::now();
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mark = mark();
        command.env(&mark, "1");
        let mut group = Group { child: command.spawn().map_err(failed("starting it"))?, mark, ended: None };

        let (sender, receiver) = mpsc::channel();
        let (mut stdin, stdout, lines) =
            (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
        // The threads for what may block end with the pipes, which close when the group is killed. Were one of them
        // held open by a process that left the group, waiting for its thread would hang: they are not waited for.
        let messages = sender.clone();
        std::thread::spawn(move || {
            // A program that does not read its input may still answer.
            let _ = stdin.take().map(|mut stdin| stdin.write_all(&document));
            drop(messages);
        });
        let messages = sender.clone();
        std::thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.map_or(Ok(0), |stdout| stdout.take(LONGEST_ANSWER).read_to_end(&mut answer));
            let _ = messages.send(Message::Answer(read.map(|_| answer)));
        });
        std::thread::spawn(move || {
            let Some(lines) = lines else { return };
            let mut lines = BufReader::new(lines);
            let mut line = Vec::new();
            // A line without end must not fill the memory.
            while matches!(lines.by_ref().take(1 << 16).read_until(b'\n', &mut line), Ok(count) if count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                if sender.send(Message::Line(text)).is_err() {
                    return;
                }
                line.clear();
            }
            let _ = sender.send(Message::LastLine);
        });

        let mut tail = VecDeque::new();
        let (mut answer, mut all_lines, mut ended_at) = (None, false, None);
        loop {
            // The end of the program is not among the messages: it is looked at in between.
            let patience =
                if answer.is_some() && all_lines { Duration::from_millis(1) } else { Duration::from_millis(20) };
            match receiver.recv_timeout(patience) {
                Ok(Message::Line(line)) => {
                    stderr(&line);
                    tail.push_back(line);
                    if tail.len() > SHOWN_LINES {
                        tail.pop_front();
                    }
                }
                Ok(Message::LastLine) => all_lines = true,
                Ok(Message::Answer(read)) => answer = Some(read),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            let text = || tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
            if let Some(status) = group.poll().map_err(failed("waiting for it"))? {
                let since: &mut Instant = ended_at.get_or_insert_with(Instant::now);
                if (answer.is_some() && all_lines) || since.elapsed() > GRACE {
                    if !status.success() {
                        return Err(ExternalError::Status { command: self.command(), status, stderr: text() });
                    }
                    let read = answer
                        .take()
                        .unwrap_or_else(|| Err(io::Error::other("a process that it left behind keeps it open")));
                    let answer = read.map_err(failed("reading its answer"))?;
                    return read_scores(&answer).map_err(|(expected, found)| ExternalError::Answer {
                        command: self.command(),
                        expected,
                        found,
                        stderr: text(),
                    });
                }
            }
            if self.cancel.is_cancelled() {
                return Err(ExternalError::Stopped { command: self.command() });
            }
            if let Some(limit) = self.timeout.filter(|&limit| started.elapsed() >= limit) {
                return Err(ExternalError::TimedOut { command: self.command(), limit, stderr: text() });
            }
        }
    }
}

/// What the reading threads send.
enum Message {
    Line(String),
    LastLine,
    Answer(io::Result<Vec<u8>>),
}

/// A program with what it started, killed and waited for when dropped.
struct Group {
    child: Child,
    /// The variable by which what it started is known.
    mark: String,
    ended: Option<ExitStatus>,
}

impl Group {
    /// Its status if it has ended. It is then still there to be waited for, so that its number, which is that of the
    /// group, is no other's.
    fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.kill_group_if_leader_ended();
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Ends what the program left behind, before its number is given back by waiting for it.
    #[cfg(unix)]
    fn kill_group_if_leader_ended(&self) {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let Some(pid) = Pid::from_raw(self.child.id() as i32) else { return };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if matches!(waitid(WaitId::Pid(pid), look), Ok(Some(_))) {
            self.kill_group();
            self.kill_marked();
        }
    }

    #[cfg(not(unix))]
    fn kill_group_if_leader_ended(&self) {}

    #[cfg(unix)]
    fn kill_group(&self) {
        use rustix::process::{Pid, Signal, kill_process_group};
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    #[cfg(not(unix))]
    fn kill_group(&self) {}

    /// Ends every process that has the mark, again and again until there is none: one may have started another
    /// meanwhile, or may just be replacing its program.
    #[cfg(target_os = "linux")]
    fn kill_marked(&self) {
        use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        const ROUNDS: usize = 50;
        for _ in 0..ROUNDS {
            let mut again = false;
            for pid in processes() {
                match is_marked(pid, &self.mark) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => {
                        again = true;
                        continue;
                    }
                }
                // From here on it is this process, or none; before, its number may have become another's.
                let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
                match is_marked(pid, &self.mark) {
                    Some(true) => again |= pidfd_send_signal(&process, Signal::KILL).is_ok(),
                    Some(false) => {}
                    None => again = true,
                }
            }
            if !again {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn kill_marked(&self) {}
}

/// The name of a variable that no other evaluation has.
fn mark() -> String {
    static EVALUATIONS: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("GLUE_EVALUATOR_{}_{}_{now}", std::process::id(), EVALUATIONS.fetch_add(1, Ordering::Relaxed))
}

/// The numbers of all processes.
#[cfg(target_os = "linux")]
fn processes() -> impl Iterator<Item = rustix::process::Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// Whether a process inherited the variable `mark`; `None` if that cannot be seen yet. In the middle of `execve` the
/// environment of a process is empty, as is that of a kernel thread or of a process that has ended or may not be looked
/// at; only the first of these has a program.
#[cfg(target_os = "linux")]
fn is_marked(pid: rustix::process::Pid, mark: &str) -> Option<bool> {
    let directory = std::path::PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let environment = std::fs::read(directory.join("environ")).unwrap_or_default();
    if environment.is_empty() && std::fs::read_link(directory.join("exe")).is_ok() {
        return None;
    }
    let set = [mark.as_bytes(), b"=1"].concat();
    Some(environment.split(|&byte| byte == 0).any(|variable| variable == set))
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill_group();
            let _ = self.child.kill();
            self.kill_marked();
            let _ = self.child.wait();
        }
    }
}

/// Reads an answer; else what was expected and what was found.
fn read_scores(answer: &[u8]) -> Result<Scores, (String, String)> {
    let document: Value = serde_json::from_slice(answer).map_err(|error| {
        let text = String::from_utf8_lossy(answer);
        let begin: String = text.trim().chars().take(120).collect();
        let found = if begin.is_empty() { "nothing".to_owned() } else { format!("`{begin}` ({error})") };
        ("one JSON document".to_owned(), found)
    })?;
    let tasks = document.get("tasks").and_then(Value::as_object).filter(|tasks| !tasks.is_empty());
    let tasks =
        tasks.ok_or_else(|| ("`tasks` to be an object with a task in it".to_owned(), kind(document.get("tasks"))))?;
    let tasks = tasks.iter().map(|(task, scores)| read_task(task, scores)).collect::<Result<Vec<_>, _>>()?;
    let average = match document.get("average") {
        None => mean_of_first(&tasks),
        given => number(given).ok_or_else(|| ("`average` to be a finite number".to_owned(), kind(given)))?,
    };
    Ok(Scores { tasks, average })
}

fn read_task(task: &str, scores: &Value) -> Result<TaskScores, (String, String)> {
    let place = |key: &str| format!("`tasks.{task}.{key}`");
    let scores = scores.as_object().ok_or_else(|| (format!("`tasks.{task}` to be an object"), kind(Some(scores))))?;
    let n = scores.get("n").and_then(Value::as_u64).filter(|&n| n > 0);
    let n = n.ok_or_else(|| (format!("{} to be the number of items", place("n")), kind(scores.get("n"))))?;
    let mut metrics = Vec::new();
    for (metric, value) in scores {
        // JSON has no NaN: programs write null for it, or a string.
        let stands_for_number = value.is_null() || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok());
        if metric == "n" || !(value.is_number() || stands_for_number) {
            continue;
        }
        let value = number(Some(value))
            .ok_or_else(|| (format!("{} to be a finite number", place(metric)), kind(Some(value))))?;
        metrics.push((metric.clone(), value));
    }
    if !metrics.iter().any(|(metric, _)| is_score(metric)) {
        return Err((format!("`tasks.{task}` to have a metric beside `n`"), kind(None)));
    }
    Ok(TaskScores { task: task.to_owned(), metrics, n: n as usize })
}

fn is_score(metric: &str) -> bool {
    !metric.ends_with("stderr")
}

fn mean_of_first(tasks: &[TaskScores]) -> f64 {
    let first =
        |task: &TaskScores| task.metrics.iter().find(|(metric, _)| is_score(metric)).map_or(0.0, |(_, value)| *value);
    tasks.iter().map(first).sum::<f64>() / tasks.len() as f64
}

fn number(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_f64).filter(|number| number.is_finite())
}

/// A value in a message: itself where it is short, else what kind it is.
fn kind(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::Array(items)) => format!("a list of {}", items.len()),
        Some(Value::Object(entries)) => format!("an object of {}", entries.len()),
        Some(value) => value.to_string().chars().take(80).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(answer: &str) -> String {
        let (expected, found) = read_scores(answer.as_bytes()).unwrap_err();
        format!("expected {expected}, found {found}")
    }

    #[test]
    fn answers_are_read() {
        let scores = read_scores(
            br#"{"model": "m", "tasks": {"b": {"acc_stderr": 0.1, "acc": 0.5, "acc_norm": 1, "n": 4, "split": "test"},
                 "a": {"perplexity": 12.5, "n": 1}}, "note": [1]}"#,
        )
        .unwrap();
        assert_eq!(scores.average, 6.5);
        assert_eq!((scores.tasks[0].task.as_str(), scores.tasks[0].n), ("b", 4));
        let metrics: Vec<_> = scores.tasks[0].metrics.iter().map(|(metric, value)| (metric.as_str(), *value)).collect();
        assert_eq!(metrics, [("acc_stderr", 0.1), ("acc", 0.5), ("acc_norm", 1.0)]);
        assert_eq!(read_scores(br#"{"tasks": {"a": {"acc": 0.5, "n": 4}}, "average": 0.25}"#).unwrap().average, 0.25);
    }

    #[test]
    fn wrong_answers_are_refused_by_place() {
        for (answer, expected) in [
            ("", "expected one JSON document, found nothing"),
            ("Loading…\n{}", "expected one JSON document, found `Loading…\n{}` (expected value at line 1 column 1)"),
            ("{}", "expected `tasks` to be an object with a task in it, found none"),
            (r#"{"tasks": {}}"#, "expected `tasks` to be an object with a task in it, found an object of 0"),
            (r#"{"tasks": ["a"]}"#, "expected `tasks` to be an object with a task in it, found a list of 1"),
            (r#"{"tasks": {"a": 0.5}}"#, "expected `tasks.a` to be an object, found 0.5"),
            (r#"{"tasks": {"a": {"acc": 0.5}}}"#, "expected `tasks.a.n` to be the number of items, found none"),
            (r#"{"tasks": {"a": {"acc": 0.5, "n": 0}}}"#, "expected `tasks.a.n` to be the number of items, found 0"),
            (
                r#"{"tasks": {"a": {"acc": 0.5, "n": 2.5}}}"#,
                "expected `tasks.a.n` to be the number of items, found 2.5",
            ),
            (r#"{"tasks": {"a": {"n": 5}}}"#, "expected `tasks.a` to have a metric beside `n`, found none"),
            (
                r#"{"tasks": {"a": {"n": 5, "acc_stderr": 1}}}"#,
                "expected `tasks.a` to have a metric beside `n`, found none",
            ),
            (r#"{"tasks": {"a": {"acc": null, "n": 5}}}"#, "expected `tasks.a.acc` to be a finite number, found null"),
            (
                r#"{"tasks": {"a": {"acc": "nan", "n": 5}}}"#,
                "expected `tasks.a.acc` to be a finite number, found \"nan\"",
            ),
            (
                r#"{"tasks": {"a": {"acc": 0.5, "n": 5}}, "average": null}"#,
                "expected `average` to be a finite number, found null",
            ),
        ] {
            assert_eq!(refused(answer), expected);
        }
        // What Python's json module writes without being messages otherwise.
        let found = refused(r#"{"tasks": {"a": {"acc": NaN, "n": 5}}}"#);
        assert!(found.starts_with("expected one JSON document, found `"), "{found}");
    }
}
