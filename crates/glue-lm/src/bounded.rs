//! Work that a stranger's file decides about, such as rendering its template, with an upper limit on memory, time and
//! stack.
//!
//! [`run`] does a job on a thread of its own and waits for it. A job that goes beyond a limit is abandoned, and [`run`]
//! returns an [`Exceeded`] like any other error: the thread stops for good at its next allocation, keeps what it holds,
//! and ends with the process. So a job owns everything it works on.
//!
//! Memory is counted by the allocator of the process, which calls [`charge`] and [`refund`]; `glue_cli::Allocator` does.
//! With another allocator the limits on time and stack hold, and the one on memory does not.

use parking_lot::{Mutex, MutexGuard};
use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// What each allocation counts as at least, in bytes. Values nested in each other are dropped and compared by recursion,
/// so that their number has to be limited along with their size: see [`STACK_BYTES`].
const SMALLEST_CHARGE: usize = 256;

/// Stack of a thread that does jobs: 4 bytes for each byte of [`Limits::TEMPLATE`], and thus 1 KiB for each allocation
/// that can be alive. Only what is used takes memory.
const STACK_BYTES: usize = 256 << 20;

/// Length of a text that a template makes, in bytes.
pub const MAX_TEXT: usize = 16 << 20;

/// How often a job that is waited for is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Threads without a job that are kept for the next one.
const MAX_IDLE: usize = 16;

/// Upper limits of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory that the job may hold beyond what it was given, in bytes. A small allocation counts as 256.
    pub memory: usize,
    /// Time from the start to the result.
    pub time: Duration,
}

impl Limits {
    /// For a rendering of a template: 64 MiB, 30 seconds.
    pub const TEMPLATE: Limits = Limits { memory: 64 << 20, time: Duration::from_secs(30) };

    /// For a compilation of a template, which takes some milliseconds: 64 MiB, 5 seconds.
    pub const COMPILATION: Limits = Limits { time: Duration::from_secs(5), ..Limits::TEMPLATE };
}

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Exceeded {
    /// It held more memory than it may.
    #[error("it needs more than {} MiB of memory", limit >> 20)]
    Memory {
        /// The limit, in bytes.
        limit: usize,
    },
    /// It took longer than it may.
    #[error("it did not end within {} seconds", limit.as_secs_f64())]
    Time {
        /// The limit.
        limit: Duration,
    },
    /// It made a longer text than it may.
    #[error("it makes {found} bytes of text; the limit is {limit}", limit = MAX_TEXT)]
    Text {
        /// The length, in bytes.
        found: usize,
    },
    /// It left values behind that nothing can reach and nothing frees.
    #[error("it leaves {} KiB of values that contain themselves", bytes >> 10)]
    Kept {
        /// Their memory, in bytes.
        bytes: usize,
    },
    /// It panicked, which is a defect in what does the work.
    #[error("it ended with a panic: {message}")]
    Panicked {
        /// The message of the panic.
        message: String,
    },
    /// Work of the same kind went beyond a limit before.
    #[error("it went beyond its limits before and is not tried again")]
    Before,
    /// There is no thread to do it.
    #[error("cannot start a thread")]
    NoThread(#[source] io::Error),
}

/// Does `job` on another thread within `limits`, and returns its result.
///
/// # Errors
/// [`Exceeded`]
pub fn run<T: Send + 'static>(limits: Limits, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Exceeded> {
    let idle = idle().pop();
    let thread = idle.map_or_else(Thread::start, Ok).map_err(Exceeded::NoThread)?;
    let meter = thread.meter;
    meter.open(limits.memory);
    let (reply, answer) = mpsc::sync_channel(1);
    let start = Instant::now();
    let sent = thread.jobs.send(Box::new(move || {
        METER.set(Some(meter));
        let result = catch(job);
        METER.set(None);
        // Nobody waits any longer for what came too late.
        let _ = reply.send(result);
    }));
    let gone = || Exceeded::NoThread(io::Error::other("the thread has ended"));
    sent.map_err(|_| gone())?;
    loop {
        match answer.recv_timeout(POLL) {
            Ok(result) => {
                let mut idle = self::idle();
                if idle.len() < MAX_IDLE {
                    idle.push(thread);
                }
                return result.map_err(|message| Exceeded::Panicked { message });
            }
            Err(RecvTimeoutError::Timeout) if meter.is_closed() => {
                return Err(Exceeded::Memory { limit: limits.memory });
            }
            Err(RecvTimeoutError::Timeout) if start.elapsed() >= limits.time => {
                meter.close();
                return Err(Exceeded::Time { limit: limits.time });
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(gone()),
        }
    }
}

/// [`run`] within [`Limits::TEMPLATE`], for a job that makes a text of at most [`MAX_TEXT`] bytes and keeps nothing else.
///
/// # Errors
/// [`Exceeded`]
pub fn render<E: Send + 'static>(
    job: impl FnOnce() -> Result<String, E> + Send + 'static,
) -> Result<Result<String, E>, Exceeded> {
    /// What the thread may keep for itself.
    const KEPT: isize = 1 << 20;
    let (text, kept) = run(Limits::TEMPLATE, || {
        let text = job();
        let own = text.as_ref().map_or(0, |text| weight(text.capacity()));
        (text, held() - own)
    })?;
    match &text {
        Ok(text) if text.len() > MAX_TEXT => Err(Exceeded::Text { found: text.len() }),
        _ if kept > KEPT => Err(Exceeded::Kept { bytes: kept.unsigned_abs() }),
        _ => Ok(text),
    }
}

/// Counts an allocation of `bytes` bytes of the calling thread. Called by the allocator before it allocates; does not
/// return when a job on this thread has no memory left.
#[inline]
pub fn charge(bytes: usize) {
    if let Some(meter) = METER.get() {
        meter.charge(bytes);
    }
}

