//! Ending a run that nobody waits for any more.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::RunOptions;

use super::error::{RunError, run_error};

/// Ends a run from another thread, at its next operator.
pub struct Cancel {
    pub(super) options: RunOptions,
    /// Remembered here, because what ONNX Runtime says of a run that was ended could as well be a node's name.
    pub(super) cancelled: AtomicBool,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cancelled", &self.cancelled)
            .finish_non_exhaustive()
    }
}

impl Cancel {
    pub fn new() -> Result<Self, RunError> {
        let options = RunOptions::new().map_err(|error| run_error(&error))?;
        Ok(Self {
            options,
            cancelled: AtomicBool::new(false),
        })
    }

    pub fn cancel(&self) {
        // The call only sets a flag; it has no way to fail that anyone could act upon.
        self.cancelled.store(true, Ordering::Relaxed);
        let _ = self.options.terminate();
    }

    /// Makes a cancel that was used good for another run.
    pub fn reset(&self) {
        let _ = self.options.unterminate();
        self.cancelled.store(false, Ordering::Relaxed);
    }
}
