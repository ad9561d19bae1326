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
//! There are no exemplars and no ids of requests: version 0.0.4 of the text format, which
//! SageMaker's collector and the `prometheus` crate speak, has no place for them. The list of the
//! last failures and the log have the ids.

mod busiest;
mod page;
pub mod table;
mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cause::Cause;
use super::failures::Failures;
use super::latency::{Latencies, LatencySnapshot};
use super::models::{ModelStats, start_clock};
use super::recorder::{BATCH_BOUNDS, Phase, REQUEST_BOUNDS, Recorder, Totals};

use busiest::{Busiest, Counted, OTHER};
pub use busiest::{ListedModel, ModelReport};
use page::MetricsPage;
use window::Window;

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

/// The state of earlier readings.
#[derive(Debug)]
struct Readings {
    phases: [Window<LatencySnapshot>; Phase::ALL.len()],
    busy: Window<Duration>,
    loads: Window<LatencySnapshot>,
    unloads: Window<LatencySnapshot>,
    busiest: Busiest,
}

impl Readings {
    /// The wait for a compute thread (its 99th percentile) and the saturation of these threads, in
    /// the last minute.
    fn signals(&mut self, totals: &Totals, facts: &Facts, now: Instant) -> (Duration, f64) {
        let queue = &totals.phases[Phase::Queue as usize];
        let recent = queue.since(self.phases[Phase::Queue as usize].advance(now, queue).0);
        let (earlier, time) = self.busy.advance(now, &totals.busy);
        let busy = totals.busy.saturating_sub(*earlier).as_secs_f64();
        let available = time.as_secs_f64() * facts.threads.max(1) as f64;
        let saturation = if available > 0.0 {
            (busy / available).min(1.0)
        } else {
            0.0
        };
        (recent.quantile(0.99).unwrap_or_default(), saturation)
    }
}

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

/// The present state of the server, as other parts know it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// All listed models.
    pub models: Vec<ListedModel>,
    /// Requests that run on the compute threads, and requests that wait for them.
    pub running: u64,
    pub waiting: u64,
    /// Number of compute threads.
    pub threads: u64,
    pub stuck_runs: u64,
    pub stuck_models: u64,
    /// Runs that were stuck so far.
    pub stuck_total: u64,
    /// Bytes of the memory ledger; `limit` is `None` without a limit.
    pub reserved: u64,
    pub mapped: u64,
    pub requests: u64,
    pub limit: Option<u64>,
    /// Private bytes of the process.
    pub process: u64,
    pub shared_constants: u64,
    pub shared_bytes: u64,
    pub shared_saved: u64,
    /// Number and bytes of the unpacked models of a store.
    pub archives: Option<(u64, u64)>,
    /// Bytes of prepared models on disk.
    pub prepared: Option<u64>,
}

impl Facts {
    /// The share of the memory limit that is in use or reserved.
    pub fn used_memory(&self) -> Option<f64> {
        let used = self.process.max(self.reserved.saturating_add(self.requests));
        Some(used as f64 / self.limit.filter(|&limit| limit > 0)? as f64)
    }
}

/// Route of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Ping,
    Invocations,
    ExecutionParameters,
    Metrics,
    Load,
    List,
    Invoke,
    Unload,
    Get,
    /// An inference of the Open Inference Protocol.
    Infer,
    /// Any other path of the Open Inference Protocol.
    Protocol,
    /// The page for browsers, and its data.
    Page,
    /// The profile of a model.
    Profile,
    /// An unknown path.
    Other,
}

impl Route {
    pub const ALL: [Self; 14] = [
        Self::Ping,
        Self::Invocations,
        Self::ExecutionParameters,
        Self::Metrics,
        Self::Load,
        Self::List,
        Self::Invoke,
        Self::Unload,
        Self::Get,
        Self::Infer,
        Self::Protocol,
        Self::Page,
        Self::Profile,
        Self::Other,
    ];

