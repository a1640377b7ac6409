//! Untrusted Python programs, run in a subprocess that can do next to nothing else: answers of a language model with
//! their tests.
//!
//! ```no_run
//! use glue_eval::sandbox::{Limits, Outcome, Sandbox};
//!
//! let sandbox = Sandbox::new(Limits::default())?;
//! let execution = sandbox.run("def double(x):\n    return 2 * x\n\nassert double(3) == 6\n")?;
//! assert_eq!(execution.outcome, Outcome::Passed);
//! # Ok::<(), glue_eval::sandbox::SandboxError>(())
//! ```
//!
//! # What holds a program
//!
//! | it cannot | because of |
//! |---|---|
//! | start processes, open sockets, signal, trace, mount, … | seccomp: a list of the system calls that are allowed |
//! | write outside of its scratch directory | Landlock |
//! | read or execute what is not the system's or the interpreter's | Landlock |
//! | change the owner, mode, times or attributes of any file, or empty one by its path | seccomp |
//! | gain privileges by a program that has them | `no_new_privs` |
//! | use more memory, processor time, descriptors, or longer files than allowed | resource limits of the process |
//! | have more threads than allowed | seccomp: its parent is asked before each, and counts |
//! | fill the disk | its scratch directory is a tmpfs of limited size, in a mount namespace of its own; see below |
//! | write to the disk at once, or lock files | seccomp: succeeds without being done |
//! | run beyond its time, or outlive the process that started it | `SIGKILL` to its group; `PR_SET_PDEATHSIG` |
//! | fill the memory of its reader | only the last bytes of its output are kept |
//! | see the environment or open files of its parent | both are cleared before it starts |
//!
//! Metadata of any file can be asked for, so that its existence is no secret, nor its size. The strength does not
//! depend on the user: all of it holds for root too.
//!
//! A tmpfs is memory: what a program keeps in its scratch directory comes on top of [`Limits::memory_bytes`], up to
//! [`Limits::scratch_bytes`] for each program that runs. The kernel counts all of it, unlinked, mapped and preallocated
//! files too. Making one takes the right to mount, or user namespaces that anyone may make. Where there is neither, as
//! in many containers, the scratch directory is one on the disk, preallocation is refused, and every 20 ms all is
//! counted that is in the directory and that the program holds open or mapped. Then a program can have more than
//! allowed for as long, as much as it can write in that time, before it is ended.
//!
//! Threads are counted since Linux 5.5. Before, and in a container that has a seccomp listener of its own, none can be
//! started. Several that are asked for at the same moment may take a program to twice the limit.
//!
//! Where the kernel has no Landlock (before 5.13, or switched off), seccomp refuses every opening of a file for writing
//! and every change of a directory instead: nothing can be written, not even in the scratch directory, but all can be
//! read that the user can read. [`Sandbox::strength`] tells. Systems other than Linux on x86-64 and AArch64 are
//! refused.
//!
//! # What counts as passed
//!
//! The program ran to its last statement without an exception. Ending early with status 0 is not enough, whether by
//! `sys.exit` or `os._exit`: a token, drawn for each run, comes back only when the last statement is done. The token is
//! in the memory of the same process, as there is no other; a program written to look for it in the interpreter's
//! frames can find it. That guards against answers that leave, not against ones that were made to cheat this very
//! harness.
//!
//! The program runs as a module named `program`, so that a block under `if __name__ == "__main__"` is not run: what
//! stands there in an answer is a demonstration, often one that reads input. Hashes of strings are the same in every
//! run.

use glue_progress::{ErrorChain, Progress};
use parking_lot::Mutex;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub mod assemble;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod confine;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod disk;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod files;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod interpreter;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod monitor;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod process;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod run;
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[path = "sandbox/unsupported.rs"]
mod run;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod scratch;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod threads;

