//! Times and durations as the page has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub fn now() -> u64 {
    millis(SystemTime::now())
}

/// Converts a time to milliseconds since 1970.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Converts a latency to milliseconds, with as many digits as a distribution knows.
pub fn milliseconds(latency: Duration) -> f64 {
    (latency.as_secs_f64() * 1e7).round() / 1e4
}