    /// The label in the metrics. All routes for health and state share one.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ping | Self::ExecutionParameters | Self::Metrics | Self::List | Self::Get => "health",
            Self::Invocations => "invocations",
            Self::Load => "load",
            Self::Invoke => "invoke",
            Self::Unload => "unload",
            Self::Infer => "v2-infer",
            Self::Protocol => "v2",
            Self::Page => "page",
            Self::Profile => "profile",
            Self::Other => "other",
        }
    }
}

/// Status of nearly all requests.
const OK: u16 = 200;

/// Outcome of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    Ok,
    AlreadyLoaded,
    /// The name or the place of the model is not acceptable.
    Refused,
    /// The model does not fit into memory; the platform unloads another one and tries again.
    NoMemory,
    Failed,
}

impl LoadOutcome {
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::AlreadyLoaded,
        Self::Refused,
        Self::NoMemory,
        Self::Failed,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::AlreadyLoaded => "already_loaded",
            Self::Refused => "refused",
            Self::NoMemory => "no_memory",
            Self::Failed => "failed",
        }
    }
}

/// Reason for an unload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnloadReason {
    /// A client or the platform requested it.
    Request,
    /// Other models needed the memory.
    Memory,
    /// The model had no requests for a long time.
    Idle,
    /// The store has a newer version.
    Replaced,
    /// The store no longer has the model.
    Gone,
}

impl UnloadReason {
    pub const ALL: [Self; 5] = [Self::Request, Self::Memory, Self::Idle, Self::Replaced, Self::Gone];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::Gone => "gone",
        }
    }
}

/// Status of a request whose client hung up before the response, as nginx logs it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A request that is being answered. Dropping it counts the request, also when its future is
/// dropped because the client hung up.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    metrics: &'a Metrics,
    route: Route,
    /// Status, and the cause of an error.
    result: (u16, Option<Cause>),
}

impl RequestRecord<'_> {
    /// Sets the status of the response, and the cause of an error.
    pub fn answered(&mut self, status: u16, cause: Option<Cause>) {
        self.result = (status, cause);
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        let (status, cause) = self.result;
        self.metrics.request(self.route, status, cause);
    }
}

/// A request to a loaded model. Dropping it without a result counts a client that hung up.
#[derive(Debug)]
#[must_use]
pub struct ModelRequest<'a> {
    metrics: &'a Metrics,
    stats: &'a ModelStats,
    /// `None` if the request is not counted, or not any more.
    arrived: Option<Instant>,
}

impl ModelRequest<'_> {
    /// Ends the request with its result. An error is not counted here: [`Metrics::model_failed`]
    /// counts it with the message.
    pub fn settle<T, E>(mut self, result: Result<T, E>) -> Result<T, E> {
        let arrived = self.arrived.take();
        if let (Some(arrived), true) = (arrived, result.is_ok()) {
            let now = Instant::now();
            let took = now.saturating_duration_since(arrived);
            self.stats.answered(now, took);
            self.metrics.recorder.answered(took);
        }
        result
    }
}

