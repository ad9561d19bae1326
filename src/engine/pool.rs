//! Threads that run jobs, fairly between lanes.
//!
//! Every model has a lane of its own. A free thread takes the next job of the lane that has waited longest since its
//! last one, so a model that is asked a thousand times a second does not delay one that is asked once. A pool has
//! `cores` threads for whoever comes first and `spare` ones for lanes of which nothing runs ([`may_start`]): when slow
//! runs hold all the cores, a model that comes along shares them at once rather than wait for an end.
//!
//! The same threads-and-lanes serve loads and unloads (a pool each, one lane): bounded, and never those that answer
//! requests.
//!
//! What always holds: the lock is held to move jobs and numbers, never while a job runs; a job that has expired, or whose
//! future was dropped, is not started.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

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
}

/// The stack that Rust gives to threads by default.
pub const DEFAULT_STACK: usize = 2 << 20;

/// A running pool. Threads end when it and all its lanes are dropped.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// One model's place in a pool.
#[derive(Debug)]
pub struct Lane {
    id: u64,
    /// Jobs that may wait in this lane.
    capacity: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    threads: Threads,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    lanes: HashMap<u64, Waiting>,
    /// Lanes with waiting jobs, the one that waited longest first.
    turns: VecDeque<u64>,
    next_lane: u64,
    running: usize,
    stopping: bool,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    running: usize,
}

type Job = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("lanes", &self.lanes.len())
            .field("turns", &self.turns)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// Whether a lane with `lane_running` jobs running may start one more when `running` run in all.
fn may_start(running: usize, lane_running: usize, threads: Threads) -> bool {
    running < threads.cores || (lane_running == 0 && running < threads.cores + threads.spare)
}

impl Pool {
    /// Starts the threads, called `name`.
    pub fn start(name: &str, threads: Threads) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            threads,
            state: Mutex::default(),
            work: Condvar::new(),
        });
        for _ in 0..threads.cores + threads.spare {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(name.to_owned())
                .stack_size(threads.stack)
                .spawn(move || shared.serve())?;
        }
        Ok(Self { shared })
    }

    /// A new lane in which `capacity` jobs may wait.
    pub fn lane(&self, capacity: usize) -> Lane {
        let mut state = self.shared.state();
        let id = state.next_lane;
        state.next_lane += 1;
        state.lanes.insert(id, Waiting::default());
        drop(state);
        Lane {
            id,
            capacity,
            shared: Arc::clone(&self.shared),
        }
    }

    /// Jobs that run now, and jobs that wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.state();
        let waiting = state
            .turns
            .iter()
            .filter_map(|id| state.lanes.get(id))
            .map(|lane| lane.jobs.len())
            .sum();
        (state.running, waiting)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopping = true;
        // Dropping a job tells whoever waits for it.
        let dropped: Vec<VecDeque<Job>> = state
            .lanes
            .values_mut()
            .map(|lane| std::mem::take(&mut lane.jobs))
            .collect();
        state.turns.clear();
        drop(state);
        drop(dropped);
        self.shared.work.notify_all();
    }
}

impl Lane {
    /// Runs `work` on one of the pool's threads and returns its result.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place in the queue back; work that runs already runs on, its result is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (sender, receiver) = oneshot::channel();
        self.submit(Box::new(move || {
            if sender.is_closed() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
            // A panic must not end the thread; what the work owned is dropped with it.
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| PoolError::Panicked);
            let _ = sender.send(result);
        }))?;
        let received = match deadline {
            Some(deadline) => timeout_at(deadline, receiver).await.map_err(|_| PoolError::Deadline)?,
            None => receiver.await,
        };
        match received {
            Ok(result) => result,
            Err(_) if self.shared.state().stopping => Err(PoolError::Stopping),
            Err(_) => Err(PoolError::Deadline),
        }
    }

    fn submit(&self, job: Job) -> Result<(), PoolError> {
        let mut state = self.shared.state();
        if state.stopping {
            return Err(PoolError::Stopping);
        }
        let lane = state.lanes.entry(self.id).or_default();
        let waiting = lane.jobs.len();
        if waiting >= self.capacity {
            return Err(PoolError::QueueFull { waiting });
        }
        lane.jobs.push_back(job);
        if waiting == 0 {
            state.turns.push_back(self.id);
        }
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let abandoned = state.lanes.remove(&self.id);
        state.turns.retain(|id| *id != self.id);
        drop(state);
        drop(abandoned);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Jobs run outside of the lock and nothing panics under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does: takes jobs until the pool stops.
    fn serve(&self) {
        let mut state = self.state();
        while !state.stopping {
            let Some((id, job)) = state.take(self.threads) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // One end can make two jobs startable, this lane's next and another's that had to wait for a core: whoever
            // starts one wakes a thread for the next.
            if state.next_turn(self.threads).is_some() {
                self.work.notify_one();
            }
            drop(state);
            job();
            state = self.state();
            state.running -= 1;
            // The lane is gone when its model was dropped by the job itself.
            if let Some(lane) = state.lanes.get_mut(&id) {
                lane.running -= 1;
            }
        }
    }
}

impl State {
    /// The next job that may start, counted as running.
    fn take(&mut self, threads: Threads) -> Option<(u64, Job)> {
        let turn = self.next_turn(threads)?;
        let id = self.turns.remove(turn)?;
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        lane.running += 1;
        self.running += 1;
        if !lane.jobs.is_empty() {
            self.turns.push_back(id);
        }
        Some((id, job))
    }

