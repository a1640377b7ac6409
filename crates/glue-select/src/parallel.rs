//! Candidates scored by several threads: what all scorers have in common.

use crate::contract::{CandidateError, Scores, Stopped};
use crate::evaluation_log::Outcome;
use glue_progress::{CancelToken, ErrorChain};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Why one candidate has no score.
pub(crate) enum Failure {
    Stopped,
    Candidate(String),
}

impl Failure {
    pub(crate) fn of(error: &dyn std::error::Error) -> Failure {
        Failure::Candidate(error.chain())
    }

    /// The outcome for whoever asked. A candidate that fails after a cancellation was interrupted, whatever its error
    /// says.
    pub(crate) fn outcome(scored: Result<Scores, Failure>, cancel: &CancelToken) -> Result<Outcome, Stopped> {
        match scored {
            Ok(scores) => Ok(Ok(scores)),
            Err(_) if cancel.is_cancelled() => Err(Stopped),
            Err(Failure::Stopped) => Err(Stopped),
            Err(Failure::Candidate(message)) => Ok(Err(CandidateError { message })),
        }
    }
}

/// Scores candidates 0 to `count` − 1 on up to `threads` threads, and returns their outcomes in order. `done` gets each
/// as soon as it is known. A thread works with what `begin` returns and hands it to `end` afterwards.
///
/// The threads are not those of a rayon pool: they may wait, for memory or for another process, without holding up
/// those that compute.
///
/// # Errors
/// [`Stopped`] once a candidate was stopped; no other is begun after that.
pub(crate) fn score_all<S>(
    count: usize,
    threads: usize,
    begin: impl Fn() -> S + Sync,
    score: impl Fn(&mut S, usize) -> Result<Outcome, Stopped> + Sync,
    end: impl Fn(S) + Sync,
    done: impl Fn(usize, &Outcome) + Sync,
) -> Result<Vec<Outcome>, Stopped> {
    let outcomes: Vec<Mutex<Option<Outcome>>> = (0..count).map(|_| Mutex::default()).collect();
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut state = begin();
        while !stopped.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = outcomes.get(i) else { break };
            match score(&mut state, i) {
                Ok(outcome) => {
                    done(i, &outcome);
                    *slot.lock() = Some(outcome);
                }
                Err(Stopped) => stopped.store(true, Ordering::Relaxed),
            }
        }
        end(state);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(work);
        }
        work();
    });
    if stopped.load(Ordering::Relaxed) {
        return Err(Stopped);
    }
    outcomes.into_iter().map(Mutex::into_inner).collect::<Option<Vec<_>>>().ok_or(Stopped)
}
