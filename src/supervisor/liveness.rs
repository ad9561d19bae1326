//! Signs of life of a worker, and the decision that it has been silent for too long.
//!
//! The worker sends one while its HTTP threads make progress. A silent worker has all of them held up, or is stopped as a
//! whole; its connections wait and nobody answers them. The supervisor cannot tell a slow machine from that at once, so it
//! is patient, and counts its own looks rather than the time: a machine or a container that was paused has passed time
//! in which nobody could give a sign, but the supervisor has not looked meanwhile.

use std::time::Duration;

/// Looks in a row without a sign of life that make a worker silent for too long.
const LOOKS: u32 = 12;

/// The shortest time between two looks, and between two signs.
const SHORTEST: Duration = Duration::from_millis(10);

/// The time between two looks, and between two signs, for a worker that may be silent for `timeout`.
pub fn pause(timeout: Duration) -> Duration {
    (timeout / LOOKS).max(SHORTEST)
}

/// The signs of life of one worker.
#[derive(Debug, Default)]
pub struct Liveness {
    /// The worker has given a sign, or has said that it is ready. Before that it starts, which takes as long as it takes.
    has_begun: bool,
    /// Looks since the last sign.
    silent: u32,
}

impl Liveness {
    pub fn heard(&mut self) {
        self.has_begun = true;
        self.silent = 0;
    }

    /// Counts a look, and returns whether the worker has been silent for too long.
    pub fn look(&mut self) -> bool {
        self.silent += u32::from(self.has_begun);
        self.silent > LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_silent_after_as_many_looks_without_a_sign_and_never_before_its_first() {
        let mut liveness = Liveness::default();
        assert!((0..100).all(|_| !liveness.look()), "it starts");
        liveness.heard();
        assert!((0..LOOKS).all(|_| !liveness.look()));
        liveness.heard();
        assert!((0..LOOKS).all(|_| !liveness.look()));
        assert!(liveness.look());
    }

    #[test]
    fn looks_are_a_part_of_the_timeout() {
        assert_eq!(pause(Duration::from_secs(60)), Duration::from_secs(5));
        assert_eq!(pause(Duration::from_millis(1)), SHORTEST);
    }
}
