//! Being told how far the work is, and asked whether it should go on.

/// Is told how far the work is, from any thread, and asked whether it should go on.
pub trait Watch: Sync {
    /// A pass begins, the first of all being number 1, over this many sequences.
    fn begins(&self, pass: usize, passes: usize, sequences: usize) {
        let _ = (pass, passes, sequences);
    }

    /// This many more sequences of it are done.
    fn advanced(&self, sequences: usize) {
        let _ = sequences;
    }

    /// Whether the work should end with [`CalibrateError::Stopped`](crate::CalibrateError::Stopped). Asked before
    /// each batch.
    fn is_stopped(&self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}
