//! Being told how far a run is.

use crate::stage::Stage;
use glue_select::course::Progress;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Is told how far a run is.
pub trait Watch: Sync {
    /// A stage begins, or was found finished.
    fn stage(&self, stage: Stage, found: bool);

    /// Something inside a stage begins: in words, and how many steps it has, where that is known.
    fn part(&self, what: &str, steps: Option<u64>);

    /// So many steps of it are done.
    fn at(&self, step: u64);

    /// How a search goes.
    fn search(&self, cluster: &str, strategy: &str, best: Option<f64>, progress: &Progress);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn stage(&self, _: Stage, _: bool) {}
    fn part(&self, _: &str, _: Option<u64>) {}
    fn at(&self, _: u64) {}
    fn search(&self, _: &str, _: &str, _: Option<f64>, _: &Progress) {}
}

/// One watch for all the crates that do the work.
pub(crate) struct Relay<'a> {
    pub(crate) watch: &'a dyn Watch,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) what: String,
    done: AtomicUsize,
}

impl<'a> Relay<'a> {
    pub(crate) fn new(watch: &'a dyn Watch, stop: &Arc<AtomicBool>, what: impl Into<String>) -> Relay<'a> {
        Relay { watch, stop: Arc::clone(stop), what: what.into(), done: AtomicUsize::new(0) }
    }

    fn advance(&self, more: usize) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        self.watch.at(done as u64);
    }

    fn begin(&self, what: &str, steps: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.watch.part(what, Some(steps));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl glue_eval::Watch for Relay<'_> {
    fn begins(&self, requests: usize) {
        self.begin(&self.what, requests as u64);
    }
    fn answered(&self, more: usize) {
        self.advance(more);
    }
    fn is_stopped(&self) -> bool {
        self.stopped()
    }
}

impl glue_metrics::Watch for Relay<'_> {
    fn begins(&self, bytes: u64) {
        self.begin(&self.what, bytes);
    }
    fn works_on(&self, _: &str) {}
    fn compared(&self, bytes: u64) {
        self.advance(bytes as usize);
    }
    fn is_stopped(&self) -> bool {
        self.stopped()
    }
}

impl glue_tensor::Watch for Relay<'_> {
    fn wrote(&self, bytes: u64) {
        self.advance(bytes as usize);
    }
    fn works_on(&self, _: &str) {}
    fn is_stopped(&self) -> bool {
        self.stopped()
    }
}

impl glue_router::watch::Watch for Relay<'_> {
    fn begins(&self, part: &str, steps: usize) {
        self.begin(&format!("{}: {part}", self.what), steps as u64);
    }
    fn advanced(&self, steps: usize) {
        self.advance(steps);
    }
    fn is_stopped(&self) -> bool {
        self.stopped()
    }
}

impl glue_select::session::Watch for Relay<'_> {
    fn progress(&self, strategy: &str, best: Option<f64>, progress: &Progress) {
        self.watch.search(&self.what, strategy, best, progress);
    }
}
