//! The counters on the way of a request, which all threads of the server increment.
//!
//! A counter that many threads increment costs more than the work that it counts: its line of
//! memory moves from core to core. So each thread has its own copy of all counters here, and a
//! reader adds the copies. A request then costs a few relaxed increments and four readings of the
//! clock.
//!
//! Invariant: with `--metrics off`, nothing here counts, and only the work on requests that are
//! timed by themselves (`times.rs`) reads the clock.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::latency::{Latencies, LatencySnapshot};
use super::times::{RequestTimes, Step, StepTime};

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From the head of the request to the end of its body.
    Read,
    /// From the body to tensors.
    Parse,
    /// The wait for a compute thread. Requests that run at once have none.
    Queue,
    /// The run of the model.
    Run,
    /// From tensors to the body of the response.
    Write,
}

impl Phase {
    pub const ALL: [Self; 5] = [Self::Read, Self::Parse, Self::Queue, Self::Run, Self::Write];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Parse => "parse",
            Self::Queue => "queue",
            Self::Run => "run",
            Self::Write => "write",
        }
    }
}

/// Upper bounds of the durations of answered requests, in milliseconds.
pub const REQUEST_BOUNDS: [u64; 8] = [1, 5, 25, 100, 500, 2_500, 10_000, 60_000];

/// Upper bounds of the numbers of requests in a batch.
pub const BATCH_BOUNDS: [u64; 5] = [2, 4, 8, 16, 32];

/// Number of copies of the counters. Threads beyond it share copies.
const SHARDS: usize = 16;

/// A histogram with fixed bounds. The last bucket has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    /// Number of values up to each bound and above the one before.
    pub buckets: [u64; N],
    /// Number of values above all bounds.
    pub above: u64,
    pub sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self {
            buckets: [0; N],
            above: 0,
            sum: 0,
        }
    }
}

impl<const N: usize> Histogram<N> {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum::<u64>() + self.above
    }
}

#[derive(Debug)]
struct Counts<const N: usize> {
    buckets: [AtomicU64; N],
    above: AtomicU64,
    sum: AtomicU64,
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }
}

impl<const N: usize> Counts<N> {
    /// Counts `value` below the first of `bounds` that is not smaller than `size`.
    fn add(&self, bounds: &[u64; N], size: u64, value: u64) {
        let place = bounds.iter().position(|&bound| size <= bound);
        place
            .map_or(&self.above, |place| &self.buckets[place])
            .fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn add_to(&self, sum: &mut Histogram<N>) {
        for (sum, count) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum += count.load(Ordering::Relaxed);
        }
        sum.above += self.above.load(Ordering::Relaxed);
        sum.sum = sum.sum.saturating_add(self.sum.load(Ordering::Relaxed));
    }
}

/// One copy of the counters, apart from those of other threads.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Answered requests, by their time in nanoseconds.
    requests: Counts<{ REQUEST_BOUNDS.len() }>,
    batches: Counts<{ BATCH_BOUNDS.len() }>,
    latencies: Latencies,
    phases: [Latencies; Phase::ALL.len()],
    warm: AtomicU64,
    cold: AtomicU64,
    /// Nanoseconds that threads spent on requests.
    busy: AtomicU64,
}

/// The counters of one server.
#[derive(Debug)]
pub struct Recorder {
    is_on: bool,
    shards: Box<[Shard]>,
}

/// Sums of the counters at one time.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Answered requests; the sum is in nanoseconds.
    pub requests: Histogram<{ REQUEST_BOUNDS.len() }>,
    /// Batches by the number of their requests.
    pub batches: Histogram<{ BATCH_BOUNDS.len() }>,
    /// Durations of the answered requests.
    pub latency: LatencySnapshot,
    /// In the order of [`Phase::ALL`].
    pub phases: [LatencySnapshot; Phase::ALL.len()],
    /// Requests to models that were in memory, and that had to be loaded first.
    pub warm: u64,
    pub cold: u64,
    /// Time that threads spent on requests.
    pub busy: Duration,
}

impl Recorder {
    /// Creates a recorder that counts, or one that does nothing.
    pub fn new(is_on: bool) -> Self {
        let shards = if is_on { SHARDS } else { 0 };
        Self {
            is_on,
            shards: (0..shards).map(|_| Shard::default()).collect(),
        }
    }

    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// The copy of this thread; `None` when nothing is counted.
    fn shard(&self) -> Option<&Shard> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        if !self.is_on {
            return None;
        }
        let own = OWN.get();
        let own = if own == usize::MAX {
            let next = THREADS.fetch_add(1, Ordering::Relaxed);
            OWN.set(next);
            next
        } else {
            own
        };
        self.shards.get(own % SHARDS)
    }

    /// Counts a request that was answered after `took`.
    pub fn answered(&self, took: Duration) {
        if let Some(shard) = self.shard() {
            let milliseconds = u64::try_from(took.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            shard.requests.add(&REQUEST_BOUNDS, milliseconds, nanoseconds(took));
            shard.latencies.record(took);
        }
    }

    /// Counts a request that found its model in memory, or had to wait for it.
    pub fn found_model(&self, is_cold: bool) {
        if let Some(shard) = self.shard() {
            let count = if is_cold { &shard.cold } else { &shard.warm };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records the duration of a phase of one request.
    pub fn phase(&self, phase: Phase, took: Duration) {
        if let Some(shard) = self.shard() {
            shard.phases[phase as usize].record(took);
        }
    }

    /// Records the duration of a phase since `started`.
    pub fn phase_since(&self, phase: Phase, started: Instant) {
        if self.is_on {
            self.phase(phase, started.elapsed());
        }
    }

    /// Counts a run that answered `requests` requests.
    pub fn batch(&self, requests: u64) {
        if let Some(shard) = self.shard() {
            shard.batches.add(&BATCH_BOUNDS, requests, requests);
        }
    }

    /// Starts to time the work of this thread on requests; `is_timed` says whether one of them is
    /// timed by itself.
    pub fn work(&self, is_timed: bool) -> Work<'_> {
        Work {
            recorder: self,
            times: (self.is_on || is_timed).then(|| {
                let now = Instant::now();
                (now, now)
            }),
        }
    }

    /// Adds the copies of all threads.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            shard.requests.add_to(&mut totals.requests);
            shard.batches.add_to(&mut totals.batches);
            shard.latencies.add_to(&mut totals.latency);
            for (sum, phase) in totals.phases.iter_mut().zip(&shard.phases) {
                phase.add_to(sum);
            }
            totals.warm += shard.warm.load(Ordering::Relaxed);
            totals.cold += shard.cold.load(Ordering::Relaxed);
            totals.busy += Duration::from_nanos(shard.busy.load(Ordering::Relaxed));
        }
        totals
    }
}

