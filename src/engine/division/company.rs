//! Runs that use the pool of threads at the same time, and the one that has it to itself.
//!
//! What always holds: while one has the pool to itself, nobody else uses it; those who come wait while somebody wants
//! that, so that it comes to pass, but nobody waits or keeps others waiting for longer than [`PATIENCE`].

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::trap;

/// The longest that a run waits for all others to end. Those of this pool take milliseconds as a rule; one that goes on
/// for longer must not hold up all the rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often those who wait look whether they are still to.
const TICK: Duration = Duration::from_millis(5);

/// The runs that use the pool.
#[derive(Debug)]
pub struct Company {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// Runs so far.
    started: u64,
    /// Runs that want the pool to themselves, or have it.
    seekers: usize,
    is_taken: bool,
}

/// A run among others. Leaves when it is dropped.
#[derive(Debug)]
pub struct Member {
    company: &'static Company,
    /// Whether others ran when it came.
    joined_others: bool,
    /// Runs that had started then, itself included.
    started: u64,
}

/// A run that has the pool to itself, until it is dropped.
#[derive(Debug)]
pub struct Sole(&'static Company);

/// What came of asking for the pool.
#[derive(Debug)]
pub enum Alone {
    Granted(Sole),
    Cancelled,
    /// Others did not end in time.
    Denied,
}

impl Company {
    pub const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                running: 0,
                started: 0,
                seekers: 0,
                is_taken: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Joins the others, when nobody wants the pool to himself. `None` when it is cancelled before.
    pub fn join(&'static self, is_cancelled: impl Fn() -> bool) -> Option<Member> {
        let mut state = self.state();
        while state.seekers > 0 {
            if is_cancelled() {
                return None;
            }
            state = self.wait(state);
        }
        state.running += 1;
        state.started += 1;
        trap::watch_pool();
        Some(Member {
            company: self,
            joined_others: state.running > 1,
            started: state.started,
        })
    }

    /// Waits for the others to end, and for its turn among those that want the same.
    pub fn alone(&'static self, is_cancelled: impl Fn() -> bool) -> Alone {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state();
        state.seekers += 1;
        while state.running > 0 || state.is_taken {
            let cancelled = is_cancelled();
            if cancelled || Instant::now() >= until {
                state.seekers -= 1;
                drop(state);
                self.changed.notify_all();
                return if cancelled { Alone::Cancelled } else { Alone::Denied };
            }
            state = self.wait(state);
        }
        state.is_taken = true;
        trap::watch_pool();
        Alone::Granted(Sole(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Held for a little arithmetic; runs go on outside of it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, TICK);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Member {
    /// Ends its part. Returns whether there were others at any time of it.
    pub fn leave(self) -> bool {
        self.joined_others || self.company.state().started != self.started
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        trap::leave_pool();
        let mut state = self.company.state();
        state.running -= 1;
        let somebody_waits = state.running == 0 && state.seekers > 0;
        drop(state);
        if somebody_waits {
            self.company.changed.notify_all();
        }
    }
}

impl Drop for Sole {
    fn drop(&mut self) {
        trap::leave_pool();
        let mut state = self.0.state();
        state.is_taken = false;
        state.seekers -= 1;
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

    /// Of the process: nothing in a test borrows it for less.
    fn company() -> &'static Company {
        Box::leak(Box::new(Company::new()))
    }

    #[test]
    fn a_run_knows_whether_others_ran_at_any_time_of_it() {
        let company = company();
        let join = || company.join(never).unwrap();
        assert!(!join().leave());
        let (first, second) = (join(), join());
        assert!(second.leave());
        // The other one has come and gone meanwhile.
        assert!(first.leave());
        assert!(!join().leave());
    }

    #[test]
    fn who_wants_the_pool_to_himself_waits_for_the_others_and_those_who_come_wait_for_him() {
        let company = company();
        let running = AtomicUsize::new(0);
        thread::scope(|scope| {
            let member = company.join(never).unwrap();
            let seeker = scope.spawn(|| {
                let Alone::Granted(sole) = company.alone(never) else {
                    panic!("it was denied");
                };
                assert_eq!(running.load(Ordering::SeqCst), 0);
                thread::sleep(TICK);
                assert_eq!(running.load(Ordering::SeqCst), 0);
                drop(sole);
            });
            while company.state().seekers == 0 {
                thread::yield_now();
            }
            let late = scope.spawn(|| {
                let member = company.join(never).unwrap();
                running.fetch_add(1, Ordering::SeqCst);
                member.leave()
            });
            drop(member);
            seeker.join().unwrap();
            assert!(!late.join().unwrap(), "it had no company");
        });
        assert_eq!(company.state().running, 0);
    }

    #[test]
    fn nobody_waits_once_cancelled_nor_for_a_run_that_does_not_end() {
        let company = company();
        let cancelled = AtomicBool::new(false);
        let member = company.join(never).unwrap();
        assert!(matches!(company.alone(never), Alone::Denied));
        assert!(matches!(company.alone(|| true), Alone::Cancelled));
        assert_eq!(company.state().seekers, 0);
        drop(member);
        let Alone::Granted(sole) = company.alone(never) else {
            panic!("it was denied");
        };
        thread::scope(|scope| {
            let waits = scope.spawn(|| company.join(|| cancelled.load(Ordering::SeqCst)).is_none());
            cancelled.store(true, Ordering::SeqCst);
            assert!(waits.join().unwrap());
        });
        drop(sole);
        assert!(company.join(never).is_some());
    }
}
