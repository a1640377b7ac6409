//! One program from its start to its end.

use super::confine::Confinement;
use super::disk::{Namespace, PrivateDisk};
use super::files::View;
use super::filter::{Files, programs};
use super::interpreter::Interpreter;
use super::monitor::{ASK, End, Monitor, OutputTail};
use super::process::{Ended, Process};
use super::scratch::{Scratch, remove_abandoned};
use super::threads::Listener;
use super::{Execution, Limits, Options, Outcome, SandboxError, Strength};
use seccompiler::BpfProgram;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
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

/// How long is waited before a program is tried again that the system refused to start: about 1.7 s together.
const BACK_OFF: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(80), Duration::from_millis(320), Duration::from_millis(1280)];

/// Where programs write.
enum Disk {
    /// Into a tmpfs of its own each, which its namespace has where this directory is.
    Private(Namespace, Scratch),
    /// Into a directory of its own each.
    Shared,
}

/// What is the same for every program.
pub(super) struct Jail {
    interpreter: Interpreter,
    view: Option<View>,
    disk: Disk,
    filters: Arc<[BpfProgram; 3]>,
    packages: bool,
}

impl Jail {
    pub(super) fn new(limits: &Limits, options: &Options) -> Result<Jail, SandboxError> {
        remove_abandoned();
        let interpreter = Interpreter::find(&options.python)?;
        let places = [&interpreter.places[..], &options.readable].concat();
        let view = if options.landlock { View::new(&places, &interpreter.mapped)? } else { None };
        let mut jail = Jail {
            interpreter,
            disk: Disk::Shared,
            filters: filters(if view.is_some() { Files::Measured } else { Files::ReadOnly })?,
            view,
            packages: options.packages,
        };
        if options.namespaces && jail.view.is_some() {
            jail.disk = jail.private_disk(limits)?;
            if let Disk::Private(..) = jail.disk {
                jail.filters = filters(Files::ByPlace)?;
            }
        }
        let trial = Limits { wall_time: limits.wall_time.max(Duration::from_secs(10)), ..limits.clone() };
        let trial = jail.run(&trial, TRIAL, &|| false)?;
        match trial.outcome {
            Outcome::Passed => Ok(jail),
            outcome => {
                let said = trial.stderr.trim().lines().last().unwrap_or_default().to_owned();
                Err(SandboxError::Confinement { problem: format!("a trial program ended as `{outcome}`: {said}") })
            }
        }
    }

