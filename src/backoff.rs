//! The delays between restarts of a process that ends again and again.

use std::time::Duration;

/// A process that ran this long has recovered. Its next short run is the first one of a series.
pub const RECOVERED_AFTER: Duration = Duration::from_secs(30);

/// The shortest delay.
pub const MIN_DELAY: Duration = Duration::from_millis(100);

/// Delays that double from [`MIN_DELAY`] to a maximum.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The number of restarts without a delay.
    pub immediate: u32,
    pub max_delay: Duration,
}

impl Backoff {
    /// The delay before the restart after so many consecutive short runs.
    pub fn delay(self, short_runs: u32) -> Duration {
        match short_runs.checked_sub(self.immediate + 1) {
            None => Duration::ZERO,
            Some(doublings) => MIN_DELAY.saturating_mul(1 << doublings.min(16)).min(self.max_delay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_after_the_immediate_restarts() {
        let table = [
            // immediate restarts, maximum in milliseconds, delays in milliseconds from 0 short runs
            (0, 350, [0, 100, 200, 350, 350, 350]),
            (3, 5_000, [0, 0, 0, 0, 100, 200]),
        ];
        for (immediate, max, delays) in table {
            let backoff = Backoff {
                immediate,
                max_delay: Duration::from_millis(max),
            };
            for (short_runs, delay) in (0..).zip(delays) {
                assert_eq!(backoff.delay(short_runs), Duration::from_millis(delay), "{short_runs}");
            }
            assert_eq!(backoff.delay(u32::MAX), backoff.max_delay);
        }
    }
}
