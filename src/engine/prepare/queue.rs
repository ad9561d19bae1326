//! What is to be prepared, handed to threads that have a child or would have to start one.
//!
//! What always holds: a job is handed to a thread whose child waits for work, if there is one that no other job is meant for;
//! and no job waits while any thread does.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Jobs in the order in which they came.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    /// For threads with a child.
    with_child: Condvar,
    without_child: Condvar,
}

#[derive(Debug)]
struct State<T> {
    jobs: VecDeque<T>,
    /// Threads with a child that wait.
    idle: usize,
    is_closed: bool,
}

/// What became of waiting for a job.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    Job(T),
    /// There was none for so long.
    Idle,
    /// There will be none any more.
    Closed,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                idle: 0,
                is_closed: false,
            }),
            with_child: Condvar::new(),
            without_child: Condvar::new(),
        }
    }

    pub fn push(&self, job: T) {
        let mut state = self.state();
        state.jobs.push_back(job);
        let ready = if state.jobs.len() <= state.idle {
            &self.with_child
        } else {
            &self.without_child
        };
        ready.notify_one();
    }

    /// Whether a child waits that no job is meant for.
    pub fn has_idle_child(&self) -> bool {
        let state = self.state();
        state.idle > state.jobs.len()
    }

    /// The next job, for a thread without a child: waits as long as it takes.
    pub fn next(&self) -> Next<T> {
        let mut state = self.state();
        loop {
            if let Some(next) = state.next() {
                return next;
            }
            state = self.without_child.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next job, for a thread with a child. Does `finish` for the last job when this thread counts as one that waits: who
    /// learns from it that the job is done finds the child waiting.
    pub fn next_within(&self, patience: Duration, finish: impl FnOnce()) -> Next<T> {
        self.state().idle += 1;
        finish();
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        let next = loop {
            if let Some(next) = state.next() {
                break next;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Next::Idle;
            }
            let waited = self.with_child.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        };
        state.idle -= 1;
        next
    }

    /// Sends all threads away. Jobs that wait are dropped.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.jobs.clear();
        self.with_child.notify_all();
        self.without_child.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn next(&mut self) -> Option<Next<T>> {
        if self.is_closed {
            return Some(Next::Closed);
        }
        self.jobs.pop_front().map(Next::Job)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn wait_until(mut condition: impl FnMut() -> bool) {
        while !condition() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_child_that_waits_gets_the_job_and_one_more_job_another_thread() {
        let queue = Queue::new();
        thread::scope(|scope| {
            let without = scope.spawn(|| queue.next());
            let with = scope.spawn(|| queue.next_within(LONG, || ()));
            wait_until(|| queue.has_idle_child());
            queue.push(1);
            assert_eq!(with.join().unwrap(), Next::Job(1));
            assert!(!queue.has_idle_child());
            queue.push(2);
            assert_eq!(without.join().unwrap(), Next::Job(2));
        });
    }

    #[test]
    fn who_learns_that_a_job_is_done_finds_the_child_waiting() {
        let queue = Queue::new();
        let next = queue.next_within(LONG, || {
            assert!(queue.has_idle_child());
            queue.push(1);
        });
        assert_eq!(next, Next::Job(1));
    }

    #[test]
    fn a_child_without_work_ends_while_others_wait_for_work() {
        let queue = Queue::<u8>::new();
        thread::scope(|scope| {
            scope.spawn(|| queue.next());
            assert_eq!(queue.next_within(Duration::from_millis(20), || ()), Next::Idle);
            queue.close();
        });
    }

    #[test]
    fn no_job_waits_while_a_thread_does() {
        const JOBS: usize = 2_000;
        let (queue, done) = (Queue::new(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut has_child = false;
                    loop {
                        let next = if has_child {
                            queue.next_within(Duration::from_micros(50), || ())
                        } else {
                            queue.next()
                        };
                        has_child = matches!(next, Next::Job(_));
                        match next {
                            Next::Job(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                            Next::Idle => {}
                            Next::Closed => return,
                        }
                    }
                });
            }
            for job in 1..=JOBS {
                queue.push(());
                if job % 3 == 0 {
                    wait_until(|| done.load(Ordering::Relaxed) == job);
                }
            }
            wait_until(|| done.load(Ordering::Relaxed) == JOBS);
            queue.close();
        });
    }

    #[test]
    fn closing_drops_what_waits_and_sends_everyone_away() {
        let queue = Queue::new();
        queue.push(1);
        queue.close();
        assert_eq!(queue.next(), Next::Closed);
        assert_eq!(queue.next_within(LONG, || ()), Next::Closed);
    }
}
