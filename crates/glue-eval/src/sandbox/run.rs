//! One program from its start to its end, watched by one loop without threads of its own.

use super::confine::{Confinement, Ended, Process};
use super::files::{Scratch, View, exceeds};
use super::filter::{Files, programs};
use super::interpreter::Interpreter;
use super::{Execution, Limits, Options, Outcome, SandboxError, Strength};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use seccompiler::BpfProgram;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const HARNESS: &str = include_str!("harness.py");

/// Tries what must not succeed, as a check that the rules are in force before anything untrusted runs.
const TRIAL: &str = r#"
import os
try:
    os.close(os.open("../written", os.O_WRONLY | os.O_CREAT))
except OSError:
    pass
else:
    raise SystemExit("a file was written outside of the scratch directory")
try:
    os.fork()
except OSError:
    pass
else:
    raise SystemExit("a process was started")
try:
    import socket
    socket.socket()
except (ImportError, OSError):
    pass
else:
    raise SystemExit("a socket was opened")
"#;

/// How often the size of the scratch directory is looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How often a process is looked at where it cannot be waited for together with its output.
const TICK: Duration = Duration::from_millis(5);

/// What is the same for every program.
pub(super) struct Jail {
    interpreter: Interpreter,
    view: Option<View>,
    filters: Arc<[BpfProgram; 2]>,
    packages: bool,
}

impl Jail {
    pub(super) fn new(limits: &Limits, options: &Options) -> Result<Jail, SandboxError> {
        let interpreter = Interpreter::find(&options.python)?;
        let view = if options.landlock { View::new(&interpreter.places, &interpreter.mapped)? } else { None };
        let files = if view.is_some() { Files::ByPlace } else { Files::ReadOnly };
        let filters =
            programs(files).map_err(|error| SandboxError::Confinement { problem: format!("seccomp: {error}") })?;
        let jail = Jail { interpreter, view, filters: Arc::new(filters), packages: options.packages };
        let trial = Limits { wall_time: limits.wall_time.max(Duration::from_secs(10)), ..limits.clone() };
        let trial = jail.run(&trial, TRIAL)?;
        match trial.outcome {
            Outcome::Passed => Ok(jail),
            outcome => {
                let said = trial.stderr.trim().lines().last().unwrap_or_default().to_owned();
                Err(SandboxError::Confinement { problem: format!("a trial program ended as `{outcome}`: {said}") })
            }
        }
    }

    pub(super) fn strength(&self) -> Strength {
        if self.view.is_some() { Strength::Landlock } else { Strength::ReadOnly }
    }

    pub(super) fn run(&self, limits: &Limits, program: &str) -> Result<Execution, SandboxError> {
        let failed = |doing: &'static str| move |source: io::Error| SandboxError::Io { doing, source };
        let scratch = Scratch::new().map_err(failed("making a scratch directory"))?;
        let rules = self.view.as_ref().map(|view| view.with_scratch(&scratch.path())).transpose()?;
        let (channel, theirs) = UnixStream::pair().map_err(failed("making a channel"))?;
        channel.set_nonblocking(true).map_err(failed("making a channel"))?;

        let mut command = Command::new(&self.interpreter.executable);
        // Not -E, which would ignore the seed of hashes: a set must have the same order in every run.
        command.args(["-s", "-B", "-X", "utf8"]);
        if !self.packages {
            command.arg("-S");
        }
        command.args(["-c", HARNESS]).current_dir(scratch.path()).env_clear();
        command.env("HOME", scratch.path()).env("TMPDIR", scratch.path()).env("PATH", "/usr/bin:/bin");
        command.env("LANG", "C.UTF-8").env("PYTHONHASHSEED", "0").env("PYTHONSAFEPATH", "1");
        // Each thread of a matrix library reserves memory, and the programs themselves run beside each other.
        for variable in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(variable, "1");
        }
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        Confinement::new(rules, self.filters.clone(), limits).apply_to(&mut command);

        let started = Instant::now();
        let mut child = command.spawn().map_err(failed("starting a confined interpreter"))?;
        let process = Process::new(child.id());
        // It holds the other end of the channel, which must close with the program.
        drop(command);
        let token = token().map_err(failed("drawing a token"))?;
        let document = [token.as_bytes(), format!("{:016}", program.len()).as_bytes(), program.as_bytes()].concat();
        let outputs = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        let mut watched = Watched {
            process,
            channel: Some(channel),
            document,
            sent: 0,
            reply: Tail::new(64),
            outputs: outputs.map(|pipe| (pipe.map(File::from), Tail::new(limits.output_bytes))),
        };
        let end = watched.watch(started, limits, &scratch).map_err(failed("watching a program"))?;
        let wall = started.elapsed();
        let Watched { reply, outputs: [(_, stdout), (_, stderr)], .. } = watched;
        let (outcome, cpu) = match end {
            End::Killed(outcome, cpu) => (outcome, cpu),
            End::Itself(ended) => (judge(&ended, &reply.bytes, &token, limits), ended.cpu),
        };
        Ok(Execution { outcome, wall_time: wall, cpu_time: cpu, stdout: stdout.text(), stderr: stderr.text() })
    }
}

