//! Whether a container that has ended is started again, and when: decided from how it went so far, without looking at
//! anything else.

use std::time::Duration;

/// Times that a container may end before it has answered a health check for the first time. More is no accident: the
/// deployment fails, and whoever made it should hear of it.
const TRIES: u32 = 3;

/// Who lives as long as this has recovered.
const LONG: Duration = Duration::from_secs(30);

/// Between starts: from the shortest doubling up to the longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// What is known of a container that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// Whether it has answered since it was started this time.
    pub was_healthy: bool,
    pub lived: Duration,
    /// Whether another start would be the same: there is no such program, no such image.
    pub hopeless: bool,
    /// Whether it was killed on purpose, which says nothing of how it will go.
    pub on_demand: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Restart { after: Duration },
    GiveUp,
}

/// The starts so far.
#[derive(Debug, Default)]
pub(super) struct Row {
    ever_healthy: bool,
    /// In a row that ended soon.
    soon: u32,
}

impl Row {
    pub fn next(&mut self, ended: Ended) -> Next {
        self.ever_healthy |= ended.was_healthy;
        if ended.on_demand {
            return Next::Restart { after: SHORTEST };
        }
        self.soon = match ended.was_healthy && ended.lived >= LONG {
            true => 1,
            false => self.soon.saturating_add(1),
        };
        if !self.ever_healthy && (ended.hopeless || self.soon >= TRIES) {
            return Next::GiveUp;
        }
        let doublings = self.soon.saturating_sub(1).min(16);
        Next::Restart {
            after: SHORTEST.saturating_mul(1 << doublings).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(milliseconds: u64) -> Next {
        Next::Restart {
            after: Duration::from_millis(milliseconds),
        }
    }

    fn ended(was_healthy: bool, seconds: u64) -> Ended {
        Ended {
            was_healthy,
            lived: Duration::from_secs(seconds),
            hopeless: false,
            on_demand: false,
        }
    }

    #[test]
    fn a_container_that_never_answered_is_given_up() {
        let mut row = Row::default();
        assert_eq!(row.next(ended(false, 1)), after(100));
        assert_eq!(row.next(ended(false, 100)), after(200));
        assert_eq!(row.next(ended(false, 1)), Next::GiveUp);
    }

    #[test]
    fn what_would_be_the_same_is_not_tried_again() {
        let hopeless = Ended {
            hopeless: true,
            ..ended(false, 0)
        };
        assert_eq!(Row::default().next(hopeless), Next::GiveUp);
        let mut row = Row::default();
        row.next(ended(true, 1));
        assert_eq!(row.next(hopeless), after(200));
    }

    #[test]
    fn what_is_killed_on_demand_is_started_again_at_once_as_often_as_it_is() {
        let killed = |was_healthy| Ended {
            on_demand: true,
            ..ended(was_healthy, 1)
        };
        let mut row = Row::default();
        for count in 0..20 {
            assert_eq!(row.next(killed(count % 2 == 0)), after(100));
        }
        assert_eq!(row.next(ended(true, 1)), after(100), "it was not counted");
    }

    #[test]
    fn a_container_that_has_answered_is_started_for_ever_and_ever_more_slowly() {
        let mut row = Row::default();
        let pauses: Vec<Next> = (0..10).map(|count| row.next(ended(count == 0, 1))).collect();
        let expected = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 10_000];
        assert_eq!(pauses, expected.map(after));
        for _ in 0..100 {
            assert_eq!(row.next(ended(false, 1)), after(10_000));
        }
        assert_eq!(row.next(ended(true, 31)), after(100), "it had recovered");
    }
}
