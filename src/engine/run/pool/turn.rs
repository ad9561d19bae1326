//! A running job's access to the jobs that wait behind it in its lane.
//!
//! A dispatch ends with its job, whatever the result. Jobs that it took and did not put back count
//! as done.

use std::sync::Arc;

use super::schedule::Queued;
use super::{Job, Slot};

/// The part of the cores that the jobs use when a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreUse {
    /// This job is the only one, and there are several cores.
    Alone,
    /// Neither: other jobs run or ran shortly before, or there is one core.
    Part,
    /// There is work for every one of several cores.
    All,
}

/// A lane's dispatch on a thread, as the running job sees it.
pub struct Dispatch<J: Job>(Arc<Slot<J>>);

impl<J: Job> Dispatch<J> {
    pub(super) fn new(slot: Arc<Slot<J>>) -> Self {
        Self(slot)
    }

    /// The same dispatch as other threads see it.
    pub fn slot(&self) -> &Arc<Slot<J>> {
        &self.0
    }

    /// Maximum number of jobs in this dispatch, including the first, so that the cores have equal
    /// work.
    pub fn share(&self) -> usize {
        let shared = &self.0.shared;
        shared.state().share(self.0.lane, shared.threads.cores)
    }

    /// Returns the part of the cores that the dispatches of all threads and waiting jobs use.
    pub fn core_use(&self) -> CoreUse {
        let shared = &self.0.shared;
        shared.state().core_use(shared.threads.cores)
    }

    /// Takes the lane's next waiting job.
    pub fn take(&self) -> Option<Queued<J>> {
        let mut state = self.0.shared.state();
        let queued = state.take_next(self.0.lane)?;
        self.0.add_job(&mut state);
        Some(queued)
    }

    /// Returns jobs to their places in the queue.
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
