//! Time and memory of one process, from outside.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::shown;

/// How often memory is looked at; a peak that is shorter can be missed.
const INTERVAL: Duration = Duration::from_millis(5);

/// What one run took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    /// From start to exit.
    pub(super) seconds: f64,
    /// The most memory it allocated (`RssAnon`), in bytes; 0 where `/proc` does not say.
    pub(super) anonymous: u64,
    /// The most memory it had mapped and present (`VmHWM`), page cache of its files included, in bytes.
    pub(super) resident: u64,
}

/// Runs a command with its output in the file `log`.
///
/// # Errors
/// It does not start, or its exit status is not 0; the message has the end of what it printed.
pub(super) fn timed(command: &mut Command, log: &Path) -> Result<Run> {
    let output = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let (id, done) = (child.id(), AtomicBool::new(false));
    let (status, run) = thread::scope(|scope| {
        let sampler = scope.spawn(|| peaks(id, &done));
        let status = child.wait();
        let seconds = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        let (anonymous, resident) = sampler.join().unwrap_or_default();
        (status, Run { seconds, anonymous, resident })
    });
    let status = status?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        bail!("`{}` failed: {status}\n{end}", shown(command));
    }
    Ok(run)
}

fn peaks(id: u32, done: &AtomicBool) -> (u64, u64) {
    let (mut anonymous, mut resident) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        anonymous = anonymous.max(bytes(&status, "RssAnon:"));
        resident = resident.max(bytes(&status, "VmHWM:"));
        thread::sleep(INTERVAL);
    }
    (anonymous, resident)
}

/// The value of a line of `/proc/PID/status`, which is in KiB.
fn bytes(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|v| v.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The middle of some figures, the mean of the two middle ones of an even number; NaN of none.
pub(super) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// The least of some figures; infinite of none.
pub(super) fn best(figures: impl IntoIterator<Item = f64>) -> f64 {
    figures.into_iter().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    //! A process of known length, and lines as the kernel writes them.
    use super::*;

    #[test]
    fn status_lines_are_read() {
        let status = "VmHWM:\t    1616 kB\nRssAnon:\t     116 kB\n";
        assert_eq!((bytes(status, "RssAnon:"), bytes(status, "VmHWM:"), bytes("", "VmHWM:")), (118_784, 1_654_784, 0));
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!((median([3.0, 1.0, 2.0]), median([4.0, 1.0])), (2.0, 2.5));
        assert!(median([]).is_nan());
        assert_eq!(best([2.0, 1.0]), 1.0);
    }

    #[test]
    fn a_process_is_timed_and_its_memory_seen() {
        let folder = tempfile::tempdir().unwrap();
        let run = timed(Command::new("sleep").arg("0.1"), &folder.path().join("log")).unwrap();
        assert!(run.seconds >= 0.1, "{run:?}");
        assert_eq!(run.resident > 0, cfg!(target_os = "linux"));
    }

    #[test]
    fn a_failure_shows_what_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        let error = timed(Command::new("sh").args(["-c", "echo why; exit 2"]), &folder.path().join("log"));
        assert!(error.unwrap_err().to_string().contains("why"));
    }
}
