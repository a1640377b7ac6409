//! A flag that cancels work.

use crate::Progress;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels work once a shared flag is set. Cheap to clone; for work that keeps it, or that shows no progress.
///
/// The default is never cancelled.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Option<Arc<AtomicBool>>);

impl CancelToken {
    /// Cancelled once `flag` is true, which any thread or signal handler may set.
    pub fn from_flag(flag: Arc<AtomicBool>) -> CancelToken {
        CancelToken(Some(flag))
    }

    /// Whether the flag is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

impl Progress for CancelToken {
    fn is_cancelled(&self) -> bool {
        CancelToken::is_cancelled(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_cancelled_with_its_original() {
        let flag = Arc::new(AtomicBool::new(false));
        let token = CancelToken::from_flag(Arc::clone(&flag));
        let clone = token.clone();
        assert!(!clone.is_cancelled());
        flag.store(true, Ordering::Relaxed);
        let progress: &dyn Progress = &clone;
        assert!(progress.is_cancelled() && token.is_cancelled());
        assert!(!CancelToken::default().is_cancelled());
    }
}
