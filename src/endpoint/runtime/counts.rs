//! Counts of invocations as clients see them, for the page.

use std::time::Duration;

use crate::endpoint::error::AwsErrorResponse;
use crate::telemetry::cause::Cause;
use crate::telemetry::failures::{Failure, Failures};
use crate::telemetry::latency::Latencies;

/// The durations of answered invocations, and the last failed ones.
#[derive(Debug, Default)]
pub struct InvocationCounts {
    pub latencies: Latencies,
    pub failures: Failures,
}

impl InvocationCounts {
    pub(super) fn answered(&self, took: Duration) {
        self.latencies.record(took);
    }

    /// Counts a failed invocation of `endpoint`.
    pub(super) fn failed(&self, endpoint: &str, target_model: Option<&str>, response: &AwsErrorResponse, text: &str) {
        let cause = match response.status {
            404 => Cause::NotFound,
            413 => Cause::TooLarge,
            429 => Cause::Unready,
            503 => Cause::Exhausted,
            400..500 if response.status != 424 => Cause::BadRequest,
            _ => Cause::Internal,
        };
        let failure = Failure::now("invocations", Some(response.status), cause, text);
        self.failures.add(failure.of(Some(endpoint), target_model));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_invocation_has_the_status_that_the_client_gets() {
        let counts = InvocationCounts::default();
        let response = |status| AwsErrorResponse {
            status,
            kind: None,
            body: json!({}),
        };
        counts.failed("shop", Some("a.tar.gz"), &response(424), "the model failed");
        counts.failed("shop", None, &response(400), "no such endpoint");
        let failures = counts.failures.newest_first();
        assert_eq!((failures[0].status, failures[0].cause), (Some(400), Cause::BadRequest));
        assert_eq!((failures[1].status, failures[1].cause), (Some(424), Cause::Internal));
        assert_eq!(failures[1].target_model.as_deref(), Some("a.tar.gz"));
    }
}
