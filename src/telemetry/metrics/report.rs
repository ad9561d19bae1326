//! The figures of an interval, for the Embedded Metric Format.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::busiest::Counted;
use super::{Facts, LoadOutcome, Metrics, ModelReport, UnloadReason};
use crate::telemetry::latency::LatencySnapshot;
use crate::telemetry::recorder::Totals;

/// Figures of the server at one time, for the Embedded Metric Format. Counts are those of all time.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Durations of the answered requests.
    pub latency: LatencySnapshot,
    /// Failed requests to models.
    pub errors: u64,
    /// Requests that waited for the load of their model.
    pub cold: u64,
    pub loads: u64,
    pub load_errors: u64,
    /// All unloads, and those that no client requested.
    pub unloads: u64,
    pub evictions: u64,
    /// Figures of the last minute.
    pub queue_wait: Duration,
    pub saturation: f64,
}

impl Metrics {
    /// Takes the figures of the server, and those of the models since the last report. Takes
    /// milliseconds for thousands of models: call it on a thread that may block.
    pub fn report(&self, facts: &Facts) -> (Report, Vec<ModelReport>) {
        let now = Instant::now();
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = self.recorder.totals();
        let signals = readings.signals(&totals, facts, self.unloads(UnloadReason::Memory), now);
        readings.busiest.update(now, &facts.models, self.counted(&totals));
        let count = |counts: &[AtomicU64]| counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
        let requested = self.unloads(UnloadReason::Request);
        let report = Report {
            errors: self.model_errors.load(Ordering::Relaxed),
            cold: totals.cold,
            loads: self.loads[LoadOutcome::Ok as usize].load(Ordering::Relaxed),
            load_errors: self.loads[LoadOutcome::Failed as usize].load(Ordering::Relaxed),
            unloads: count(&self.unloads),
            evictions: count(&self.unloads).saturating_sub(requested),
            queue_wait: signals.queue_wait,
            saturation: signals.saturation,
            latency: totals.latency,
        };
        (report, readings.busiest.report())
    }

    /// Counts of the requests to all models.
    pub(super) fn counted(&self, totals: &Totals) -> Counted {
        Counted {
            answers: totals.requests.count(),
            nanoseconds: totals.requests.sum,
            errors: self.model_errors.load(Ordering::Relaxed),
        }
    }
}
