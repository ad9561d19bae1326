//! Queue of jobs for threads that own a child or would have to start one.
//!
//! Invariants: a job goes to a thread with an idle child, unless other jobs are meant for all of
//! these; no job waits while a thread is idle.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Jobs in the order of their arrival.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<QueueState<T>>,
    /// Wakes threads with a child.
    with_child: Condvar,
    without_child: Condvar,
}

#[derive(Debug)]
struct QueueState<T> {
    jobs: VecDeque<T>,
    /// Bytes of the child of each idle thread that has one.
    idle: Vec<u64>,
    is_closed: bool,
}

/// Result of waiting for a job.
#[derive(Debug, PartialEq, Eq)]
pub enum NextJob<T> {
    Job(T),
    /// No job arrived in time.
    Idle,
    /// The queue is closed.
    Closed,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(QueueState {
                jobs: VecDeque::new(),
                idle: Vec::new(),
                is_closed: false,
            }),
            with_child: Condvar::new(),
            without_child: Condvar::new(),
        }
    }

    pub fn push(&self, job: T) {
        let mut state = self.state();
        state.jobs.push_back(job);
        let ready = if state.jobs.len() <= state.idle.len() {
            &self.with_child
        } else {
            &self.without_child
        };
        ready.notify_one();
    }

    /// Bytes of the smallest idle child, if there is one that no waiting job is meant for.
    pub fn idle_child(&self) -> Option<u64> {
        let state = self.state();
        let is_free = state.idle.len() > state.jobs.len();
        is_free.then(|| state.idle.iter().min().copied())?
    }

    /// Takes the next job that no idle child is there for, for a thread without a child. Waits
    /// without a time limit.
    pub fn next(&self) -> NextJob<T> {
        let mut state = self.state();
        loop {
            if let Some(next) = state.next_for_new_child() {
                return next;
            }
            state = self.without_child.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the next job, for a thread with a child of `bytes` bytes. Calls `finish` for the last
    /// job once this thread counts as idle: a caller that learns from it that the job is done finds
    /// the child idle.
    pub fn next_within(&self, timeout: Duration, bytes: u64, finish: impl FnOnce()) -> NextJob<T> {
        self.state().idle.push(bytes);
        finish();
        let deadline = Instant::now() + timeout;
        let mut state = self.state();
        let next = loop {
            if let Some(next) = state.next() {
                break next;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break NextJob::Idle;
            }
            let waited = self.with_child.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        };
        if let Some(own) = state.idle.iter().position(|&idle| idle == bytes) {
            state.idle.swap_remove(own);
        }
        next
    }

    /// Closes the queue: all threads return, and waiting jobs are dropped.
    pub fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.jobs.clear();
        self.with_child.notify_all();
        self.without_child.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, QueueState<T>> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> QueueState<T> {
    fn next(&mut self) -> Option<NextJob<T>> {
        if self.is_closed {
            return Some(NextJob::Closed);
        }
        self.jobs.pop_front().map(NextJob::Job)
    }

    /// The next job that no idle child is there for. A thread with an idle child takes a job in any
    /// case: it was notified, or looks at the queue before it waits.
    fn next_for_new_child(&mut self) -> Option<NextJob<T>> {
        let is_left_over = self.is_closed || self.jobs.len() > self.idle.len();
        is_left_over.then(|| self.next())?
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
    fn an_idle_child_gets_the_job_and_another_thread_gets_the_next_one() {
        let queue = Queue::new();
        thread::scope(|scope| {
            let without = scope.spawn(|| queue.next());
            let with = scope.spawn(|| queue.next_within(LONG, 1, || ()));
            wait_until(|| queue.idle_child() == Some(1));
            queue.push(1);
            assert_eq!(with.join().unwrap(), NextJob::Job(1));
            assert_eq!(queue.idle_child(), None);
            queue.push(2);
            assert_eq!(without.join().unwrap(), NextJob::Job(2));
        });
    }

    #[test]
    fn a_thread_without_a_child_leaves_a_job_to_an_idle_child() {
        let queue = Queue::new();
        // The thread of the idle child was notified, but has not looked at the queue yet.
        queue.state().idle.push(1);
        queue.push(1);
        assert_eq!(queue.state().next_for_new_child(), None);
        queue.push(2);
        assert_eq!(queue.state().next_for_new_child(), Some(NextJob::Job(1)));
        assert_eq!(queue.state().next_for_new_child(), None);
        queue.close();
        assert_eq!(queue.state().next_for_new_child(), Some(NextJob::Closed));
    }

    #[test]
    fn a_caller_that_learns_that_a_job_is_done_finds_the_child_idle() {
        let queue = Queue::new();
        let next = queue.next_within(LONG, 7, || {
            assert_eq!(queue.idle_child(), Some(7));
            queue.push(1);
        });
        assert_eq!(next, NextJob::Job(1));
    }

    #[test]
    fn an_idle_child_ends_while_other_threads_still_wait() {
        let queue = Queue::<u8>::new();
        thread::scope(|scope| {
            scope.spawn(|| queue.next());
            assert_eq!(queue.next_within(Duration::from_millis(20), 1, || ()), NextJob::Idle);
            queue.close();
        });
    }

    #[test]
    fn no_job_waits_while_a_thread_is_idle() {
        const JOBS: usize = 2_000;
        let (queue, done) = (Queue::new(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut has_child = false;
                    loop {
                        let next = if has_child {
                            queue.next_within(Duration::from_micros(50), 1, || ())
                        } else {
                            queue.next()
                        };
                        has_child = matches!(next, NextJob::Job(_));
                        match next {
                            NextJob::Job(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                            NextJob::Idle => {}
                            NextJob::Closed => return,
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
    fn closing_drops_waiting_jobs_and_ends_all_waits() {
        let queue = Queue::new();
        queue.push(1);
        queue.close();
        assert_eq!(queue.next(), NextJob::Closed);
        assert_eq!(queue.next_within(LONG, 1, || ()), NextJob::Closed);
    }
}
