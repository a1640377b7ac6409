//! Progress and stopping.

/// Is told how far the work is, from any thread, and asked whether it should go on.
pub trait Watch: Sync {
    /// This tensor or group is at work.
    fn works_on(&self, what: &str);

    /// This many more bytes of the output's tensors have been written.
    fn wrote(&self, bytes: u64);

    /// A round of matching over all groups ended, of which this many changed.
    fn swept(&self, sweep: usize, changed: usize);

    /// Whether the work should end with [`crate::AlignError::Stopped`].
    fn is_stopped(&self) -> bool;
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn works_on(&self, _: &str) {}
    fn wrote(&self, _: u64) {}
    fn swept(&self, _: usize, _: usize) {}
    fn is_stopped(&self) -> bool {
        false
    }
}
