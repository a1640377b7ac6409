//! Which system calls a confined program may make: a list of what is allowed, so that calls that a later kernel adds
//! are refused.
//!
//! Refused are, among others: sockets, new processes, signals to anyone, tracing, mounts, namespaces, keys, BPF,
//! performance counters, io_uring, userfaultfd, shared memory and message queues of System V and POSIX, memory files,
//! handles of files, raising a limit, and changing the owner, mode, times or extended attributes of a file: Landlock
//! has no say in the last ones.
//!
//! Writing to the disk at once and locking files succeed without being done: a program shares its files with nobody,
//! and could hold up others with files that it can only read.

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;

/// What a program may do with files, as far as system calls decide it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// Landlock decides by place; the space is the program's own.
    ByPlace,
    /// The same, where space is measured from outside: nothing is allocated faster than it is written.
    Measured,
    /// Nothing may be written or changed anywhere.
    ReadOnly,
}

/// The filters, in the order in which they must be installed.
///
/// The first answers "no such call" where the C library then uses an older one whose arguments the second can look at:
/// the arguments of `clone3` are in memory, out of a filter's reach. The second answers that all went well, for what is
/// not to be done. The third is the list.
pub(super) fn programs(files: Files) -> Result<[BpfProgram; 3], seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let missing = BTreeMap::from([(libc::SYS_clone3, Vec::new()), (libc::SYS_openat2, Vec::new())]);
    let missing =
        SeccompFilter::new(missing, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32), architecture)?;
    let pretended = SeccompFilter::new(pretended()?, SeccompAction::Allow, SeccompAction::Errno(0), architecture)?;
    let allowed = SeccompFilter::new(
        allowed(files)?,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        architecture,
    )?;
    Ok([missing.try_into()?, pretended.try_into()?, allowed.try_into()?])
}

/// One argument equal to `value`. Arguments that matter here are 32 bits wide for the kernel, unless `wide`.
fn equal(argument: u8, wide: bool, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    let length = if wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    SeccompCondition::new(argument, length, SeccompCmpOp::Eq, value)
}

/// One argument whose bits of `mask` are `value`.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), value)
}

/// Writing to the disk at once.
const SYNCS: &[c_long] = &[
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_msync,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
];

/// Commands of `fcntl` that lock.
const LOCKS: &[libc::c_int] = &[libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];

/// What succeeds without being done.
fn pretended() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = SYNCS.iter().map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_flock, Vec::new());
    let lock = |&command: &libc::c_int| SeccompRule::new(vec![equal(1, false, command as u64)?]);
    rules.insert(libc::SYS_fcntl, LOCKS.iter().map(lock).collect::<Result<_, _>>()?);
    Ok(rules)
}

