//! The lock on the thread pool: many runs share it, or one run uses it exclusively.
//!
//! Invariants: no other run uses the pool during an exclusive run. New runs wait while a run
//! requests exclusive use, so that it gets its turn. A request for exclusive use waits, and
//! delays other runs, for [`MAX_WAIT`] at most.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::trap;

/// Limit on the time that a run waits for all others to end. Runs in this pool usually take
/// milliseconds; a longer one must not delay all others.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Interval at which waiting runs check whether they are cancelled.
const TICK: Duration = Duration::from_millis(5);

/// The runs that use the pool, and those that wait for it.
#[derive(Debug)]
pub struct PoolRuns {
    state: Mutex<PoolState>,
    changed: Condvar,
}

#[derive(Debug)]
struct PoolState {
    running: usize,
    /// Number of shared runs so far.
    started: u64,
    /// Runs that request exclusive use of the pool, or have it.
    exclusive_runs: usize,
    is_taken: bool,
}

/// A run that shares the pool until it is dropped.
#[derive(Debug)]
pub struct SharedRun {
    runs: &'static PoolRuns,
    /// Whether other runs were in the pool when this one started.
    joined_others: bool,
    /// Number of runs that had started then, including this one.
    started: u64,
}

/// A run that has exclusive use of the pool until it is dropped.
#[derive(Debug)]
pub struct ExclusiveRun(&'static PoolRuns);

/// The outcome of a request for exclusive use of the pool.
#[derive(Debug)]
pub enum ExclusiveAccess {
    Granted(ExclusiveRun),
    Cancelled,
    /// Other runs did not end in time.
    Denied,
}

impl PoolRuns {
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(PoolState {
                running: 0,
                started: 0,
                exclusive_runs: 0,
                is_taken: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Enters the pool next to other runs, once no run requests exclusive use. `None` if it is
    /// cancelled before.
    pub fn join(&'static self, is_cancelled: impl Fn() -> bool) -> Option<SharedRun> {
        let mut state = self.state();
        while state.exclusive_runs > 0 {
            if is_cancelled() {
                return None;
            }
            state = self.wait(state);
        }
        state.running += 1;
        state.started += 1;
        trap::watch_pool();
        Some(SharedRun {
            runs: self,
            joined_others: state.running > 1,
            started: state.started,
        })
    }

    /// Enters the pool exclusively, once all other runs have left it.
    pub fn enter_exclusively(&'static self, is_cancelled: impl Fn() -> bool) -> ExclusiveAccess {
        let until = Instant::now() + MAX_WAIT;
        let mut state = self.state();
        state.exclusive_runs += 1;
        while state.running > 0 || state.is_taken {
            let cancelled = is_cancelled();
            if cancelled || Instant::now() >= until {
                state.exclusive_runs -= 1;
                drop(state);
                self.changed.notify_all();
                return if cancelled {
                    ExclusiveAccess::Cancelled
                } else {
                    ExclusiveAccess::Denied
                };
            }
            state = self.wait(state);
        }
        state.is_taken = true;
        trap::watch_pool();
        ExclusiveAccess::Granted(ExclusiveRun(self))
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        // Held for a little arithmetic only, never during a run.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, PoolState>) -> MutexGuard<'a, PoolState> {
        let waited = self.changed.wait_timeout(state, TICK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl SharedRun {
    /// Leaves the pool. Returns whether other runs used it at any time during this one.
    pub fn leave(self) -> bool {
        self.joined_others || self.runs.state().started != self.started
    }
}

impl Drop for SharedRun {
    fn drop(&mut self) {
        trap::leave_pool();
        let mut state = self.runs.state();
        state.running -= 1;
        let must_notify = state.running == 0 && state.exclusive_runs > 0;
        drop(state);
        if must_notify {
            self.runs.changed.notify_all();
        }
    }
}

impl Drop for ExclusiveRun {
    fn drop(&mut self) {
        trap::leave_pool();
        let mut state = self.0.state();
        state.is_taken = false;
        state.exclusive_runs -= 1;
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    fn never() -> bool {
        false
    }

    /// Leaked, because the runs refer to it for `'static`.
    fn new_pool_runs() -> &'static PoolRuns {
        Box::leak(Box::new(PoolRuns::new()))
    }

    #[test]
    fn a_run_learns_whether_other_runs_overlapped_it() {
        let runs = new_pool_runs();
        let join = || runs.join(never).unwrap();
        assert!(!join().leave());
        let (first, second) = (join(), join());
        assert!(second.leave());
        // The second run started and ended during the first.
        assert!(first.leave());
        assert!(!join().leave());
    }

    #[test]
    fn an_exclusive_run_waits_for_the_running_ones_and_delays_those_that_start_later() {
        let runs = new_pool_runs();
        let running = AtomicUsize::new(0);
        thread::scope(|scope| {
            let shared = runs.join(never).unwrap();
            let seeker = scope.spawn(|| {
                let ExclusiveAccess::Granted(exclusive) = runs.enter_exclusively(never) else {
                    panic!("exclusive use was denied");
                };
                assert_eq!(running.load(Ordering::SeqCst), 0);
                thread::sleep(TICK);
                assert_eq!(running.load(Ordering::SeqCst), 0);
                drop(exclusive);
            });
            while runs.state().exclusive_runs == 0 {
                thread::yield_now();
            }
            let late = scope.spawn(|| {
                let shared = runs.join(never).unwrap();
                running.fetch_add(1, Ordering::SeqCst);
                shared.leave()
            });
            drop(shared);
            seeker.join().unwrap();
            assert!(!late.join().unwrap(), "no other run overlapped the late one");
        });
        assert_eq!(runs.state().running, 0);
    }

    #[test]
    fn runs_stop_waiting_when_cancelled_and_after_the_limit() {
        let runs = new_pool_runs();
        let cancelled = AtomicBool::new(false);
        let shared = runs.join(never).unwrap();
        assert!(matches!(runs.enter_exclusively(never), ExclusiveAccess::Denied));
        assert!(matches!(runs.enter_exclusively(|| true), ExclusiveAccess::Cancelled));
        assert_eq!(runs.state().exclusive_runs, 0);
        drop(shared);
        let ExclusiveAccess::Granted(exclusive) = runs.enter_exclusively(never) else {
            panic!("exclusive use was denied");
        };
        thread::scope(|scope| {
            let waits = scope.spawn(|| runs.join(|| cancelled.load(Ordering::SeqCst)).is_none());
            cancelled.store(true, Ordering::SeqCst);
            assert!(waits.join().unwrap());
        });
        drop(exclusive);
        assert!(runs.join(never).is_some());
    }
}
