//! Ends inline runs that block an HTTP thread for too long.
//!
//! A thread that answers HTTP runs short models itself (`placement.rs`), expecting that the next
//! run is like the ones before. If it is not, that thread cannot react. The watchdog's own thread
//! checks from outside and cancels the run at its next operator, so that it can start again on a
//! compute thread. A run that stays inside one operator still blocks its thread; it is counted as
//! stuck (`stuck.rs`).
//!
//! Invariants:
//! - A run is cancelled under the lock under which it started, so a cancellation never hits the
//!   thread's next run.
//! - Without runs, the watchdog's thread sleeps and costs nothing.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::engine::onnxruntime::session::{Cancel, RunError};
use crate::engine::run::stuck::{Standing, Stuck, StuckRun};

/// Time limit of an inline run. Far longer than runs that are expected to be short, and too short
/// for a client that waits for `/ping` to notice.
const MAX_INLINE_RUN: Duration = Duration::from_millis(20);

/// Interval between checks.
const TICK: Duration = Duration::from_millis(5);

/// Watches inline runs as long as the process lives.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<WatchdogShared>,
    thread: Thread,
}

#[derive(Debug)]
struct WatchdogShared {
    threads: Mutex<Vec<Arc<WatchedThread>>>,
    asleep: AtomicBool,
    stuck: Arc<Stuck>,
}

/// A watched thread.
#[derive(Debug)]
struct WatchedThread {
    cancel: Cancel,
    run: Mutex<WatchedRun>,
}

#[derive(Debug, Default)]
struct WatchedRun {
    started: Option<Instant>,
    /// The model of the run.
    standing: Option<Arc<Standing>>,
    ended: bool,
    /// Checks since the run was cancelled. Counted rather than timed, because a process that was
    /// suspended has not run meanwhile.
    checks: u32,
    counted: Option<StuckRun>,
}

thread_local! {
    /// One entry per thread is enough: the process has one watchdog.
    static WATCHED_THREAD: OnceCell<Arc<WatchedThread>> = const { OnceCell::new() };
}

/// Result of watched work.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched<T> {
    Done(T),
    /// The work took too long and was cancelled. Its result is dropped, even if it completed at the
    /// same moment.
    Ended,
}

impl Watchdog {
    pub fn start(stuck: Arc<Stuck>) -> std::io::Result<Self> {
        let shared = Arc::new(WatchdogShared {
            threads: Mutex::default(),
            asleep: AtomicBool::new(false),
            stuck,
        });
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watched.watch_loop())?;
        Ok(Self {
            shared,
            thread: thread.thread().clone(),
        })
    }

    /// Runs `work` of a model on this thread, with a [`Cancel`] that ends the run after
    /// [`MAX_INLINE_RUN`].
    pub fn watch<T>(&self, standing: &Arc<Standing>, work: impl FnOnce(&Cancel) -> T) -> Result<Watched<T>, RunError> {
        WATCHED_THREAD.with(|thread| {
            let thread = match thread.get() {
                Some(thread) => thread,
                None => {
                    let new = self.shared.add_thread()?;
                    thread.get_or_init(|| new)
                }
            };
            *thread.run() = WatchedRun {
                started: Some(Instant::now()),
                standing: Some(Arc::clone(standing)),
                ..WatchedRun::default()
            };
            // The watchdog sets `asleep` and then checks all watched threads once more. So either
            // it sees the start above, or this thread sees `asleep` and wakes it.
            if self.shared.asleep.swap(false, Ordering::SeqCst) {
                self.thread.unpark();
            }
            let _clear = ClearOnDrop(thread);
            let result = work(&thread.cancel);
            Ok(if thread.run().ended {
                Watched::Ended
            } else {
                Watched::Done(result)
            })
        })
    }
}

/// Clears the entry on drop, even if the work panics.
struct ClearOnDrop<'a>(&'a WatchedThread);

