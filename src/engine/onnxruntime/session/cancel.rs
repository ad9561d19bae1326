//! Cancellation of a run that no caller waits for any more.

use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::RunOptions;

use super::error::{RunError, run_error};
use crate::engine::onnxruntime::raw;

/// Cancels a run from another thread, at its next operator.
pub struct Cancel {
    pub(super) options: RunOptions,
    /// Stored here, because ONNX Runtime's message for a cancelled run could also be a node's name.
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

    /// Creates a `Cancel` whose run writes its profile to a file that starts with `prefix`.
    pub fn with_profile(prefix: &CStr) -> Result<Self, RunError> {
        let mut cancel = Self::new()?;
        raw::profile(&mut cancel.options, prefix).map_err(|error| run_error(&error))?;
        Ok(cancel)
    }

    pub fn cancel(&self) {
        // The call only sets a flag. There is nothing to do about an error.
        self.cancelled.store(true, Ordering::Relaxed);
        let _ = self.options.terminate();
    }

    /// Resets a cancelled `Cancel` for another run.
    pub fn reset(&self) {
        let _ = self.options.unterminate();
        self.cancelled.store(false, Ordering::Relaxed);
    }
}