/// Work of a thread on requests, which consists of phases. Its time counts as busy until the end of
/// its last phase.
#[derive(Debug)]
#[must_use]
pub struct Work<'a> {
    recorder: &'a Recorder,
    /// Start of the work, and end of the last phase.
    times: Option<(Instant, Instant)>,
}

impl Work<'_> {
    /// Ends a phase of several requests, each of which waited for all of it. Each has the times of
    /// its own, if it is timed by itself.
    pub fn end_of<'t>(&mut self, phase: Phase, requests: impl ExactSizeIterator<Item = Option<&'t RequestTimes>>) {
        let Some((_, last)) = &mut self.times else { return };
        let (start, end) = (*last, Instant::now());
        *last = end;
        let count = requests.len();
        for times in requests {
            self.recorder.phase(phase, end.saturating_duration_since(start));
            if let Some(times) = times {
                times.add(StepTime {
                    step: Step::Phase(phase),
                    start,
                    end,
                    requests: count,
                });
            }
        }
    }

    /// Ends a phase of one request.
    pub fn end(&mut self, phase: Phase, times: Option<&RequestTimes>) {
        self.end_of(phase, [times].into_iter());
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if let (Some((start, last)), Some(shard)) = (self.times, self.recorder.shard()) {
            let busy = nanoseconds(last.saturating_duration_since(start));
            shard.busy.fetch_add(busy, Ordering::Relaxed);
        }
    }
}

pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_counts_of_all_threads_are_added() {
        let recorder = Recorder::new(true);
        thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    recorder.answered(Duration::from_millis(3));
                    recorder.found_model(false);
                    recorder.batch(3);
                    let mut work = recorder.work(false);
                    work.end(Phase::Parse, None);
                    work.end_of(Phase::Run, [None; 3].into_iter());
                });
            }
        });
        let (totals, threads) = (recorder.totals(), 2 * SHARDS as u64);
        assert_eq!(totals.requests.buckets, [0, threads, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            Duration::from_nanos(totals.requests.sum),
            Duration::from_millis(3) * threads as u32
        );
        assert_eq!((totals.warm, totals.cold), (threads, 0));
        assert_eq!((totals.batches.buckets[1], totals.batches.sum), (threads, 3 * threads));
        let counts = totals.phases.each_ref().map(|phase| phase.count);
        assert_eq!(counts, [0, threads, 0, 3 * threads, 0]);
        assert!(totals.busy > Duration::ZERO);
    }

    #[test]
    fn a_value_at_a_bound_is_below_it() {
        let recorder = Recorder::new(true);
        for (milliseconds, place) in [(0, 0), (1, 0), (2, 1), (5, 1), (60_000, 7), (60_001, 8)] {
            let before = recorder.totals().requests;
            recorder.answered(Duration::from_millis(milliseconds));
            let after = recorder.totals().requests;
            let counts = |histogram: Histogram<8>| histogram.buckets.into_iter().chain([histogram.above]);
            let grown = counts(after)
                .zip(counts(before))
                .position(|(after, before)| after > before);
            assert_eq!(grown, Some(place), "{milliseconds} ms");
        }
    }

    #[test]
    fn a_recorder_that_is_off_counts_nothing() {
        let recorder = Recorder::new(false);
        recorder.answered(Duration::from_secs(1));
        recorder.found_model(true);
        recorder.batch(2);
        recorder.work(false).end(Phase::Run, None);
        let totals = recorder.totals();
        assert_eq!(
            (totals.requests.count(), totals.cold, totals.batches.count()),
            (0, 0, 0)
        );
        assert_eq!((totals.phases[3].count, totals.busy), (0, Duration::ZERO));
    }

    #[test]
    fn a_request_that_is_timed_by_itself_gets_its_phases_also_without_metrics() {
        for is_on in [true, false] {
            let (recorder, times) = (Recorder::new(is_on), RequestTimes::default());
            let mut work = recorder.work(true);
            work.end(Phase::Parse, Some(&times));
            work.end_of(Phase::Run, [None, Some(&times)].into_iter());
            let steps = times.steps();
            let facts: Vec<_> = steps.iter().map(|time| (time.step, time.requests)).collect();
            assert_eq!(facts, [(Step::Phase(Phase::Parse), 1), (Step::Phase(Phase::Run), 2)]);
            assert_eq!(steps[0].end, steps[1].start);
            assert_eq!(
                recorder.totals().phases[Phase::Run as usize].count,
                if is_on { 2 } else { 0 }
            );
        }
    }

    #[test]
    fn each_phase_has_its_place() {
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase as usize, index);
        }
    }
}