impl Drop for ClearOnDrop<'_> {
    fn drop(&mut self) {
        let before = {
            let mut run = self.0.run();
            if run.ended {
                self.0.cancel.reset();
            }
            std::mem::take(&mut *run)
        };
        drop(before);
    }
}

impl WatchedThread {
    fn run(&self) -> MutexGuard<'_, WatchedRun> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the action that is due for the run. Returns whether there is a run.
    fn check(&self, stuck: &Arc<Stuck>) -> bool {
        let mut run = self.run();
        match run.due(stuck.after()) {
            Due::NoRun => return false,
            Due::Nothing => {}
            Due::End => {
                run.ended = true;
                self.cancel.cancel();
            }
            Due::Count => run.counted = run.standing.as_ref().map(|standing| stuck.count_on_http(standing)),
        }
        true
    }
}

/// The action that is due for a run.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    NoRun,
    Nothing,
    /// The run is older than [`MAX_INLINE_RUN`].
    End,
    /// The run continues after its cancellation: it is stuck.
    Count,
}

impl WatchedRun {
    /// Counts a check. `after` is how long a cancelled run may continue.
    fn due(&mut self, after: Duration) -> Due {
        let Some(started) = self.started else { return Due::NoRun };
        if !self.ended {
            return match started.elapsed() > MAX_INLINE_RUN {
                true => Due::End,
                false => Due::Nothing,
            };
        }
        self.checks = self.checks.saturating_add(1);
        match self.counted.is_none() && TICK.saturating_mul(self.checks) >= after {
            true => Due::Count,
            false => Due::Nothing,
        }
    }
}

impl WatchdogShared {
    fn add_thread(&self) -> Result<Arc<WatchedThread>, RunError> {
        let thread = Arc::new(WatchedThread {
            cancel: Cancel::new()?,
            run: Mutex::default(),
        });
        self.threads().push(Arc::clone(&thread));
        Ok(thread)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Arc<WatchedThread>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_loop(&self) {
        /// Checks without a run before the thread goes to sleep. Sleeping between the requests of a
        /// busy server would cost a wake-up for each.
        const IDLE_CHECKS: u32 = 20;
        let mut idle = 0;
        loop {
            thread::sleep(TICK);
            idle = if self.check() { 0 } else { idle + 1 };
            if idle < IDLE_CHECKS {
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            while self.asleep.load(Ordering::SeqCst) {
                if self.check() {
                    self.asleep.store(false, Ordering::SeqCst);
                } else {
                    thread::park();
                }
            }
            idle = 0;
        }
    }

    fn check(&self) -> bool {
        // `|` instead of `||`: every entry has to be checked.
        self.threads()
            .iter()
            .fold(false, |any, thread| thread.check(&self.stuck) | any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::run::stuck::StuckLimits;

    #[test]
    fn a_run_that_continues_after_its_cancellation_is_counted_once_after_enough_checks() {
        const AFTER: Duration = TICK.saturating_mul(3);
        let mut run = WatchedRun::default();
        assert_eq!(run.due(AFTER), Due::NoRun);
        run.started = Some(Instant::now());
        assert_eq!(run.due(AFTER), Due::Nothing);
        run.started = Instant::now().checked_sub(Duration::from_secs(60));
        assert_eq!(run.due(AFTER), Due::End);
        run.ended = true;
        let stuck = Stuck::watch(StuckLimits { after: AFTER, most: 8 }).unwrap();
        let standing = Arc::new(Standing::new("inline".to_owned(), None, 7));
        assert_eq!(
            [run.due(AFTER), run.due(AFTER), run.due(AFTER)],
            [Due::Nothing, Due::Nothing, Due::Count]
        );
        run.counted = Some(stuck.count_on_http(&standing));
        assert_eq!(run.due(AFTER), Due::Nothing);
        assert_eq!((standing.runs(), stuck.counts().runs), (1, 1));
        drop(run);
        assert_eq!((standing.runs(), stuck.counts().runs, stuck.counts().total), (0, 0, 1));
    }
}
