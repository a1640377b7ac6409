//! A running program and the ends of what leads to it, watched by one loop without threads of its own.

use super::process::{Ended, Process};
use super::scratch::{Scratch, exceeds};
use super::threads::Listener;
use super::{Limits, Outcome};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How often what a program has on the disk is measured, where the kernel does not limit it.
const MEASURE: Duration = Duration::from_millis(20);
/// How often somebody is asked whether the programs should end.
pub(super) const ASK: Duration = Duration::from_millis(50);
/// How often a process is looked at where it cannot be waited for together with its output.
const TICK: Duration = Duration::from_millis(5);

/// The last bytes of a stream.
pub(super) struct OutputTail {
    pub(super) bytes: Vec<u8>,
    max_bytes: usize,
    cut: bool,
}

impl OutputTail {
    pub(super) fn new(max_bytes: usize) -> OutputTail {
        OutputTail { bytes: Vec::new(), max_bytes, cut: false }
    }

    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        // Seldom enough for the moves not to matter.
        if self.bytes.len() > self.max_bytes + 65_536 {
            self.trim();
        }
    }

    fn trim(&mut self) {
        if let Some(excess) = self.bytes.len().checked_sub(self.max_bytes).filter(|&excess| excess > 0) {
            self.bytes.drain(..excess);
            self.cut = true;
        }
    }

    /// As text, beginning with an ellipsis when something is missing.
    pub(super) fn text(mut self) -> String {
        self.trim();
        let text = String::from_utf8_lossy(&self.bytes);
        if self.cut { format!("…{text}") } else { text.into_owned() }
    }
}

/// Why a program runs no more.
pub(super) enum End {
    /// It ended.
    Itself(Ended),
    /// It was ended here, for that reason, having used that much time.
    Killed(Outcome, Duration),
    /// It was ended because nobody wants its result any more.
    Stopped,
}

/// A running program and the ends of what leads to it.
pub(super) struct Monitor {
    pub(super) process: Process,
    pub(super) channel: Option<UnixStream>,
    /// Who is asked for threads.
    pub(super) listener: Option<Listener>,
    /// What is sent over the channel, and how much of it has been.
    pub(super) document: Vec<u8>,
    pub(super) sent: usize,
    pub(super) reply: OutputTail,
    pub(super) outputs: [(Option<File>, OutputTail); 2],
}

impl Monitor {
    /// Sends, receives and waits until the program has ended or must be. `measured` is where it writes, if it must be
    /// looked at how much; `stop` is asked all the time whether the program should end.
    pub(super) fn wait(
        &mut self,
        started: Instant,
        limits: &Limits,
        measured: Option<&Scratch>,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<End> {
        let handle = pidfd_of(&self.process);
        // A time beyond what can be counted is no limit.
        let deadline = started.checked_add(limits.wall_time);
        let mut next_measure = started + MEASURE;
        loop {
            if let Some(ended) = self.process.wait(false)? {
                // What it wrote last is in the pipes; nobody else is there to write more.
                while self.exchange(None, Duration::ZERO, limits)? {}
                return Ok(End::Itself(ended));
            }
            let now = Instant::now();
            let reason = if stop() {
                Some(None)
            } else if deadline.is_some_and(|deadline| now >= deadline) {
                Some(Some(Outcome::TimedOut))
            } else if let Some(scratch) = measured.filter(|_| now >= next_measure) {
                next_measure = now + MEASURE;
                exceeds(&scratch.path(), &self.process, limits).then_some(Some(Outcome::ScratchExceeded))
            } else {
                None
            };
            if let Some(reason) = reason {
                self.process.kill();
                let cpu = self.process.wait(true)?.map_or(Duration::ZERO, |ended| ended.cpu);
                let Some(outcome) = reason else { return Ok(End::Stopped) };
                while self.exchange(None, Duration::ZERO, limits)? {}
                return Ok(End::Killed(outcome, cpu));
            }
            let mut patience = if handle.is_some() { ASK } else { TICK };
            if let Some(deadline) = deadline {
                patience = patience.min(deadline.saturating_duration_since(now));
            }
            if measured.is_some() {
                patience = patience.min(next_measure.saturating_duration_since(now));
            }
            self.exchange(handle.as_ref(), patience, limits)?;
        }
    }

    /// Waits at most `patience` for something to do, and does it; whether anything was received or a stream closed.
    fn exchange(&mut self, handle: Option<&OwnedFd>, patience: Duration, limits: &Limits) -> io::Result<bool> {
        let mut waiting = Vec::with_capacity(5);
        let mut which = Vec::with_capacity(5);
        if let Some(channel) = &self.channel {
            let write = if self.sent < self.document.len() { PollFlags::OUT } else { PollFlags::empty() };
            waiting.push(PollFd::new(channel, PollFlags::IN | write));
            which.push(Source::Channel);
        }
        for (index, (pipe, _)) in self.outputs.iter().enumerate() {
            if let Some(pipe) = pipe {
                waiting.push(PollFd::new(pipe, PollFlags::IN));
                which.push(Source::Output(index));
            }
        }
        if let Some(listener) = &self.listener {
            waiting.push(PollFd::new(listener, PollFlags::IN));
            which.push(Source::Listener);
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
            if !events.is_empty() {
                any |= match stream {
                    Source::Listener => self.answer(events, limits),
                    Source::Channel => self.converse(events),
                    Source::Output(index) => {
                        let (pipe, tail) = &mut self.outputs[index];
                        receive(pipe, tail)
                    }
                };
            }
        }
        Ok(any)
    }

    /// Answers whether there may be one more thread; whether the program has ended instead.
    fn answer(&mut self, events: PollFlags, limits: &Limits) -> bool {
        match &self.listener {
            Some(listener) if events.contains(PollFlags::IN) => listener.answer(&self.process, limits.threads),
            _ => self.listener = None,
        }
        self.listener.is_none()
    }

    /// Sends and receives over the channel.
    fn converse(&mut self, events: PollFlags) -> bool {
        if events.contains(PollFlags::OUT) {
            self.send();
        }
        events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            && receive(&mut self.channel, &mut self.reply)
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

/// What is waited for besides the end of the process.
#[derive(Clone, Copy)]
enum Source {
    Channel,
    /// Standard output or standard error.
    Output(usize),
    Listener,
}

/// Reads what `stream` has available, and closes it at its end. Returns whether anything came or it was the end.
fn receive(stream: &mut Option<impl Read>, tail: &mut OutputTail) -> bool {
    let mut buffer = [0; 16_384];
    match stream.as_mut().map(|stream| stream.read(&mut buffer)) {
        Some(Ok(count)) if count > 0 => tail.push(&buffer[..count]),
        Some(Err(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
        // Closed, or broken by the end of the process.
        _ => *stream = None,
    }
    true
}

/// A descriptor that can be waited on, since Linux 5.3.
fn pidfd_of(process: &Process) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(process.number())?, PidfdFlags::empty()).ok()
}
