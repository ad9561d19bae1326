//! The callers of a run: it continues while a caller waits; the last caller to leave cancels it.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::request::{PendingRequest, guarded};
use crate::engine::InferenceError;
use crate::engine::onnxruntime::session::Cancel;
use crate::engine::run::stuck::TrackedRun;

/// State of the caller of a request, and the run that the request is part of.
#[derive(Debug, Default)]
pub(super) struct Caller(Mutex<CallerState>);

#[derive(Debug, Default)]
pub(super) struct CallerState {
    pub(super) left: bool,
    run: Option<Arc<CancellableRun>>,
}

impl Caller {
    pub(super) fn state(&self) -> MutexGuard<'_, CallerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's handle to its request. Dropping it means that the caller does not wait any more.
#[derive(Debug)]
#[must_use]
pub struct CallerHandle(pub(super) Arc<Caller>);

impl Drop for CallerHandle {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.left = true;
        let run = state.run.take();
        drop(state);
        if let Some(run) = run
            && run.leave()
        {
            // The run may be inside an operator that cannot be interrupted.
            Arc::clone(&run.tracked).cancel_requested();
        }
    }
}

/// A run that continues while a caller waits for one of its requests.
pub(super) struct CancellableRun {
    cancel: Cancel,
    waiting: AtomicUsize,
    tracked: Arc<TrackedRun>,
}

impl fmt::Debug for CancellableRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancellableRun")
            .field("cancel", &self.cancel)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl CancellableRun {
    /// Registers the run with the callers. Returns `None` if no caller waits.
    pub(super) fn start<'a>(
        requests: impl IntoIterator<Item = &'a PendingRequest>,
        tracked: Arc<TrackedRun>,
    ) -> Result<Option<Arc<Self>>, InferenceError> {
        let run = Arc::new(Self {
            cancel: Cancel::new()?,
            tracked,
            // The run counts as a waiting caller until all requests are registered.
            waiting: AtomicUsize::new(1),
        });
        for request in requests {
            let mut state = request.caller.state();
            if !state.left {
                run.waiting.fetch_add(1, Ordering::Relaxed);
                state.run = Some(Arc::clone(&run));
            }
        }
        let is_wanted = !run.leave();
        Ok(is_wanted.then_some(run))
    }

    /// Does `work` as this run, which then ends.
    pub(super) fn execute<T>(
        &self,
        work: impl FnOnce(&Cancel) -> Result<T, InferenceError>,
    ) -> Result<T, InferenceError> {
        let result = guarded(|| work(&self.cancel));
        self.tracked.ended();
        result
    }

    /// Counts one caller less. Returns whether none is left.
    fn leave(&self) -> bool {
        let is_last = self.waiting.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            self.cancel.cancel();
        }
        is_last
    }
}
