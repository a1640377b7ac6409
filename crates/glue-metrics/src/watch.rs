//! Progress and cancellation of a pass over checkpoints.

/// Is told how far a pass is, from any thread, and asked whether it should go on.
pub trait Watch: Sync {
    /// The pass will read about this many bytes of tensors; said once, before the first is read.
    fn begins(&self, bytes: u64);

    /// This tensor is at work.
    fn works_on(&self, tensor: &str);

    /// This many more bytes have been read and compared.
    fn compared(&self, bytes: u64);

    /// Whether the pass should end; it then returns [`MetricsError::Stopped`](crate::MetricsError::Stopped).
    fn is_stopped(&self) -> bool;
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn begins(&self, _: u64) {}
    fn works_on(&self, _: &str) {}
    fn compared(&self, _: u64) {}
    fn is_stopped(&self) -> bool {
        false
    }
}
