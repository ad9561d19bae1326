//! Threads that run jobs, fairly between lanes.
//!
//! Every model has a lane of its own. A free thread takes the next job of the lane that has waited longest since its
//! last one, so a model that is asked a thousand times a second does not delay one that is asked once. A pool has
//! `cores` threads for whoever comes first and `spare` ones for lanes of which nothing runs ([`may_start`]): when slow
//! runs hold all the cores, a model that comes along shares them at once rather than wait for an end.
//!
//! A job that runs may take further ones of its own lane and do them with its own ([`Turn`]); that is how requests are
//! batched. The same threads-and-lanes serve loads and unloads (a pool each, one lane): bounded, and never those that
//! answer requests.
//!
//! What always holds: the lock is held to move jobs and numbers, never while a job runs; a job whose [`Place`] was
//! dropped before it was taken is not started; a panic ends the job, not the thread.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::allocator::Arena;

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
    fn run(queued: Queued<Self>, turn: &Turn<'_, Self>);
}

/// A job that is all there is to it.
pub type Task = Box<dyn FnOnce() + Send>;

impl Job for Task {
    fn run(queued: Queued<Self>, _: &Turn<'_, Self>) {
        (queued.job)();
    }
}

/// A running pool. Threads end when it and all its lanes are dropped.
pub struct Pool<J: Job = Task> {
    shared: Arc<Shared<J>>,
}

/// One model's place in a pool.
pub struct Lane<J: Job = Task> {
    id: u64,
    /// Jobs that may wait in this lane.
    capacity: usize,
    shared: Arc<Shared<J>>,
}

/// A job and its number in the order of arrival.
pub struct Queued<J> {
    number: u64,
    pub job: J,
}

impl<J> Queued<J> {
    /// Another job in the same place.
    pub fn map<K>(self, change: impl FnOnce(J) -> K) -> Queued<K> {
        Queued {
            number: self.number,
            job: change(self.job),
        }
    }

    /// As [`Self::map`], when there is another one.
    pub fn filter_map<K>(self, change: impl FnOnce(J) -> Option<K>) -> Option<Queued<K>> {
        let number = self.number;
        change(self.job).map(|job| Queued { number, job })
    }
}

struct Shared<J> {
    threads: Threads,
    state: Mutex<State<J>>,
    work: Condvar,
}

struct State<J> {
    lanes: HashMap<u64, Waiting<J>>,
    /// Lanes with waiting jobs, the one that waited longest first.
    turns: VecDeque<u64>,
    next_lane: u64,
    next_job: u64,
    /// Threads that have a job.
    running: usize,
    /// The jobs that they have.
    in_hand: usize,
    stopping: bool,
}

impl<J> Default for State<J> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            next_lane: 0,
            next_job: 0,
            running: 0,
            in_hand: 0,
            stopping: false,
        }
    }
}

struct Waiting<J> {
    /// In the order of their numbers.
    jobs: VecDeque<Queued<J>>,
    /// Threads that have a job of this lane.
    running: usize,
}

impl<J> Default for Waiting<J> {
    fn default() -> Self {
        Self {
            jobs: VecDeque::new(),
            running: 0,
        }
    }
}

impl<J: Job> fmt::Debug for Pool<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.shared.threads)
            .finish_non_exhaustive()
    }
}

impl<J: Job> fmt::Debug for Lane<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether a lane with `lane_running` jobs running may start one more when `running` run in all.
fn may_start(running: usize, lane_running: usize, threads: Threads) -> bool {
    running < threads.cores || (lane_running == 0 && running < threads.cores + threads.spare)
}

/// How many jobs one turn of a lane may have when `waiting` more wait: an equal share of them for each core, less the
/// cores that `others` (jobs of other lanes that run, and lanes that wait) have or will have.
fn share(waiting: usize, cores: usize, others: usize) -> usize {
    (waiting + 1).div_ceil(cores.saturating_sub(others).max(1))
}

