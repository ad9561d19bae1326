//! Distributions of durations: those that a simulation draws from, and those that it measures.

use super::random::Random;

/// A distribution of durations in nanoseconds, by its quantiles at equal distances. A single one
/// is a constant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times(Vec<u64>);

impl Times {
    pub fn constant(nanoseconds: u64) -> Self {
        Self(vec![nanoseconds])
    }

    /// The distribution of measured durations; `None` without any.
    pub fn measured(mut durations: Vec<u64>) -> Option<Self> {
        durations.sort_unstable();
        (!durations.is_empty()).then_some(Self(durations))
    }

    pub fn choose(&self, random: &mut Random) -> u64 {
        let last = self.0.len() - 1;
        if last == 0 {
            return self.0[0];
        }
        let place = random.share() * last as f64;
        let index = (place as usize).min(last - 1);
        let (low, high) = (self.0[index] as f64, self.0[index + 1] as f64);
        (low + (high - low) * (place - index as f64)) as u64
    }

    pub fn mean(&self) -> f64 {
        match &*self.0 {
            [only] => *only as f64,
            all => {
                let ends = (all[0] + all[all.len() - 1]) as f64 / 2.0;
                let inner: f64 = all[1..all.len() - 1].iter().map(|&value| value as f64).sum();
                (ends + inner) / (all.len() - 1) as f64
            }
        }
    }
}

/// Buckets of a doubling, as a power of two: a quantile is wrong by less than a fiftieth.
const PARTS_LOG: u32 = 6;

/// Durations that a simulation has measured.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// For each bucket, the number and the sum of its durations.
    buckets: Vec<(u64, u128)>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![(0, 0); (65 - PARTS_LOG as usize) << PARTS_LOG],
            count: 0,
        }
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let Some(shift) = nanoseconds.max(1).ilog2().checked_sub(PARTS_LOG) else {
        return nanoseconds as usize;
    };
    (((u64::from(shift)) << PARTS_LOG) + (nanoseconds >> shift)) as usize
}

impl Histogram {
    pub fn record(&mut self, nanoseconds: u64) {
        let bucket = bucket(nanoseconds).min(self.buckets.len() - 1);
        let (count, sum) = &mut self.buckets[bucket];
        *count += 1;
        *sum += u128::from(nanoseconds);
        self.count += 1;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration below which `share` of all are, in nanoseconds: the mean of its bucket, which
    /// is exact for equal durations. `None` without any.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        let (count, sum) = self.buckets.iter().find(|(count, _)| {
            below += count;
            below >= wanted
        })?;
        u64::try_from(sum / u128::from((*count).max(1))).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn draws_follow_the_measured_durations() {
        let measured = (0..1000).map(|index| if index < 500 { 1_000 } else { index * 10 - 4_000 });
        let times = Times::measured(measured.collect()).unwrap();
        let mut random = Random::new(5);
        let mut drawn: Vec<u64> = (0..100_000).map(|_| times.choose(&mut random)).collect();
        drawn.sort_unstable();
        for (share, expected) in [(0.25, 1_000.0), (0.5, 1_000.0), (0.9, 5_000.0), (0.99, 5_900.0)] {
            let found = drawn[(drawn.len() as f64 * share) as usize] as f64;
            assert!((found / expected - 1.0).abs() < 0.06, "{share}: {found}");
        }
        let mean = drawn.iter().sum::<u64>() as f64 / drawn.len() as f64;
        assert!((mean / times.mean() - 1.0).abs() < 0.02, "{mean} {}", times.mean());
        assert_eq!(Times::constant(7).choose(&mut random), 7);
        assert_eq!(Times::measured(Vec::new()), None);
    }

    proptest! {
        #[test]
        fn equal_durations_have_themselves_as_quantiles(nanoseconds in any::<u64>(), count in 1usize..9) {
            let mut histogram = Histogram::default();
            (0..count).for_each(|_| histogram.record(nanoseconds));
            prop_assert_eq!([0.0, 0.5, 1.0].map(|share| histogram.quantile(share)), [Some(nanoseconds); 3]);
        }

        #[test]
        fn quantiles_are_near_those_of_the_sorted_durations(
            mut durations in prop::collection::vec(1u64..1 << 40, 1..300),
            percent in 0u32..=100,
        ) {
            let mut histogram = Histogram::default();
            for &duration in &durations {
                histogram.record(duration);
            }
            durations.sort_unstable();
            let share = f64::from(percent) / 100.0;
            let rank = ((durations.len() as f64 * share).ceil() as usize).max(1);
            let (found, expected) = (histogram.quantile(share).unwrap() as f64, durations[rank - 1] as f64);
            prop_assert!((found / expected - 1.0).abs() < 0.02, "{} {}", found, expected);
        }
    }
}
