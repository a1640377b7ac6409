//! The child between fork and exec: what it gives up before it becomes the program.

use super::Limits;
use super::disk::PrivateDisk;
use super::threads::Asking;
use seccompiler::BpfProgram;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// One limit: which, its value, and what the value could be raised to.
type Resource = (u32, u64, u64);

/// The stack of the first thread, and of each thread that does not ask for another. The usual size: 32 threads fit into
/// the address space that programs have by default, and recursion goes as deep as outside.
const STACK_BYTES: u64 = 8 << 20;

/// All that the child needs, made before the fork.
pub(super) struct Confinement {
    /// Of Landlock, where the kernel has it.
    pub(super) rules: Option<OwnedFd>,
    /// To be mounted as the scratch directory, where that is possible.
    pub(super) disk: Option<PrivateDisk>,
    pub(super) filters: Arc<[BpfProgram; 3]>,
    threads: Asking,
    resources: [Resource; 8],
}

impl Confinement {
    pub(super) fn new(
        rules: Option<OwnedFd>,
        disk: Option<PrivateDisk>,
        filters: Arc<[BpfProgram; 3]>,
        limits: &Limits,
    ) -> Confinement {
        // Whole seconds, of which there must be one. At the first limit comes a signal that tells its reason, and that
        // can be ignored; a second later one that cannot.
        let cpu = limits.cpu_time.as_secs().saturating_add(u64::from(limits.cpu_time.subsec_nanos() > 0)).max(1);
        let fixed = |value| (value, value);
        #[allow(clippy::unnecessary_cast)] // the type differs between C libraries
        let resources = [
            (libc::RLIMIT_CPU as u32, (cpu, cpu.saturating_add(1))),
            (libc::RLIMIT_FSIZE as u32, fixed(limits.file_bytes)),
            (libc::RLIMIT_NOFILE as u32, fixed(limits.open_files)),
            (libc::RLIMIT_CORE as u32, fixed(0)),
            (libc::RLIMIT_MEMLOCK as u32, fixed(0)),
            (libc::RLIMIT_MSGQUEUE as u32, fixed(0)),
            (libc::RLIMIT_STACK as u32, fixed(STACK_BYTES)),
            // Last, since it is the one that could make a call after it fail.
            (libc::RLIMIT_AS as u32, fixed(limits.memory_bytes)),
        ];
        let resources = resources.map(|(resource, (value, most))| (resource, value, most));
        Confinement { rules, disk, filters, threads: Asking::new(), resources }
    }

    /// Has `command` confine itself in its process before it becomes the program. Its standard input must be a socket,
    /// over which the first message is from here: see [`Asking`].
    #[allow(unsafe_code)]
    pub(super) fn apply_to(self, command: &mut Command) {
        let parent = std::process::id();
        // SAFETY: the closure runs in the child of a fork of a process with several threads, where only
        // async-signal-safe calls are allowed. It calls `Confinement::enter`, which makes raw system calls on numbers
        // and on memory that was filled before the fork and that the closure owns; it neither allocates nor frees (an
        // `io::Error` of a number holds no memory), takes no lock, and leaves by returning.
        unsafe {
            command.pre_exec(move || self.enter(parent));
        }
    }

    /// Confines the calling process, for good.
    #[allow(unsafe_code)]
    fn enter(&self, parent: u32) -> io::Result<()> {
        let checked = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: none of these calls reads or writes memory of this process, but for `getrlimit` and `setrlimit`,
        // which are given one structure on the stack; their other arguments are plain numbers.
        unsafe {
            // A group to be killed as one, and no terminal.
            checked(libc::setsid().into())?;
            self.close_on_exec()?;
            if let Some(disk) = &self.disk {
                let root = disk.mount()?;
                if let Some(rules) = &self.rules {
                    disk.allow(rules, &root)?;
                }
            }
            // After the namespaces, since a change of credentials undoes it.
            checked(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0).into())?;
            // The parent may have ended before the call above.
            if libc::getppid() != parent as libc::pid_t {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            self.threads.begin()?;
            for (resource, value, most) in self.resources {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                checked(libc::getrlimit(resource as _, &mut limit).into())?;
                // What is limited more than that already stays so.
                limit.rlim_max = limit.rlim_max.min(most as libc::rlim_t);
                limit.rlim_cur = limit.rlim_max.min(value as libc::rlim_t);
                checked(libc::setrlimit(resource as _, &limit).into())?;
            }
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
        // SAFETY: the calls take and return numbers; no descriptor is closed here, so that nobody's is closed behind
        // its back.
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