/// What one program may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// From its start to its end; 10 s by default.
    pub wall_time: Duration,
    /// Processor time of all its threads together, rounded up to whole seconds; 10 s by default. One that ignores
    /// the signal at its end has a second more.
    pub cpu_time: Duration,
    /// Address space in bytes, of which the interpreter takes about 20 MB and a matrix library some hundred; 1 GiB by
    /// default.
    pub memory_bytes: u64,
    /// Length of one file in bytes; 16 MiB by default.
    pub file_bytes: u64,
    /// Descriptors open at a time; 64 by default.
    pub open_files: u64,
    /// Threads at a time, the first one among them; 64 by default.
    pub threads: u64,
    /// Bytes kept of the end of its output, and as many of its errors; 64 KiB by default.
    pub output_bytes: usize,
    /// Space of everything in its scratch directory, in bytes; 64 MiB by default.
    pub scratch_bytes: u64,
    /// Files and directories in its scratch directory; 4096 by default.
    pub scratch_entries: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall_time: Duration::from_secs(10),
            cpu_time: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            file_bytes: 16 << 20,
            open_files: 64,
            threads: 64,
            output_bytes: 64 << 10,
            scratch_bytes: 64 << 20,
            scratch_entries: 4096,
        }
    }
}

/// How programs are run, beside their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The interpreter, Python 3.8 or later: a path, or a name looked up on `PATH`; `python3` by default. That of a
    /// virtual environment gives the programs its packages, and nothing else of the directory it is in.
    pub python: PathBuf,
    /// Whether installed packages can be imported; they can by default.
    pub packages: bool,
    /// Directories and files that programs can read beside those; none by default.
    pub readable: Vec<PathBuf>,
    /// Whether Landlock is used where the kernel has it; it is by default. Without it nothing can be written at all.
    pub landlock: bool,
    /// Whether each program has a disk of its own where the system allows that; it has by default. Without, its files
    /// are on the disk of the system, and are measured from outside.
    pub namespaces: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            python: PathBuf::from("python3"),
            packages: true,
            readable: Vec::new(),
            landlock: true,
            namespaces: true,
        }
    }
}

/// What keeps programs from files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strength {
    /// By place: the scratch directory can be written, the system and the interpreter be read, nothing else. The
    /// scratch directory is a disk of the program's own, whose size the kernel limits.
    PrivateDisk,
    /// The same by place. The scratch directory is on the disk of the system, and its size is looked at every 20 ms.
    Landlock,
    /// By kind of access: nothing can be written, everything be read that the user can read.
    ReadOnly,
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Strength::PrivateDisk => "files by Landlock, disk space by a mount namespace, system calls by seccomp",
            Strength::Landlock => {
                "files by Landlock, system calls by seccomp; disk space is measured, since the system allows no mount namespace"
            }
            Strength::ReadOnly => "no file can be written, by seccomp; the kernel has no Landlock to limit reading",
        })
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Its last statement was done.
    Passed,
    /// It ended with a status other than 0; an exception that nothing caught gives 1.
    Failed {
        /// The status, 1 to 255.
        status: i32,
    },
    /// It ended with status 0 before its last statement.
    Unfinished,
    /// It reached the limit of wall-clock or processor time and was ended.
    TimedOut,
    /// Memory was refused to it, and nothing caught that.
    MemoryExceeded,
    /// Space in its scratch directory was refused to it, and nothing caught that; or the directory grew beyond the
    /// limit, and it was ended.
    ScratchExceeded,
    /// A signal ended it: a crash of the interpreter as a rule.
    Killed {
        /// The number of the signal.
        signal: i32,
    },
    /// The system refused what running a program takes, such as a process, and did so again: it says nothing about the
    /// program.
    NotRun,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed => f.write_str("passed"),
            Outcome::Failed { status } => write!(f, "failed with status {status}"),
            Outcome::Unfinished => f.write_str("ended before its last statement"),
            Outcome::TimedOut => f.write_str("timed out"),
            Outcome::MemoryExceeded => f.write_str("out of memory"),
            Outcome::ScratchExceeded => f.write_str("wrote too much"),
            Outcome::Killed { signal } => write!(f, "killed by signal {signal}"),
            Outcome::NotRun => f.write_str("could not be run"),
        }
    }
}

/// What one run of a program came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Execution {
    /// How it ended.
    pub outcome: Outcome,
    /// From its start to its end, the start of the interpreter included.
    pub wall_time: Duration,
    /// Processor time in user and system mode, the start of the interpreter included.
    pub cpu_time: Duration,
    /// The end of what it wrote to its standard output, after `…` if the beginning is cut off; what is no UTF-8 is
    /// replaced.
    pub stdout: String,
    /// The end of what it wrote to its standard error, in the same form; of a program that was not run, why.
    pub stderr: String,
}

