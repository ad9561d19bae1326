//! A model's lane in a pool: the queue of its jobs, and the results of these jobs.

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use super::{Job, PoolError, PoolShared, Task};

/// A model's lane in a pool.
pub struct Lane<J: Job = Task> {
    pub(super) id: u64,
    /// Maximum number of waiting jobs.
    pub(super) capacity: usize,
    pub(super) shared: Arc<PoolShared<J>>,
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
    /// Dropping the future removes waiting work from the queue. Work that already runs continues,
    /// and its result is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let (sender, receiver) = oneshot::channel();
        // The records of the log on that thread belong to the same operation as those on this one.
        let span = Span::current();
        let _place = self.submit(Box::new(move || {
            if !sender.is_closed() {
                let _ = sender.send(span.in_scope(work));
            }
        }))?;
        self.received(receiver.await, None)
    }
}

impl<J: Job> Lane<J> {
    /// Queues `job`. It does not start once its place is dropped.
    pub fn submit(&self, job: J) -> Result<QueuePlace<'_, J>, PoolError> {
        let number = self.push(job)?;
        Ok(QueuePlace { lane: self, number })
    }

    /// Queues `job`, for whose result no caller waits.
    pub fn spawn(&self, job: J) -> Result<(), PoolError> {
        self.push(job).map(drop)
    }

    fn push(&self, job: J) -> Result<u64, PoolError> {
        let mut state = self.shared.state();
        let number = state.push(self.id, self.capacity, job)?;
        drop(state);
        self.shared.work.notify_one();
        Ok(number)
    }

    /// Waits until `deadline` for the result of a job of this lane.
    pub async fn result<T>(&self, receiver: oneshot::Receiver<T>, deadline: Instant) -> Result<T, PoolError> {
        let received = timeout_at(deadline, receiver).await.map_err(|_| PoolError::Deadline)?;
        self.received(received, Some(deadline))
    }

    /// Finds the reason when a job was dropped without a result: the pool stopped, the deadline
    /// passed, or the job panicked.
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

/// A job's place in the queue of its lane. Dropping it removes the job if it still waits.
#[must_use]
pub struct QueuePlace<'a, J: Job> {
    lane: &'a Lane<J>,
    number: u64,
}

impl<J: Job> Drop for QueuePlace<'_, J> {
    fn drop(&mut self) {
        let waiting = self.lane.shared.state().remove(self.lane.id, self.number);
        drop(waiting);
    }
}