    /// The first lane whose next job may start, as an index into `turns`.
    fn next_turn(&self, threads: Threads) -> Option<usize> {
        let startable = |lane: &Waiting| may_start(self.running, lane.running, threads);
        self.turns
            .iter()
            .position(|id| self.lanes.get(id).is_some_and(startable))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const ONE: Threads = Threads {
        cores: 1,
        spare: 0,
        stack: DEFAULT_STACK,
    };

    #[test]
    fn a_lane_that_runs_nothing_gets_a_spare_thread_and_no_other_does() {
        let threads = Threads {
            cores: 2,
            spare: 1,
            ..ONE
        };
        let table = [
            // running in all, of this lane, may start
            (0, 0, true),
            (1, 1, true),
            (2, 0, true),
            (2, 1, false),
            (2, 2, false),
            (3, 0, false),
        ];
        for (running, lane_running, expected) in table {
            assert_eq!(
                may_start(running, lane_running, threads),
                expected,
                "{running} {lane_running}"
            );
        }
    }

    #[test]
    fn lanes_take_turns_however_many_jobs_one_of_them_has() {
        let mut state = State::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (lane, jobs) in [(1u64, 4), (2, 1), (3, 2)] {
            let mut waiting = Waiting::default();
            for _ in 0..jobs {
                let order = Arc::clone(&order);
                waiting
                    .jobs
                    .push_back(Box::new(move || order.lock().unwrap().push(lane)));
            }
            state.lanes.insert(lane, waiting);
            state.turns.push_back(lane);
        }
        while let Some((lane, job)) = state.take(ONE) {
            job();
            state.running -= 1;
            state.lanes.get_mut(&lane).unwrap().running -= 1;
        }
        assert_eq!(*order.lock().unwrap(), [1, 2, 3, 1, 3, 1, 1]);
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn a_full_lane_refuses_at_once_and_another_lane_does_not() {
        let pool = Pool::start("test", ONE).unwrap();
        let (busy, idle) = (pool.lane(1), pool.lane(1));
        let (release, gate) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel::<()>();
        runtime().block_on(async {
            let blocker = busy.run(None, move || {
                started.send(()).unwrap();
                gate.recv().unwrap();
            });
            let rest = async {
                while has_started.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
                let waiting = busy.run(None, || 1);
                let refused = async {
                    while pool.load().1 == 0 {
                        tokio::task::yield_now().await;
                    }
                    assert_eq!(busy.run(None, || 2).await, Err(PoolError::QueueFull { waiting: 1 }));
                    release.send(()).unwrap();
                    assert_eq!(idle.run(None, || 3).await, Ok(3));
                };
                let (waited, ()) = futures_util::future::join(waiting, refused).await;
                assert_eq!(waited, Ok(1));
            };
            let (blocked, ()) = futures_util::future::join(blocker, rest).await;
            assert_eq!(blocked, Ok(()));
        });
    }

    #[test]
    fn one_jobs_end_starts_all_that_may_start_then() {
        let pool = Pool::start(
            "test",
            Threads {
                cores: 2,
                spare: 2,
                ..ONE
            },
        )
        .unwrap();
        let (slow, other) = (pool.lane(8), pool.lane(8));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let blocked = || {
            let gate = Arc::clone(&gate);
            move || {
                let _ = gate.lock().unwrap().recv();
            }
        };
        let (end_first, first_ends) = mpsc::channel::<()>();
        runtime().block_on(async {
            use futures_util::future::{join, join3};
            // Both cores are taken, and each lane has one more job waiting.
            let waiting = async {
                while pool.load() != (2, 2) {
                    tokio::task::yield_now().await;
                }
                end_first.send(()).unwrap();
            };
            let first = other.run(None, move || first_ends.recv().unwrap());
            let slow_ones = join(slow.run(None, blocked()), slow.run(None, blocked()));
            let second = async {
                // Ends although both jobs of the slow lane are held up.
                let ended = other.run(None, || 1).await;
                drop(release);
                ended
            };
            let ((slow_ones, first), second, ()) = join3(join(slow_ones, first), second, waiting).await;
            assert_eq!((slow_ones, first, second), ((Ok(()), Ok(())), Ok(()), Ok(1)));
        });
    }

    #[test]
    fn a_job_past_its_deadline_is_never_started() {
        let pool = Pool::start("test", ONE).unwrap();
        let lane = pool.lane(8);
        let (ran, has_run) = mpsc::channel::<()>();
        runtime().block_on(async {
            let expired = Instant::now() - Duration::from_millis(1);
            let result = lane.run(Some(expired), move || ran.send(()).unwrap()).await;
            assert_eq!(result, Err(PoolError::Deadline));
            lane.run(None, || ()).await.unwrap();
        });
        assert!(has_run.recv().is_err());
    }

    #[test]
    fn a_panic_is_an_error_and_the_thread_goes_on() {
        let pool = Pool::start("test", ONE).unwrap();
        let lane = pool.lane(8);
        runtime().block_on(async {
            assert_eq!(
                lane.run(None, || panic!("by a test")).await,
                Err::<(), _>(PoolError::Panicked)
            );
            assert_eq!(lane.run(None, || 7).await, Ok(7));
        });
    }
}
