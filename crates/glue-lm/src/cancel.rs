//! Asking long work to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancellation, checked between passes of a model. Never by default.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Option<Arc<AtomicBool>>);

impl Cancel {
    /// Wished for once `flag` is true, which any thread or signal handler may set.
    pub fn when(flag: Arc<AtomicBool>) -> Cancel {
        Cancel(Some(flag))
    }

    /// Whether the work is cancelled.
    pub fn is_wished(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// # Errors
    /// [`LmError::Cancelled`](crate::LmError::Cancelled) when it is.
    pub(crate) fn check(&self) -> Result<(), crate::LmError> {
        if self.is_wished() { Err(crate::LmError::Cancelled) } else { Ok(()) }
    }
}