impl<J: Job> Pool<J> {
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
                .spawn(move || {
                    // Of this thread alone, on Linux. Where it may not be changed, nobody goes first.
                    let _ = rustix::process::nice(threads.nice);
                    if let Some(Err(error)) = threads.arena.map(Arena::enter) {
                        tracing::debug!(%error, "enter an arena");
                    }
                    shared.serve();
                })?;
        }
        Ok(Self { shared })
    }

    /// A new lane in which `capacity` jobs may wait.
    pub fn lane(&self, capacity: usize) -> Lane<J> {
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

    /// Jobs that threads have, and jobs that wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.shared.state();
        let waiting = state
            .turns
            .iter()
            .filter_map(|id| state.lanes.get(id))
            .map(|lane| lane.jobs.len())
            .sum();
        (state.in_hand, waiting)
    }
}

impl<J: Job> Drop for Pool<J> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stopping = true;
        // Dropping a job tells whoever waits for it.
        let dropped: Vec<VecDeque<Queued<J>>> = state
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
        if state.stopping {
            return Err(PoolError::Stopping);
        }
        let number = state.next_job;
        let lane = state.lanes.entry(self.id).or_default();
        let waiting = lane.jobs.len();
        if waiting >= self.capacity {
            return Err(PoolError::QueueFull { waiting });
        }
        lane.jobs.push_back(Queued { number, job });
        state.next_job += 1;
        if waiting == 0 {
            state.turns.push_back(self.id);
        }
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
        let abandoned = state.lanes.remove(&self.id);
        state.turns.retain(|id| *id != self.id);
        drop(state);
        drop(abandoned);
    }
}

/// A lane's turn on a thread, as seen by the job that has it.
pub struct Turn<'a, J: Job> {
    shared: &'a Shared<J>,
    lane: u64,
    /// Jobs taken beside the first.
    taken: Cell<usize>,
}

impl<J: Job> Turn<'_, J> {
    /// How many jobs this turn should have at most, the first one included, for the cores to have equal work.
    pub fn share(&self) -> usize {
        let state = self.shared.state();
        let Some(lane) = state.lanes.get(&self.lane) else {
            return 1;
        };
        let lanes_waiting = state.turns.len() - usize::from(!lane.jobs.is_empty());
        let others = lanes_waiting + state.running - lane.running;
        share(lane.jobs.len(), self.shared.threads.cores, others)
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

impl<J: Job> Shared<J> {
    fn state(&self) -> MutexGuard<'_, State<J>> {
        // Jobs run outside of the lock and nothing panics under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does: takes jobs until the pool stops.
    fn serve(&self) {
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
            let turn = Turn {
                shared: self,
                lane,
                taken: Cell::new(0),
            };
            // A panic must not end the thread; what the job owned is dropped with it, which tells whoever waits.
            let _ = catch_unwind(AssertUnwindSafe(|| J::run(job, &turn)));
            state = self.state();
            state.ended(lane, 1 + turn.taken.get());
        }
    }
}

impl<J> State<J> {
    /// The next job that may start, counted as running.
    fn take(&mut self, threads: Threads) -> Option<(u64, Queued<J>)> {
        let turn = self.next_turn(threads)?;
        let id = self.turns.remove(turn)?;
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        lane.running += 1;
        self.running += 1;
        self.in_hand += 1;
        if !lane.jobs.is_empty() {
            self.turns.push_back(id);
        }
        Some((id, job))
    }

