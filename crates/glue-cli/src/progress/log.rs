//! Lines of a log, for standard error that is no terminal: a file, a pipe, the output of a job.
//!
//! A line when a stage or a phase begins, one when a phase ends, one for each message, and in between at most one a
//! minute with what is done.

use super::moved_words;
use super::rate::Rate;
use crate::app::LogFormat;
use crate::shell::{ErrorStream, milliseconds};
use crate::units;
use crate::visible::{one_line, visible};
use glue_pipeline::{MovedStage, Stage, StageProgress};
use glue_progress::{Progress, Unit};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Least seconds between two lines about what is done.
const INTERVAL: f64 = 60.0;

/// Logs to a stream.
pub(super) struct Log<'a> {
    stream: ErrorStream<'a>,
    format: LogFormat,
    phase: Mutex<Option<Phase>>,
}

/// A phase under way.
struct Phase {
    what: String,
    unit: Unit,
    rate: Rate,
    item: Option<String>,
    /// When the last line was written.
    logged: f64,
}

impl<'a> Log<'a> {
    pub(super) fn new(stream: ErrorStream<'a>, format: LogFormat) -> Self {
        Self { stream, format, phase: Mutex::new(None) }
    }

    /// Writes a line: `text` after the time since the start, or `facts` as an event.
    fn line(&self, event: &str, text: &str, facts: Value) {
        match self.format {
            LogFormat::Json => self.stream.event(event, facts),
            LogFormat::Text => {
                let text = visible(&one_line(text), false).into_owned();
                self.stream.line(&format!("[{}] {text}", clock(self.stream.seconds())));
            }
        }
    }

    /// Ends the phase under way.
    fn end(&self, phase: &mut Option<Phase>) {
        let Some(phase) = phase.take() else { return };
        let took = self.stream.seconds() - phase.rate.begun();
        let done = match phase.rate.done() {
            0 => String::new(),
            _ => format!("{} in ", phase.done()),
        };
        let mut facts = phase.facts(None);
        facts["took"] = milliseconds(took).into();
        self.line("end", &format!("{}: {done}{}", phase.what, units::duration(took)), facts);
    }

    /// Writes what is done if the last line was long ago.
    fn tick(&self, phase: &mut Phase, now: f64) {
        if now - phase.logged < INTERVAL {
            return;
        }
        phase.logged = now;
        let item = phase.item.as_ref().map_or(String::new(), |item| format!("; {item}"));
        let text = format!("{}: {}{item}", phase.what, phase.words(now));
        let mut facts = phase.facts(Some(now));
        facts["item"] = json!(phase.item);
        self.line("progress", &text, facts);
    }
}

impl Phase {
    /// `12 of 48 requests`, `214 MB of 428 MB`; without a total, `12 requests`.
    fn done(&self) -> String {
        let amount = |n: u64| match self.unit {
            Unit::Bytes => units::bytes(n),
            Unit::Weights => units::short(n),
            _ => units::count(n),
        };
        let unit = match self.unit {
            Unit::Bytes => String::new(),
            unit => format!(" {unit}"),
        };
        match self.rate.total() {
            Some(total) => format!("{} of {}{unit}", amount(self.rate.done()), amount(total)),
            None => format!("{}{unit}", amount(self.rate.done())),
        }
    }

