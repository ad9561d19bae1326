//! A distribution of durations in a few hundred bytes, which many threads fill at the same time.
//!
//! Four buckets for each doubling: a quantile is wrong by less than a tenth. Fixed buckets cost one
//! relaxed increment; a sketch that adapts to the data would need a lock. A bucket has 32 bits, so
//! that a model's distribution stays small. When a bucket is half full, all buckets are halved:
//! the distribution keeps its shape and forgets its past slowly.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Durations below two to this power of nanoseconds, about a microsecond, share a bucket.
const FIRST_DOUBLING: u32 = 10;

/// Number of doublings: up to 69 seconds. Longer durations are in the last bucket.
const DOUBLINGS: u32 = 26;

/// Buckets of a doubling, as a power of two.
const PARTS_LOG: u32 = 2;

/// Number of buckets.
const BUCKETS: usize = 1 + ((DOUBLINGS as usize) << PARTS_LOG);

/// Count at which all buckets are halved.
const FULL: u32 = 1 << 31;

/// A distribution of durations.
#[derive(Debug)]
pub struct Latencies {
    buckets: [AtomicU32; BUCKETS],
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            count: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        }
    }
}

/// A copy of [`Latencies`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencySnapshot {
    buckets: Box<[u64; BUCKETS]>,
    /// Number of durations.
    pub count: u64,
    /// Sum of all durations.
    pub sum: Duration,
}

impl Default for LatencySnapshot {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; BUCKETS]),
            count: 0,
            sum: Duration::ZERO,
        }
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let Some(doubling) = nanoseconds
        .checked_ilog2()
        .and_then(|log| log.checked_sub(FIRST_DOUBLING))
    else {
        return 0;
    };
    if doubling >= DOUBLINGS {
        return BUCKETS - 1;
    }
    let part = (nanoseconds >> (FIRST_DOUBLING + doubling - PARTS_LOG)) & ((1 << PARTS_LOG) - 1);
    1 + ((doubling as usize) << PARTS_LOG) + part as usize
}

/// The smallest duration of a bucket, in nanoseconds. That of the bucket after the last one is the
/// end of the range.
fn start(bucket: usize) -> u64 {
    let Some(index) = bucket.checked_sub(1) else { return 0 };
    let (doubling, part) = (index >> PARTS_LOG, index & ((1 << PARTS_LOG) - 1));
    ((1 << PARTS_LOG) + part as u64) << (FIRST_DOUBLING as usize + doubling - PARTS_LOG as usize)
}

impl Latencies {
    pub fn record(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.buckets[bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        if before == FULL {
            for bucket in &self.buckets {
                bucket.fetch_sub(bucket.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            }
        }
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Adds the durations to a snapshot.
    pub fn add_to(&self, snapshot: &mut LatencySnapshot) {
        for (sum, bucket) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *sum += u64::from(bucket.load(Ordering::Relaxed));
        }
        snapshot.count += self.count();
        snapshot.sum += Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
    }

    pub fn snapshot(&self) -> LatencySnapshot {
        let mut snapshot = LatencySnapshot::default();
        self.add_to(&mut snapshot);
        snapshot
    }
}

impl LatencySnapshot {
    /// A snapshot of which only the number of durations is known.
    pub fn counting(count: u64) -> Self {
        Self {
            count,
            ..Self::default()
        }
    }

    /// The duration that a share `quantile` of all durations does not exceed, for example 0.99;
    /// `None` without durations.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let total: u64 = self.buckets.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (quantile.clamp(0.0, 1.0) * total as f64).max(1.0);
        let mut below = 0.0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            let count = count as f64;
            if count > 0.0 && below + count >= rank {
                let (from, to) = (start(bucket) as f64, start(bucket + 1) as f64);
                // Durations are taken as spread evenly over the bucket.
                let within = (rank - below) / count;
                return Some(Duration::from_nanos((from + (to - from) * within) as u64));
            }
            below += count;
        }
        Some(Duration::from_nanos(start(BUCKETS)))
    }

