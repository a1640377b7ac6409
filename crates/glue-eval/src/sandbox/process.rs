//! A running program as a child process: its end, what it used, how many threads it has.

use std::fs;
use std::io;
use std::time::Duration;

/// How a process ended, and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its status, or the signal that ended it.
    pub(super) status: Result<i32, i32>,
    /// User and system time of all its threads.
    pub(super) cpu: Duration,
}

/// A child that is killed and waited for at the latest when this is dropped.
pub(super) struct Process {
    pid: libc::pid_t,
    ended: Option<Ended>,
}

impl Process {
    /// Takes over the child of that number, which nobody else may wait for.
    pub(super) fn new(pid: u32) -> Process {
        Process { pid: pid as libc::pid_t, ended: None }
    }

    /// Its number.
    pub(super) fn number(&self) -> i32 {
        self.pid
    }

    /// How many threads it has, as the kernel says in the twentieth field of `stat`; `None` if it cannot be asked.
    pub(super) fn threads(&self) -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // The second field, a name in parentheses, may hold anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(17)?.parse().ok()
    }

    /// Ends the process and its group, unless it has been waited for: then its number may be another's.
    #[allow(unsafe_code)]
    pub(super) fn kill(&self) {
        if self.ended.is_none() {
            // SAFETY: signals to a child that has not been waited for, so that the number is still its own; its group
            // has the same.
            unsafe {
                libc::kill(-self.pid, libc::SIGKILL);
                libc::kill(self.pid, libc::SIGKILL);
            }
        }
    }

    /// Its end, if it has come; with `block`, waits for it.
    #[allow(unsafe_code)]
    pub(super) fn wait(&mut self, block: bool) -> io::Result<Option<Ended>> {
        while self.ended.is_none() {
            let mut status = 0;
            // SAFETY: all-zero bytes are a value of this structure of numbers.
            let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
            // SAFETY: both pointers are to local variables that live through the call.
            let found =
                unsafe { libc::wait4(self.pid, &mut status, if block { 0 } else { libc::WNOHANG }, &mut usage) };
            match found {
                0 => return Ok(None),
                -1 => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
                _ => {
                    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
                    let ended = if libc::WIFEXITED(status) {
                        Ok(libc::WEXITSTATUS(status))
                    } else {
                        Err(libc::WTERMSIG(status))
                    };
                    self.ended = Some(Ended { status: ended, cpu: time(usage.ru_utime) + time(usage.ru_stime) });
                }
            }
        }
        Ok(self.ended)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.wait(true);
    }
}