/// What a program that ended by itself comes to.
fn judge(ended: &Ended, reply: &[u8], token: &str, limits: &Limits) -> Outcome {
    match ended.status {
        Ok(0) if reply == token.as_bytes() => Outcome::Passed,
        Ok(0) => Outcome::Unfinished,
        Ok(_) if reply == b"memory" => Outcome::MemoryExceeded,
        Ok(status) => Outcome::Failed { status },
        // The kernel's way to end what has used up its time.
        Err(libc::SIGXCPU) => Outcome::TimedOut,
        // The same for one that ignores it. The kernel samples the time that it limits and measures the one it reports, so that they differ
        // on a busy machine; programs cannot send themselves the signal.
        Err(libc::SIGKILL) if 2 * ended.cpu >= limits.cpu_time => Outcome::TimedOut,
        Err(signal) => Outcome::Killed { signal },
    }
}

/// 32 hexadecimal digits that nobody can guess.
fn token() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The last bytes of a stream.
struct Tail {
    bytes: Vec<u8>,
    most: usize,
    cut: bool,
}

impl Tail {
    fn new(most: usize) -> Tail {
        Tail { bytes: Vec::new(), most, cut: false }
    }

    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Seldom enough for the moves not to matter.
        if self.bytes.len() > self.most + 65_536 {
            self.trim();
        }
    }

    fn trim(&mut self) {
        if let Some(excess) = self.bytes.len().checked_sub(self.most).filter(|&excess| excess > 0) {
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// As text, beginning with an ellipsis when something is missing.
    fn text(mut self) -> String {
        self.trim();
        let text = String::from_utf8_lossy(&self.bytes);
        if self.cut { format!("…{text}") } else { text.into_owned() }
    }
}

enum End {
    /// The program ended.
    Itself(Ended),
    /// It was ended here, for that reason, having used that much time.
    Killed(Outcome, Duration),
}

/// A running program and the ends of what leads to it.
struct Watched {
    process: Process,
    channel: Option<UnixStream>,
    document: Vec<u8>,
    sent: usize,
    reply: Tail,
    outputs: [(Option<File>, Tail); 2],
}

impl Watched {
    /// Sends, receives and waits until the program has ended or must be.
    fn watch(&mut self, started: Instant, limits: &Limits, scratch: &Scratch) -> io::Result<End> {
        let handle = pidfd_of(&self.process);
        let deadline = started + limits.wall_time;
        let mut look = started + WATCH;
        loop {
            if let Some(ended) = self.process.wait(false)? {
                // What it wrote last is in the pipes; nobody else is there to write more.
                while self.exchange(None, Duration::ZERO)? {}
                return Ok(End::Itself(ended));
            }
            let now = Instant::now();
            let reason = if now >= deadline {
                Some(Outcome::TimedOut)
            } else if now >= look {
                look = now + WATCH;
                exceeds(&scratch.path(), limits).then_some(Outcome::ScratchExceeded)
            } else {
                None
            };
            if let Some(reason) = reason {
                self.process.kill();
                let cpu = self.process.wait(true)?.map_or(Duration::ZERO, |ended| ended.cpu);
                while self.exchange(None, Duration::ZERO)? {}
                return Ok(End::Killed(reason, cpu));
            }
            let mut patience = deadline.min(look).saturating_duration_since(now);
            if handle.is_none() {
                patience = patience.min(TICK);
            }
            self.exchange(handle.as_ref(), patience)?;
        }
    }

    /// Waits at most `patience` for something to do, and does it; whether anything was received or a stream closed.
    fn exchange(&mut self, handle: Option<&OwnedFd>, patience: Duration) -> io::Result<bool> {
        let mut waiting = Vec::with_capacity(4);
        let mut which = Vec::with_capacity(4);
        if let Some(channel) = &self.channel {
            let write = if self.sent < self.document.len() { PollFlags::OUT } else { PollFlags::empty() };
            waiting.push(PollFd::new(channel, PollFlags::IN | write));
            which.push(None);
        }
        for (index, (pipe, _)) in self.outputs.iter().enumerate() {
            if let Some(pipe) = pipe {
                waiting.push(PollFd::new(pipe, PollFlags::IN));
                which.push(Some(index));
            }
        }
        if let Some(handle) = handle {
            waiting.push(PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN));
        }
        let patience = Timespec { tv_sec: patience.as_secs() as _, tv_nsec: patience.subsec_nanos() as _ };
        match poll(&mut waiting, Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<_> = waiting.iter().map(PollFd::revents).collect();
        let mut any = false;
        for (stream, events) in which.into_iter().zip(ready) {
            if events.is_empty() {
                continue;
            }
            let mut buffer = [0; 16_384];
            let (received, tail) = match stream {
                None => {
                    if events.contains(PollFlags::OUT) {
                        self.send();
                    }
                    if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        continue;
                    }
                    (self.channel.as_mut().map(|channel| channel.read(&mut buffer)), &mut self.reply)
                }
                Some(index) => {
                    let (pipe, tail) = &mut self.outputs[index];
                    (pipe.as_mut().map(|pipe| pipe.read(&mut buffer)), tail)
                }
            };
            match received {
                Some(Ok(count)) if count > 0 => tail.push(&buffer[..count]),
                Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                // Closed, or broken by the end of the process.
                _ => match stream {
                    None => self.channel = None,
                    Some(index) => self.outputs[index].0 = None,
                },
            }
            any = true;
        }
        Ok(any)
    }

    /// As much of the document as the channel takes; what cannot be delivered shows in how the program ends.
    fn send(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        match channel.write(&self.document[self.sent..]) {
            Ok(count) => self.sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.sent = self.document.len(),
        }
    }
}

/// A descriptor that can be waited on, since Linux 5.3.
fn pidfd_of(process: &Process) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(process.number())?, PidfdFlags::empty()).ok()
}
