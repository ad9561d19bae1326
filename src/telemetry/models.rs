//! Statistics of one model: what its requests did, how long they took, and why the last one failed.
//!
//! The catalog's entry of a model owns them, and a request reaches them through its handle. So no
//! request looks a name up for its statistics, and no lock is shared between models. A successful
//! request costs a few relaxed atomic operations. The memory of a distribution is taken by the
//! first request: a model without requests has about a hundred bytes, any other one a few hundred.
//!
//! Statistics live as long as the entry: an unload ends them, and a new version of the same model
//! keeps them. A restarted process starts with empty ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::cause::Cause;
use super::failures::{TEXT_BYTES, shortened};
use super::latency::{Latencies, LatencySnapshot};

/// Resolution of the time of the last request. A coarse time is written rarely: threads that serve
/// the same model then share the line of memory for reading.
const LAST_REQUEST_RESOLUTION: u64 = 100;

/// Start of the clock on which times of requests are counted.
static CLOCK: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Statistics of a model.
#[derive(Debug, Default)]
pub struct ModelStats {
    latencies: OnceLock<Box<Latencies>>,
    errors: OnceLock<Box<[AtomicU64; Cause::ALL.len()]>>,
    /// Requests that had to wait until the model was loaded.
    cold: AtomicU64,
    /// Time of the last answered request, in milliseconds on [`CLOCK`] plus one; 0 without any.
    last_request: AtomicU64,
    /// Requests that the rankings have counted, and the sum of those of the last minutes.
    ranked: AtomicU64,
    activity: AtomicU64,
    /// Locked only by failures and by readers.
    last_error: Mutex<Option<Box<LastError>>>,
}

/// The last failed request of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    pub at: SystemTime,
    pub cause: Cause,
    /// The message, shortened.
    pub text: String,
}

/// The statistics of a model at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSnapshot {
    /// Durations of the answered requests, from the head of the request to the response.
    pub latency: LatencySnapshot,
    /// Failed requests by cause, without causes that have none.
    pub errors: Vec<(Cause, u64)>,
    /// Requests that waited for a load of the model.
    pub cold: u64,
    /// Time of the last answered request.
    pub last_request: Option<SystemTime>,
    pub last_error: Option<LastError>,
}

impl ModelSnapshot {
    /// Answered and failed requests.
    pub fn requests(&self) -> u64 {
        self.latency.count + self.failed()
    }

    /// Failed requests.
    pub fn failed(&self) -> u64 {
        self.errors.iter().map(|(_, count)| count).sum()
    }
}

