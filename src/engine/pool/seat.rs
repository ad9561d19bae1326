//! A turn as other threads see it. They can give it up when its job does not end.
//!
//! A thread cannot be ended from outside. So a turn that is given up keeps its thread, and the pool stops counting both:
//! another thread takes the place, the lane may start other jobs, and the old thread ends with its job. Until then others
//! go first.
//!
//! What always holds: a turn is counted as long as it is neither given up nor over; the pool has as many threads as it was
//! started with, those of given-up turns apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::{Pid, setpriority_process};

use super::schedule::State;
use super::{Job, Shared};

/// The niceness of a thread whose turn was given up: about a tenth of what other threads get of a busy processor. At less,
/// a run that holds a model's memory would hardly come to its end on a busy machine.
const GIVEN_UP: i32 = 10;

/// A turn on a thread.
pub struct Seat<J> {
    pub(super) shared: Arc<Shared<J>>,
    pub(super) lane: u64,
    thread: Pid,
    /// Jobs that the pool counts as this turn's. Read and changed under the pool's lock, as the flags below are.
    jobs: AtomicUsize,
    is_given_up: AtomicBool,
    is_replaced: AtomicBool,
}

/// How a turn left the pool's count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Its thread goes on with the next one.
    AtItsEnd,
    /// Another thread has the place of its own.
    Replaced,
}

/// A turn whose job type does not matter.
pub trait GiveUp: Send + Sync {
    /// Stops counting the turn; with `replace`, starts a thread in the place of its own. Returns whether one was started.
    ///
    /// The caller makes sure that the turn is not over, and does not end meanwhile.
    fn give_up(&self, replace: bool) -> bool;
}

impl<J: Job> Seat<J> {
    pub(super) fn new(shared: Arc<Shared<J>>, lane: u64, thread: Pid) -> Self {
        Self {
            shared,
            lane,
            thread,
            jobs: AtomicUsize::new(1),
            is_given_up: AtomicBool::new(false),
            is_replaced: AtomicBool::new(false),
        }
    }

    /// Counts one more job as this turn's. The caller holds the lock of the pool that `_state` is of.
    pub(super) fn add_job(&self, _state: &mut State<J>) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Self::add_job`], for `count` jobs that wait again.
    pub(super) fn remove_jobs(&self, _state: &mut State<J>, count: usize) {
        self.jobs.fetch_sub(count, Ordering::Relaxed);
    }

    /// Ends the turn, unless it has been given up.
    pub(super) fn leave(&self, state: &mut State<J>) -> Left {
        let jobs = self.jobs.swap(0, Ordering::Relaxed);
        if self.is_given_up.load(Ordering::Relaxed) {
            state.ended_late(jobs);
        } else {
            state.ended(self.lane, jobs);
        }
        if self.is_replaced.load(Ordering::Relaxed) {
            Left::Replaced
        } else {
            Left::AtItsEnd
        }
    }
}

impl<J: Job> GiveUp for Seat<J> {
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
                .inspect_err(|error| tracing::error!(%error, "no thread takes the place of one whose job does not end"))
                .is_ok();
        if is_replaced {
            let state = self.shared.state();
            self.is_replaced.store(true, Ordering::Relaxed);
            drop(state);
            // Never raised again: the thread ends with the job.
            if let Err(error) = setpriority_process(Some(self.thread), GIVEN_UP) {
                tracing::debug!(%error, "lower the priority of a thread whose job does not end");
            }
        }
        self.shared.work.notify_one();
        is_replaced
    }
}
