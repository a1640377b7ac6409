//! What a command shows of its progress, and records of it: a bar on a terminal, else lines of a log; `metrics.jsonl`.
//! Each is one implementation of [`StageProgress`].

mod bar;
mod log;
mod metrics;
mod rate;

use crate::shell::{Display, Shell};
use bar::Bar;
use glue_pipeline::{MovedStage, Stage, StageProgress};
use glue_progress::{CancelToken, Progress, Unit};
use log::Log;
use metrics::Metrics;
use std::path::PathBuf;

/// The progress of a command, until it is dropped. The first Ctrl-C cancels.
pub(crate) struct CommandProgress<'a> {
    sinks: Vec<Box<dyn StageProgress + 'a>>,
    cancel: CancelToken,
}

impl<'a> CommandProgress<'a> {
    /// Shown as the user wants it.
    ///
    /// From the first one on, a first Ctrl-C cancels, and a second one ends the process.
    pub(crate) fn new(shell: &Shell<'a>) -> Self {
        let sinks: Vec<Box<dyn StageProgress + 'a>> = match shell.display() {
            Display::Nothing => Vec::new(),
            Display::Bar => vec![Box::new(Bar::new())],
            Display::Log(format) => vec![Box::new(Log::new(shell.error_stream(), format))],
        };
        Self { sinks, cancel: shell.cancel_token() }
    }

    /// The same, with metrics appended to the file at `path`, which is created with the first of them.
    pub(crate) fn with_metrics(mut self, path: PathBuf, shell: &Shell<'a>) -> Self {
        self.sinks.push(Box::new(Metrics::new(path, shell.error_stream())));
        self
    }
}

impl Progress for CommandProgress<'_> {
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        self.sinks.iter().for_each(|sink| sink.begin(what, unit, total));
    }

    fn extend(&self, more: u64) {
        self.sinks.iter().for_each(|sink| sink.extend(more));
    }

    fn advance(&self, units: u64) {
        self.sinks.iter().for_each(|sink| sink.advance(units));
    }

    fn item(&self, name: &str) {
        self.sinks.iter().for_each(|sink| sink.item(name));
    }

    fn message(&self, text: &str) {
        self.sinks.iter().for_each(|sink| sink.message(text));
    }

    fn metric(&self, name: &str, value: f64) {
        self.sinks.iter().for_each(|sink| sink.metric(name, value));
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl StageProgress for CommandProgress<'_> {
    fn stage(&self, stage: Stage, reused: bool) {
        self.sinks.iter().for_each(|sink| sink.stage(stage, reused));
    }

    fn moved_aside(&self, moved: &MovedStage) {
        self.sinks.iter().for_each(|sink| sink.moved_aside(moved));
    }
}

/// What became of a stage of an earlier run, in a sentence.
fn moved_words(moved: &MovedStage) -> String {
    let why = match moved.changed.as_slice() {
        [] => "a re-run was asked for".to_string(),
        changed => format!("changed: {}", changed.join(", ")),
    };
    let took = match moved.seconds {
        Some(seconds) => format!("took {}", crate::units::duration(seconds)),
        None => "unfinished".to_string(),
    };
    format!("stage {} of an earlier run ({took}) is moved to {}; {why}", moved.stage.name(), moved.to.display())
}
