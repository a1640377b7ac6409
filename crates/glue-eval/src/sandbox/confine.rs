//! The child between fork and exec, and the end of it: the only place of the crate with code that the compiler cannot check.

use super::Limits;
use seccompiler::BpfProgram;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// One limit: which, its value, and what the value could be raised to.
type Resource = (u32, u64, u64);

/// All that the child needs, made before the fork.
pub(super) struct Confinement {
    /// Of Landlock, where the kernel has it.
    pub(super) rules: Option<OwnedFd>,
    pub(super) filters: Arc<[BpfProgram; 2]>,
    resources: [Resource; 7],
}

impl Confinement {
    pub(super) fn new(rules: Option<OwnedFd>, filters: Arc<[BpfProgram; 2]>, limits: &Limits) -> Confinement {
        // Whole seconds, of which there must be one. At the first limit comes a signal that tells its reason, and that can be ignored; a
        // second later one that cannot.
        let cpu = (limits.cpu_time.as_secs() + u64::from(limits.cpu_time.subsec_nanos() > 0)).max(1);
        let fixed = |value| (value, value);
        #[allow(clippy::unnecessary_cast)] // the type differs between C libraries
        let resources = [
            (libc::RLIMIT_CPU as u32, (cpu, cpu.saturating_add(1))),
            (libc::RLIMIT_FSIZE as u32, fixed(limits.file_bytes)),
            (libc::RLIMIT_NOFILE as u32, fixed(limits.open_files)),
            (libc::RLIMIT_CORE as u32, fixed(0)),
            (libc::RLIMIT_MEMLOCK as u32, fixed(0)),
            (libc::RLIMIT_MSGQUEUE as u32, fixed(0)),
            // Last, since it is the one that could make a call after it fail.
            (libc::RLIMIT_AS as u32, fixed(limits.memory_bytes)),
        ];
        let resources = resources.map(|(resource, (value, most))| (resource, value, most));
        Confinement { rules, filters, resources }
    }

    /// Has `command` confine itself in its process before it becomes the program.
    #[allow(unsafe_code)]
    pub(super) fn apply_to(self, command: &mut Command) {
        let parent = std::process::id();
        // SAFETY: the closure runs in the child of a fork of a process with several threads, where only async-signal-safe calls are
        // allowed. It calls `Confinement::enter`, which makes raw system calls on numbers and on memory that was filled before the
        // fork and that the closure owns; it neither allocates nor frees (an `io::Error` of a number holds no memory), takes no lock,
        // and leaves by returning.
        unsafe {
            command.pre_exec(move || self.enter(parent));
        }
    }

    /// Confines the calling process, for good.
    #[allow(unsafe_code)]
    fn enter(&self, parent: u32) -> io::Result<()> {
        let checked = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: none of these calls reads or writes memory of this process, but for `setrlimit`, which reads one structure on the
        // stack; their arguments are plain numbers.
        unsafe {
            checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into())?;
            // The parent may have ended before the call above.
            if libc::getppid() != parent as libc::pid_t {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // A group to be killed as one, and no terminal.
            checked(libc::setsid().into())?;
            self.close_on_exec()?;
            for (resource, value, most) in self.resources {
                let limit = libc::rlimit { rlim_cur: value as libc::rlim_t, rlim_max: most as libc::rlim_t };
                checked(libc::setrlimit(resource as _, &limit).into())?;
            }
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            if let Some(rules) = &self.rules {
                checked(libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0))?;
            }
        }
        // It sets no_new_privs again, hands the kernel the instructions, and allocates nothing, errors included.
        for filter in self.filters.iter() {
            if seccompiler::apply_filter(filter).is_err() {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Marks every descriptor beside the standard ones to be closed, those that others left open in this process too.
    #[allow(unsafe_code)]
    fn close_on_exec(&self) -> io::Result<()> {
        // SAFETY: the calls take and return numbers; no descriptor is closed here, so that nobody's is closed behind its back.
        unsafe {
            if libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
                return Ok(());
            }
            // Before Linux 5.11.
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            for descriptor in 3..limit.rlim_max.min(1 << 20) as RawFd {
                libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            }
        }
        Ok(())
    }
}

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

    /// Ends the process and its group, unless it has been waited for: then its number may be another's.
    #[allow(unsafe_code)]
    pub(super) fn kill(&self) {
        if self.ended.is_none() {
            // SAFETY: signals to a child that has not been waited for, so that the number is still its own; its group has the same.
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
