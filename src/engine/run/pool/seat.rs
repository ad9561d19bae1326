//! A dispatch as other threads see it. They can give it up when its job does not end.
//!
//! A thread cannot be ended from outside. So a dispatch that is given up keeps its thread, and the
//! pool stops counting both: a replacement thread starts, the lane may start other jobs, and the
//! old thread ends with its job. Until then the old thread runs with a lower priority.
//!
//! Invariants:
//! - A dispatch is counted until it is given up or ends.
//! - The pool has as many threads as it was started with, not counting those of dispatches that
//!   were given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Pid, setpriority_process};

use super::schedule::Schedule;
use super::{Job, PoolShared};

/// Niceness of a thread whose dispatch was given up: about a tenth of the share of other threads on
/// a busy core. With less, a run that holds a model's memory would hardly ever end on a busy
/// machine.
const GIVEN_UP: i32 = 10;

/// A dispatch of a thread.
pub struct Slot<J> {
    pub(super) shared: Arc<PoolShared<J>>,
    pub(super) lane: u64,
    thread: Pid,
    /// Jobs that the pool counts for this dispatch. Like the flags below, read and changed under
    /// the pool's lock.
    jobs: AtomicUsize,
    is_given_up: AtomicBool,
    is_replaced: AtomicBool,
}

/// State of a slot after its dispatch has left the pool's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotEnd {
    /// The thread continues with the next dispatch.
    Kept,
    /// A replacement thread has started; this thread ends.
    Replaced,
}

/// A dispatch with any type of job.
pub trait GiveUp: Send + Sync {
    /// Stops counting the dispatch; with `replace`, starts a replacement thread. Returns whether it
    /// started one.
    ///
    /// The caller must ensure that the dispatch has not ended and does not end meanwhile.
    fn give_up(&self, replace: bool) -> bool;
}

impl<J: Job> Slot<J> {
    pub(super) fn new(shared: Arc<PoolShared<J>>, lane: u64, thread: Pid) -> Self {
        Self {
            shared,
            lane,
            thread,
            jobs: AtomicUsize::new(1),
            is_given_up: AtomicBool::new(false),
            is_replaced: AtomicBool::new(false),
        }
    }

    /// Counts one more job for this dispatch. The caller holds the pool's lock, as `_state` proves.
    pub(super) fn add_job(&self, _state: &mut Schedule<J>) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `count` jobs less, because they wait in the queue again.
    pub(super) fn remove_jobs(&self, _state: &mut Schedule<J>, count: usize) {
        self.jobs.fetch_sub(count, Ordering::Relaxed);
    }

    /// Ends the dispatch, unless it was given up.
    pub(super) fn leave(&self, state: &mut Schedule<J>) -> SlotEnd {
        let jobs = self.jobs.swap(0, Ordering::Relaxed);
        if self.is_given_up.load(Ordering::Relaxed) {
            state.ended_late(jobs);
        } else {
            state.ended(self.lane, jobs);
        }
        if self.is_replaced.load(Ordering::Relaxed) {
            SlotEnd::Replaced
        } else {
            SlotEnd::Kept
        }
    }
}

impl<J: Job> GiveUp for Slot<J> {
    fn give_up(&self, replace: bool) -> bool {
        let mut state = self.shared.state();
        state.ended(self.lane, self.jobs.swap(0, Ordering::Relaxed));
        self.is_given_up.store(true, Ordering::Relaxed);
        let replace = replace && !state.stopping;
        drop(state);
        let is_replaced = replace
            && self
                .shared
                .spawn()
                .inspect_err(|error| tracing::error!(%error, "failed to start a replacement for a thread whose job does not end"))
                .is_ok();
        if is_replaced {
            let state = self.shared.state();
            self.is_replaced.store(true, Ordering::Relaxed);
            drop(state);
            // The priority is never raised again: the thread ends with the job.
            if let Err(error) = setpriority_process(Some(self.thread), GIVEN_UP) {
                tracing::debug!(%error, "failed to lower the priority of a thread whose job does not end");
            }
        }
        self.shared.work.notify_one();
        is_replaced
    }
}
