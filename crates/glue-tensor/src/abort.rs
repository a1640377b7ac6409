//! Points at which a test can end the process.
//!
//! Whatever must survive a crash is written in steps: a file, its sync, a renaming, a line of a journal. Each step
//! calls [`abort_point`]. In a build with debug assertions, `GLUE_ABORT_AT=N` in the environment ends the process by
//! [`std::process::abort`] at the N-th point that it passes, counted from 1 over all threads, and
//! `GLUE_ABORT_TRACE=FILE` appends the name of each point to a file. Other builds have neither.

use std::io::Write;

/// A step that must be survived is done, or is about to be done. `name` says which.
#[inline]
pub fn abort_point(name: &'static str) {
    if cfg!(debug_assertions) && points::pass(name) {
        std::process::abort();
    }
}

/// As [`abort_point`], in the middle of writing `bytes`: the process ends after the first half of them.
#[inline]
pub fn abort_midway(name: &'static str, file: &mut impl Write, bytes: &[u8]) {
    if cfg!(debug_assertions) && points::pass(name) {
        let _ = file.write_all(&bytes[..bytes.len() / 2]);
        std::process::abort();
    }
}

mod points {
    //! Counting.
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static ABORT_AT: OnceLock<Option<u64>> = OnceLock::new();

    /// Counts a point; whether it is the one to end at.
    pub(super) fn pass(name: &str) -> bool {
        let abort_at = *ABORT_AT.get_or_init(|| std::env::var("GLUE_ABORT_AT").ok()?.parse().ok());
        if let Some(path) = std::env::var_os("GLUE_ABORT_TRACE")
            && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
        {
            // One call, so that lines of several threads do not mix.
            let _ = file.write_all(format!("{name}\n").as_bytes());
        }
        abort_at == Some(PASSED.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