fn allowed(files: Files) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    // Among filters that refuse, the last one installed names the error: what the first answers must pass here.
    let answered = [libc::SYS_clone3, libc::SYS_openat2, libc::SYS_flock];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().chain(&answered).chain(SYNCS).map(|&call| (call, Vec::new())).collect();
    if files != Files::ReadOnly {
        rules.extend(CHANGES.iter().map(|&call| (call, Vec::new())));
    }
    if files == Files::ByPlace {
        rules.insert(libc::SYS_fallocate, Vec::new());
    }
    let mut only_if = |call: c_long, alternatives: Vec<Vec<SeccompCondition>>| {
        let alternatives = alternatives.into_iter().map(SeccompRule::new).collect::<Result<Vec<_>, _>>()?;
        rules.insert(call, alternatives);
        Ok::<_, seccompiler::BackendError>(())
    };

    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    let thread = libc::CLONE_THREAD as u64;
    only_if(libc::SYS_clone, vec![vec![masked(0, thread | namespaces as u32 as u64, thread)?]])?;

    // Reading a limit, not setting one: root may raise its own and those of others.
    only_if(libc::SYS_prlimit64, vec![vec![equal(0, false, 0)?, equal(2, true, 0)?]])?;

    // The rest of fcntl can have signals sent to another process.
    let commands = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GETLK,
        libc::F_OFD_GETLK,
    ];
    let any = |argument, values: &[u64]| {
        values
            .iter()
            .map(|&value| Ok(vec![equal(argument, false, value)?]))
            .collect::<Result<Vec<_>, seccompiler::BackendError>>()
    };
    let commands: Vec<u64> = commands.iter().chain(LOCKS).map(|&command| command as u64).collect();
    only_if(libc::SYS_fcntl, any(1, &commands)?)?;

    // The rest of ioctl can type into a terminal.
    let requests = [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX];
    only_if(libc::SYS_ioctl, any(1, &requests.map(|request| request as u32 as u64))?)?;

    // The rest of prctl can undo the signal that ends the program with its parent.
    const PR_SET_VMA: i32 = 0x5356_4d41;
    only_if(libc::SYS_prctl, any(0, &[libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA].map(|option| option as u64))?)?;

    let opens: &[(c_long, u8)] = &[
        (libc::SYS_openat, 2),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, 1),
    ];
    let (access, truncate) = (libc::O_ACCMODE as u64, libc::O_TRUNC as u64);
    for &(call, flags) in opens {
        // Opening "for reading" with O_TRUNC empties a file, and Landlock looks at that only since its third version.
        // Where nothing may be written, what creates is refused too; bits above the ones known are refused with them.
        let alternatives = match files {
            Files::ByPlace | Files::Measured => vec![
                vec![masked(flags, truncate, 0)?],
                vec![masked(flags, access, libc::O_WRONLY as u64)?],
                vec![masked(flags, access, libc::O_RDWR as u64)?],
            ],
            Files::ReadOnly => {
                let creates = (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
                vec![vec![masked(flags, access | truncate | creates, 0)?]]
            }
        };
        only_if(call, alternatives)?;
    }
    Ok(rules)
}

#[cfg(target_arch = "x86_64")]
const RENAMEAT: c_long = libc::SYS_renameat;
#[cfg(target_arch = "x86_64")]
const GETRLIMIT: c_long = libc::SYS_getrlimit;
// The generic table of system calls; `libc` leaves them out for some C libraries.
#[cfg(target_arch = "aarch64")]
const RENAMEAT: c_long = 38;
#[cfg(target_arch = "aarch64")]
const GETRLIMIT: c_long = 163;

/// What changes the directory tree or the length of a file by its path.
const CHANGES: &[c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    RENAMEAT,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
];

/// What is allowed whatever the arguments are.
const ALWAYS: &[c_long] = &[
    // Files: by descriptor, or only looked at.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fchdir,
    libc::SYS_chdir,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_write,
    libc::SYS_writev,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Time.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_setitimer,
    libc::SYS_times,
    // The process itself and its threads.
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    GETRLIMIT,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Older names of the above, which newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_alarm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_create,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_eventfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getdents,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_getpgrp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pause,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hands_out_power_is_in_no_list() {
        let never = [
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_tgkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
            libc::SYS_pidfd_getfd,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_keyctl,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_memfd_create,
            libc::SYS_shmget,
            libc::SYS_mq_open,
            libc::SYS_open_by_handle_at,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_setrlimit,
            libc::SYS_truncate,
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            libc::SYS_fchown,
            libc::SYS_utimensat,
            libc::SYS_setxattr,
            libc::SYS_execveat,
            libc::SYS_setsid,
            libc::SYS_mknodat,
        ];
        for files in [Files::ByPlace, Files::Measured, Files::ReadOnly] {
            let rules = allowed(files).unwrap();
            assert!(never.iter().all(|call| !rules.contains_key(call)));
        }
    }

    #[test]
    fn all_modes_compile_to_programs_that_the_kernel_takes() {
        for files in [Files::ByPlace, Files::Measured, Files::ReadOnly] {
            // The kernel takes at most 4096 instructions.
            assert!(programs(files).unwrap().iter().all(|program| (1..4096).contains(&program.len())));
        }
    }
}
