//! Progress and stopping.

/// Is told how far the work is, from any thread, and asked whether it should go on.
pub trait Watch: Sync {
    /// This tensor is at work.
    fn works_on(&self, tensor: &str);

    /// A tensor with this many elements is done.
    fn done(&self, elements: u64);

    /// Whether the work should end with [`crate::LoraError::Stopped`].
    fn is_stopped(&self) -> bool;
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn works_on(&self, _: &str) {}
    fn done(&self, _: u64) {}
    fn is_stopped(&self) -> bool {
        false
    }
}
