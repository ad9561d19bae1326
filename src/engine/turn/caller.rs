//! Who waits for a run: it goes on for as long as somebody does, and is ended by the last one to leave.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::request::{Pending, guarded};
use crate::engine::InferenceError;
use crate::engine::session::Cancel;
use crate::engine::stuck::Tracked;

/// Whether somebody waits for a request, and the run that it is part of.
#[derive(Debug, Default)]
pub(super) struct Caller(Mutex<CallerState>);

#[derive(Debug, Default)]
pub(super) struct CallerState {
    pub(super) left: bool,
    run: Option<Arc<Run>>,
}

impl Caller {
    pub(super) fn state(&self) -> MutexGuard<'_, CallerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's hold on its request. Dropping it says that nobody waits any more.
#[derive(Debug)]
#[must_use]
pub struct Hold(pub(super) Arc<Caller>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.left = true;
        let run = state.run.take();
        drop(state);
        if let Some(run) = run
            && run.leave()
        {
            // It may be inside an operator that takes no notice.
            Arc::clone(&run.tracked).told_to_end();
        }
    }
}

/// A run that goes on for as long as somebody waits for one of its requests.
pub(super) struct Run {
    cancel: Cancel,
    waiting: AtomicUsize,
    tracked: Arc<Tracked>,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("cancel", &self.cancel)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// `None` when nobody waits.
    pub(super) fn start<'a>(
        requests: impl IntoIterator<Item = &'a Pending>,
        tracked: Arc<Tracked>,
    ) -> Result<Option<Arc<Self>>, InferenceError> {
        let run = Arc::new(Self {
            cancel: Cancel::new()?,
            tracked,
            // Counted among those who wait until all of them are in.
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

    /// Does `work` as the run, which ends with it.
    pub(super) fn execute<T>(
        &self,
        work: impl FnOnce(&Cancel) -> Result<T, InferenceError>,
    ) -> Result<T, InferenceError> {
        let result = guarded(|| work(&self.cancel));
        self.tracked.ended();
        result
    }

    /// One fewer waits. Returns whether none does now.
    fn leave(&self) -> bool {
        let is_last = self.waiting.fetch_sub(1, Ordering::AcqRel) == 1;
        if is_last {
            self.cancel.cancel();
        }
        is_last
    }
}
