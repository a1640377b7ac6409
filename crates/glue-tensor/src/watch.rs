//! Watching a checkpoint being written.

/// Is told how far a run is that writes a checkpoint, from any thread, and asked whether it should go on.
pub trait Watch: Sync {
    /// This many more bytes of the output's tensors have been written.
    fn wrote(&self, bytes: u64);

    /// This tensor is at work.
    fn works_on(&self, tensor: &str);

    /// Whether the run should end, leaving nothing behind.
    fn is_stopped(&self) -> bool;
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn wrote(&self, _: u64) {}
    fn works_on(&self, _: &str) {}
    fn is_stopped(&self) -> bool {
        false
    }
}
