//! The progress of a run: its stages, and the work inside them.

use crate::stage::Stage;
use glue_progress::{CancelToken, NoProgress, Progress, Unit};

/// Receives the progress of a run: of its stages, and within a stage of one piece of work after another.
pub trait StageProgress: Progress {
    /// A stage begins, or is `reused` because it was finished by an earlier run. Does nothing by default.
    fn stage(&self, stage: Stage, reused: bool) {
        let _ = (stage, reused);
    }
}

impl StageProgress for NoProgress {}

/// The progress of one piece of work, with its name before all that is shown of it.
pub(crate) struct Labelled<'a> {
    pub(crate) progress: &'a dyn Progress,
    pub(crate) cancel: &'a CancelToken,
    pub(crate) label: String,
}

impl Progress for Labelled<'_> {
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        self.progress.begin(&format!("{}: {what}", self.label), unit, total);
    }

    fn extend(&self, more: u64) {
        self.progress.extend(more);
    }

    fn advance(&self, units: u64) {
        self.progress.advance(units);
    }

    fn message(&self, text: &str) {
        self.progress.message(&format!("{}: {text}", self.label));
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.progress.is_cancelled()
    }
}
