//! Retries of requests, and the pauses between them.
//!
//! object_store itself must not retry: its retries would multiply with these, and it cannot resume
//! an object without keeping its version.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::error::StoreError;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A failed attempt, and whether another one may succeed.
#[derive(Debug)]
pub(super) struct AttemptFailure {
    pub error: StoreError,
    pub is_transient: bool,
}

impl AttemptFailure {
    pub fn permanent(error: StoreError) -> Self {
        Self {
            error,
            is_transient: false,
        }
    }

    pub fn transient(error: StoreError) -> Self {
        Self {
            error,
            is_transient: true,
        }
    }
}

/// The attempts at one request.
#[derive(Debug)]
pub(super) struct Retries {
    made: u32,
    retries: u32,
}

impl Retries {
    pub fn new(retries: u32) -> Self {
        Self { made: 0, retries }
    }

    /// Returns when it is time for the next attempt, or the error when there is none left.
    pub async fn next_attempt(&mut self, failure: AttemptFailure) -> Result<(), StoreError> {
        self.made = self.made.saturating_add(1);
        let error = failure.error.after(self.made);
        if !failure.is_transient || self.made > self.retries {
            return Err(error);
        }
        let pause = pause(self.made, RandomState::new().hash_one(self.made));
        tracing::debug!(%error, pause_ms = pause.as_millis(), "a request to the model store failed; trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Starts counting again after progress.
    pub fn reset(&mut self) {
        self.made = 0;
    }
}

/// Doubles with each attempt, and is shortened at random by up to half, so that requests that
/// failed together do not return together.
fn pause(made: u32, chance: u64) -> Duration {
    let full = FIRST_PAUSE
        .saturating_mul(2u32.saturating_pow(made.saturating_sub(1)))
        .min(LONGEST_PAUSE);
    full.mul_f64(1.0 - (chance % 1024) as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_vary_at_random() {
        let table = [
            (1, 0, 100.0),
            (2, 0, 200.0),
            (3, 0, 400.0),
            (3, 512, 300.0),
            (3, 1024, 400.0),
            (7, 0, 5000.0),
            (u32::MAX, 0, 5000.0),
        ];
        for (made, chance, millis) in table {
            assert_eq!(pause(made, chance).as_secs_f64() * 1e3, millis, "{made} {chance}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn retries_end_after_the_limit_or_at_once_for_a_lasting_failure() {
        let unreachable = |tries| StoreError::Unreachable {
            url: "s3://a".to_owned(),
            reason: "no".to_owned(),
            tries,
            address: "the address",
        };
        let mut tries = Retries::new(1);
        assert_eq!(
            tries.next_attempt(AttemptFailure::transient(unreachable(0))).await,
            Ok(())
        );
        assert_eq!(
            tries.next_attempt(AttemptFailure::transient(unreachable(0))).await,
            Err(unreachable(2))
        );
        let permanent = AttemptFailure::permanent(unreachable(0));
        assert_eq!(Retries::new(9).next_attempt(permanent).await, Err(unreachable(1)));
    }
}