impl Drop for ModelRequest<'_> {
    fn drop(&mut self) {
        if self.arrived.is_some() {
            self.stats.hung_up();
            self.metrics.model_errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Metrics {
    pub fn new(config: MetricsConfig) -> Self {
        start_clock();
        let now = Instant::now();
        let window = || Window::new(now, LatencySnapshot::default());
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
            readings: Mutex::new(Readings {
                phases: std::array::from_fn(|_| window()),
                busy: Window::new(now, Duration::ZERO),
                loads: window(),
                unloads: window(),
                busiest: Busiest::new(config.models),
            }),
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

    /// Starts to count a request. The record counts it once, when it is dropped.
    pub const fn start_request(&self, route: Route) -> RequestRecord<'_> {
        RequestRecord {
            metrics: self,
            route,
            result: (CLIENT_CLOSED_REQUEST, Some(Cause::HungUp)),
        }
    }

    fn request(&self, route: Route, status: u16, cause: Option<Cause>) {
        if !self.is_on() {
            return;
        }
        if let Some(cause) = cause {
            self.errors[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
        if status == OK {
            self.ok[route as usize].fetch_add(1, Ordering::Relaxed);
        } else {
            let mut not_ok = self.not_ok.lock().unwrap_or_else(PoisonError::into_inner);
            *not_ok.entry((route.label(), status)).or_default() += 1;
        }
    }

    /// Starts to count a request to a loaded model whose head arrived at `arrived`. A request that
    /// had to wait until the model was loaded `is_cold`.
    pub fn start_model_request<'a>(
        &'a self,
        stats: &'a ModelStats,
        arrived: impl Into<Instant>,
        is_cold: bool,
    ) -> ModelRequest<'a> {
        self.recorder.found_model(is_cold);
        if is_cold && self.is_on() {
            stats.waited_for_load();
        }
        ModelRequest {
            metrics: self,
            stats,
            arrived: self.is_on().then(|| arrived.into()),
        }
    }

    /// Counts a failed request to a listed model, with its message.
    pub fn model_failed(&self, stats: &ModelStats, cause: Cause, text: &str) {
        if self.is_on() {
            stats.failed(cause, text);
            self.model_errors.fetch_add(1, Ordering::Relaxed);
        }
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

    /// Takes the figures of the server, and those of the models since the last report. Takes
    /// milliseconds for thousands of models: call it on a thread that may block.
    pub fn report(&self, facts: &Facts) -> (Report, Vec<ModelReport>) {
        let now = Instant::now();
        let mut readings = self.readings.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = self.recorder.totals();
        let (queue_wait, saturation) = readings.signals(&totals, facts, now);
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
            queue_wait,
            saturation,
            latency: totals.latency,
        };
        (report, readings.busiest.report())
    }

    /// Counts of the requests to all models.
    fn counted(&self, totals: &Totals) -> Counted {
        Counted {
            answers: totals.requests.count(),
            nanoseconds: totals.requests.sum,
            errors: self.model_errors.load(Ordering::Relaxed),
        }
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
        let (queue_wait, saturation) = readings.signals(totals, facts, now);
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
        page.gauge(&table::QUEUE_WAIT_SECONDS, &[], queue_wait.as_secs_f64());
        page.gauge(&table::COMPUTE_SATURATION, &[], saturation);
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
        let mut times = |metric, times: &Latencies, window: &mut Window<LatencySnapshot>| {
            let total = times.snapshot();
            let recent = total.since(window.advance(now, &total).0);
            let sum = (total.count, total.sum.as_secs_f64());
            page.summary(metric, &[], sum, Some((&recent, &[0.99])));
        };
        times(&table::LOAD_SECONDS, &self.load_times, &mut readings.loads);
        for (reason, count) in UnloadReason::ALL.into_iter().zip(&self.unloads) {
            page.counter(&table::UNLOADS, &[reason.label()], count.load(Ordering::Relaxed));
        }
        let total = self.unload_times.snapshot();
        let recent = total.since(readings.unloads.advance(now, &total).0);
        let sum = (total.count, total.sum.as_secs_f64());
        page.summary(&table::UNLOAD_SECONDS, &[], sum, Some((&recent, &[0.99])));
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(metrics: &Metrics, facts: &Facts) -> String {
        String::from_utf8(metrics.render(facts).unwrap()).unwrap()
    }

    fn listed(name: &str) -> ListedModel {
        ListedModel {
            name: name.to_owned(),
            target_model: Some(format!("team/{name}.tar.gz")),
            memory: Some(1000),
            stats: Arc::default(),
        }
    }

    fn answer(metrics: &Metrics, model: &ListedModel) {
        let request = metrics.start_model_request(&model.stats, Instant::now(), false);
        request.settle(Ok::<_, ()>(())).unwrap();
    }

    /// Facts of which every metric has something to report.
    fn everything(models: Vec<ListedModel>) -> Facts {
        Facts {
            models,
            running: 1,
            waiting: 2,
            threads: 4,
            stuck_runs: 1,
            stuck_models: 1,
            stuck_total: 3,
            reserved: 5_000,
            mapped: 700,
            requests: 80,
            limit: Some(10_000),
            process: 6_000,
            shared_constants: 2,
            shared_bytes: 500,
            shared_saved: 400,
            archives: Some((4, 9_000)),
            prepared: Some(8_000),
        }
    }

    /// A server on which everything has happened once.
    fn busy(models: &[ListedModel]) -> Metrics {
        let metrics = Metrics::new(MetricsConfig::default());
        metrics.start_request(Route::Invoke).answered(200, None);
        metrics.start_request(Route::Ping).answered(200, None);
        metrics.start_request(Route::Get).answered(200, None);
        metrics.start_request(Route::Load).answered(507, Some(Cause::Memory));
        drop(metrics.start_request(Route::Invoke));
        metrics.load(LoadOutcome::Ok, Duration::from_millis(10));
        metrics.load(LoadOutcome::Refused, Duration::ZERO);
        metrics.unload(UnloadReason::Idle, Some(Duration::from_millis(1)));
        metrics.unload(UnloadReason::Replaced, None);
        metrics.recorder().batch(3);
        for phase in Phase::ALL {
            metrics.recorder().phase(phase, Duration::from_millis(2));
        }
        metrics.set_worker_restarts(1);
        for model in models {
            answer(&metrics, model);
            metrics.model_failed(&model.stats, Cause::Internal, "no");
        }
        metrics
    }

    #[test]
    fn metrics_are_rendered_as_prometheus_text() {
        let models = vec![listed("a")];
        let metrics = busy(&models);
        let text = text(&metrics, &everything(models));
        for line in [
            "longshore_requests_total{route=\"health\",status=\"200\"} 2",
            "longshore_requests_total{route=\"invoke\",status=\"200\"} 1",
            "longshore_requests_total{route=\"invoke\",status=\"499\"} 1",
            "longshore_requests_total{route=\"load\",status=\"507\"} 1",
            "longshore_errors_total{cause=\"hung_up\"} 1",
            "longshore_errors_total{cause=\"memory\"} 1",
            "# TYPE longshore_request_seconds histogram",
            "longshore_request_seconds_bucket{le=\"0.001\"} 1",
            "longshore_request_seconds_bucket{le=\"+Inf\"} 1",
            "longshore_phase_seconds_count{phase=\"queue\"} 1",
            "longshore_phase_seconds_sum{phase=\"run\"} 0.002",
            "longshore_batch_requests_bucket{le=\"2\"} 0",
            "longshore_batch_requests_bucket{le=\"4\"} 1",
            "longshore_batch_requests_sum 3",
            "longshore_requests_waiting 2",
            "longshore_stuck_runs_total 3",
            "longshore_models_loaded 1",
            "longshore_model_lookups_total{state=\"warm\"} 1",
            "longshore_loads_total{outcome=\"ok\"} 1",
            "longshore_load_seconds_count 1",
            "longshore_unloads_total{reason=\"idle\"} 1",
            "longshore_unloads_total{reason=\"replaced\"} 1",
            "longshore_unload_seconds_count 1",
            "longshore_memory_used_ratio 0.6",
            "longshore_cache_bytes{cache=\"prepared\"} 8000",
            "longshore_worker_restarts_total 1",
            "longshore_model_errors_total{model=\"a\",target_model=\"team/a.tar.gz\"} 1",
        ] {
            assert!(
                text.lines().any(|present| present == line),
                "{line} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn the_page_has_all_metrics_of_the_table_in_its_order() {
        let models = vec![listed("a")];
        let text = text(&busy(&models), &everything(models));
        let rendered: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
            .collect();
        let expected: Vec<&str> = table::TABLE.iter().map(|metric| metric.name).collect();
        assert_eq!(rendered, expected);
    }

    #[test]
    fn labels_are_those_of_the_table() {
        let models = vec![listed("a")];
        let text = text(&busy(&models), &everything(models));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once('{') else {
                continue;
            };
            let metric = table::TABLE.iter().filter(|metric| name.starts_with(metric.name));
            let metric = metric.max_by_key(|metric| metric.name.len()).unwrap();
            let labels = rest
                .split("\",")
                .filter_map(|label| label.split_once('='))
                .map(|label| label.0);
            for label in labels.filter(|label| *label != "le") {
                assert!(metric.labels.contains(&label), "{line}");
            }
        }
    }

    #[test]
    fn a_server_that_has_seen_nothing_has_only_the_series_of_its_state() {
        let metrics = Metrics::new(MetricsConfig::default());
        let text = text(&metrics, &Facts::default());
        let expected = table::TABLE.iter().filter(|metric| metric.is_always_there);
        let expected: BTreeSet<_> = expected.map(|metric| metric.name).collect();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series: BTreeSet<_> = series.filter_map(|line| line.split(['{', ' ']).next()).collect();
        assert_eq!(series, expected, "{text}");
    }

    #[test]
    fn models_beyond_the_limit_are_counted_together_and_unloaded_ones_vanish() {
        let metrics = Metrics::new(MetricsConfig { is_on: true, models: 2 });
        let mut facts = Facts {
            models: ["a", "b", "c"].map(listed).into(),
            ..Facts::default()
        };
        let _ = text(&metrics, &facts);
        for (model, requests) in facts.models.iter().zip([1, 20, 10]) {
            for _ in 0..requests {
                answer(&metrics, model);
            }
        }
        let before = text(&metrics, &facts);
        assert!(before.contains("longshore_model_seconds_count{model=\"b\",target_model=\"team/b.tar.gz\"} 20"));
        assert!(before.contains("longshore_model_seconds_count{model=\"c\",target_model=\"team/c.tar.gz\"} 10"));
        assert!(!before.contains("model=\"a\""), "{before}");
        assert!(
            before.contains("longshore_model_seconds_count{model=\"other\"}"),
            "{before}"
        );
        facts.models.clear();
        let after = text(&metrics, &facts);
        assert!(!after.contains("team/"), "{after}");
    }

    #[test]
    fn a_page_of_ten_thousand_models_stays_small() {
        let long = "x".repeat(4096);
        let models: Vec<_> = (0..10_000).map(|number| listed(&format!("{long}{number}"))).collect();
        let metrics = busy(&models);
        let facts = everything(models);
        for _ in 0..2 {
            let text = text(&metrics, &facts);
            assert!(text.len() < 32 << 10, "{} bytes", text.len());
            let series = text.lines().filter(|line| !line.starts_with('#')).count();
            assert!(series < 150, "{series} series");
        }
    }

    #[test]
    fn nothing_is_counted_when_the_metrics_are_off() {
        let metrics = Metrics::new(MetricsConfig {
            is_on: false,
            models: 10,
        });
        let model = listed("a");
        metrics
            .start_request(Route::Invoke)
            .answered(500, Some(Cause::Internal));
        answer(&metrics, &model);
        drop(metrics.start_model_request(&model.stats, Instant::now(), true));
        metrics.model_failed(&model.stats, Cause::Internal, "no");
        assert_eq!(model.stats.snapshot().requests(), 0);
        let text = text(
            &metrics,
            &Facts {
                models: vec![model],
                ..Facts::default()
            },
        );
        assert!(!text.contains("longshore_requests_total"), "{text}");
    }

    #[test]
    fn a_request_to_a_model_is_counted_once_by_its_result() {
        let metrics = Metrics::new(MetricsConfig::default());
        let model = listed("a");
        answer(&metrics, &model);
        let refused = metrics.start_model_request(&model.stats, Instant::now(), true);
        refused.settle(Err::<(), _>(())).unwrap_err();
        metrics.model_failed(&model.stats, Cause::Memory, "no memory");
        drop(metrics.start_model_request(&model.stats, Instant::now(), false));
        let snapshot = model.stats.snapshot();
        assert_eq!((snapshot.latency.count, snapshot.cold), (1, 1));
        assert_eq!(snapshot.errors, [(Cause::HungUp, 1), (Cause::Memory, 1)]);
    }

    #[test]
    fn every_enumeration_is_in_the_order_of_its_places() {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
        for (index, outcome) in LoadOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, reason) in UnloadReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
