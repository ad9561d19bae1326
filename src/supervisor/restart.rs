//! Decides whether and when the next worker starts: a pure function of how the earlier ones ended.

use std::time::Duration;

use crate::backoff::{Backoff, RECOVERED_AFTER};

/// The way in which a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerEnd {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// A worker that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedWorker {
    pub how: WorkerEnd,
    /// Whether the worker had begun to answer requests.
    pub was_ready: bool,
    pub lived: Duration,
    /// Whether the worker was to stop.
    pub stopping: bool,
    /// Whether the worker had requested its replacement.
    pub requested_replacement: bool,
    pub culprit: Blame,
}

/// Whether a model is to blame for a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// No model is known to be the cause: the kernel for lack of memory, an operator of the
    /// machine.
    Unknown,
    Known,
    /// Known, and the next worker refuses it.
    Refused,
}

/// The supervisor's next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    Restart {
        after: Duration,
    },
    /// Ends with this code. The worker has reported the reason, if there is one.
    End(i32),
    /// Ends as a failure that only the supervisor can explain.
    GiveUp,
}

/// Decides on restarts. Only kills without a known culprit count for the backoff, because they may
/// repeat.
#[derive(Debug, Default)]
pub struct WorkerRestarts {
    /// Consecutive workers that were killed early.
    short_runs: u32,
    /// Consecutive workers that were killed before they were ready.
    unready: u32,
}

/// Consecutive kills before readiness after which the supervisor gives up. More would not be
/// chance: it would go on forever, and the platform should learn of it.
pub const UNREADY: u32 = 3;

/// A few kills may be chance, such as a lack of memory that ends with another process.
const BACKOFF: Backoff = Backoff {
    immediate: 3,
    max_delay: Duration::from_secs(5),
};

