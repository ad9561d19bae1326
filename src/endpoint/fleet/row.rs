//! The decision whether and when to restart a container that has ended.
//!
//! It depends only on the container's earlier runs.

use std::time::Duration;

use crate::backoff::{Backoff, MIN_DELAY, RECOVERED_AFTER};

/// Maximum number of runs without a passed health check. After that the failure is taken as
/// permanent, and the deployment fails.
const MAX_UNHEALTHY_RUNS: u32 = 3;

const BACKOFF: Backoff = Backoff {
    immediate: 0,
    max_delay: Duration::from_secs(10),
};

/// The end of a run of a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedRun {
    /// Whether the container passed a health check during this run.
    pub was_healthy: bool,
    pub lived: Duration,
    /// Whether another start would fail in the same way, such as without the program or the image.
    pub hopeless: bool,
    /// Whether it was killed on purpose, which says nothing about its health.
    pub on_demand: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestartDecision {
    Restart { after: Duration },
    GiveUp,
}

/// Decides on restarts of a container.
#[derive(Debug, Default)]
pub(super) struct ContainerRestarts {
    ever_healthy: bool,
    /// Consecutive runs that were short or never healthy.
    short_runs: u32,
}

impl ContainerRestarts {
    pub fn next(&mut self, ended: FinishedRun) -> RestartDecision {
        self.ever_healthy |= ended.was_healthy;
        if ended.on_demand {
            return RestartDecision::Restart { after: MIN_DELAY };
        }
        self.short_runs = match ended.was_healthy && ended.lived >= RECOVERED_AFTER {
            true => 1,
            false => self.short_runs.saturating_add(1),
        };
        if !self.ever_healthy && (ended.hopeless || self.short_runs >= MAX_UNHEALTHY_RUNS) {
            return RestartDecision::GiveUp;
        }
        RestartDecision::Restart {
            after: BACKOFF.delay(self.short_runs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(milliseconds: u64) -> RestartDecision {
        RestartDecision::Restart {
            after: Duration::from_millis(milliseconds),
        }
    }

    fn ended(was_healthy: bool, seconds: u64) -> FinishedRun {
        FinishedRun {
            was_healthy,
            lived: Duration::from_secs(seconds),
            hopeless: false,
            on_demand: false,
        }
    }

    #[test]
    fn a_container_that_was_never_healthy_is_given_up_after_three_runs() {
        let mut restarts = ContainerRestarts::default();
        assert_eq!(restarts.next(ended(false, 1)), after(100));
        assert_eq!(restarts.next(ended(false, 100)), after(200));
        assert_eq!(restarts.next(ended(false, 1)), RestartDecision::GiveUp);
    }

    #[test]
    fn a_hopeless_start_is_not_repeated_unless_the_container_was_healthy_before() {
        let hopeless = FinishedRun {
            hopeless: true,
            ..ended(false, 0)
        };
        assert_eq!(ContainerRestarts::default().next(hopeless), RestartDecision::GiveUp);
        let mut restarts = ContainerRestarts::default();
        restarts.next(ended(true, 1));
        assert_eq!(restarts.next(hopeless), after(200));
    }

    #[test]
    fn a_container_killed_on_demand_always_restarts_after_the_shortest_delay() {
        let killed = |was_healthy| FinishedRun {
            on_demand: true,
            ..ended(was_healthy, 1)
        };
        let mut restarts = ContainerRestarts::default();
        for count in 0..20 {
            assert_eq!(restarts.next(killed(count % 2 == 0)), after(100));
        }
        assert_eq!(
            restarts.next(ended(true, 1)),
            after(100),
            "runs that were killed on demand do not count"
        );
    }

    #[test]
    fn a_container_that_was_healthy_is_restarted_for_ever_with_growing_delays() {
        let mut restarts = ContainerRestarts::default();
        let pauses: Vec<RestartDecision> = (0..10).map(|count| restarts.next(ended(count == 0, 1))).collect();
        let expected = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000];
        assert_eq!(pauses, expected.map(after));
        for _ in 0..100 {
            assert_eq!(restarts.next(ended(false, 1)), after(10_000));
        }
        assert_eq!(
            restarts.next(ended(true, 31)),
            after(100),
            "a long healthy run resets the backoff"
        );
    }
}
