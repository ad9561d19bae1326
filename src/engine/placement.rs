//! Where a request runs: on the thread that read it, or on a compute thread.
//!
//! Handing a request to another thread and its answer back costs more CPU time than a small model takes to run, so
//! short work stays where it is. What must not happen is that long work does: the thread answers `/ping` too. So a
//! request stays only when its model's requests were short so far, when it is about as large as they were, and when the
//! model has no operator whose work follows from values rather than sizes (`onnx_file.rs`). That is an expectation, not
//! a proof; `watchdog.rs` ends a run that betrays it, at its next operator, and the model loses its trust for good.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
    /// The last run was long on the clock: what the next one takes has to be known exactly.
    doubted: AtomicBool,
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

    /// Starts timing work on a thread that answers HTTP.
    pub fn stopwatch(&self) -> Stopwatch {
        if self.doubted.load(Ordering::Relaxed) {
            Stopwatch::exact()
        } else {
            Stopwatch::quick()
        }
    }

    /// Remembers what a request of `size` bytes took, which `stopwatch` was started for. Returns it.
    pub fn record(&self, stopwatch: Stopwatch, size: usize) -> Duration {
        let took = stopwatch.elapsed();
        match stopwatch {
            Stopwatch::Quick(_) if took > SHORT => self.doubted.store(true, Ordering::Relaxed),
            Stopwatch::Quick(_) => self.average(took, size),
            Stopwatch::Exact(_) => self.record_exactly(took, size),
        }
        took
    }

    /// Remembers what a request of `size` bytes took in CPU time.
    pub fn record_exactly(&self, took: Duration, size: usize) {
        self.doubted.store(false, Ordering::Relaxed);
        self.average(took, size);
    }

    fn average(&self, took: Duration, size: usize) {
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

    /// Sends the next few requests to the compute threads, whose exact times then say what is to be expected.
    pub fn suspect(&self) {
        let time = u64::try_from((2 * SHORT).as_nanos()).unwrap_or(u64::MAX);
        self.time.store(time, Ordering::Relaxed);
    }

    pub fn distrust(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }
}

/// Whether work that was expected to be short has betrayed that beyond what scatter explains.
pub fn is_long(took: Duration) -> bool {
    took > SHORT * 10
}

/// What a request takes. The clock goes on while the thread is interrupted, which on a busy machine happens in the middle
/// of the shortest run, but when it says "short" that is so, and reading it costs next to nothing. The thread's CPU time
/// is exact, and takes a system call at either end: a tenth of what a small model's request costs in all.
#[derive(Debug, Clone, Copy)]
pub enum Stopwatch {
    /// By the clock.
    Quick(Instant),
    /// By the CPU time of this thread.
    Exact(Duration),
}

impl Stopwatch {
    pub fn quick() -> Self {
        Self::Quick(Instant::now())
    }

    pub fn exact() -> Self {
        Self::Exact(thread_time())
    }

    fn elapsed(self) -> Duration {
        match self {
            Self::Quick(started) => started.elapsed(),
            Self::Exact(started) => thread_time().saturating_sub(started),
        }
    }
}

/// CPU time of this thread.
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
        pace.average(Duration::from_micros(10), 100);
        assert_eq!(pace.expected(), expecting(10, 100));
        pace.average(Duration::from_millis(20), 100);
        assert!(!stays(pace.expected(), 1), "one slow run hands the next ones over");
        for _ in 0..100 {
            pace.average(Duration::from_micros(10), 100);
        }
        assert!(stays(pace.expected(), 1), "and fast ones bring them back");
        pace.distrust();
        pace.average(Duration::from_micros(10), 100);
        assert!(!stays(pace.expected(), 1), "but not once it was ended");
    }

    #[test]
    fn the_longest_time_and_size_are_recorded_without_overflow() {
        let pace = Pace::default();
        pace.average(Duration::MAX, usize::MAX);
        pace.average(Duration::MAX, usize::MAX);
        pace.average(Duration::ZERO, 0);
        assert!(pace.expected().unwrap().time > Duration::from_secs(1 << 30));
        assert!(!stays(pace.expected(), usize::MAX));
    }

    #[test]
    fn a_run_that_is_long_on_the_clock_has_the_next_one_measured_exactly() {
        let pace = Pace::default();
        pace.average(Duration::from_micros(10), 100);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(matches!(pace.stopwatch(), Stopwatch::Quick(_)));
        pace.record(Stopwatch::Quick(long_ago), 100);
        assert!(stays(pace.expected(), 1), "it may have been interrupted");
        assert!(matches!(pace.stopwatch(), Stopwatch::Exact(_)));
        pace.record(Stopwatch::exact(), 100);
        assert!(stays(pace.expected(), 1), "it was");
        assert!(matches!(pace.stopwatch(), Stopwatch::Quick(_)));
    }

    #[test]
    fn a_suspect_is_handed_over_until_it_was_fast_a_few_times() {
        let pace = Pace::default();
        pace.average(Duration::from_micros(10), 100);
        pace.suspect();
        assert!(!stays(pace.expected(), 1));
        for _ in 0..8 {
            pace.average(Duration::from_micros(10), 100);
        }
        assert!(stays(pace.expected(), 1));
    }
}
