//! Thread pools that share their threads fairly between lanes.
//!
//! Each model has its own lane. A free thread takes the next job of the lane that has waited
//! longest since its last job, so a model with a thousand requests a second does not delay a model
//! with one. A pool has `cores` threads for any lane, and `spare` threads for lanes without a
//! running job (`schedule.rs`): when slow runs hold all the cores, another model shares the cores
//! at once instead of waiting for a run to end.
//!
//! A running job may take more jobs of its lane and do them together ([`Dispatch`]); this is how
//! requests are batched. Loads and unloads use the same pools (one pool each, with one lane), so
//! their number is limited and they never use the threads that answer requests.
//!
//! A job that does not end can be [given up](Slot::give_up): the pool stops counting its thread and
//! starts a replacement; the old thread ends with the job (`seat.rs`).
//!
//! Invariants:
//! - The lock is held to move jobs and numbers, never while a job runs.
//! - A job whose [`lane::QueuePlace`] was dropped before a thread took it never starts.
//! - A panic ends the job, not the thread.

mod lane;
mod policy;
mod schedule;
mod seat;
#[cfg(test)]
mod tests;
mod turn;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::thread::gettid;

use crate::engine::memory::allocator::Arena;

use schedule::Schedule;
use seat::SlotEnd;

pub use lane::Lane;
pub use schedule::Queued;
pub use seat::{GiveUp, Slot};
pub use turn::{CoreUse, Dispatch};

/// Reason why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("{waiting} requests are already waiting for this model; try again later, or raise --queue")]
    QueueFull { waiting: usize },
    #[error("the deadline passed")]
    Deadline,
    #[error("the job panicked")]
    Panicked,
    #[error("the server is stopping")]
    Stopping,
}

/// The number and the properties of a pool's threads.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    /// Threads for any lane.
    pub cores: usize,
    /// Additional threads, for lanes without a running job.
    pub spare: usize,
    /// Stack size of each thread in bytes; the system maps only what is used.
    pub stack: usize,
    /// Arena for the threads' allocations; `None` for the default one.
    pub arena: Option<Arena>,
    /// Niceness from 0 to 19: how much the threads yield to others when the cores are busy.
    pub nice: i32,
    /// Whether the threads interrupt no others when they wake, for jobs of milliseconds.
    pub is_batch: bool,
}

/// Rust's default stack size for threads.
pub const DEFAULT_STACK: usize = 2 << 20;

/// A job that waits in a lane.
pub trait Job: Send + Sized + 'static {
    /// Does the job, and any other jobs that it takes from its lane.
    fn run(queued: Queued<Self>, dispatch: &Dispatch<Self>);
}

/// A job that is a plain function.
pub type Task = Box<dyn FnOnce() + Send>;

impl Job for Task {
    fn run(queued: Queued<Self>, _: &Dispatch<Self>) {
        (queued.job)();
    }
}

/// A running pool. When it is dropped, each thread ends after its current job.
pub struct Pool<J: Job = Task> {
    shared: Arc<PoolShared<J>>,
}

impl<J: Job> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.shared.threads)
            .finish_non_exhaustive()
    }
}

struct PoolShared<J> {
    name: String,
    threads: Threads,
    state: Mutex<Schedule<J>>,
    work: Condvar,
}

impl<J: Job> Pool<J> {
    /// Starts the threads with the name `name`.
    pub fn start(name: &str, threads: Threads) -> std::io::Result<Self> {
        let shared = Arc::new(PoolShared {
            name: name.to_owned(),
            threads,
            state: Mutex::default(),
            work: Condvar::new(),
        });
        for _ in 0..threads.cores + threads.spare {
            shared.spawn()?;
        }
        Ok(Self { shared })
    }

    /// Adds a lane in which up to `capacity` jobs may wait.
    pub fn lane(&self, capacity: usize) -> Lane<J> {
        Lane {
            id: self.shared.state().add_lane(),
            capacity,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Number of threads for any lane.
    pub fn cores(&self) -> usize {
        self.shared.threads.cores
    }

    /// Number of running jobs and of waiting jobs.
    pub fn load(&self) -> (usize, usize) {
        self.shared.state().load()
    }
}

impl<J: Job> Drop for Pool<J> {
    fn drop(&mut self) {
        // Dropping a job notifies its caller, which must not happen under the lock.
        let dropped = self.shared.state().stop();
        drop(dropped);
        self.shared.work.notify_all();
    }
}

impl<J: Job> PoolShared<J> {
    fn state(&self) -> MutexGuard<'_, Schedule<J>> {
        // Jobs run outside of the lock, and nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread.
    fn spawn(self: &Arc<Self>) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name(self.name.clone())
            .stack_size(self.threads.stack)
            .spawn(move || {
                // On Linux, these affect only this thread. On failure, all threads stay equal.
                let _ = rustix::process::nice(shared.threads.nice);
                if shared.threads.is_batch {
                    let _ = policy::set_batch();
                }
                if let Some(Err(error)) = shared.threads.arena.map(Arena::enter) {
                    tracing::debug!(%error, "failed to enter the allocation arena");
                }
                shared.serve();
            })
            .map(drop)
    }

    /// The main loop of a thread: takes jobs until the pool stops or a replacement has started.
    fn serve(self: &Arc<Self>) {
        let thread = gettid();
        let mut state = self.state();
        while !state.stopping {
            let Some((lane, job)) = state.take(self.threads, Instant::now()) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // One job's end can make two jobs startable: the next of this lane, and one of another
            // lane that waited for a core. So each thread that starts a job wakes another thread.
            if state.next_startable(self.threads).is_some() {
                self.work.notify_one();
            }
            drop(state);
            let dispatch = Dispatch::new(Arc::new(Slot::new(Arc::clone(self), lane, thread)));
            // A panic must not end the thread. It drops the job, which notifies the caller.
            let _ = catch_unwind(AssertUnwindSafe(|| J::run(job, &dispatch)));
            state = self.state();
            if dispatch.slot().leave(&mut state) == SlotEnd::Replaced {
                return;
            }
        }
    }
}