    /// A thread has done its job, `jobs` of them in all.
    fn ended(&mut self, id: u64, jobs: usize) {
        self.running -= 1;
        self.in_hand -= jobs;
        // The lane is gone when its model was dropped by the job itself.
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.running -= 1;
        }
    }

    /// One more job for a thread that has one of this lane.
    fn take_next(&mut self, id: u64) -> Option<Queued<J>> {
        let lane = self.lanes.get_mut(&id)?;
        let job = lane.jobs.pop_front()?;
        self.in_hand += 1;
        if lane.jobs.is_empty() {
            self.leave_turns(id);
        }
        Some(job)
    }

    fn put_back(&mut self, id: u64, jobs: Vec<Queued<J>>) {
        self.in_hand -= jobs.len();
        // Jobs keep their lane.
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let was_empty = lane.jobs.is_empty();
        for job in jobs {
            let place = lane.jobs.partition_point(|other| other.number < job.number);
            lane.jobs.insert(place, job);
        }
        if was_empty {
            self.turns.push_back(id);
        }
    }

    /// Takes a job out of its lane when it still waits there.
    fn remove(&mut self, id: u64, number: u64) -> Option<Queued<J>> {
        let lane = self.lanes.get_mut(&id)?;
        let place = lane.jobs.binary_search_by_key(&number, |job| job.number).ok()?;
        let job = lane.jobs.remove(place);
        if lane.jobs.is_empty() {
            self.leave_turns(id);
        }
        job
    }

    fn leave_turns(&mut self, id: u64) {
        // From the end, where a lane that has just had its turn is.
        if let Some(turn) = self.turns.iter().rposition(|other| *other == id) {
            self.turns.remove(turn);
        }
    }

    /// The first lane whose next job may start, as an index into `turns`.
    fn next_turn(&self, threads: Threads) -> Option<usize> {
        let startable = |lane: &Waiting<J>| may_start(self.running, lane.running, threads);
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
        arena: None,
        nice: 0,
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
        let mut state: State<Task> = State::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        for (lane, jobs) in [(1u64, 4), (2, 1), (3, 2)] {
            let mut waiting: Waiting<Task> = Waiting::default();
            for number in 0..jobs {
                let order = Arc::clone(&order);
                waiting.jobs.push_back(Queued {
                    number,
                    job: Box::new(move || order.lock().unwrap().push(lane)),
                });
            }
            state.lanes.insert(lane, waiting);
            state.turns.push_back(lane);
        }
        while let Some((lane, job)) = state.take(ONE) {
            (job.job)();
            state.ended(lane, 1);
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
            let blocker = busy.run(move || {
                started.send(()).unwrap();
                gate.recv().unwrap();
            });
            let rest = async {
                while has_started.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
                let waiting = busy.run(|| 1);
                let refused = async {
                    while pool.load().1 == 0 {
                        tokio::task::yield_now().await;
                    }
                    assert_eq!(busy.run(|| 2).await, Err(PoolError::QueueFull { waiting: 1 }));
                    release.send(()).unwrap();
                    assert_eq!(idle.run(|| 3).await, Ok(3));
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
            let first = other.run(move || first_ends.recv().unwrap());
            let slow_ones = join(slow.run(blocked()), slow.run(blocked()));
            let second = async {
                // Ends although both jobs of the slow lane are held up.
                let ended = other.run(|| 1).await;
                drop(release);
                ended
            };
            // In this order: were both slow jobs there before it, the first one would have a spare thread.
            let ((first, slow_ones), second, ()) = join3(join(first, slow_ones), second, waiting).await;
            assert_eq!((slow_ones, first, second), ((Ok(()), Ok(())), Ok(()), Ok(1)));
        });
    }

    #[test]
    fn a_job_that_nobody_waits_for_gives_its_place_back_and_is_never_started() {
        let pool = Pool::start("test", ONE).unwrap();
        let lane = pool.lane(1);
        let (ran, has_run) = mpsc::channel::<()>();
        let (release, gate) = mpsc::channel::<()>();
        runtime().block_on(async {
            let blocker = lane.run(move || gate.recv().unwrap());
            let rest = async {
                while pool.load() != (1, 0) {
                    tokio::task::yield_now().await;
                }
                let given_up = lane.submit(Box::new(move || ran.send(()).unwrap()) as Task).unwrap();
                assert_eq!(pool.load(), (1, 1));
                drop(given_up);
                assert_eq!(pool.load(), (1, 0));
                let next = lane.run(|| 7);
                release.send(()).unwrap();
                assert_eq!(next.await, Ok(7));
            };
            let (blocked, ()) = futures_util::future::join(blocker, rest).await;
            assert_eq!(blocked, Ok(()));
        });
        assert!(has_run.recv().is_err());
    }

    #[test]
    fn a_result_is_waited_for_until_its_deadline() {
        let pool: Pool = Pool::start("test", ONE).unwrap();
        let lane = pool.lane(1);
        runtime().block_on(async {
            let soon = Instant::now() + Duration::from_millis(1);
            let (_sender, receiver) = oneshot::channel::<()>();
            assert_eq!(lane.result(receiver, soon).await, Err(PoolError::Deadline));
            let (sender, receiver) = oneshot::channel::<()>();
            drop(sender);
            let late = Instant::now() + Duration::from_secs(3600);
            assert_eq!(lane.result(receiver, late).await, Err(PoolError::Panicked));
        });
    }

    #[test]
    fn a_turns_share_leaves_an_equal_one_to_the_cores_that_others_do_not_have() {
        let table = [
            // waiting beside this one, cores, others, share
            (0, 2, 0, 1),
            (1, 2, 0, 1),
            (7, 2, 0, 4),
            (7, 2, 1, 8),
            (7, 2, 5, 8),
            (7, 1, 0, 8),
            (7, 8, 0, 1),
            (8, 8, 0, 2),
            (15, 8, 4, 4),
        ];
        for (waiting, cores, others, expected) in table {
            assert_eq!(share(waiting, cores, others), expected, "{waiting} {cores} {others}");
        }
    }

    /// Numbers, which nobody runs.
    impl Job for u64 {
        fn run(_: Queued<Self>, _: &Turn<'_, Self>) {}
    }

    fn queue(state: &mut State<u64>, lane: u64, jobs: impl IntoIterator<Item = u64>) {
        let waiting = state.lanes.entry(lane).or_default();
        waiting
            .jobs
            .extend(jobs.into_iter().map(|job| Queued { number: job, job }));
        if !state.turns.contains(&lane) {
            state.turns.push_back(lane);
        }
    }

    fn waiting(state: &State<u64>, lane: u64) -> Vec<u64> {
        state.lanes[&lane].jobs.iter().map(|queued| queued.job).collect()
    }

    #[test]
    fn what_a_turn_puts_back_waits_where_it_was() {
        let mut state = State::default();
        queue(&mut state, 1, [10, 11, 12, 13, 14, 15]);
        let two_cores = Threads { cores: 2, ..ONE };
        let (_, first) = state.take(two_cores).unwrap();
        let one: Vec<_> = (0..2).filter_map(|_| state.take_next(1)).collect();
        let (_, second) = state.take(two_cores).unwrap();
        let other = vec![state.take_next(1).unwrap()];
        assert_eq!((first.job, second.job, state.in_hand), (10, 13, 5));
        assert_eq!(waiting(&state, 1), [15]);
        state.put_back(1, other);
        state.put_back(1, one);
        assert_eq!(waiting(&state, 1), [11, 12, 14, 15]);
        state.ended(1, 1);
        state.ended(1, 1);
        assert_eq!((state.running, state.in_hand), (0, 0));
    }

    #[test]
    fn a_lane_has_a_turn_to_come_exactly_while_jobs_wait_in_it() {
        let mut state = State::default();
        queue(&mut state, 1, [10, 11]);
        queue(&mut state, 2, [20]);
        let (lane, _) = state.take(ONE).unwrap();
        assert_eq!((lane, &state.turns), (1, &VecDeque::from([2, 1])));
        let taken = state.take_next(1).unwrap();
        assert_eq!(state.turns, [2]);
        assert!(state.take_next(1).is_none());
        state.put_back(1, vec![taken]);
        assert_eq!(state.turns, [2, 1]);
        assert!(state.remove(2, 20).is_some());
        assert!(state.remove(2, 20).is_none());
        assert_eq!(state.turns, [1]);
        assert!(state.remove(1, 11).is_some());
        assert!(state.turns.is_empty());
    }

    #[test]
    fn a_panic_is_an_error_and_the_thread_goes_on() {
        let pool = Pool::start("test", ONE).unwrap();
        let lane = pool.lane(8);
        runtime().block_on(async {
            assert_eq!(
                lane.run(|| panic!("by a test")).await,
                Err::<(), _>(PoolError::Panicked)
            );
            assert_eq!(lane.run(|| 7).await, Ok(7));
        });
    }
}
