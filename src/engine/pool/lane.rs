//! One model's place in a pool: where its jobs wait, and whoever waits for their results.

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::{Job, PoolError, Shared, Task};

/// One model's place in a pool.
pub struct Lane<J: Job = Task> {
    pub(super) id: u64,
    /// Jobs that may wait in this lane.
    pub(super) capacity: usize,
    pub(super) shared: Arc<Shared<J>>,
}

impl<J: Job> fmt::Debug for Lane<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Lane {
    /// Runs `work` on one of the pool's threads and returns its result.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue back; work that runs already runs on, its result is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let (sender, receiver) = oneshot::channel();
        let _place = self.submit(Box::new(move || {
            if !sender.is_closed() {
                let _ = sender.send(work());
            }
        }))?;
        self.received(receiver.await, None)
    }
}

impl<J: Job> Lane<J> {
    /// Queues `job`.
    pub fn submit(&self, job: J) -> Result<Place<'_, J>, PoolError> {
        let mut state = self.shared.state();
        let number = state.push(self.id, self.capacity, job)?;
        drop(state);
        self.shared.work.notify_one();
        Ok(Place { lane: self, number })
    }

    /// Waits until `deadline` for the result that a job of this lane sends.
    pub async fn result<T>(&self, receiver: oneshot::Receiver<T>, deadline: Instant) -> Result<T, PoolError> {
        let received = timeout_at(deadline, receiver).await.map_err(|_| PoolError::Deadline)?;
        self.received(received, Some(deadline))
    }

    /// A job that sends nothing has been dropped: by the end of the pool, for its deadline, or by its own panic.
    fn received<T>(&self, received: Result<T, RecvError>, deadline: Option<Instant>) -> Result<T, PoolError> {
        received.map_err(|_| {
            if self.shared.state().stopping {
                PoolError::Stopping
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                PoolError::Deadline
            } else {
                PoolError::Panicked
            }
        })
    }
}

impl<J: Job> Drop for Lane<J> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let abandoned = state.remove_lane(self.id);
        drop(state);
        drop(abandoned);
    }
}

/// A job's place in its lane. Dropping it gives the place back when the job still waits.
#[must_use]
pub struct Place<'a, J: Job> {
    lane: &'a Lane<J>,
    number: u64,
}

impl<J: Job> Drop for Place<'_, J> {
    fn drop(&mut self) {
        let waiting = self.lane.shared.state().remove(self.lane.id, self.number);
        drop(waiting);
    }
}