    pub fn mean(&self) -> Option<Duration> {
        let nanoseconds = self.sum.as_nanos().checked_div(u128::from(self.count))?;
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// The durations that were recorded after `earlier`, a snapshot of the same distribution.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (bucket, before) in since.buckets.iter_mut().zip(earlier.buckets.iter()) {
            *bucket = bucket.saturating_sub(*before);
        }
        since.count = since.count.saturating_sub(earlier.count);
        since.sum = since.sum.saturating_sub(earlier.sum);
        since
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(microseconds: impl IntoIterator<Item = u64>) -> LatencySnapshot {
        let latencies = Latencies::default();
        for duration in microseconds {
            latencies.record(Duration::from_micros(duration));
        }
        latencies.snapshot()
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(start(index)), index);
            assert_eq!(bucket(start(index + 1) - 1), index);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!(start(BUCKETS) > 60_000_000_000, "a minute is within the range");
    }

    #[test]
    fn a_distribution_without_durations_has_no_quantiles() {
        let empty = of([]);
        assert_eq!((empty.quantile(0.5), empty.mean(), empty.count), (None, None, 0));
    }

    #[test]
    fn quantiles_are_those_of_the_recorded_durations() {
        let thousand = of(1..=1000);
        for (quantile, expected) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let read = thousand.quantile(quantile).unwrap().as_secs_f64() * 1e6;
            assert!(
                (read / expected - 1.0).abs() < 0.3,
                "{quantile}: {read} instead of {expected}"
            );
        }
        assert_eq!(thousand.mean(), Some(Duration::from_nanos(500_500)));
        assert!(of([u64::MAX / 1000]).quantile(0.5).unwrap() > Duration::from_secs(60));
    }

    #[test]
    fn a_difference_of_snapshots_has_the_durations_between_them() {
        let latencies = Latencies::default();
        latencies.record(Duration::from_secs(10));
        let before = latencies.snapshot();
        latencies.record(Duration::from_millis(1));
        let since = latencies.snapshot().since(&before);
        assert_eq!((since.count, since.sum), (1, Duration::from_millis(1)));
        assert!(since.quantile(1.0).unwrap() < Duration::from_millis(2));
    }

    #[test]
    fn a_sum_of_full_distributions_keeps_every_duration() {
        let latencies = Latencies::default();
        latencies.buckets[bucket(10_000)].store(FULL - 1, Ordering::Relaxed);
        let mut sum = LatencySnapshot::default();
        for _ in 0..16 {
            latencies.add_to(&mut sum);
        }
        let before = sum.clone();
        latencies.add_to(&mut sum);
        let since = sum.since(&before);
        assert_eq!(since.buckets[bucket(10_000)], u64::from(FULL - 1));
    }

    #[test]
    fn a_full_bucket_halves_all_buckets_and_keeps_the_shape() {
        let latencies = Latencies::default();
        let (fast, slow) = (Duration::from_micros(10), Duration::from_secs(1));
        latencies.buckets[bucket(10_000)].store(FULL, Ordering::Relaxed);
        latencies.buckets[bucket(1_000_000_000)].store(FULL / 4, Ordering::Relaxed);
        latencies.record(fast);
        let snapshot = latencies.snapshot();
        assert!(snapshot.buckets[bucket(10_000)] <= u64::from(FULL / 2 + 1));
        assert!(snapshot.quantile(0.5).unwrap() < 2 * fast);
        assert!(snapshot.quantile(0.9).unwrap() > slow / 2);
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_quarter_of_the_exact_one(
            mut durations in prop::collection::vec(2_000u64..60_000_000_000, 1..200), quantile in 0.0..1.0f64
        ) {
            let latencies = Latencies::default();
            for &duration in &durations {
                latencies.record(Duration::from_nanos(duration));
            }
            durations.sort_unstable();
            let rank = ((quantile * durations.len() as f64).ceil() as usize).max(1);
            let exact = durations[rank - 1] as f64;
            let read = latencies.snapshot().quantile(quantile).unwrap().as_nanos() as f64;
            prop_assert!(read >= exact * 0.79 && read <= exact * 1.26, "{read} for {exact}");
        }
    }
}
