//! `metrics.jsonl`: numbers over time, one JSON object a line, for Weights & Biases, TensorBoard or a notebook.
//! `docs/tracking.md` describes the fields.
//!
//! It is a record for people. Nothing reads it back but the next run that appends to it, and no result depends on it:
//! if it cannot be written, a note says so and the work goes on.

use crate::shell::{ErrorStream, milliseconds};
use glue_pipeline::{Stage, StageProgress};
use glue_progress::{Progress, Unit};
use glue_tensor::state;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The name of the series with evaluations: the x-axis of the others.
const EVALUATIONS: &str = "evaluations";

/// One line. The order of the fields is that of the file.
#[derive(Debug, Serialize)]
struct Line<'a> {
    run: u64,
    step: u64,
    seconds: f64,
    stage: Option<&'static str>,
    phase: &'a str,
    name: &'a str,
    /// `null` for what is not a finite number.
    value: f64,
    evaluations: Option<f64>,
}

/// Appends metrics to a file.
pub(super) struct Metrics<'a> {
    path: PathBuf,
    stream: ErrorStream<'a>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    output: Output,
    stage: Option<(Stage, f64)>,
    phase: Option<(String, f64)>,
    evaluations: Option<f64>,
}

#[derive(Default)]
enum Output {
    /// Nothing was written yet.
    #[default]
    Unopened,
    Open(Appended),
    /// It cannot be written.
    Failed,
}

/// A file that is appended to.
struct Appended {
    file: File,
    run: u64,
    step: u64,
}

impl Appended {
    /// Opens the file at `path`, or creates it. A line that a killed run left incomplete is removed.
    fn open(path: &Path) -> io::Result<Appended> {
        #[derive(Deserialize)]
        struct Earlier {
            run: u64,
            step: u64,
        }
        let mut file = state::open_lock(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::Start(whole as u64))?;
        let lines = text[..whole].split(|byte| *byte == b'\n');
        let earlier = lines.filter_map(|line| serde_json::from_slice::<Earlier>(line).ok());
        let next = earlier.map(|line| (line.run + 1, line.step + 1));
        let (run, step) = next.fold((0, 0), |(run, step), next| (run.max(next.0), step.max(next.1)));
        Ok(Appended { file, run, step })
    }
}

impl<'a> Metrics<'a> {
    pub(super) fn new(path: PathBuf, stream: ErrorStream<'a>) -> Self {
        Self { path, stream, state: Mutex::default() }
    }

    fn record(&self, state: &mut State, name: &str, value: f64) {
        let State { output, stage, phase, evaluations } = &mut *state;
        if let Output::Unopened = output {
            *output = Appended::open(&self.path).map_or_else(|error| self.fail(&error), Output::Open);
        }
        let Output::Open(to) = &mut *output else { return };
        let line = Line {
            run: to.run,
            step: to.step,
            seconds: milliseconds(self.stream.seconds()),
            stage: stage.map(|(stage, _)| stage.name()),
            phase: phase.as_ref().map_or("", |(what, _)| what),
            name,
            value,
            evaluations: *evaluations,
        };
        to.step += 1;
        let written = serde_json::to_string(&line).map_err(io::Error::from);
        // One call: a reader that follows the file sees whole lines.
        let written = written.and_then(|line| to.file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            *output = self.fail(&error);
        }
    }

    /// Says that nothing more is recorded.
    fn fail(&self, error: &io::Error) -> Output {
        let text = format!("{}: {error}; metrics are no longer recorded", self.path.display());
        self.stream.note(&text);
        Output::Failed
    }

    /// Records how long the phase took.
    fn end_phase(&self, state: &mut State) {
        if let Some((_, begun)) = state.phase {
            self.record(state, "phase_seconds", milliseconds(self.stream.seconds() - begun));
        }
        state.phase = None;
        state.evaluations = None;
    }

    /// Records how long the stage took.
    fn end_stage(&self, state: &mut State) {
        self.end_phase(state);
        if let Some((_, begun)) = state.stage {
            self.record(state, "stage_seconds", milliseconds(self.stream.seconds() - begun));
        }
        state.stage = None;
    }
}

impl Progress for Metrics<'_> {
    fn begin(&self, what: &str, _: Unit, _: Option<u64>) {
        let mut state = self.state.lock();
        self.end_phase(&mut state);
        state.phase = Some((what.into(), self.stream.seconds()));
    }

    fn metric(&self, name: &str, value: f64) {
        let mut state = self.state.lock();
        if name == EVALUATIONS {
            state.evaluations = Some(value);
        }
        self.record(&mut state, name, value);
    }
}

impl StageProgress for Metrics<'_> {
    fn stage(&self, stage: Stage, reused: bool) {
        let mut state = self.state.lock();
        self.end_stage(&mut state);
        state.stage = (!reused).then(|| (stage, self.stream.seconds()));
    }
}

impl Drop for Metrics<'_> {
    fn drop(&mut self) {
        self.end_stage(&mut self.state.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::ColorChoice;
    use crate::shell::{Shell, Streams};
    use serde_json::Value;

    /// Records into the file at `path`, and returns what was noted on standard error.
    fn record(path: &Path, of: impl FnOnce(&Metrics<'_>)) -> String {
        let mut err = Vec::new();
        let streams = Streams {
            out: Box::new(io::sink()),
            err: Box::new(&mut err),
            out_is_terminal: false,
            err_is_terminal: false,
        };
        let shell = Shell::new(streams, ColorChoice::Never);
        of(&Metrics::new(path.into(), shell.error_stream()));
        drop(shell);
        String::from_utf8(err).unwrap()
    }

    fn search(metrics: &Metrics<'_>) {
        metrics.stage(Stage::Baselines, true);
        metrics.stage(Stage::Select, false);
        metrics.begin("searching", Unit::Evaluations, None);
        metrics.metric("evaluations", 3.0);
        metrics.metric("best", 0.5);
        metrics.metric("loss", f64::NAN);
    }

    #[test]
    fn runs_are_appended_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        // Nothing to record, no file.
        record(&path, |metrics| metrics.stage(Stage::Baselines, true));
        assert!(!path.exists());
        for _ in 0..2 {
            assert_eq!(record(&path, search), "");
            // What a kill leaves.
            let mut text = std::fs::read_to_string(&path).unwrap();
            text += "{\"run\":7,\"st";
            std::fs::write(&path, text).unwrap();
        }
        record(&path, |metrics| metrics.metric("gain", 1.0));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
        assert_eq!(of("step"), (0..11).map(Value::from).collect::<Vec<_>>());
        assert_eq!(of("run"), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2].map(Value::from));
        assert_eq!(of("name")[..5], ["evaluations", "best", "loss", "phase_seconds", "stage_seconds"].map(Value::from));
        assert_eq!(
            (&lines[1]["value"], &lines[1]["evaluations"], &lines[2]["value"]),
            (&0.5.into(), &3.0.into(), &Value::Null)
        );
        assert_eq!((&lines[1]["stage"], &lines[1]["phase"]), (&"select".into(), &"searching".into()));
        assert_eq!((&lines[10]["stage"], &lines[10]["phase"]), (&Value::Null, &"".into()));
    }

    #[test]
    fn what_cannot_be_recorded_is_noted_once() {
        let directory = tempfile::tempdir().unwrap();
        let noted = record(directory.path(), search);
        assert_eq!(noted.lines().count(), 1, "{noted}");
        assert!(noted.starts_with("note: ") && noted.contains("metrics are no longer recorded"), "{noted}");
    }
}
