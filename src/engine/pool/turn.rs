//! A lane's turn on a thread: what a job that runs may do with those that wait behind it.
//!
//! A turn ends when its job does, whatever came of it: what it took and did not put back counts as done.

use std::sync::Arc;

use super::schedule::Queued;
use super::{Job, Seat};

/// A lane's turn on a thread, as seen by the job that has it.
pub struct Turn<J: Job>(Arc<Seat<J>>);

impl<J: Job> Turn<J> {
    pub(super) fn new(seat: Arc<Seat<J>>) -> Self {
        Self(seat)
    }

    /// The turn as other threads see it.
    pub fn seat(&self) -> &Arc<Seat<J>> {
        &self.0
    }

    /// How many jobs this turn should have at most, the first one included, for the cores to have equal work.
    pub fn share(&self) -> usize {
        let shared = &self.0.shared;
        shared.state().share(self.0.lane, shared.threads.cores)
    }

    /// Takes the lane's next waiting job.
    pub fn take(&self) -> Option<Queued<J>> {
        let mut state = self.0.shared.state();
        let queued = state.take_next(self.0.lane)?;
        self.0.add_job(&mut state);
        Some(queued)
    }

    /// Lets jobs that were taken wait on, where they were.
    pub fn put_back(&self, jobs: Vec<Queued<J>>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.0.shared.state();
        if state.stopping {
            return;
        }
        self.0.remove_jobs(&mut state, jobs.len());
        state.put_back(self.0.lane, jobs);
        drop(state);
        self.0.shared.work.notify_one();
    }
}
