//! Signals: requests to stop, and the signal of a write beyond the file size limit.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Exit status after a signal: this plus its number, as in shells.
const BY_SIGNAL: u8 = 128;

/// A request to stop, from Ctrl-C (SIGINT), SIGTERM, or the end of the terminal (SIGHUP).
#[derive(Debug)]
pub(crate) struct Interrupt {
    stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Handles signals from now on. The first one requests a stop, the second ends the process.
    pub(crate) fn watch() -> Interrupt {
        let interrupt = Interrupt { stop: Arc::default(), signal: Arc::default() };
        for number in [SIGINT, SIGTERM, SIGHUP] {
            // A program started with `nohup` has to outlive the terminal.
            if number == SIGHUP && is_ignored(number) {
                continue;
            }
            // In this order: the first signal must find the flag unset. If a handler cannot be set, the signal ends the
            // process, and the next run cleans up.
            let status = i32::from(BY_SIGNAL) + number;
            if flag::register_conditional_shutdown(number, status, Arc::clone(&interrupt.stop)).is_ok() {
                let _ = flag::register_usize(number, Arc::clone(&interrupt.signal), number as usize);
                let _ = flag::register(number, Arc::clone(&interrupt.stop));
            }
        }
        interrupt
    }

    /// Set once a stop was requested.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The exit status after a stop.
    pub(crate) fn status(&self) -> u8 {
        match self.signal.load(Ordering::Relaxed) {
            0 => BY_SIGNAL + SIGINT as u8,
            number => BY_SIGNAL + number as u8,
        }
    }
}

/// Makes a write beyond the file size limit fail with an error instead of ending the process. Uses a handler, since an
/// ignored signal would stay ignored in child processes.
pub(crate) fn survive_file_size_limit() {
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Whether the process was started with `signal` ignored; false if unknown.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
