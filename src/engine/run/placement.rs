//! Decides where a request runs: inline on the thread that read it, or on a compute thread.
//!
//! Handing a request to another thread and its answer back costs more CPU time than the run of a
//! small model, so short work runs inline. Long work must not, because the thread also answers
//! `/ping`. So a request runs inline only if its model's requests were short so far, if it is about
//! as large as they were, and if the model has no operator whose work depends on values rather than
//! sizes (`onnx_file.rs`). This is an expectation, not a proof: `watchdog.rs` ends a run that takes
//! longer, at its next operator, and a compute thread repeats it. If the CPU time confirms that the
//! request was long, the model's requests never run inline again.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Work that is expected to take longer runs on a compute thread: several times the handover cost.
const SHORT: Duration = Duration::from_micros(200);

/// Bodies up to this size count as equally large: those of a few numbers differ by their digits.
const ALWAYS_SMALL: usize = 512;

/// Larger bodies never run inline: parsing one takes about as long as [`SHORT`].
const SMALL_BODY: usize = 64 << 10;

/// Statistics of a model's requests, as moving averages over about eight of them. Concurrent
/// updates may overwrite each other; these are estimates.
#[derive(Debug, Default)]
pub struct RequestStats {
    /// Nanoseconds; 0 before the first request.
    time: AtomicU64,
    /// Bytes of the body.
    size: AtomicU64,
    /// The last run was long by the wall clock, so the next one is measured by CPU time.
    needs_exact_time: AtomicBool,
    /// The model's requests never run inline, or not any more.
    inline_disabled: AtomicBool,
    /// KiB of memory that requests needed, by the size of their bodies ([`size_class`]); 0 without
    /// a measurement.
    memory: [AtomicU32; SIZE_CLASSES],
}

/// Number of size classes. Each is twice the one before; the first holds bodies up to
/// [`ALWAYS_SMALL`], the last bodies of a gigabyte and more.
const SIZE_CLASSES: usize = 22;

fn size_class(size: usize) -> usize {
    let doublings = (size / ALWAYS_SMALL)
        .checked_ilog2()
        .map_or(0, |doublings| doublings as usize + 1);
    doublings.min(SIZE_CLASSES - 1)
}

/// Expected time and size of the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedRequest {
    pub time: Duration,
    pub size: usize,
}

impl RequestStats {
    /// Predicts the next request. `None` if it is not predictable.
    pub fn expected(&self) -> Option<ExpectedRequest> {
        let time = self.time.load(Ordering::Relaxed);
        if time == 0 || self.inline_disabled.load(Ordering::Relaxed) {
            return None;
        }
        Some(ExpectedRequest {
            time: Duration::from_nanos(time),
            size: usize::try_from(self.size.load(Ordering::Relaxed)).unwrap_or(usize::MAX),
        })
    }

    /// Starts to time inline work.
    pub fn stopwatch(&self) -> Stopwatch {
        if self.needs_exact_time.load(Ordering::Relaxed) {
            Stopwatch::exact()
        } else {
            Stopwatch::quick()
        }
    }

    /// Records a request of `size` bytes that `stopwatch` has timed. Returns its duration.
    pub fn record(&self, stopwatch: Stopwatch, size: usize) -> Duration {
        let took = stopwatch.elapsed();
        match stopwatch {
            Stopwatch::Quick(_) if took > SHORT => self.needs_exact_time.store(true, Ordering::Relaxed),
            Stopwatch::Quick(_) => self.average(took, size),
            Stopwatch::Exact(_) => self.record_exactly(took, size),
        }
        took
    }

    /// Records the CPU time of a request of `size` bytes.
    pub fn record_exactly(&self, took: Duration, size: usize) {
        self.needs_exact_time.store(false, Ordering::Relaxed);
        self.average(took, size);
    }

    /// Bytes of memory that a request of `size` bytes is expected to need: the measurement of its
    /// size class, or else one in proportion to the nearest smaller or larger class. Without a
    /// measurement it is `usual`, which a run of one row needs, plus what the body may become as
    /// tensors.
    pub fn expected_memory(&self, size: usize, usual: u64) -> u64 {
        let class = size_class(size);
        let seen = |class: usize| u64::from(self.memory[class].load(Ordering::Relaxed)) << 10;
        if let Some(smaller) = (0..=class).rev().find(|&smaller| seen(smaller) > 0) {
            return seen(smaller).saturating_mul(1 << (class - smaller)).max(usual);
        }
        let unseen = usual.saturating_add((size as u64).saturating_mul(4));
        let larger = (class..SIZE_CLASSES).find(|&larger| seen(larger) > 0);
        larger.map_or(unseen, |larger| (seen(larger) >> (larger - class)).max(unseen))
    }

