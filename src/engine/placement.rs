//! Where a request runs: on the thread that read it, or on a compute thread.
//!
//! Handing a request to another thread and its answer back costs more CPU time than a small model takes to run, so
//! short work stays where it is. What must not happen is that long work does: the thread answers `/ping` too. So a
//! request stays only when its model's requests were short so far, when it is about as large as they were, and when the
//! model has no operator whose work follows from values rather than sizes (`onnx_file.rs`). That is an expectation, not
//! a proof; `watchdog.rs` ends a run that betrays it, at its next operator, and the model loses its trust for good.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
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
    /// KiB of memory that requests took, by how large their bodies were ([`size_class`]); 0 where none was seen.
    memory: [AtomicU32; SIZE_CLASSES],
}

/// Each is twice the one before. The first is for bodies up to [`SMALL_ANYWAY`], the last for a gigabyte and more.
const SIZE_CLASSES: usize = 22;

fn size_class(size: usize) -> usize {
    let doublings = (size / SMALL_ANYWAY)
        .checked_ilog2()
        .map_or(0, |doublings| doublings as usize + 1);
    doublings.min(SIZE_CLASSES - 1)
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

    /// Bytes of memory that a request of `size` bytes is expected to take: what one of its size was seen to, else in proportion
    /// to what the nearest smaller or larger one took. Before anything was seen it is `usual`, what a run of one row takes,
    /// and what the body may become as tensors.
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

    /// Remembers that requests with bodies of `size` bytes together took `peak` bytes of memory. What was more than expected
    /// counts at once, less only by and by: to expect too little is to be without memory.
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
    fn the_memory_of_a_request_follows_its_size_and_the_largest_seen() {
        const KIB: u64 = 1 << 10;
        let pace = Pace::default();
        assert_eq!(pace.expected_memory(1000, 500), 4500, "nothing is known");
        pace.record_memory(10 * KIB, 2000);
        assert_eq!(pace.expected_memory(2000, 500), 10 * KIB);
        assert_eq!(pace.expected_memory(10, 500), 10 * KIB / 4);
        assert_eq!(pace.expected_memory(10, 20 * KIB), 20 * KIB + 40);
        assert_eq!(pace.expected_memory(16_000, 500), 80 * KIB);
        // What a small request took says nothing of larger ones that were seen.
        pace.record_memory(9 * KIB, 10);
        assert_eq!(pace.expected_memory(2000, 500), 10 * KIB);
        pace.record_memory(50 * KIB, 2000);
        assert_eq!(pace.expected_memory(2000, 500), 50 * KIB);
        for _ in 0..200 {
            pace.record_memory(KIB, 2000);
        }
        assert_eq!(pace.expected_memory(2000, 500), KIB);
        let pace = Pace::default();
        pace.record_memory(u64::MAX, 0);
        assert!(pace.expected_memory(usize::MAX, 0) > 1 << 50);
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
