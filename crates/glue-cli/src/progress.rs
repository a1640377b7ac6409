//! The progress bar.

use crate::shell::Shell;
use crate::visible::{one_line, visible};
use glue_pipeline::{Stage, StageProgress};
use glue_progress::{CancelToken, Progress, Unit};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Shows progress on standard error, if that is a terminal: one line that changes, cleared in the end. The first Ctrl-C
/// cancels.
#[derive(Debug)]
pub(crate) struct TerminalProgress {
    bar: ProgressBar,
    cancel: CancelToken,
}

impl TerminalProgress {
    /// A spinner until something begins; invisible unless the shell says otherwise.
    ///
    /// From the first one on, a first Ctrl-C cancels, and a second one ends the process.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        let target = match shell.draws_progress() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(Unit::Steps, None));
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, cancel: shell.cancel_token() }
    }
}

/// What is done and to do, the time left, and what is at work; without a total, the time so far.
fn style(unit: Unit, total: Option<u64>) -> ProgressStyle {
    let template = match (total, unit) {
        (None, _) => "{spinner} {elapsed}  {wide_msg}".to_owned(),
        (Some(_), Unit::Bytes) => {
            "{bar:24} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left  {wide_msg}".to_owned()
        }
        (Some(_), unit) => format!("{{bar:24}} {{human_pos}}/{{human_len}} {unit}  {{eta}} left  {{wide_msg}}"),
    };
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("█▉▊▋▌▍▎▏ ")
}

impl Progress for TerminalProgress {
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        self.bar.set_style(style(unit, total));
        self.bar.set_length(total.unwrap_or(0));
        self.bar.set_position(0);
        self.bar.reset_eta();
        self.message(what);
    }

    fn extend(&self, more: u64) {
        self.bar.inc_length(more);
    }

    fn advance(&self, units: u64) {
        self.bar.inc(units);
    }

    fn message(&self, text: &str) {
        // It may have a name that others gave it.
        self.bar.set_message(visible(&one_line(text), false).into_owned());
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl StageProgress for TerminalProgress {
    /// The name of the stage, on a line that stays.
    fn stage(&self, stage: Stage, reused: bool) {
        let words = if reused { "done before" } else { "" };
        self.bar.println(format!("{:<14}{words}", stage.name()));
        self.begin(stage.name(), Unit::Steps, None);
    }
}

impl Drop for TerminalProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

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
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::term_like(Box::new(screen)));
        let progress = TerminalProgress { bar, cancel: CancelToken::default() };
        let shown = || {
            drawn.lock().unwrap().clear();
            progress.bar.force_draw();
            drawn.lock().unwrap().clone()
        };
        progress.begin("reading", Unit::Sequences, Some(3));
        progress.advance(2);
        assert!(shown().contains(" 2/3 sequences"), "{}", shown());
        progress.extend(2);
        progress.message("line\nbreak");
        assert!(shown().contains(" 2/5 sequences") && shown().contains("line\\nbreak"), "{}", shown());
        progress.begin("writing", Unit::Bytes, Some(2000));
        progress.advance(1000);
        assert!(shown().contains(" 1.00 kB/2.00 kB") && shown().contains("writing"), "{}", shown());
        progress.begin("searching", Unit::Evaluations, None);
        assert!(shown().trim_end().ends_with("searching"), "{}", shown());
        assert!(!shown().contains('/'), "{}", shown());
    }
}