/// Counts that the calling thread gives `bytes` bytes back. Called by the allocator.
#[inline]
pub fn refund(bytes: usize) {
    if let Some(meter) = METER.get() {
        meter.left.fetch_add(weight(bytes), Ordering::Relaxed);
    }
}

/// Bytes that the job on this thread has allocated and not given back; 0 where no allocator counts.
fn held() -> isize {
    METER.get().map_or(0, |meter| meter.limit.load(Ordering::Relaxed) - meter.left.load(Ordering::Relaxed))
}

/// The result of `job`, or the message of its panic. [`panics_are_caught`] says so while it runs.
///
/// # Errors
/// The message.
pub fn catch<T>(job: impl FnOnce() -> T) -> Result<T, String> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(job));
    CAUGHT.set(before);
    result.map_err(|payload| message(&*payload))
}

/// Whether a panic of the calling thread becomes an error, so that a panic hook has nothing to print.
pub fn panics_are_caught() -> bool {
    CAUGHT.get()
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_string()
}

thread_local! {
    /// The meter of the job that this thread does.
    static METER: Cell<Option<&'static Meter>> = const { Cell::new(None) };
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Memory left to a job.
#[derive(Debug, Default)]
struct Meter {
    limit: AtomicIsize,
    left: AtomicIsize,
    closed: AtomicBool,
}

impl Meter {
    fn open(&self, bytes: usize) {
        let bytes = isize::try_from(bytes).unwrap_or(isize::MAX);
        self.limit.store(bytes, Ordering::Relaxed);
        self.left.store(bytes, Ordering::Relaxed);
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn charge(&self, bytes: usize) {
        let weight = weight(bytes);
        let left = self.left.fetch_sub(weight, Ordering::Relaxed).saturating_sub(weight);
        if left < 0 || self.is_closed() {
            self.stop();
        }
    }

    /// The end of an abandoned job. An allocator must not unwind, and whoever asked for memory cannot go on without it.
    #[cold]
    fn stop(&self) -> ! {
        METER.set(None);
        self.close();
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
}

fn weight(bytes: usize) -> isize {
    // The system has nowhere near that much, so that it is beyond every limit.
    isize::try_from(bytes.max(SMALLEST_CHARGE)).unwrap_or(isize::MAX)
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does jobs until its sender is dropped.
struct Thread {
    jobs: mpsc::Sender<Job>,
    /// Outlives the thread, which may be in the allocator when everything else of it is gone.
    meter: &'static Meter,
}

impl Thread {
    fn start() -> io::Result<Thread> {
        let meter: &'static Meter = Box::leak(Box::default());
        let (jobs, inbox) = mpsc::channel::<Job>();
        let work = move || inbox.into_iter().for_each(|job| job());
        thread::Builder::new().name("bounded".into()).stack_size(STACK_BYTES).spawn(work)?;
        Ok(Thread { jobs, meter })
    }
}

fn idle() -> MutexGuard<'static, Vec<Thread>> {
    static IDLE: Mutex<Vec<Thread>> = Mutex::new(Vec::new());
    IDLE.lock()
}

#[cfg(test)]
mod tests {
    //! Results, and what has none.
    use super::*;

    /// Of memory; of time more than any machine needs.
    const SMALL: Limits = Limits { memory: 1 << 20, time: Duration::from_secs(60) };

    #[test]
    fn results_come_back_and_threads_are_used_again() {
        for n in 0..100 {
            assert_eq!(run(SMALL, move || n + 1).unwrap(), n + 1);
        }
    }

    #[test]
    fn a_job_beyond_a_limit_is_abandoned() {
        // No allocator counts here.
        let greedy = || {
            charge(1 << 19);
            refund(1 << 19);
            charge(1 << 21);
        };
        let error = run(SMALL, greedy).unwrap_err();
        assert_eq!(error.to_string(), "it needs more than 1 MiB of memory");
        let small = || (0..5000).for_each(|_| charge(1));
        assert!(matches!(run(SMALL, small).unwrap_err(), Exceeded::Memory { .. }));
        let slow = || loop {
            thread::sleep(Duration::from_millis(1));
            charge(0);
            refund(0);
        };
        let error = run::<()>(Limits { time: Duration::from_millis(200), ..SMALL }, slow).unwrap_err();
        assert_eq!(error.to_string(), "it did not end within 0.2 seconds");
        assert_eq!(run(SMALL, || 1).unwrap(), 1);
    }

    #[test]
    fn a_text_has_a_limit_and_nothing_else_is_kept() {
        assert_eq!(render(|| Ok::<_, ()>("text".to_string())).unwrap().unwrap(), "text");
        assert_eq!(render(|| Err(1)).unwrap().unwrap_err(), 1);
        let error = render(|| Ok::<_, ()>("x".repeat(MAX_TEXT + 1))).unwrap_err();
        assert_eq!(error.to_string(), "it makes 16777217 bytes of text; the limit is 16777216");
        let error = render(|| {
            charge(2 << 20);
            Err::<String, _>(())
        });
        assert_eq!(error.unwrap_err().to_string(), "it leaves 2048 KiB of values that contain themselves");
    }

    #[test]
    fn a_panic_is_an_error() {
        assert!(!panics_are_caught());
        let error = run(SMALL, || assert!(!panics_are_caught(), "on {}", "purpose")).unwrap_err();
        assert_eq!(error.to_string(), "it ended with a panic: on purpose");
        assert!(!panics_are_caught());
    }

    #[test]
    fn allocations_out_of_jobs_are_not_counted() {
        charge(usize::MAX);
        refund(usize::MAX);
    }
}
