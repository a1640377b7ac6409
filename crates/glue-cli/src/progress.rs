//! The progress bars.

use crate::shell::Shell;
use crate::visible::{one_line, visible};
use glue_recipe::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes done and to do, rate, time left, and what is at work.
const BAR: &str = "{bar:24} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left  {wide_msg}";

/// What a merge tells while it works; from any thread.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl Progress {
    /// A bar over `bytes` to be written; invisible unless the shell says otherwise.
    ///
    /// From the first one on, a first Ctrl-C asks merges to stop, and a second one ends the process.
    pub(crate) fn new(bytes: u64, shell: &Shell<'_>) -> Self {
        Self { bar: bar(bytes, BAR, shell), stop: shell.stop_flag() }
    }
}

fn bar(length: u64, template: &str, shell: &Shell<'_>) -> ProgressBar {
    let target = match shell.draws_progress() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// What is at work, beside the bar. It may have a name that others gave it.
fn show(bar: &ProgressBar, what: &str) {
    bar.set_message(visible(&one_line(what), false).into_owned());
}

impl Watch for Progress {
    fn wrote(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn works_on(&self, tensor: &str) {
        show(&self.bar, tensor);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a pass over the weights of several models tells while it works; from any thread.
#[derive(Debug)]
pub(crate) struct PassProgress(Progress);

impl PassProgress {
    /// A bar that learns from the pass how much there is to read; invisible unless the shell says otherwise.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        Self(Progress::new(0, shell))
    }
}

impl glue_metrics::Watch for PassProgress {
    fn begins(&self, bytes: u64) {
        self.0.bar.set_length(bytes);
    }

    fn works_on(&self, tensor: &str) {
        self.0.works_on(tensor);
    }

    fn compared(&self, bytes: u64) {
        self.0.wrote(bytes);
    }

    fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }
}

/// What an alignment tells while it works; from any thread.
#[derive(Debug)]
pub(crate) struct AlignProgress(Progress);

impl AlignProgress {
    /// A bar over `bytes` to be written; invisible unless the shell says otherwise.
    pub(crate) fn new(bytes: u64, shell: &Shell<'_>) -> Self {
        Self(Progress::new(bytes, shell))
    }
}

impl glue_align::Watch for AlignProgress {
    fn works_on(&self, what: &str) {
        self.0.works_on(what);
    }

    fn wrote(&self, bytes: u64) {
        Watch::wrote(&self.0, bytes);
    }

    fn swept(&self, sweep: usize, changed: usize) {
        self.0.bar.set_message(format!("sweep {sweep}: {changed} groups changed"));
    }

    fn is_stopped(&self) -> bool {
        Watch::is_stopped(&self.0)
    }
}

/// Weights compared and to be compared, and time left.
const WEIGHTS: &str = "{bar:24} {human_pos}/{human_len} weights  {eta} left  {wide_msg}";

/// What an extraction tells while it works; from any thread.
#[derive(Debug)]
pub(crate) struct ExtractProgress(Progress);

impl ExtractProgress {
    /// A bar over `elements`; invisible unless the shell says otherwise.
    pub(crate) fn new(elements: u64, shell: &Shell<'_>) -> Self {
        Self(Progress { bar: bar(elements, WEIGHTS, shell), stop: shell.stop_flag() })
    }
}

impl glue_lora::Watch for ExtractProgress {
    fn works_on(&self, tensor: &str) {
        self.0.works_on(tensor);
    }

    fn done(&self, elements: u64) {
        self.0.bar.inc(elements);
    }

    fn is_stopped(&self) -> bool {
        Watch::is_stopped(&self.0)
    }
}

/// Requests answered and to be answered, and time left.
const REQUESTS: &str = "{bar:24} {human_pos}/{human_len} requests  {eta} left";

/// What an evaluation tells while it works; from any thread.
#[derive(Debug)]
pub(crate) struct RequestProgress {
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
}

impl RequestProgress {
    /// A bar that learns from the evaluation how much there is to do; invisible unless the shell says otherwise.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        Self { bar: bar(0, REQUESTS, shell), stop: shell.stop_flag() }
    }
}

impl glue_eval::Watch for RequestProgress {
    fn begins(&self, requests: usize) {
        self.bar.inc_length(requests as u64);
    }

    fn answered(&self, more: usize) {
        self.bar.inc(more as u64);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Sequences done and to be done, time left, and which pass it is.
const SEQUENCES: &str = "{bar:24} {human_pos}/{human_len} sequences  {eta} left  {wide_msg}";

/// What a pass over text tells while it works; from any thread.
#[derive(Debug)]
pub(crate) struct CalibrateProgress(Progress);

impl CalibrateProgress {
    /// A bar that learns from the pass how much there is to do; invisible unless the shell says otherwise.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        Self(Progress { bar: bar(0, SEQUENCES, shell), stop: shell.stop_flag() })
    }
}

impl glue_calibrate::Watch for CalibrateProgress {
    fn begins(&self, pass: usize, passes: usize, sequences: usize) {
        self.0.bar.set_position(0);
        self.0.bar.set_length(sequences as u64);
        if passes > 1 {
            self.0.bar.set_message(format!("pass {pass} of {passes}"));
        }
    }

    fn advanced(&self, sequences: usize) {
        self.0.bar.inc(sequences as u64);
    }

    fn is_stopped(&self) -> bool {
        Watch::is_stopped(&self.0)
    }
}

/// Evaluations done and left, and what is best so far.
const SEARCH: &str = "{spinner} {elapsed}  {wide_msg}";

/// What a search tells while it works.
#[derive(Debug)]
pub(crate) struct SearchProgress {
    bar: ProgressBar,
}

impl SearchProgress {
    /// A line that changes; invisible unless the shell says otherwise.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        Self { bar: bar(0, SEARCH, shell) }
    }
}

impl glue_select::session::Watch for SearchProgress {
    fn progress(&self, strategy: &str, best: Option<f64>, progress: &glue_select::course::Progress) {
        show(&self.bar, &search_words(strategy, best, progress));
    }
}

/// How a search goes, in words.
fn search_words(strategy: &str, best: Option<f64>, progress: &glue_select::course::Progress) -> String {
    let best = best.map_or("nothing yet".to_owned(), |best| format!("{best:.4}"));
    let left = progress.left.map_or(String::new(), |left| format!(", {left} left"));
    let saved = match progress.items_saved {
        0 => String::new(),
        saved => format!(", {:.0} % of the items saved by racing", 100.0 * saved as f64 / progress.items as f64),
    };
    let done = progress.evaluations;
    format!("{strategy}: best so far {best}; {done} evaluations{left}{saved}")
}

impl Drop for SearchProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What a run of all stages tells while it works.
#[derive(Debug)]
pub(crate) struct RunProgress {
    bar: ProgressBar,
    stage: std::sync::Mutex<(String, Option<u64>)>,
}

impl RunProgress {
    /// A line that changes, and one that stays for each finished stage; invisible unless the shell says otherwise.
    pub(crate) fn new(shell: &Shell<'_>) -> Self {
        Self { bar: bar(0, SEARCH, shell), stage: std::sync::Mutex::default() }
    }

    fn says(&self, change: impl FnOnce(&mut (String, Option<u64>)) -> String) {
        let mut stage = self.stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let message = change(&mut stage);
        show(&self.bar, &message);
    }
}

impl glue_pipeline::Watch for RunProgress {
    fn stage(&self, stage: glue_pipeline::Stage, found: bool) {
        let words = if found { "done before" } else { "" };
        self.bar.println(format!("{:<14}{words}", stage.name()));
        self.says(|now| {
            *now = (stage.name().to_owned(), None);
            stage.name().to_owned()
        });
    }

    fn part(&self, what: &str, steps: Option<u64>) {
        self.says(|now| {
            *now = (what.to_owned(), steps);
            what.to_owned()
        });
    }

    fn at(&self, step: u64) {
        self.says(|now| match now.1 {
            Some(all) if all > 0 => format!("{}: {} %", now.0, 100 * step.min(all) / all),
            _ => now.0.clone(),
        });
    }

    fn search(&self, cluster: &str, strategy: &str, best: Option<f64>, progress: &glue_select::course::Progress) {
        let words = search_words(strategy, best, progress);
        self.says(|_| format!("cluster {cluster}: {words}"));
    }
}

impl Drop for RunProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for RequestProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
