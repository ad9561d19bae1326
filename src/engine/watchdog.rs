//! Ends runs that stay too long on a thread that has other things to do.
//!
//! A thread that answers HTTP runs short models itself (`placement.rs`), on the expectation that the next run is like
//! the ones before. When it is not, nobody on that thread can do anything about it; this thread looks on from outside
//! and ends the run at its next operator, so that it can be started again elsewhere. A run that stays inside one operator
//! holds its thread up nevertheless; it is counted as stuck (`stuck.rs`).
//!
//! What always holds: a run is ended under the lock under which it was entered, so the end never hits the thread's next
//! one. While nothing runs, the watching thread sleeps and costs nothing.

use std::cell::OnceCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::session::{Cancel, RunError};
use super::stuck::{Counted, Standing, Stuck};

/// How long a run may hold a thread up. Far more than runs that are expected to be short take, and less than anyone
/// who waits for `/ping` would notice.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often running threads are looked at.
const TICK: Duration = Duration::from_millis(5);

/// Looks on for as long as the process lives.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    seats: Mutex<Vec<Arc<Seat>>>,
    asleep: AtomicBool,
    stuck: Arc<Stuck>,
}

/// A watched thread's place.
#[derive(Debug)]
struct Seat {
    cancel: Cancel,
    run: Mutex<Run>,
}

#[derive(Debug, Default)]
struct Run {
    started: Option<Instant>,
    /// The model that runs.
    standing: Option<Arc<Standing>>,
    ended: bool,
    /// Looks since it was ended. Counted rather than timed: a process that was stopped for a while has not run meanwhile.
    looks: u32,
    counted: Option<Counted>,
}

thread_local! {
    /// The watchdog is one per process, as the runtime is; so a thread needs one seat.
    static SEAT: OnceCell<Arc<Seat>> = const { OnceCell::new() };
}

/// What came of watched work.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched<T> {
    Done(T),
    /// It was ended for taking too long. Its result is not used, even where the work came to its own end just then.
    Ended,
}

impl Watchdog {
    pub fn start(stuck: Arc<Stuck>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            seats: Mutex::default(),
            asleep: AtomicBool::new(false),
            stuck,
        });
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watched.look_on())?;
        Ok(Self {
            shared,
            thread: thread.thread().clone(),
        })
    }

    /// Does `work` of a model on this thread, with a [`Cancel`] that ends its run after [`PATIENCE`].
    pub fn watch<T>(&self, standing: &Arc<Standing>, work: impl FnOnce(&Cancel) -> T) -> Result<Watched<T>, RunError> {
        SEAT.with(|seat| {
            let seat = match seat.get() {
                Some(seat) => seat,
                None => {
                    let new = self.shared.seat()?;
                    seat.get_or_init(|| new)
                }
            };
            *seat.run() = Run {
                started: Some(Instant::now()),
                standing: Some(Arc::clone(standing)),
                ..Run::default()
            };
            // The watching thread says that it sleeps and then looks at all seats once more. So either it sees the start
            // above, or this sees that it sleeps and wakes it.
            if self.shared.asleep.swap(false, Ordering::SeqCst) {
                self.thread.unpark();
            }
            let _leave = Leave(seat);
            let result = work(&seat.cancel);
            Ok(if seat.run().ended {
                Watched::Ended
            } else {
                Watched::Done(result)
            })
        })
    }
}

/// Empties the seat, also when the work panics.
struct Leave<'a>(&'a Seat);

impl Drop for Leave<'_> {
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

impl Seat {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is due with the run. Returns whether there is one.
    fn look(&self, stuck: &Arc<Stuck>) -> bool {
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

/// What is due with a run when it is looked at.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    NoRun,
    Nothing,
    /// It is older than [`PATIENCE`].
    End,
    /// It goes on although it was ended: it is stuck.
    Count,
}

impl Run {
    /// Counts a look, `after` being how long an ended run may go on.
    fn due(&mut self, after: Duration) -> Due {
        let Some(started) = self.started else { return Due::NoRun };
        if !self.ended {
            return match started.elapsed() > PATIENCE {
                true => Due::End,
                false => Due::Nothing,
            };
        }
        self.looks = self.looks.saturating_add(1);
        match self.counted.is_none() && TICK.saturating_mul(self.looks) >= after {
            true => Due::Count,
            false => Due::Nothing,
        }
    }
}

impl Shared {
    fn seat(&self) -> Result<Arc<Seat>, RunError> {
        let seat = Arc::new(Seat {
            cancel: Cancel::new()?,
            run: Mutex::default(),
        });
        self.seats().push(Arc::clone(&seat));
        Ok(seat)
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_on(&self) {
        /// Looks without a run in between before going to sleep: falling asleep between the requests of a busy server
        /// would cost a wake-up for each.
        const IDLE_LOOKS: u32 = 20;
        let mut idle = 0;
        loop {
            thread::sleep(TICK);
            idle = if self.look() { 0 } else { idle + 1 };
            if idle < IDLE_LOOKS {
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            while self.asleep.load(Ordering::SeqCst) {
                if self.look() {
                    self.asleep.store(false, Ordering::SeqCst);
                } else {
                    thread::park();
                }
            }
            idle = 0;
        }
    }

    fn look(&self) -> bool {
        // Every seat is looked at: no short-circuit.
        self.seats()
            .iter()
            .fold(false, |any, seat| seat.look(&self.stuck) | any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::stuck::Settings;

    #[test]
    fn a_run_that_goes_on_after_its_end_is_counted_once_however_long_nobody_has_looked() {
        const AFTER: Duration = TICK.saturating_mul(3);
        let mut run = Run::default();
        assert_eq!(run.due(AFTER), Due::NoRun);
        run.started = Some(Instant::now());
        assert_eq!(run.due(AFTER), Due::Nothing);
        run.started = Instant::now().checked_sub(Duration::from_secs(60));
        assert_eq!(run.due(AFTER), Due::End);
        run.ended = true;
        let stuck = Stuck::watch(Settings { after: AFTER, most: 8 }).unwrap();
        let standing = Arc::new(Standing::new("inline".to_owned(), 7));
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
