//! A lane's turn on a thread: what a job that runs may do with those that wait behind it.
//!
//! A turn ends when its job does, whatever came of it: what it took and did not put back counts as done.

use std::cell::Cell;

use super::schedule::Queued;
use super::{Job, Shared};

/// A lane's turn on a thread, as seen by the job that has it.
pub struct Turn<'a, J: Job> {
    shared: &'a Shared<J>,
    lane: u64,
    /// Jobs taken beside the first.
    taken: Cell<usize>,
}

impl<'a, J: Job> Turn<'a, J> {
    pub(super) fn new(shared: &'a Shared<J>, lane: u64) -> Self {
        Self {
            shared,
            lane,
            taken: Cell::new(0),
        }
    }

    /// How many jobs the turn has had.
    pub(super) fn jobs(&self) -> usize {
        1 + self.taken.get()
    }

    /// How many jobs this turn should have at most, the first one included, for the cores to have equal work.
    pub fn share(&self) -> usize {
        self.shared.state().share(self.lane, self.shared.threads.cores)
    }

    /// Takes the lane's next waiting job.
    pub fn take(&self) -> Option<Queued<J>> {
        let queued = self.shared.state().take_next(self.lane)?;
        self.taken.update(|taken| taken + 1);
        Some(queued)
    }

    /// Lets jobs that were taken wait on, where they were.
    pub fn put_back(&self, jobs: Vec<Queued<J>>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.shared.state();
        if state.stopping {
            return;
        }
        self.taken.update(|taken| taken - jobs.len());
        state.put_back(self.lane, jobs);
        drop(state);
        self.shared.work.notify_one();
    }
}
