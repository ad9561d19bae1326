//! Threads that run jobs, fairly between lanes.
//!
//! Every model has a lane of its own. A free thread takes the next job of the lane that has waited longest since its
//! last one, so a model that is asked a thousand times a second does not delay one that is asked once. A pool has
//! `cores` threads for whoever comes first and `spare` ones for lanes of which nothing runs (`schedule.rs`): when slow
//! runs hold all the cores, a model that comes along shares them at once rather than wait for an end.
//!
//! A job that runs may take further ones of its own lane and do them with its own ([`Turn`]); that is how requests are
//! batched. The same threads-and-lanes serve loads and unloads (a pool each, one lane): bounded, and never those that
//! answer requests.
//!
//! A job that does not end can be [given up](Seat::give_up): the pool stops counting it and starts another thread in the
//! place of its own, which ends with the job (`seat.rs`).
//!
//! What always holds: the lock is held to move jobs and numbers, never while a job runs; a job whose [`lane::Place`] was
//! dropped before it was taken is not started; a panic ends the job, not the thread.

mod lane;
mod schedule;
mod seat;
#[cfg(test)]
mod tests;
mod turn;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::thread::gettid;

use super::allocator::Arena;

use schedule::State;
use seat::Left;

pub use lane::Lane;
pub use schedule::Queued;
pub use seat::{GiveUp, Seat};
pub use turn::Turn;

/// Why a job has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("{waiting} requests wait for this model already; try again later, or raise --queue")]
    QueueFull { waiting: usize },
    #[error("the deadline passed")]
    Deadline,
    #[error("the job panicked")]
    Panicked,
    #[error("the server is stopping")]
    Stopping,
}

/// How many jobs may run at once.
#[derive(Debug, Clone, Copy)]
pub struct Threads {
    /// For any lane.
    pub cores: usize,
    /// In addition, for lanes of which nothing runs.
    pub spare: usize,
    /// Bytes of stack of each; the system maps what is used.
    pub stack: usize,
    /// Where they allocate; `None` for where all threads do.
    pub arena: Option<Arena>,
    /// How much others go first, from 0 to 19, where there is not enough of the processor for all.
    pub nice: i32,
}

/// The stack that Rust gives to threads by default.
pub const DEFAULT_STACK: usize = 2 << 20;

/// What waits in a lane.
pub trait Job: Send + Sized + 'static {
    /// Does the job, and whatever it takes from its lane besides.
    fn run(queued: Queued<Self>, turn: &Turn<Self>);
}

/// A job that is all there is to it.
pub type Task = Box<dyn FnOnce() + Send>;

impl Job for Task {
    fn run(queued: Queued<Self>, _: &Turn<Self>) {
        (queued.job)();
    }
}

/// A running pool. Its threads end when it is dropped, each with the job that it has.
pub struct Pool<J: Job = Task> {
    shared: Arc<Shared<J>>,
}

impl<J: Job> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.shared.threads)
            .finish_non_exhaustive()
    }
}

struct Shared<J> {
    name: String,
    threads: Threads,
    state: Mutex<State<J>>,
    work: Condvar,
}

impl<J: Job> Pool<J> {
    /// Starts the threads, called `name`.
    pub fn start(name: &str, threads: Threads) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
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

    /// A new lane in which `capacity` jobs may wait.
    pub fn lane(&self, capacity: usize) -> Lane<J> {
        Lane {
            id: self.shared.state().add_lane(),
            capacity,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Jobs that threads have, and jobs that wait.
    pub fn load(&self) -> (usize, usize) {
        self.shared.state().load()
    }
}

impl<J: Job> Drop for Pool<J> {
    fn drop(&mut self) {
        // Dropping a job, which tells whoever waits for it, is not done under the lock.
        let dropped = self.shared.state().stop();
        drop(dropped);
        self.shared.work.notify_all();
    }
}

impl<J: Job> Shared<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        // Jobs run outside of the lock and nothing panics under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread.
    fn spawn(self: &Arc<Self>) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name(self.name.clone())
            .stack_size(self.threads.stack)
            .spawn(move || {
                // Of this thread alone, on Linux. Where it may not be changed, nobody goes first.
                let _ = rustix::process::nice(shared.threads.nice);
                if let Some(Err(error)) = shared.threads.arena.map(Arena::enter) {
                    tracing::debug!(%error, "enter an arena");
                }
                shared.serve();
            })
            .map(drop)
    }

    /// The work of a thread: takes jobs until the pool stops, or until another thread has taken its place.
    fn serve(self: &Arc<Self>) {
        let thread = gettid();
        let mut state = self.state();
        while !state.stopping {
            let Some((lane, job)) = state.take(self.threads) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // One end can make two jobs startable, this lane's next and another's that had to wait for a core: whoever
            // starts one wakes a thread for the next.
            if state.next_turn(self.threads).is_some() {
                self.work.notify_one();
            }
            drop(state);
            let turn = Turn::new(Arc::new(Seat::new(Arc::clone(self), lane, thread)));
            // A panic must not end the thread; what the job owned is dropped with it, which tells whoever waits.
            let _ = catch_unwind(AssertUnwindSafe(|| J::run(job, &turn)));
            state = self.state();
            if turn.seat().leave(&mut state) == Left::Replaced {
                return;
            }
        }
    }
}
