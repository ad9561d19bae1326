//! Figures of the last minute, from counters that only grow.
//!
//! The readers of the metrics come at their own times: a collector each minute, a person at once. A
//! window keeps two earlier states of a counter, so that every reader sees the change of at least
//! half a minute and of little more than a minute.

use std::time::{Duration, Instant};

/// Time after which the older state is dropped.
const HALF: Duration = Duration::from_secs(30);

/// A counter's states of up to a minute ago.
#[derive(Debug)]
pub struct Window<T> {
    older: (Instant, T),
    newer: (Instant, T),
}

impl<T: Clone> Window<T> {
    /// Starts a window. The first reading sees the change since `state`.
    pub fn new(now: Instant, state: T) -> Self {
        Self {
            older: (now, state.clone()),
            newer: (now, state),
        }
    }

    /// Returns the state from which to count at `now`, and the time since then. `state` is the
    /// current one.
    pub fn advance(&mut self, now: Instant, state: &T) -> (&T, Duration) {
        if now.saturating_duration_since(self.newer.0) >= HALF {
            self.older = std::mem::replace(&mut self.newer, (now, state.clone()));
        }
        (&self.older.1, now.saturating_duration_since(self.older.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_counts_from_half_a_minute_to_a_minute_before() {
        let start = Instant::now();
        let mut window = Window::new(start, 0);
        // The counter has the number of seconds.
        for second in 1..300 {
            let (state, time) = window.advance(start + Duration::from_secs(second), &second);
            let age = second - *state;
            assert_eq!(time, Duration::from_secs(age));
            assert!(age >= second.min(30) && age <= 60, "{age} at {second}");
        }
    }

    #[test]
    fn a_reader_that_comes_rarely_sees_the_change_since_its_last_visit() {
        let start = Instant::now();
        let mut window = Window::new(start, 0);
        window.advance(start + Duration::from_secs(600), &10);
        let (state, time) = window.advance(start + Duration::from_secs(1200), &30);
        assert_eq!((*state, time), (10, Duration::from_secs(600)));
    }
}
