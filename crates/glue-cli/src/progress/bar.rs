//! The progress bar on a terminal: one line that changes, and under it the last message; both are cleared in the end.

use super::moved_words;
use super::rate::Rate;
use crate::units;
use crate::visible::{one_line, visible};
use glue_pipeline::{MovedStage, Stage, StageProgress};
use glue_progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parking_lot::Mutex;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Draws on standard error.
#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    start: Instant,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
struct Phase {
    what: String,
    unit: Unit,
    rate: Arc<Mutex<Rate>>,
    /// Whether the line for messages is there.
    has_message: bool,
}

impl Bar {
    /// A spinner until something begins.
    pub(super) fn new() -> Self {
        let bar = Self::on(ProgressDrawTarget::stderr());
        bar.bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    fn on(target: ProgressDrawTarget) -> Self {
        let rate = Arc::new(Mutex::new(Rate::begin(None, 0.0)));
        let phase = Phase { what: String::new(), unit: Unit::Steps, rate, has_message: false };
        let bar = ProgressBar::with_draw_target(None, target);
        let bar = Self { bar, start: Instant::now(), phase: Mutex::new(phase) };
        bar.set_style(&bar.phase.lock());
        bar
    }

    fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// What is done and to do, the time left, and what is at work; without a total, the time so far.
    fn set_style(&self, phase: &Phase) {
        let (rate, start) = (Arc::clone(&phase.rate), self.start);
        let left = move |_: &ProgressState, text: &mut dyn Write| {
            if let Some(left) = rate.lock().seconds_left(start.elapsed().as_secs_f64()) {
                let _ = write!(text, "{} left", units::duration(left));
            }
        };
        let rate = Arc::clone(&phase.rate);
        let speed = move |_: &ProgressState, text: &mut dyn Write| {
            if let Some(rate) = rate.lock().per_second(start.elapsed().as_secs_f64()) {
                let _ = write!(text, "{}/s", units::bytes(rate as u64));
            }
        };
        let mut template = match (phase.rate.lock().total(), phase.unit) {
            (None, _) => "{spinner} {elapsed}  {wide_msg}".to_owned(),
            (Some(_), Unit::Bytes) => {
                "{bar:24} {decimal_bytes}/{decimal_total_bytes}  {speed}  {left}  {wide_msg}".to_owned()
            }
            (Some(_), unit) => format!("{{bar:24}} {{human_pos}}/{{human_len}} {unit}  {{left}}  {{wide_msg}}"),
        };
        if phase.has_message {
            template += "\n{prefix}";
        }
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ ").with_key("left", left).with_key("speed", speed));
    }
}

/// Text that may have names in it that others gave.
fn shown(text: &str) -> String {
    visible(&one_line(text), false).into_owned()
}

impl Progress for Bar {
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        let mut phase = self.phase.lock();
        phase.what = what.into();
        phase.unit = unit;
        phase.rate = Arc::new(Mutex::new(Rate::begin(total, self.now())));
        self.set_style(&phase);
        self.bar.set_length(total.unwrap_or(0));
        self.bar.set_position(0);
        self.bar.set_message(shown(what));
    }

    fn extend(&self, more: u64) {
        self.phase.lock().rate.lock().extend(more);
        self.bar.inc_length(more);
    }

    fn advance(&self, units: u64) {
        let rate = Arc::clone(&self.phase.lock().rate);
        rate.lock().advance(units, self.now());
        self.bar.inc(units);
    }

    fn item(&self, name: &str) {
        let text = format!("{}: {name}", self.phase.lock().what);
        self.bar.set_message(shown(&text));
    }

    fn message(&self, text: &str) {
        let mut phase = self.phase.lock();
        if !phase.has_message {
            phase.has_message = true;
            self.set_style(&phase);
        }
        self.bar.set_prefix(shown(text));
    }
}

impl StageProgress for Bar {
    /// The name of the stage, on a line that stays.
    fn stage(&self, stage: Stage, reused: bool) {
        let words = if reused { "done before" } else { "" };
        self.bar.println(format!("{:<14}{words}", stage.name()));
        self.begin(stage.name(), Unit::Steps, None);
    }

    fn moved_aside(&self, moved: &MovedStage) {
        self.bar.println(shown(&moved_words(moved)));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Mutex;

    /// A terminal that keeps what is drawn.
    #[derive(Debug, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_phase_replaces_the_one_before() {
        let screen = Screen::default();
        let drawn = Arc::clone(&screen.0);
        let progress = Bar::on(ProgressDrawTarget::term_like(Box::new(screen)));
        let shown = || {
            drawn.lock().unwrap().clear();
            progress.bar.force_draw();
            drawn.lock().unwrap().clone()
        };
        progress.begin("reading", Unit::Sequences, Some(3));
        progress.advance(2);
        assert!(shown().contains(" 2/3 sequences"), "{}", shown());
        progress.extend(2);
        progress.item("line\nbreak");
        assert!(shown().contains(" 2/5 sequences") && shown().contains("reading: line\\nbreak"), "{}", shown());
        progress.message("half of it");
        progress.begin("writing", Unit::Bytes, Some(2000));
        progress.advance(1000);
        assert!(shown().contains(" 1.00 kB/2.00 kB") && shown().contains("writing"), "{}", shown());
        assert!(shown().contains(" left") && shown().contains("half of it"), "{}", shown());
        progress.begin("searching", Unit::Evaluations, None);
        assert!(shown().contains("  searching") && !shown().contains('/'), "{}", shown());
    }
}