impl WorkerRestarts {
    /// The next step after `ended`.
    pub fn next(&mut self, ended: EndedWorker) -> NextStep {
        match ended.how {
            // A wrong setting stays wrong, and an orderly stop is not followed by a restart.
            WorkerEnd::Exited(code) if !ended.requested_replacement => return NextStep::End(code),
            WorkerEnd::Exited(_) | WorkerEnd::Killed(_) => {}
        }
        if ended.stopping {
            // The worker was to end, and has ended, for whatever reason.
            return NextStep::End(0);
        }
        if ended.culprit == Blame::Refused || ended.requested_replacement {
            // It cannot happen again soon, so neither a pause nor giving up helps. Runs get stuck
            // only after a while, which paces the replacements.
            return NextStep::Restart { after: Duration::ZERO };
        }
        self.unready = if ended.was_ready { 0 } else { self.unready + 1 };
        if self.unready >= UNREADY {
            return NextStep::GiveUp;
        }
        if ended.culprit == Blame::Known && ended.was_ready {
            // A request caused it. Other requests are answered sooner without a pause.
            return NextStep::Restart { after: Duration::ZERO };
        }
        self.short_runs = match ended.lived < RECOVERED_AFTER {
            true => self.short_runs + 1,
            false => 0,
        };
        NextStep::Restart {
            after: BACKOFF.delay(self.short_runs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FPE: WorkerEnd = WorkerEnd::Killed(libc::SIGFPE);
    const KILL: WorkerEnd = WorkerEnd::Killed(libc::SIGKILL);
    const TERM: WorkerEnd = WorkerEnd::Killed(libc::SIGTERM);
    const AT_ONCE: NextStep = NextStep::Restart { after: Duration::ZERO };

    fn ended(how: WorkerEnd, was_ready: bool, stopping: bool) -> EndedWorker {
        EndedWorker {
            how,
            was_ready,
            lived: Duration::from_secs(1),
            stopping,
            requested_replacement: false,
            culprit: Blame::Unknown,
        }
    }

    fn killed_by(culprit: Blame, was_ready: bool) -> EndedWorker {
        EndedWorker {
            culprit,
            ..ended(FPE, was_ready, false)
        }
    }

    #[test]
    fn a_killed_worker_is_followed_by_another_unless_it_was_to_stop() {
        let table = [
            // how, was ready, stopping
            (FPE, true, false, AT_ONCE),
            (KILL, true, false, AT_ONCE),
            (KILL, false, false, AT_ONCE),
            (TERM, true, false, AT_ONCE),
            (TERM, false, true, NextStep::End(0)),
            (FPE, true, true, NextStep::End(0)),
            (WorkerEnd::Exited(0), true, true, NextStep::End(0)),
            (WorkerEnd::Exited(0), true, false, NextStep::End(0)),
            (WorkerEnd::Exited(1), false, false, NextStep::End(1)),
            (WorkerEnd::Exited(1), true, false, NextStep::End(1)),
        ];
        for (how, was_ready, stopping, expected) in table {
            let next = WorkerRestarts::default().next(ended(how, was_ready, stopping));
            assert_eq!(next, expected, "{how:?} {was_ready} {stopping}");
        }
    }

    #[test]
    fn a_requested_replacement_follows_at_once_unless_the_server_stops() {
        let mut restarts = WorkerRestarts::default();
        for how in [WorkerEnd::Exited(75), WorkerEnd::Exited(0), KILL, FPE] {
            let replaced = EndedWorker {
                requested_replacement: true,
                ..ended(how, true, false)
            };
            assert_eq!(restarts.next(replaced), AT_ONCE, "{how:?}");
            let stopping = EndedWorker {
                stopping: true,
                ..replaced
            };
            assert_eq!(restarts.next(stopping), NextStep::End(0), "{how:?}");
        }
    }

    #[test]
    fn the_supervisor_gives_up_on_workers_that_never_become_ready() {
        let mut restarts = WorkerRestarts::default();
        assert_eq!(restarts.next(ended(KILL, false, false)), AT_ONCE);
        assert_eq!(restarts.next(ended(KILL, false, false)), AT_ONCE);
        // A worker that becomes ready resets the count.
        assert_eq!(restarts.next(ended(KILL, true, false)), AT_ONCE);
        for _ in 1..UNREADY {
            assert!(matches!(
                restarts.next(ended(KILL, false, false)),
                NextStep::Restart { .. }
            ));
        }
        assert_eq!(restarts.next(ended(KILL, false, false)), NextStep::GiveUp);
    }

    #[test]
    fn a_kill_with_a_known_culprit_is_never_followed_by_a_pause() {
        let mut restarts = WorkerRestarts::default();
        for _ in 0..100 {
            assert_eq!(restarts.next(killed_by(Blame::Refused, true)), AT_ONCE);
            // Killed before it was ready, while it restored the models. Each content does so once.
            assert_eq!(restarts.next(killed_by(Blame::Refused, false)), AT_ONCE);
            // With a single model, nothing is refused.
            assert_eq!(restarts.next(killed_by(Blame::Known, true)), AT_ONCE);
        }
        // These kills neither count as kills without a culprit nor reset their count.
        let pauses = [0, 0, 0, 100, 200].map(Duration::from_millis);
        for after in pauses {
            assert_eq!(restarts.next(ended(KILL, true, false)), NextStep::Restart { after });
            assert_eq!(restarts.next(killed_by(Blame::Refused, true)), AT_ONCE);
        }
        // A model that kills each process that loads it, and is not refused, would do so forever.
        let mut restarts = WorkerRestarts::default();
        for _ in 1..UNREADY {
            assert_eq!(restarts.next(killed_by(Blame::Known, false)), AT_ONCE);
        }
        assert_eq!(restarts.next(killed_by(Blame::Known, false)), NextStep::GiveUp);
        assert_eq!(
            restarts.next(EndedWorker {
                stopping: true,
                ..killed_by(Blame::Refused, true)
            }),
            NextStep::End(0)
        );
    }

    #[test]
    fn early_kills_slow_down_restarts_until_a_worker_runs_long_enough() {
        let mut restarts = WorkerRestarts::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            match restarts.next(ended(FPE, true, false)) {
                NextStep::Restart { after } => pauses.push(after.as_millis()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pauses[..6], [0, 0, 0, 100, 200, 400]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[39], BACKOFF.max_delay.as_millis());
        let long = EndedWorker {
            lived: RECOVERED_AFTER,
            ..ended(FPE, true, false)
        };
        assert_eq!(restarts.next(long), AT_ONCE);
        assert_eq!(restarts.next(ended(FPE, true, false)), AT_ONCE);
    }
}
