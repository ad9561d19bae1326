//! The counts of one server, and `GET /metrics` in the Prometheus text format.
//!
//! SageMaker reads `/metrics` each minute and keeps every series in CloudWatch, which charges for
//! it. So there are few series. A series appears with its first event; of thousands of models, only
//! the busiest have series of their own (`busiest.rs`); phases of requests have a sum, a count and
//! one quantile instead of buckets.
//!
//! Nothing here is in the way of a request: the counters that requests increment are in
//! `recorder.rs` and in the entries of the models (`models.rs`), and a page is made on a thread
//! that may block, from copies.
//!
//! The page leaves out exemplars and ids of requests: version 0.0.4 of the text format, which
//! SageMaker's collector and the `prometheus` crate speak, has no place for them. The list of the
//! last failures and the log have the ids.

mod busiest;
mod facts;
mod labels;
mod page;
mod readings;
mod render;
mod report;
mod request;
pub mod table;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::cause::Cause;
use super::failures::Failures;
use super::latency::Latencies;
use super::models::start_clock;
use super::recorder::Recorder;

use readings::Readings;

pub use busiest::{ListedModel, ModelReport};
pub use facts::Facts;
pub use labels::{LoadOutcome, Route, UnloadReason};
pub use report::Report;
pub use request::{ModelRequest, RequestRecord};

/// Content type of the page.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Options of the metrics.
#[derive(Debug, Clone, Copy)]
pub struct MetricsConfig {
    /// Whether requests are counted.
    pub is_on: bool,
    /// Number of models with series of their own.
    pub models: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            is_on: true,
            models: 10,
        }
    }
}

/// The counts of one server.
#[derive(Debug)]
pub struct Metrics {
    /// The last failed requests.
    pub failures: Failures,
    recorder: Arc<Recorder>,
    /// Indexed by [`Route`], in the order of [`Route::ALL`]: requests with status 200.
    ok: [AtomicU64; Route::ALL.len()],
    /// Requests with any other status. Locked by failures and by readers.
    not_ok: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Indexed by [`Cause`].
    errors: [AtomicU64; Cause::ALL.len()],
    /// Failed requests to listed models.
    model_errors: AtomicU64,
    loads: [AtomicU64; LoadOutcome::ALL.len()],
    load_times: Latencies,
    unloads: [AtomicU64; UnloadReason::ALL.len()],
    unload_times: Latencies,
    worker_restarts: AtomicU64,
    /// Locked by readers.
    readings: Mutex<Readings>,
}

impl Metrics {
    pub fn new(config: MetricsConfig) -> Self {
        start_clock();
        Self {
            failures: Failures::default(),
            recorder: Arc::new(Recorder::new(config.is_on)),
            ok: Default::default(),
            not_ok: Mutex::default(),
            errors: Default::default(),
            model_errors: AtomicU64::new(0),
            loads: Default::default(),
            load_times: Latencies::default(),
            unloads: Default::default(),
            unload_times: Latencies::default(),
            worker_restarts: AtomicU64::new(0),
            readings: Mutex::new(Readings::new(config.models)),
        }
    }

    /// Whether requests are counted.
    pub fn is_on(&self) -> bool {
        self.recorder.is_on()
    }

    /// The counters on the way of a request.
    pub const fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Counts a load that took `took`.
    pub fn load(&self, outcome: LoadOutcome, took: Duration) {
        self.loads[outcome as usize].fetch_add(1, Ordering::Relaxed);
        if matches!(outcome, LoadOutcome::Ok | LoadOutcome::Failed) {
            self.load_times.record(took);
        }
    }

    /// Counts an unload. A model that a newer version replaced has no time of its own.
    pub fn unload(&self, reason: UnloadReason, took: Option<Duration>) {
        self.unloads[reason as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(took) = took {
            self.unload_times.record(took);
        }
    }

    /// Number of unloads for this reason.
    pub fn unloads(&self, reason: UnloadReason) -> u64 {
        self.unloads[reason as usize].load(Ordering::Relaxed)
    }

    /// Sets the number of workers that were killed before this one.
    pub fn set_worker_restarts(&self, restarts: u64) {
        self.worker_restarts.store(restarts, Ordering::Relaxed);
    }
}
