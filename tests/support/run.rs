//! Starting `glue` and checking its output.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The binary: `GLUE_BIN` where that is set, else the one beside this test in the target directory.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("GLUE_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    // target/PROFILE/deps/TEST
    let path = test.ancestors().nth(2).expect("tests are built in a target directory").join("glue");
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// A command that starts `glue` with `args` in `directory`, with nothing to read on standard input.
pub fn command<S: AsRef<OsStr>>(directory: &Path, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).current_dir(directory).stdin(Stdio::null());
    command
}

/// Runs `glue` with `args` in `directory` to its end.
pub fn glue<S: AsRef<OsStr>>(directory: &Path, args: impl IntoIterator<Item = S>) -> Run {
    Run::of(&mut command(directory, args))
}

/// Whether there is a Python interpreter; the project builds and passes its tests without one.
pub fn python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: there is no python3 on PATH");
    }
    found
}

/// Starts `command` and kills it with SIGKILL as soon as `reached` says so. Returns whether it was still running then.
pub fn kill_when(command: &mut Command, reached: impl Fn() -> bool) -> bool {
    let mut child = command.stdout(Stdio::null()).spawn().expect("the command can be started");
    loop {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        if reached() {
            child.kill().expect("a child can be killed");
            return !child.wait().expect("a child ends").success();
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

/// The outcome of a command.
#[derive(Debug)]
pub struct Run {
    /// Exit status; `None` for a process that a signal ended.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error without the log of progress.
    pub err: String,
    /// The lines of the log of progress, which begin with the time since the start: `[00:12:34]`.
    pub log: Vec<String>,
}

impl Run {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Run {
        let output = command.output().expect("the command can be started");
        Run::from(&output)
    }

    /// The same, once it is known to have succeeded.
    ///
    /// # Panics
    /// On any exit status but 0, and when something was printed to standard error: warnings are part of the output.
    pub fn ok(self) -> Run {
        assert_eq!((self.status, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self
    }

    /// The same for a command that also printed one note to standard error, which contains `text`.
    ///
    /// # Panics
    /// On any exit status but 0, and when standard error is anything else.
    pub fn ok_with_note(self, text: &str) -> Run {
        let noted = self.err.starts_with("note: ") && self.err.lines().count() == 1 && self.err.contains(text);
        assert!(self.status == Some(0) && noted, "{:?} {}", self.status, self.err);
        self
    }

    /// The one JSON document that a successful command printed.
    ///
    /// # Panics
    /// On failure, or when standard output is anything else.
    pub fn json(self) -> Value {
        let run = self.ok();
        serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error} in {}", run.out))
    }

    /// Checks that the command failed with `status`, that it printed one error with all of `says` in it, and no more.
    ///
    /// # Panics
    /// Otherwise; `name` is part of the message.
    pub fn refused(&self, name: &str, status: i32, says: &[&str]) {
        assert_eq!(self.status, Some(status), "{name}: {self:?}");
        assert_eq!(self.out, "", "{name}");
        assert!(self.err.starts_with("error: "), "{name}: {}", self.err);
        assert!(!self.err.contains("panicked"), "{name}: {}", self.err);
        for words in says {
            assert!(self.err.contains(words), "{name} does not say {words:?}: {}", self.err);
        }
    }
}

impl From<&Output> for Run {
    fn from(output: &Output) -> Run {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("glue prints UTF-8");
        let (log, err): (Vec<String>, Vec<String>) =
            text(&output.stderr).split_inclusive('\n').map(String::from).partition(|line| is_logged(line));
        Run { status: output.status.code(), out: text(&output.stdout), err: err.concat(), log }
    }
}

/// Whether a line begins with a time as `[00:12:34]`.
fn is_logged(line: &str) -> bool {
    let time = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    time.is_some_and(|(time, _)| {
        let parts: Vec<&str> = time.split(':').collect();
        parts.len() == 3 && parts.iter().all(|part| part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_digit()))
    })
}
