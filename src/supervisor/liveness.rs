//! Heartbeats of a worker, and the decision that they have stopped.
//!
//! The worker sends heartbeats while its HTTP threads make progress. Without heartbeats, all of
//! these threads are blocked, or the whole process is stopped, and connections wait without an
//! answer. A slow machine looks the same at first, so the timeout is long. The supervisor counts
//! its own checks rather than the time: while a machine or container is paused, time passes and no
//! heartbeat is possible, but the supervisor does not check either.

use std::time::Duration;

/// Consecutive checks without a heartbeat after which a worker counts as silent.
const CHECKS: u32 = 12;

/// The shortest time between two checks, and between two heartbeats.
const SHORTEST: Duration = Duration::from_millis(10);

/// The time between two checks, and between two heartbeats, for a worker with this timeout.
pub fn pause(timeout: Duration) -> Duration {
    (timeout / CHECKS).max(SHORTEST)
}

/// The heartbeats of one worker.
#[derive(Debug, Default)]
pub struct Liveness {
    /// Whether the worker has sent a heartbeat or reported that it is ready. The time before is its
    /// startup, which has no limit.
    has_begun: bool,
    /// Checks since the last heartbeat.
    silent: u32,
}

impl Liveness {
    pub fn heard(&mut self) {
        self.has_begun = true;
        self.silent = 0;
    }

    /// Counts a check, and returns whether the heartbeats have stopped for too long.
    pub fn check(&mut self) -> bool {
        self.silent += u32::from(self.has_begun);
        self.silent > CHECKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_silent_after_enough_checks_without_a_heartbeat_but_never_before_its_first() {
        let mut liveness = Liveness::default();
        assert!((0..100).all(|_| !liveness.check()), "during startup");
        liveness.heard();
        assert!((0..CHECKS).all(|_| !liveness.check()));
        liveness.heard();
        assert!((0..CHECKS).all(|_| !liveness.check()));
        assert!(liveness.check());
    }

    #[test]
    fn checks_divide_the_timeout() {
        assert_eq!(pause(Duration::from_secs(60)), Duration::from_secs(5));
        assert_eq!(pause(Duration::from_millis(1)), SHORTEST);
    }
}
