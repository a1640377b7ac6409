//! The worker threads, and how Python waits for them.
//!
//! The pool is made when work first needs it. A child made by `fork` has none of its parent's threads: it gets a pool
//! of its own, and that of the parent is left alone.

use glue_progress::CancelToken;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often Ctrl-C is asked for.
const LISTEN: Duration = Duration::from_millis(50);

struct Workers {
    /// Zero means all processors.
    threads: usize,
    /// The pool, and the process that made it.
    pool: Option<(u32, Arc<ThreadPool>)>,
}

/// Locked only while the interpreter is held, and no call into it is made meanwhile: `os.fork` holds the interpreter
/// too, so that a child never finds it locked by a thread that it does not have.
static WORKERS: Mutex<Workers> = Mutex::new(Workers { threads: 0, pool: None });

/// Does something with the workers.
fn with_workers<T>(_held: Python<'_>, change: impl FnOnce(&mut Workers) -> T) -> T {
    let mut workers = WORKERS.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::process::id();
    if let Some((_, pool)) = workers.pool.take_if(|(process, _)| *process != own) {
        // Ending it would wait for threads that are not there.
        std::mem::forget(pool);
    }
    change(&mut workers)
}

/// The pool of this process.
fn pool(py: Python<'_>) -> PyResult<Arc<ThreadPool>> {
    let made = with_workers(py, |workers| {
        if let Some((_, pool)) = &workers.pool {
            return Ok(Arc::clone(pool));
        }
        let builder = ThreadPoolBuilder::new().num_threads(workers.threads).thread_name(|i| format!("glue-{i}"));
        let pool = Arc::new(builder.build()?);
        workers.pool = Some((std::process::id(), Arc::clone(&pool)));
        Ok(pool)
    });
    made.map_err(|error: rayon::ThreadPoolBuildError| {
        PyRuntimeError::new_err(format!("cannot start the worker threads: {error}"))
    })
}

/// Sets the number of worker threads of this process and of children that it forks later.
///
/// `None` is the default: `RAYON_NUM_THREADS` if that is set, otherwise one for each processor. No result depends on
/// it. Work that runs already keeps its threads.
#[pyfunction]
#[pyo3(signature = (n=None))]
pub(crate) fn set_num_threads(py: Python<'_>, n: Option<usize>) -> PyResult<()> {
    if n == Some(0) {
        return Err(PyValueError::new_err("n must be at least 1, or None for one thread per processor; found 0"));
    }
    let before = with_workers(py, |workers| {
        workers.threads = n.unwrap_or(0);
        workers.pool.take()
    });
    drop(before);
    Ok(())
}

/// The number of worker threads.
#[pyfunction]
pub(crate) fn get_num_threads(py: Python<'_>) -> PyResult<usize> {
    Ok(pool(py)?.current_num_threads())
}

/// Does `work` on the worker threads with the interpreter released. `work` has to end soon once its token is cancelled,
/// which happens when a signal handler raises, as that of Ctrl-C does.
///
/// # Errors
/// What the signal handler raised.
pub(crate) fn run<T: Send>(py: Python<'_>, work: impl FnOnce(&CancelToken) -> T + Send) -> PyResult<T> {
    let pool = pool(py)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let token = CancelToken::from_flag(Arc::clone(&cancelled));
    let (sender, receiver) = channel();
    py.detach(move || {
        pool.in_place_scope(|scope| {
            // A receiver that is gone is one that does not want the result.
            scope.spawn(move |_| sender.send(work(&token)).unwrap_or_default());
            let mut raised = None;
            loop {
                match receiver.recv_timeout(LISTEN) {
                    Ok(result) => return raised.map_or(Ok(result), Err),
                    Err(RecvTimeoutError::Timeout) if raised.is_none() => {
                        raised = Python::attach(|py| py.check_signals()).err();
                        cancelled.store(raised.is_some(), Ordering::Relaxed);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    // The work panicked, which the scope passes on when it ends.
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("a worker thread panicked"));
                    }
                }
            }
        })
    })
}