impl Execution {
    fn not_run(error: &SandboxError) -> Execution {
        let (stdout, stderr) = (String::new(), error.chain());
        Execution { outcome: Outcome::NotRun, wall_time: Duration::ZERO, cpu_time: Duration::ZERO, stdout, stderr }
    }

    /// Whether the program ran to its end.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }
}

/// Why programs cannot be run. That a program fails is no error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// This system has not what it takes to hold a program.
    #[error(
        "programs are run on Linux for x86-64 or AArch64 only, where seccomp and Landlock hold them; this is {system}"
    )]
    Unsupported {
        /// Operating system and architecture.
        system: String,
    },
    /// There is no usable interpreter.
    #[error("{}: not usable as Python: {problem}", python.display())]
    Python {
        /// As it was given.
        python: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The rules could not be made, or did not hold a trial program.
    #[error("programs cannot be confined: {problem}")]
    Confinement {
        /// What is wrong.
        problem: String,
    },
    /// The system refused something that running a program takes.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The caller cancelled it.
    #[error("stopped")]
    Stopped,
}

/// A place to run untrusted programs in, one process each; see the [module](self).
pub struct Sandbox {
    limits: Limits,
    jail: run::Jail,
}

impl Sandbox {
    /// A sandbox with the `python3` on `PATH` and its packages.
    ///
    /// # Errors
    /// As [`Sandbox::with_options`].
    pub fn new(limits: Limits) -> Result<Sandbox, SandboxError> {
        Sandbox::with_options(limits, &Options::default())
    }

    /// A sandbox that was tried once: a program in it could not write outside, open a socket or start a process.
    ///
    /// # Errors
    /// If the system is not supported, the interpreter is not usable, or the trial fails: also because the limits are
    /// too tight for an interpreter to start.
    pub fn with_options(limits: Limits, options: &Options) -> Result<Sandbox, SandboxError> {
        let jail = run::Jail::new(&limits, options)?;
        Ok(Sandbox { limits, jail })
    }

    /// What keeps programs from files here.
    pub fn strength(&self) -> Strength {
        self.jail.strength()
    }

    /// What each program may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs the source text `program`, and returns when it has ended and its files are gone.
    ///
    /// # Errors
    /// If the system refuses what running takes, such as memory for a process, and does so again for about two seconds;
    /// never for what the program does.
    pub fn run(&self, program: &str) -> Result<Execution, SandboxError> {
        self.jail.run(&self.limits, program, &|| false)
    }

    /// Runs many programs, at most `threads` at a time (at least one). `progress` advances by one after each, and is
    /// asked all the time whether to stop. Results are in the order of the programs. One that the system refuses to run
    /// is an [`Outcome::NotRun`] and no error, so that it does not cost the results of the others.
    ///
    /// # Errors
    /// [`SandboxError::Stopped`], soon after `progress` is cancelled; programs that run then are ended.
    pub fn run_many<S: AsRef<str> + Sync>(
        &self,
        programs: &[S],
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Execution>, SandboxError> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::with_capacity(programs.len()));
        let work = || {
            while let Some((index, program)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                programs.get(index).map(|program| (index, program))
            } {
                if progress.is_cancelled() {
                    break;
                }
                let execution = match self.jail.run(&self.limits, program.as_ref(), &|| progress.is_cancelled()) {
                    Ok(execution) => execution,
                    Err(SandboxError::Stopped) => break,
                    Err(error) => Execution::not_run(&error),
                };
                results.lock().push((index, execution));
                progress.advance(1);
            }
        };
        // A program ends with the thread that started it, so that each is waited for where it was started.
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, programs.len().max(1)) {
                // With fewer threads it takes longer.
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let mut results = results.into_inner();
        if results.len() < programs.len() {
            return Err(SandboxError::Stopped);
        }
        results.sort_by_key(|(index, _)| *index);
        Ok(results.into_iter().map(|(_, execution)| execution).collect())
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("limits", &self.limits)
            .field("strength", &self.strength())
            .finish_non_exhaustive()
    }
}
