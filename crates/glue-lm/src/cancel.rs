//! Ending between passes of a model.

use crate::LmError;
use glue_progress::CancelToken;

/// # Errors
/// [`LmError::Cancelled`] once `cancel` is cancelled.
pub(crate) fn check(cancel: &CancelToken) -> Result<(), LmError> {
    if cancel.is_cancelled() { Err(LmError::Cancelled) } else { Ok(()) }
}
