//! The page of all metrics.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::busiest::{Busiest, OTHER};
use super::labels::OK;
use super::page::MetricsPage;
use super::readings::Readings;
use super::table::MetricInfo;
use super::window::Window;
use super::{Facts, LoadOutcome, Metrics, Route, UnloadReason, table};
use crate::telemetry::cause::Cause;
use crate::telemetry::latency::{Latencies, LatencySnapshot};
use crate::telemetry::recorder::{BATCH_BOUNDS, Phase, REQUEST_BOUNDS, Totals};

impl Metrics {
    /// Writes the page of all metrics. Takes milliseconds for thousands of models: call it on a
    /// thread that may block.
    pub fn render(&self, facts: &Facts) -> Result<Vec<u8>, prometheus::Error> {
        let now = Instant::now();
        let mut page = MetricsPage::default();
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = self.recorder.totals();
        self.add_requests(&mut page, &mut readings, &totals, facts, now);
        self.add_models(&mut page, &mut readings, &totals, facts, now);
        add_memory(&mut page, facts);
        page.counter(
            &table::WORKER_RESTARTS,
            &[],
            self.worker_restarts.load(Ordering::Relaxed),
        );
        readings.busiest.update(now, &facts.models, self.counted(&totals));
        add_busiest(&mut page, &readings.busiest);
        drop(readings);
        page.to_text()
    }

    fn add_requests(
        &self,
        page: &mut MetricsPage,
        readings: &mut Readings,
        totals: &Totals,
        facts: &Facts,
        now: Instant,
    ) {
        let mut requests = self.not_ok.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (route, count) in Route::ALL.into_iter().zip(&self.ok) {
            *requests.entry((route.label(), OK)).or_default() += count.load(Ordering::Relaxed);
        }
        for ((route, status), count) in requests {
            page.counter(&table::REQUESTS, &[route, &status.to_string()], count);
        }
        for (cause, count) in Cause::ALL.into_iter().zip(&self.errors) {
            page.counter(&table::ERRORS, &[cause.label()], count.load(Ordering::Relaxed));
        }
        page.histogram(
            &table::REQUEST_SECONDS,
            (&REQUEST_BOUNDS, 1e3),
            (&totals.requests, totals.requests.sum as f64 / 1e9),
        );
        let signals = readings.signals(totals, facts, self.unloads(UnloadReason::Memory), now);
        let phases = Phase::ALL.into_iter().zip(&totals.phases);
        for ((phase, total), window) in phases.zip(&mut readings.phases) {
            let recent = total.since(window.advance(now, total).0);
            page.summary(
                &table::PHASE_SECONDS,
                &[phase.label()],
                (total.count, total.sum.as_secs_f64()),
                Some((&recent, &[0.99])),
            );
        }
        page.histogram(
            &table::BATCH_REQUESTS,
            (&BATCH_BOUNDS, 1.0),
            (&totals.batches, totals.batches.sum as f64),
        );
        page.gauge(&table::REQUESTS_RUNNING, &[], facts.running as f64);
        page.gauge(&table::REQUESTS_WAITING, &[], facts.waiting as f64);
        page.gauge(&table::QUEUE_WAIT_SECONDS, &[], signals.queue_wait.as_secs_f64());
        page.gauge(&table::COMPUTE_SATURATION, &[], signals.saturation);
        page.gauge(&table::LOAD, &[], signals.load);
        if facts.stuck_total > 0 {
            page.gauge(&table::STUCK_RUNS, &[], facts.stuck_runs as f64);
            page.gauge(&table::STUCK_MODELS, &[], facts.stuck_models as f64);
        }
        page.counter(&table::STUCK_RUNS_TOTAL, &[], facts.stuck_total);
    }

    fn add_models(
        &self,
        page: &mut MetricsPage,
        readings: &mut Readings,
        totals: &Totals,
        facts: &Facts,
        now: Instant,
    ) {
        page.gauge(&table::MODELS_LOADED, &[], facts.models.len() as f64);
        page.counter(&table::MODEL_LOOKUPS, &["warm"], totals.warm);
        page.counter(&table::MODEL_LOOKUPS, &["cold"], totals.cold);
        for (outcome, count) in LoadOutcome::ALL.into_iter().zip(&self.loads) {
            page.counter(&table::LOADS, &[outcome.label()], count.load(Ordering::Relaxed));
        }
        add_times(page, &table::LOAD_SECONDS, &self.load_times, &mut readings.loads, now);
        for (reason, count) in UnloadReason::ALL.into_iter().zip(&self.unloads) {
            page.counter(&table::UNLOADS, &[reason.label()], count.load(Ordering::Relaxed));
        }
        add_times(
            page,
            &table::UNLOAD_SECONDS,
            &self.unload_times,
            &mut readings.unloads,
            now,
        );
    }
}

fn add_times(
    page: &mut MetricsPage,
    metric: &MetricInfo,
    times: &Latencies,
    window: &mut Window<LatencySnapshot>,
    now: Instant,
) {
    let total = times.snapshot();
    let recent = total.since(window.advance(now, &total).0);
    let sum = (total.count, total.sum.as_secs_f64());
    page.summary(metric, &[], sum, Some((&recent, &[0.99])));
}

fn add_memory(page: &mut MetricsPage, facts: &Facts) {
    let bytes = |bytes: u64| bytes as f64;
    page.gauge(&table::MEMORY_RESERVED, &[], bytes(facts.reserved));
    page.gauge(&table::MEMORY_MAPPED, &[], bytes(facts.mapped));
    page.gauge(&table::MEMORY_REQUESTS, &[], bytes(facts.requests));
    page.gauge(&table::MEMORY_PROCESS, &[], bytes(facts.process));
    if let Some(limit) = facts.limit {
        page.gauge(&table::MEMORY_LIMIT, &[], bytes(limit));
    }
    if let Some(used) = facts.used_memory() {
        page.gauge(&table::MEMORY_USED, &[], used);
    }
    if facts.shared_constants > 0 {
        page.gauge(&table::SHARED_CONSTANTS, &[], bytes(facts.shared_constants));
        page.gauge(&table::SHARED_BYTES, &[], bytes(facts.shared_bytes));
        page.gauge(&table::SHARED_SAVED, &[], bytes(facts.shared_saved));
    }
    if let Some((_, archives)) = facts.archives {
        page.gauge(&table::CACHE_BYTES, &["archives"], bytes(archives));
    }
    if let Some(prepared) = facts.prepared.filter(|&prepared| prepared > 0) {
        page.gauge(&table::CACHE_BYTES, &["prepared"], bytes(prepared));
    }
    if let Some((entries, _)) = facts.archives {
        page.gauge(&table::CACHE_ENTRIES, &["archives"], bytes(entries));
    }
}

fn add_busiest(page: &mut MetricsPage, busiest: &Busiest) {
    let other = busiest.other();
    for model in busiest.chosen() {
        page.summary(
            &table::MODEL_SECONDS,
            &[&model.label, &model.target],
            (model.latency.count, model.latency.sum.as_secs_f64()),
            Some((&model.recent, &[0.5, 0.99])),
        );
    }
    let sum = other.nanoseconds as f64 / 1e9;
    page.summary(&table::MODEL_SECONDS, &[OTHER, ""], (other.answers, sum), None);
    for model in busiest.chosen() {
        page.counter(&table::MODEL_ERRORS, &[&model.label, &model.target], model.errors);
    }
    page.counter(&table::MODEL_ERRORS, &[OTHER, ""], other.errors);
}
