//! Being told how far the work is, and asked whether it should go on.

use crate::error::RouterError;

/// Is told how far the work is, from any thread, and asked whether it should go on.
pub trait Watch: Sync {
    /// A part of the work begins, with this many steps.
    fn begins(&self, part: &str, steps: usize) {
        let _ = (part, steps);
    }

    /// This many more steps of it are done.
    fn advanced(&self, steps: usize) {
        let _ = steps;
    }

    /// Whether the work should end with [`RouterError::Stopped`]. Asked between passes of a model and between epochs.
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// # Errors
/// [`RouterError::Stopped`] when `watch` wishes so.
pub(crate) fn go_on(watch: &dyn Watch) -> Result<(), RouterError> {
    if watch.is_stopped() { Err(RouterError::Stopped) } else { Ok(()) }
}
