//! The progress of a run: its stages, and the work inside them.

use crate::stage::Stage;
use glue_progress::{CancelToken, NoProgress, Progress, Unit};
use std::path::PathBuf;

/// Receives the progress of a run: of its stages, and within a stage of one piece of work after another.
pub trait StageProgress: Progress {
    /// A stage begins, or is `reused` because it was finished by an earlier run. Does nothing by default.
    fn stage(&self, stage: Stage, reused: bool) {
        let _ = (stage, reused);
    }

    /// Files of an earlier run no longer fit and were moved aside; the stage starts over. Comes before
    /// [`stage`](StageProgress::stage). Does nothing by default.
    fn moved_aside(&self, moved: &MovedStage) {
        let _ = moved;
    }
}

/// A stage of an earlier run that was moved aside.
#[derive(Debug, Clone, PartialEq)]
pub struct MovedStage {
    /// The stage.
    pub stage: Stage,
    /// Where its files are now.
    pub to: PathBuf,
    /// What it depends on and has changed, in words, such as `models.a-chat` or `select.racing (was true, is false)`.
    /// Empty if nothing has: its re-run was asked for.
    pub changed: Vec<String>,
    /// Seconds that it took; `None` if it was not finished.
    pub seconds: Option<f64>,
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

    fn item(&self, name: &str) {
        self.progress.item(name);
    }

    fn message(&self, text: &str) {
        self.progress.message(&format!("{}: {text}", self.label));
    }

    fn metric(&self, name: &str, value: f64) {
        self.progress.metric(name, value);
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.progress.is_cancelled()
    }
}