impl ModelStats {
    /// Counts a request that waited until the model was loaded.
    pub fn waited_for_load(&self) {
        self.cold.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of requests in the last minutes, for a ranking of models. With `is_ranking`, older
    /// requests count half from now on.
    pub fn activity(&self, is_ranking: bool) -> u64 {
        let all = self.answers() + self.failures();
        let fresh = all.saturating_sub(self.ranked.load(Ordering::Relaxed));
        let activity = self.activity.load(Ordering::Relaxed);
        if is_ranking {
            self.ranked.store(all, Ordering::Relaxed);
            self.activity.store(activity / 2 + fresh, Ordering::Relaxed);
            return activity / 2 + fresh;
        }
        activity + fresh
    }

    /// Counts a failed request and keeps its message.
    pub fn failed(&self, cause: Cause, text: &str) {
        self.count_error(cause);
        let error = LastError {
            at: SystemTime::now(),
            cause,
            text: shortened(text, TEXT_BYTES),
        };
        *self.last_error() = Some(Box::new(error));
    }

    /// Counts a request whose client hung up before the response.
    pub fn hung_up(&self) {
        self.count_error(Cause::HungUp);
    }

    fn count_error(&self, cause: Cause) {
        let errors = self.errors.get_or_init(Box::default);
        errors[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that was answered at `now`, `took` after its head.
    pub fn answered(&self, now: Instant, took: Duration) {
        let latencies = self.latencies.get_or_init(Box::default);
        latencies.record(took);
        let milliseconds = 1 + milliseconds(now.saturating_duration_since(*CLOCK));
        if milliseconds >= self.last_request.load(Ordering::Relaxed) + LAST_REQUEST_RESOLUTION {
            self.last_request.store(milliseconds, Ordering::Relaxed);
        }
    }

    /// Number of answered requests.
    pub fn answers(&self) -> u64 {
        self.latencies.get().map_or(0, |latencies| latencies.count())
    }

    /// Number of failed requests.
    pub fn failures(&self) -> u64 {
        let errors = self.errors.get().map(|errors| errors.iter());
        errors
            .into_iter()
            .flatten()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Durations of the answered requests.
    pub fn latency(&self) -> LatencySnapshot {
        self.latencies
            .get()
            .map(|latencies| latencies.snapshot())
            .unwrap_or_default()
    }

    pub fn snapshot(&self) -> ModelSnapshot {
        let errors = self.errors.get().map(|errors| errors.iter());
        let errors = Cause::ALL
            .into_iter()
            .zip(errors.into_iter().flatten())
            .map(|(cause, count)| (cause, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0);
        let last_request = self.last_request.load(Ordering::Relaxed).checked_sub(1).map(|last| {
            let ago = milliseconds(CLOCK.elapsed()).saturating_sub(last);
            SystemTime::now()
                .checked_sub(Duration::from_millis(ago))
                .unwrap_or(SystemTime::UNIX_EPOCH)
        });
        ModelSnapshot {
            latency: self.latency(),
            errors: errors.collect(),
            cold: self.cold.load(Ordering::Relaxed),
            last_request,
            last_error: self.last_error().as_deref().cloned(),
        }
    }

    fn last_error(&self) -> MutexGuard<'_, Option<Box<LastError>>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the clock of the statistics, so that no request starts it.
pub fn start_clock() {
    LazyLock::force(&CLOCK);
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stats: &ModelStats, took: Duration) {
        stats.answered(Instant::now(), took);
    }

    #[test]
    fn a_model_without_requests_has_no_figures_and_little_memory() {
        let stats = ModelStats::default();
        let snapshot = stats.snapshot();
        assert_eq!((snapshot.requests(), snapshot.failed(), snapshot.cold), (0, 0, 0));
        assert_eq!((snapshot.last_request, snapshot.last_error), (None, None));
        assert!(size_of::<ModelStats>() <= 112, "{}", size_of::<ModelStats>());
        assert!(size_of::<Latencies>() <= 448, "{}", size_of::<Latencies>());
    }

    #[test]
    fn requests_are_counted_by_their_outcome() {
        let stats = ModelStats::default();
        for _ in 0..3 {
            answer(&stats, Duration::from_millis(1));
        }
        stats.failed(Cause::Memory, "no memory");
        stats.hung_up();
        stats.waited_for_load();
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.latency.count, 3);
        assert_eq!(snapshot.errors, [(Cause::HungUp, 1), (Cause::Memory, 1)]);
        assert_eq!((snapshot.requests(), snapshot.cold), (5, 1));
        assert_eq!((stats.answers(), stats.failures()), (3, 2));
        assert!(snapshot.last_request.is_some());
    }

    #[test]
    fn the_last_error_is_kept_and_bounded() {
        let stats = ModelStats::default();
        stats.failed(Cause::Memory, "first");
        stats.failed(Cause::Internal, &"x".repeat(10_000));
        let last = stats.snapshot().last_error.unwrap();
        assert_eq!(last.cause, Cause::Internal);
        assert!(last.text.len() <= TEXT_BYTES);
        // A client that hangs up says nothing about the model.
        stats.hung_up();
        assert_eq!(stats.snapshot().last_error.unwrap(), last);
    }

    #[test]
    fn the_activity_of_a_model_fades_with_each_ranking() {
        let stats = ModelStats::default();
        for _ in 0..8 {
            answer(&stats, Duration::ZERO);
        }
        let read = [true, false, true, true].map(|is_ranking| stats.activity(is_ranking));
        assert_eq!(read, [8, 8, 4, 2]);
        stats.failed(Cause::Internal, "");
        assert_eq!(stats.activity(false), 3);
    }
}
