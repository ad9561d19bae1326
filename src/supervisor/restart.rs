//! Whether there is a next worker: decided from how the last one ended, without looking at anything else.

use std::time::Duration;

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// What is known of a worker that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub how: How,
    /// Whether it had come so far as to answer requests.
    pub was_ready: bool,
    pub lived: Duration,
    /// Whether it had been asked to stop.
    pub stopping: bool,
    /// Whether it had asked for another one in its place.
    pub asked: bool,
    pub culprit: Culprit,
}

/// What is known of the model that a worker was killed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// Nothing, or it was no model: the kernel for lack of memory, an operator of the machine.
    Unknown,
    Known,
    /// The next worker refuses it.
    Refused,
}

/// What is done then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Restart {
        after: Duration,
    },
    /// Ends with this code; the worker has said why, if there is anything to say.
    End(i32),
    /// Ends as a failure that only the supervisor can explain.
    GiveUp,
}

/// The row of restarts so far. Only those without a known culprit count: they may come again by themselves.
#[derive(Debug, Default)]
pub struct Row {
    /// Workers in a row that were killed soon.
    soon: u32,
    /// Workers in a row that were killed before they were ready.
    unready: u32,
}

/// Workers in a row that may be killed before they are ready. More is no accident: it would be so for ever, and the
/// platform should hear of it.
const UNREADY: u32 = 3;

/// A worker that lives as long as this has not been killed soon.
const LONG: Duration = Duration::from_secs(30);

/// Between workers that were killed soon: nothing at first, then from the shortest doubling up to the longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

impl Row {
    /// What is done after `ended`.
    pub fn next(&mut self, ended: Ended) -> Next {
        match ended.how {
            // A wrong setting stays wrong, and whoever stopped in order is not to be started again.
            How::Exited(code) if !ended.asked => return Next::End(code),
            How::Exited(_) | How::Killed(_) => {}
        }
        if ended.stopping {
            // Whatever it was: it was to end and has.
            return Next::End(0);
        }
        if ended.culprit == Culprit::Refused || ended.asked {
            // It cannot do so again soon, so there is nothing to wait for, and nothing to give up for. Runs that make a worker
            // ask for that take their time first.
            return Next::Restart { after: Duration::ZERO };
        }
        self.unready = if ended.was_ready { 0 } else { self.unready + 1 };
        if self.unready >= UNREADY {
            return Next::GiveUp;
        }
        if ended.culprit == Culprit::Known && ended.was_ready {
            // A request did it. Others are answered the sooner the less is waited.
            return Next::Restart { after: Duration::ZERO };
        }
        self.soon = if ended.lived < LONG { self.soon + 1 } else { 0 };
        Next::Restart {
            after: pause(self.soon),
        }
    }
}

/// The pause before the restart after so many workers in a row that were killed soon.
fn pause(soon: u32) -> Duration {
    /// A few may be an accident, such as a shortage of memory that is over when the large process is gone.
    const WITHOUT: u32 = 3;
    match soon.checked_sub(WITHOUT + 1) {
        None => Duration::ZERO,
        Some(doublings) => SHORTEST.saturating_mul(1 << doublings.min(16)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FPE: How = How::Killed(libc::SIGFPE);
    const KILL: How = How::Killed(libc::SIGKILL);
    const TERM: How = How::Killed(libc::SIGTERM);
    const AT_ONCE: Next = Next::Restart { after: Duration::ZERO };

    fn ended(how: How, was_ready: bool, stopping: bool) -> Ended {
        Ended {
            how,
            was_ready,
            lived: Duration::from_secs(1),
            stopping,
            asked: false,
            culprit: Culprit::Unknown,
        }
    }

    fn killed_by(culprit: Culprit, was_ready: bool) -> Ended {
        Ended {
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
            (TERM, false, true, Next::End(0)),
            (FPE, true, true, Next::End(0)),
            (How::Exited(0), true, true, Next::End(0)),
            (How::Exited(0), true, false, Next::End(0)),
            (How::Exited(1), false, false, Next::End(1)),
            (How::Exited(1), true, false, Next::End(1)),
        ];
        for (how, was_ready, stopping, expected) in table {
            let next = Row::default().next(ended(how, was_ready, stopping));
            assert_eq!(next, expected, "{how:?} {was_ready} {stopping}");
        }
    }

    #[test]
    fn a_worker_that_asks_for_another_one_is_followed_by_it_at_once_unless_the_server_stops() {
        let mut row = Row::default();
        for how in [How::Exited(75), How::Exited(0), KILL, FPE] {
            let asked = Ended {
                asked: true,
                ..ended(how, true, false)
            };
            assert_eq!(row.next(asked), AT_ONCE, "{how:?}");
            let stopping = Ended {
                stopping: true,
                ..asked
            };
            assert_eq!(row.next(stopping), Next::End(0), "{how:?}");
        }
    }

    #[test]
    fn workers_that_never_become_ready_come_to_an_end() {
        let mut row = Row::default();
        assert_eq!(row.next(ended(KILL, false, false)), AT_ONCE);
        assert_eq!(row.next(ended(KILL, false, false)), AT_ONCE);
        // One that was ready shows that it can be done.
        assert_eq!(row.next(ended(KILL, true, false)), AT_ONCE);
        for _ in 1..UNREADY {
            assert!(matches!(row.next(ended(KILL, false, false)), Next::Restart { .. }));
        }
        assert_eq!(row.next(ended(KILL, false, false)), Next::GiveUp);
    }

    #[test]
    fn a_kill_whose_culprit_is_known_delays_nothing_however_often_it_comes() {
        let mut row = Row::default();
        for _ in 0..100 {
            assert_eq!(row.next(killed_by(Culprit::Refused, true)), AT_ONCE);
            // Before it was ready: while it loaded the models again. Each of them does so once.
            assert_eq!(row.next(killed_by(Culprit::Refused, false)), AT_ONCE);
            // With one model nothing is refused.
            assert_eq!(row.next(killed_by(Culprit::Known, true)), AT_ONCE);
        }
        // They do not count for those without one, nor do they hide them.
        let pauses = [0, 0, 0, 100, 200].map(Duration::from_millis);
        for after in pauses {
            assert_eq!(row.next(ended(KILL, true, false)), Next::Restart { after });
            assert_eq!(row.next(killed_by(Culprit::Refused, true)), AT_ONCE);
        }
        // A model that ends each process that loads it, where it is not refused, does so for ever.
        let mut row = Row::default();
        for _ in 1..UNREADY {
            assert_eq!(row.next(killed_by(Culprit::Known, false)), AT_ONCE);
        }
        assert_eq!(row.next(killed_by(Culprit::Known, false)), Next::GiveUp);
        assert_eq!(
            row.next(Ended {
                stopping: true,
                ..killed_by(Culprit::Refused, true)
            }),
            Next::End(0)
        );
    }

    #[test]
    fn restarts_that_follow_each_other_fast_are_slowed_down_and_one_that_held_ends_that() {
        let mut row = Row::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            match row.next(ended(FPE, true, false)) {
                Next::Restart { after } => pauses.push(after.as_millis()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(pauses[..6], [0, 0, 0, 100, 200, 400]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[39], LONGEST.as_millis());
        let long = Ended {
            lived: LONG,
            ..ended(FPE, true, false)
        };
        assert_eq!(row.next(long), AT_ONCE);
        assert_eq!(row.next(ended(FPE, true, false)), AT_ONCE);
    }
}
