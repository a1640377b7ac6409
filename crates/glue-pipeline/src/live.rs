//! The report of a run that is under way, rewritten while a stage works.

use crate::progress::{MovedStage, StageProgress};
use crate::stage::Stage;
use glue_progress::{Progress, Unit};
use glue_report::{Activity, Cost, Report};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many messages the report shows.
const MESSAGES: usize = 20;

/// Writes a report.
type Write<'a> = dyn Fn(&Report, &Cost) + Send + Sync + 'a;

/// Passes progress on to somebody else and, now and then, writes a report with what is going on.
pub(crate) struct Live<'a> {
    progress: &'a dyn StageProgress,
    write: Box<Write<'a>>,
    every: Duration,
    state: Mutex<State>,
}

struct State {
    /// The report of the finished stages.
    report: Option<(Report, Cost)>,
    activity: Activity,
    messages: VecDeque<String>,
    written: Instant,
}

impl<'a> Live<'a> {
    /// `write` writes a report; what fails there fails again after the stage, and is reported then.
    pub(crate) fn new(
        progress: &'a dyn StageProgress,
        every: Duration,
        write: impl Fn(&Report, &Cost) + Send + Sync + 'a,
    ) -> Live<'a> {
        let state =
            State { report: None, activity: Activity::default(), messages: VecDeque::new(), written: Instant::now() };
        Live { progress, write: Box::new(write), every, state: Mutex::new(state) }
    }

    /// The stages until now have this report.
    pub(crate) fn set(&self, report: Report, cost: Cost) {
        let mut state = self.state.lock();
        state.report = Some((report, cost));
        state.written = Instant::now();
    }

    /// Changes what is known of the work, and writes a report if it is time.
    fn note(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if state.written.elapsed() < self.every {
            return;
        }
        state.written = Instant::now();
        let activity = Activity { messages: state.messages.iter().cloned().collect(), ..state.activity.clone() };
        if let Some((report, cost)) = &mut state.report {
            report.run.activity = Some(activity);
            (self.write)(report, cost);
        }
    }
}

impl Progress for Live<'_> {
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        self.progress.begin(what, unit, total);
        self.note(|state| {
            let stage = std::mem::take(&mut state.activity.stage);
            state.activity =
                Activity { stage, phase: what.into(), unit: unit.to_string(), total, ..Activity::default() };
        });
    }

    fn extend(&self, more: u64) {
        self.progress.extend(more);
        self.note(|state| state.activity.total = state.activity.total.map(|total| total + more));
    }

    fn advance(&self, units: u64) {
        self.progress.advance(units);
        self.note(|state| state.activity.done += units);
    }

    fn item(&self, name: &str) {
        self.progress.item(name);
    }

    fn message(&self, text: &str) {
        self.progress.message(text);
        self.note(|state| {
            state.messages.truncate(MESSAGES - 1);
            state.messages.push_front(text.into());
        });
    }

    fn metric(&self, name: &str, value: f64) {
        self.progress.metric(name, value);
    }

    fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }
}

impl StageProgress for Live<'_> {
    fn stage(&self, stage: Stage, reused: bool) {
        self.progress.stage(stage, reused);
        self.note(|state| {
            state.activity = Activity { stage: stage.name().into(), ..Activity::default() };
            state.messages.clear();
        });
    }

    fn moved_aside(&self, moved: &MovedStage) {
        self.progress.moved_aside(moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glue_progress::NoProgress;

    #[test]
    fn a_report_says_what_is_going_on() {
        let written = Mutex::new(Vec::new());
        let write = |report: &Report, _: &Cost| written.lock().extend(report.run.activity.clone());
        let live = Live::new(&NoProgress, Duration::ZERO, write);
        live.message("before there is a report");
        live.set(Report::default(), Cost::default());
        live.stage(Stage::Select, false);
        live.begin("searching", Unit::Evaluations, Some(40));
        live.advance(3);
        live.extend(2);
        for i in 0..30 {
            live.message(&format!("candidate {i}"));
        }
        let last = written.lock().pop().expect("a report");
        assert_eq!(
            (last.stage.as_str(), last.phase.as_str(), last.unit.as_str()),
            ("select", "searching", "evaluations")
        );
        assert_eq!((last.done, last.total, last.messages.len()), (3, Some(42), MESSAGES));
        // The newest first, and nothing of the stage before.
        assert_eq!((last.messages[0].as_str(), last.messages[MESSAGES - 1].as_str()), ("candidate 29", "candidate 10"));
        live.stage(Stage::Frontier, false);
        assert!(written.lock().last().is_some_and(|last| last.messages.is_empty() && last.phase.is_empty()));
        // Not more often than asked for.
        let rare = Live::new(&NoProgress, Duration::from_secs(3600), |_: &Report, _: &Cost| panic!("too early"));
        rare.set(Report::default(), Cost::default());
        rare.message("soon");
    }
}