    /// Records that requests with bodies of `size` bytes in total used `peak` bytes of memory. A
    /// larger peak counts at once, a smaller one gradually: an estimate that is too low means
    /// running out of memory.
    pub fn record_memory(&self, peak: u64, size: usize) {
        let memory = &self.memory[size_class(size)];
        let before = memory.load(Ordering::Relaxed);
        let peak = u32::try_from(peak.div_ceil(1 << 10)).unwrap_or(u32::MAX).max(1);
        let after = if peak >= before {
            peak
        } else {
            before - (before - peak).div_ceil(8)
        };
        memory.store(after, Ordering::Relaxed);
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

    /// Sends the next few requests to compute threads, where they are measured exactly.
    pub fn assume_long(&self) {
        let time = u64::try_from((2 * SHORT).as_nanos()).unwrap_or(u64::MAX);
        self.time.store(time, Ordering::Relaxed);
    }

    pub fn disable_inline(&self) {
        self.inline_disabled.store(true, Ordering::Relaxed);
    }
}

/// Whether work that was expected to be short took much longer than the measurements vary.
pub fn is_long(took: Duration) -> bool {
    took > SHORT * 10
}

/// Measures the duration of a request. The wall clock also runs while the thread is interrupted,
/// which on a busy machine happens in the middle of the shortest run. But when it shows a short
/// run, the run was short, and reading it costs almost nothing. The thread's CPU time is exact, but
/// needs a system call at either end: a tenth of the total cost of a small model's request.
#[derive(Debug, Clone, Copy)]
pub enum Stopwatch {
    /// Wall clock.
    Quick(Instant),
    /// CPU time of this thread.
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

/// Whether a request with a body of `size` bytes runs inline. A model's first request never does.
pub fn runs_inline(expected: Option<ExpectedRequest>, size: usize) -> bool {
    expected.is_some_and(|expected| {
        // Work can grow with the square of the size, so twice the size is four times the work.
        let usual = expected.size.saturating_mul(2).max(ALWAYS_SMALL);
        size <= SMALL_BODY.min(usual) && expected.time <= SHORT
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expecting(micros: u64, size: usize) -> Option<ExpectedRequest> {
        Some(ExpectedRequest {
            time: Duration::from_micros(micros),
            size,
        })
    }

    #[test]
    fn only_usual_requests_to_fast_models_run_inline() {
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
            assert_eq!(runs_inline(expected, size), stay, "{expected:?} {size}");
        }
    }

    #[test]
    fn the_stats_follow_the_recorded_requests() {
        let stats = RequestStats::default();
        assert_eq!(stats.expected(), None);
        stats.average(Duration::from_micros(10), 100);
        assert_eq!(stats.expected(), expecting(10, 100));
        stats.average(Duration::from_millis(20), 100);
        assert!(
            !runs_inline(stats.expected(), 1),
            "one slow run moves the next ones to compute threads"
        );
        for _ in 0..100 {
            stats.average(Duration::from_micros(10), 100);
        }
        assert!(runs_inline(stats.expected(), 1), "fast runs bring them back");
        stats.disable_inline();
        stats.average(Duration::from_micros(10), 100);
        assert!(
            !runs_inline(stats.expected(), 1),
            "but not after inline runs were disabled"
        );
    }

    #[test]
    fn the_memory_of_a_request_follows_its_size_and_the_largest_seen() {
        const KIB: u64 = 1 << 10;
        let stats = RequestStats::default();
        assert_eq!(stats.expected_memory(1000, 500), 4500, "nothing is known");
        stats.record_memory(10 * KIB, 2000);
        assert_eq!(stats.expected_memory(2000, 500), 10 * KIB);
        assert_eq!(stats.expected_memory(10, 500), 10 * KIB / 4);
        assert_eq!(stats.expected_memory(10, 20 * KIB), 20 * KIB + 40);
        assert_eq!(stats.expected_memory(16_000, 500), 80 * KIB);
        // The memory of a small request does not predict that of larger ones.
        stats.record_memory(9 * KIB, 10);
        assert_eq!(stats.expected_memory(2000, 500), 10 * KIB);
        stats.record_memory(50 * KIB, 2000);
        assert_eq!(stats.expected_memory(2000, 500), 50 * KIB);
        for _ in 0..200 {
            stats.record_memory(KIB, 2000);
        }
        assert_eq!(stats.expected_memory(2000, 500), KIB);
        let stats = RequestStats::default();
        stats.record_memory(u64::MAX, 0);
        assert!(stats.expected_memory(usize::MAX, 0) > 1 << 50);
    }

    #[test]
    fn sizes_fall_into_classes_that_double() {
        let table = [
            (0, 0),
            (511, 0),
            (512, 1),
            (1023, 1),
            (1024, 2),
            (1 << 20, 12),
            (1 << 30, 21),
            (usize::MAX, 21),
        ];
        for (size, class) in table {
            assert_eq!(size_class(size), class, "{size}");
        }
    }

    #[test]
    fn the_longest_time_and_size_are_recorded_without_overflow() {
        let stats = RequestStats::default();
        stats.average(Duration::MAX, usize::MAX);
        stats.average(Duration::MAX, usize::MAX);
        stats.average(Duration::ZERO, 0);
        assert!(stats.expected().unwrap().time > Duration::from_secs(1 << 30));
        assert!(!runs_inline(stats.expected(), usize::MAX));
    }

    #[test]
    fn after_a_long_run_by_the_wall_clock_the_next_one_is_measured_exactly() {
        let stats = RequestStats::default();
        stats.average(Duration::from_micros(10), 100);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(matches!(stats.stopwatch(), Stopwatch::Quick(_)));
        stats.record(Stopwatch::Quick(long_ago), 100);
        assert!(runs_inline(stats.expected(), 1), "the thread may have been interrupted");
        assert!(matches!(stats.stopwatch(), Stopwatch::Exact(_)));
        stats.record(Stopwatch::exact(), 100);
        assert!(runs_inline(stats.expected(), 1), "it was interrupted");
        assert!(matches!(stats.stopwatch(), Stopwatch::Quick(_)));
    }

    #[test]
    fn a_model_assumed_to_be_long_runs_inline_again_after_a_few_fast_runs() {
        let stats = RequestStats::default();
        stats.average(Duration::from_micros(10), 100);
        stats.assume_long();
        assert!(!runs_inline(stats.expected(), 1));
        for _ in 0..8 {
            stats.average(Duration::from_micros(10), 100);
        }
        assert!(runs_inline(stats.expected(), 1));
    }
}