    /// The disk that processes here can make for themselves.
    fn private_disk(&self, limits: &Limits) -> Result<Disk, SandboxError> {
        let failed = |source| SandboxError::Io { doing: "preparing a scratch directory", source };
        let scratch = Scratch::new().map_err(failed)?;
        let mut delays = BACK_OFF.into_iter();
        let mut namespaces = [Namespace::Mounts, Namespace::User].into_iter().peekable();
        while let Some(&namespace) = namespaces.peek() {
            let disk = PrivateDisk::new(namespace, &scratch.path(), limits).map_err(failed)?;
            let mut command = Command::new(&self.interpreter.executable);
            command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            disk.apply_to(&mut command);
            match command.status() {
                Ok(status) if status.success() => return Ok(Disk::Private(namespace, scratch)),
                // For want of processes or memory, which says nothing about what is allowed.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory) => {
                    std::thread::sleep(delays.next().ok_or(error).map_err(failed)?);
                }
                // Where one is refused, the other may be allowed.
                _ => _ = namespaces.next(),
            }
        }
        Ok(Disk::Shared)
    }

    pub(super) fn strength(&self) -> Strength {
        match (&self.view, &self.disk) {
            (None, _) => Strength::ReadOnly,
            (Some(_), Disk::Shared) => Strength::Landlock,
            (Some(_), Disk::Private(..)) => Strength::PrivateDisk,
        }
    }

    /// Runs a program, and tries again where the system has not what starting one takes: processes, memory, space.
    pub(super) fn run(
        &self,
        limits: &Limits,
        program: &str,
        stop: &dyn Fn() -> bool,
    ) -> Result<Execution, SandboxError> {
        let mut delays = BACK_OFF.into_iter();
        loop {
            match (self.run_once(limits, program, stop), delays.next()) {
                (Err(SandboxError::Io { .. }), Some(delay)) => wait(delay, stop)?,
                (result, _) => return result,
            }
        }
    }

    fn run_once(&self, limits: &Limits, program: &str, stop: &dyn Fn() -> bool) -> Result<Execution, SandboxError> {
        let failed = |doing: &'static str| move |source: io::Error| SandboxError::Io { doing, source };
        let own;
        let (scratch, disk) = match &self.disk {
            Disk::Private(namespace, scratch) => {
                let disk = PrivateDisk::new(*namespace, &scratch.path(), limits);
                (scratch, Some(disk.map_err(failed("making a scratch directory"))?))
            }
            Disk::Shared => {
                own = Scratch::new().map_err(failed("making a scratch directory"))?;
                (&own, None)
            }
        };
        let place = scratch.path();
        let shared = disk.is_none().then_some(&*place);
        let rules = self.view.as_ref().map(|view| view.rules(shared)).transpose()?;
        let (channel, theirs) = UnixStream::pair().map_err(failed("making a channel"))?;
        channel.set_nonblocking(true).map_err(failed("making a channel"))?;

        let mut command = Command::new(&self.interpreter.executable);
        // Not -E, which would ignore the seed of hashes: a set must have the same order in every run.
        command.args(["-s", "-B", "-X", "utf8"]);
        if !self.packages {
            command.arg("-S");
        }
        command.args(["-c", HARNESS]).current_dir(&place).env_clear();
        command.env("HOME", &place).env("TMPDIR", &place).env("PATH", "/usr/bin:/bin");
        command.env("LANG", "C.UTF-8").env("PYTHONHASHSEED", "0").env("PYTHONSAFEPATH", "1");
        // Each thread of a matrix library reserves memory, and the programs themselves run beside each other.
        for variable in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"] {
            command.env(variable, "1");
        }
        // Else each of some threads reserves 64 MiB of address space for its allocations.
        command.env("MALLOC_ARENA_MAX", "1");
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        Confinement::new(rules, disk, self.filters.clone(), limits).apply_to(&mut command);

        let started = Instant::now();
        let mut child = command.spawn().map_err(failed("starting a confined interpreter"))?;
        let process = Process::new(child.id());
        // It holds the other end of the channel, which must close with the program.
        drop(command);
        let listener = Listener::receive(&channel).map_err(failed("starting a confined interpreter"))?;
        let token = token().map_err(failed("drawing a token"))?;
        let document = [token.as_bytes(), format!("{:016}", program.len()).as_bytes(), program.as_bytes()].concat();
        let outputs = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        let mut monitor = Monitor {
            process,
            channel: Some(channel),
            listener,
            document,
            sent: 0,
            reply: OutputTail::new(64),
            outputs: outputs.map(|pipe| (pipe.map(File::from), OutputTail::new(limits.output_bytes))),
        };
        let measured = shared.map(|_| scratch);
        let end = monitor.wait(started, limits, measured, stop).map_err(failed("watching a program"))?;
        let wall = started.elapsed();
        let Monitor { reply, outputs: [(_, stdout), (_, stderr)], .. } = monitor;
        let (outcome, cpu) = match end {
            End::Killed(outcome, cpu) => (outcome, cpu),
            End::Itself(ended) => (judge(&ended, &reply.bytes, &token, limits), ended.cpu),
            End::Stopped => return Err(SandboxError::Stopped),
        };
        Ok(Execution { outcome, wall_time: wall, cpu_time: cpu, stdout: stdout.text(), stderr: stderr.text() })
    }
}

fn filters(files: Files) -> Result<Arc<[BpfProgram; 3]>, SandboxError> {
    let filters = programs(files);
    filters.map(Arc::new).map_err(|error| SandboxError::Confinement { problem: format!("seccomp: {error}") })
}

/// Waits, unless the work is cancelled.
fn wait(delay: Duration, stop: &dyn Fn() -> bool) -> Result<(), SandboxError> {
    let until = Instant::now() + delay;
    while !stop() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(ASK));
    }
    Err(SandboxError::Stopped)
}

/// What a program that ended by itself comes to.
fn judge(ended: &Ended, reply: &[u8], token: &str, limits: &Limits) -> Outcome {
    match ended.status {
        Ok(0) if reply == token.as_bytes() => Outcome::Passed,
        Ok(0) => Outcome::Unfinished,
        Ok(_) if reply == b"memory" => Outcome::MemoryExceeded,
        Ok(_) if reply == b"space" => Outcome::ScratchExceeded,
        Ok(status) => Outcome::Failed { status },
        // The kernel's way to end what has used up its time.
        Err(libc::SIGXCPU) => Outcome::TimedOut,
        // The same for one that ignores it. The kernel samples the time that it limits and measures the one it reports,
        // so that they differ on a busy machine; programs cannot send themselves the signal.
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
