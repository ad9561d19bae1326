//! Where a request runs: on the thread that read it, or on a compute thread.
//!
//! Handing a request to another thread and its answer back costs more CPU time than a small model takes to run, so
//! short work stays where it is. What must not happen is that long work does: the thread answers `/ping` too. So a
//! request stays only when its model's requests were short so far, when it is about as large as they were, and when the
//! model has no operator whose work follows from values rather than sizes (`onnx_file.rs`). That is an expectation, not
//! a proof; `watchdog.rs` ends a run that betrays it, at its next operator, and the model loses its trust for good.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Work expected to take longer than this is handed over: several times what handing over costs.
const SHORT: Duration = Duration::from_micros(200);

/// Bodies of a few numbers differ by their digits.
const SMALL_ANYWAY: usize = 512;

/// Larger bodies are handed over whatever the model: parsing one takes about as long as [`SHORT`].
const SMALL_BODY: usize = 64 << 10;

/// What a model's requests were like, as moving averages over about eight of them. Concurrent updates may lose one
/// another: these are estimates.
#[derive(Debug, Default)]
pub struct Pace {
    /// Nanoseconds; 0 before the first request.
    time: AtomicU64,
    /// Bytes of the bodies.
    size: AtomicU64,
    /// Never to be expected to be short, or not any more.
    distrusted: AtomicBool,
}

/// What the next request is expected to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub time: Duration,
    pub size: usize,
}

impl Pace {
    /// `None` when nothing is known or may be concluded.
    pub fn expected(&self) -> Option<Expected> {
        let time = self.time.load(Ordering::Relaxed);
        if time == 0 || self.distrusted.load(Ordering::Relaxed) {
            return None;
        }
        Some(Expected {
            time: Duration::from_nanos(time),
            size: usize::try_from(self.size.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
        })
    }

    pub fn record(&self, took: Duration, size: usize) {
        let is_first = self.time.load(Ordering::Relaxed) == 0;
        let update = |average: &AtomicU64, value: u64| {
            let before = average.load(Ordering::Relaxed);
            let after = if is_first {
                value
            } else {
                before - before / 8 + value / 8
            };
            average.store(after.max(1), Ordering::Relaxed);
        };
        update(&self.size, size as u64);
        update(&self.time, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn distrust(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }
}

/// Whether work that was expected to be short has betrayed that beyond what scatter explains.
pub fn is_long(took: Duration) -> bool {
    took > SHORT * 10
}

/// CPU time of this thread. What a request takes is measured in it, not on the clock: on a busy machine a thread is
/// interrupted in the middle of the shortest run.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanoseconds)
}

/// Whether a request with a body of `size` bytes runs where it is. A model's first request never does.
pub fn stays(expected: Option<Expected>, size: usize) -> bool {
    expected.is_some_and(|expected| {
        // Work can grow with the square of the size, so this much more is four times the time.
        let usual = expected.size.saturating_mul(2).max(SMALL_ANYWAY);
        size <= SMALL_BODY.min(usual) && expected.time <= SHORT
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expecting(micros: u64, size: usize) -> Option<Expected> {
        Some(Expected {
            time: Duration::from_micros(micros),
            size,
        })
    }

    #[test]
    fn only_usual_requests_to_models_known_to_be_fast_stay() {
        let table = [
            (None, 10, false),
            (expecting(3, 10), 10, true),
            (expecting(3, 10), 512, true),
            (expecting(3, 10), 513, false),
            (expecting(3, 1000), 2000, true),
            (expecting(3, 1000), 2001, false),
            (expecting(200, 60 << 10), 64 << 10, true),
            (expecting(201, 10), 10, false),
            (expecting(3, 1 << 20), (64 << 10) + 1, false),
            (expecting(1_000_000, 10), 10, false),
        ];
        for (expected, size, stay) in table {
            assert_eq!(stays(expected, size), stay, "{expected:?} {size}");
        }
    }

    #[test]
    fn the_pace_follows_what_is_recorded() {
        let pace = Pace::default();
        assert_eq!(pace.expected(), None);
        pace.record(Duration::from_micros(10), 100);
        assert_eq!(pace.expected(), expecting(10, 100));
        pace.record(Duration::from_millis(20), 100);
        assert!(!stays(pace.expected(), 1), "one slow run hands the next ones over");
        for _ in 0..100 {
            pace.record(Duration::from_micros(10), 100);
        }
        assert!(stays(pace.expected(), 1), "and fast ones bring them back");
        pace.distrust();
        pace.record(Duration::from_micros(10), 100);
        assert!(!stays(pace.expected(), 1), "but not once it was ended");
    }

    #[test]
    fn the_longest_time_and_size_are_recorded_without_overflow() {
        let pace = Pace::default();
        pace.record(Duration::MAX, usize::MAX);
        pace.record(Duration::MAX, usize::MAX);
        pace.record(Duration::ZERO, 0);
        assert!(pace.expected().unwrap().time > Duration::from_secs(1 << 30));
        assert!(!stays(pace.expected(), usize::MAX));
    }
}