    /// What is done, how fast, and how long it will take.
    fn words(&self, now: f64) -> String {
        let known = [Some(self.done()), self.speed(now)];
        known.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// How fast, and how long it will take, where that is known.
    fn speed(&self, now: f64) -> Option<String> {
        let rate = rate_words(self.unit, self.rate.per_second(now)?);
        Some(match self.rate.seconds_left(now) {
            Some(left) => format!("{rate}, {} left", units::duration(left)),
            None => rate,
        })
    }

    /// The same as the facts of an event; without rate and time left once it has ended.
    fn facts(&self, now: Option<f64>) -> Value {
        let counts = self.rate.total().is_some() || self.rate.done() > 0;
        json!({
            "phase": self.what,
            "unit": counts.then(|| self.unit.to_string()),
            "done": counts.then(|| self.rate.done()),
            "total": self.rate.total(),
            "per_second": now.and_then(|now| self.rate.per_second(now)),
            "seconds_left": now.and_then(|now| self.rate.seconds_left(now)).map(milliseconds),
        })
    }
}

/// `20/s`, `1.5 MB/s`; per minute or hour where that is less than one.
fn rate_words(unit: Unit, per_second: f64) -> String {
    let amount = |rate: f64| match unit {
        Unit::Bytes => units::bytes(rate as u64),
        Unit::Weights => units::short(rate as u64),
        _ if rate >= 9.95 => units::count(rate.round() as u64),
        _ => format!("{rate:.1}"),
    };
    match per_second {
        rate if rate >= 1.0 => format!("{}/s", amount(rate)),
        rate if rate * 60.0 >= 1.0 => format!("{}/min", amount(rate * 60.0)),
        rate => format!("{}/h", amount(rate * 3600.0)),
    }
}

/// Hours, minutes and seconds: `00:12:34`.
fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    format!("{:02}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

impl Progress for Log<'_> {
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        let mut phase = self.phase.lock();
        self.end(&mut phase);
        let now = self.stream.seconds();
        let new = Phase { what: what.into(), unit, rate: Rate::begin(total, now), item: None, logged: now };
        let text = if total.is_some() { format!("{what}: {}", new.done()) } else { what.to_string() };
        self.line("begin", &text, new.facts(None));
        *phase = Some(new);
    }

    fn extend(&self, more: u64) {
        if let Some(phase) = &mut *self.phase.lock() {
            phase.rate.extend(more);
        }
    }

    fn advance(&self, units: u64) {
        if let Some(phase) = &mut *self.phase.lock() {
            let now = self.stream.seconds();
            phase.rate.advance(units, now);
            self.tick(phase, now);
        }
    }

    fn item(&self, name: &str) {
        if let Some(phase) = &mut *self.phase.lock() {
            phase.item = Some(name.into());
            self.tick(phase, self.stream.seconds());
        }
    }

    fn message(&self, text: &str) {
        let mut phase = self.phase.lock();
        let now = self.stream.seconds();
        let speed = phase.as_ref().and_then(|phase| phase.speed(now));
        let after = speed.map_or(String::new(), |speed| format!(", {speed}"));
        let mut facts = phase.as_ref().map_or(json!({}), |phase| phase.facts(Some(now)));
        facts["text"] = text.into();
        self.line("message", &format!("{text}{after}"), facts);
        if let Some(phase) = &mut *phase {
            phase.logged = now;
        }
    }
}

impl StageProgress for Log<'_> {
    fn stage(&self, stage: Stage, reused: bool) {
        self.end(&mut self.phase.lock());
        let text = format!("stage {}{}", stage.name(), if reused { ": reused" } else { "" });
        self.line("stage", &text, json!({ "stage": stage.name(), "reused": reused }));
    }

    fn moved_aside(&self, moved: &MovedStage) {
        self.end(&mut self.phase.lock());
        let facts = json!({
            "stage": moved.stage.name(),
            "to": moved.to.display().to_string(),
            "changed": moved.changed,
            "took": moved.seconds.map(milliseconds),
        });
        self.line("moved_aside", &moved_words(moved), facts);
    }
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        self.end(&mut self.phase.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_read_well() {
        assert_eq!(rate_words(Unit::Requests, 1234.4), "1,234/s");
        assert_eq!(rate_words(Unit::Bytes, 1.5e6), "1.50 MB/s");
        assert_eq!(rate_words(Unit::Evaluations, 0.2), "12/min");
        assert_eq!(rate_words(Unit::Evaluations, 0.002), "7.2/h");
        assert_eq!(clock(754.9), "00:12:34");
        assert_eq!(clock(360_000.0), "100:00:00");
    }

    #[test]
    fn what_is_done_is_said_with_its_total() {
        let mut phase = Phase {
            what: "x".into(),
            unit: Unit::Requests,
            rate: Rate::begin(Some(1200), 0.0),
            item: None,
            logged: 0.0,
        };
        assert_eq!(phase.words(1.0), "0 of 1,200 requests");
        phase.rate.advance(600, 30.0);
        assert_eq!(phase.words(30.0), "600 of 1,200 requests, 20/s, 30.0 s left");
        assert_eq!(phase.facts(Some(30.0))["seconds_left"], 30.0);
        let phase = Phase { unit: Unit::Bytes, rate: Rate::begin(None, 0.0), ..phase };
        assert_eq!(phase.words(1.0), "0 B");
    }
}
