//! Where a request runs: on the thread that read it, or on a compute thread.
//!
//! Handing a request to another thread and its answer back costs more CPU time than a small model takes to run, so
//! short work stays where it is. What must not happen is that long work does: the thread answers `/ping` too. Nothing
//! tells beforehand how long a run will take (a loop's count can be an input), so this is an expectation from the runs
//! before, and `watchdog.rs` ends a run that betrays it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Work expected to take longer than this is handed over: several times what handing over costs.
const SHORT: Duration = Duration::from_micros(200);

/// Larger bodies are handed over whatever the model: parsing one takes about as long as [`SHORT`].
const SMALL_BODY: usize = 64 << 10;

/// How long a model's requests take, as a moving average over about eight of them.
#[derive(Debug, Default)]
pub struct Pace {
    /// Nanoseconds; 0 before the first request. Concurrent updates may lose one another: it is an estimate.
    average: AtomicU64,
}

impl Pace {
    pub fn expected(&self) -> Option<Duration> {
        match self.average.load(Ordering::Relaxed) {
            0 => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        }
    }

    pub fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let average = match self.average.load(Ordering::Relaxed) {
            0 => took,
            average => average - average / 8 + took / 8,
        };
        self.average.store(average.max(1), Ordering::Relaxed);
    }
}

/// Whether a request with a body of `size` bytes runs where it is, when requests to its model are `expected` to take
/// so long. A model's first request never does.
pub fn stays(expected: Option<Duration>, size: usize) -> bool {
    size <= SMALL_BODY && expected.is_some_and(|expected| expected <= SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_requests_to_models_known_to_be_fast_stay() {
        let micros = |micros| Some(Duration::from_micros(micros));
        let table = [
            (None, 10, false),
            (micros(3), 10, true),
            (micros(200), 64 << 10, true),
            (micros(201), 10, false),
            (micros(3), (64 << 10) + 1, false),
            (micros(1_000_000), 10, false),
        ];
        for (expected, size, stay) in table {
            assert_eq!(stays(expected, size), stay, "{expected:?} {size}");
        }
    }

    #[test]
    fn the_pace_follows_what_is_recorded() {
        let pace = Pace::default();
        assert_eq!(pace.expected(), None);
        pace.record(Duration::from_micros(10));
        assert_eq!(pace.expected(), Some(Duration::from_micros(10)));
        pace.record(Duration::from_millis(20));
        assert!(!stays(pace.expected(), 1), "one slow run hands the next ones over");
        for _ in 0..100 {
            pace.record(Duration::from_micros(10));
        }
        assert!(stays(pace.expected(), 1), "and fast ones bring them back");
    }

    #[test]
    fn the_longest_time_is_recorded_without_overflow() {
        let pace = Pace::default();
        pace.record(Duration::MAX);
        pace.record(Duration::MAX);
        pace.record(Duration::ZERO);
        assert!(pace.expected() > Some(Duration::from_secs(1 << 30)));
    }
}
