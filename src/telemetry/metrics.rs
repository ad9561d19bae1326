//! Metrics for `GET /metrics`, in the Prometheus text format.
//!
//! Labels are bounded: a route, a status or an outcome, but never a model's name, because there
//! may be thousands of models. The series that every request uses are looked up once, at the
//! start: finding a series by its labels costs more than incrementing it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::{Collector, GenericGauge},
};

use super::failures::Failures;
use super::models::start_clock;

/// The recorders of one server.
#[derive(Debug)]
pub struct Metrics {
    /// The last failed requests.
    pub failures: Failures,
    registry: Registry,
    requests: IntCounterVec,
    /// Indexed by [`Route`], in the order of [`Route::ALL`].
    routes: [RouteSeries; Route::ALL.len()],
    model_operations: IntCounterVec,
    model_operation_seconds: HistogramVec,
    engine_counters: Mutex<EngineCounters>,
    evictions: IntCounterVec,
    /// Requests to models of a store, by whether the model was loaded.
    pub demand_hits: IntCounter,
    pub demand_misses: IntCounter,
    /// Unpacked models from a store on disk.
    pub archives: IntGauge,
    pub archive_bytes: IntGauge,
    /// Number of listed models.
    pub models_loaded: IntGauge,
    /// Requests that run on the compute threads, and requests that wait for them.
    pub requests_running: IntGauge,
    pub requests_waiting: IntGauge,
    /// Runs that cannot be ended, and models that refuse requests because of them.
    pub stuck_runs: IntGauge,
    pub stuck_models: IntGauge,
    /// Figures of the memory ledger.
    pub memory_reserved_bytes: IntGauge,
    pub memory_mapped_bytes: IntGauge,
    pub shared_constants: IntGauge,
    pub shared_constant_bytes: IntGauge,
    pub shared_constant_saved_bytes: IntGauge,
    pub memory_requests_bytes: IntGauge,
    pub memory_limit_bytes: IntGauge,
    /// Number of workers that were killed before this one.
    pub worker_restarts: IntCounter,
}

/// Counters that copy the engine's own counts.
#[derive(Debug)]
struct EngineCounters {
    batches: IntCounter,
    batched_requests: IntCounter,
    stuck_runs: IntCounter,
}

/// Series that every request to a route uses.
#[derive(Debug)]
struct RouteSeries {
    ok: IntCounter,
    seconds: Histogram,
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
    /// An unknown path.
    Other,
}

impl Route {
    pub const ALL: [Self; 13] = [
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
        Self::Other,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Invocations => "invocations",
            Self::ExecutionParameters => "execution-parameters",
            Self::Metrics => "metrics",
            Self::Load => "load",
            Self::List => "list",
            Self::Invoke => "invoke",
            Self::Unload => "unload",
            Self::Get => "get",
            Self::Infer => "v2-infer",
            Self::Protocol => "v2",
            Self::Page => "page",
            Self::Other => "other",
        }
    }
}

/// Status of nearly all requests.
const OK: u16 = 200;

/// Operation on a model.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Load,
    Unload,
}

/// Reason for an unload that no client requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Other models needed the memory.
    Memory,
    /// The model had no requests for a long time.
    Idle,
    /// The store has a newer version.
    Replaced,
    /// The store no longer has the model.
    Gone,
}

impl Eviction {
    const ALL: [Self; 4] = [Self::Memory, Self::Idle, Self::Replaced, Self::Gone];

    pub const fn label(self) -> &'static str {
        match self {
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
    started: Instant,
    status: u16,
}

impl RequestRecord<'_> {
    /// Sets the status of the response.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics.request(self.route, self.status, seconds);
    }
}

impl Metrics {
    /// # Errors
    /// Fails only for invalid metric names. A test checks that the names below are valid.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let fast = vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
        ];
        let requests = register(
            &registry,
            IntCounterVec::new(
                Opts::new(
                    "longshore_requests_total",
                    "Requests by route and status; 499 for clients that hung up before the response.",
                ),
                &["route", "status"],
            )?,
        )?;
        let request_seconds = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "longshore_request_seconds",
                    "Time from the head of the request to the head of the response, by route.",
                )
                .buckets(fast.clone()),
                &["route"],
            )?,
        )?;
        let evictions = register(
            &registry,
            IntCounterVec::new(
                Opts::new(
                    "longshore_evictions_total",
                    "Models of the store that the server unloaded on its own, by reason.",
                ),
                &["reason"],
            )?,
        )?;
        // Create all series at zero: a rate cannot be computed for a series that starts at one.
        for reason in Eviction::ALL {
            evictions.with_label_values(&[reason.label()]);
        }
        start_clock();
        let metrics = Self {
            failures: Failures::default(),
            routes: Route::ALL.map(|route| RouteSeries {
                ok: requests.with_label_values(&[route.label(), &OK.to_string()]),
                seconds: request_seconds.with_label_values(&[route.label()]),
            }),
            requests,
            model_operations: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("longshore_model_operations_total", "Loads and unloads, by outcome."),
                    &["operation", "outcome"],
                )?,
            )?,
            model_operation_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("longshore_model_operation_seconds", "Time that loads and unloads took.")
                        .buckets(fast),
                    &["operation"],
                )?,
            )?,
            engine_counters: Mutex::new(EngineCounters {
                batches: register(
                    &registry,
                    IntCounter::new(
                        "longshore_batches_total",
                        "Runs that answered several requests as a batch.",
                    )?,
                )?,
                batched_requests: register(
                    &registry,
                    IntCounter::new(
                        "longshore_batched_requests_total",
                        "Requests that were answered in a batch with others.",
                    )?,
                )?,
                stuck_runs: register(
                    &registry,
                    IntCounter::new(
                        "longshore_stuck_runs_total",
                        "Runs that did not end when they were cancelled.",
                    )?,
                )?,
            }),
            evictions,
            demand_hits: register(
                &registry,
                IntCounter::new(
                    "longshore_demand_hits_total",
                    "Requests to models of the store that were loaded.",
                )?,
            )?,
            demand_misses: register(
                &registry,
                IntCounter::new(
                    "longshore_demand_misses_total",
                    "Requests to models of the store that were not loaded.",
                )?,
            )?,
            archives: gauge(
                &registry,
                "longshore_archives",
                "Unpacked models from the store on disk.",
            )?,
            archive_bytes: gauge(
                &registry,
                "longshore_archive_bytes",
                "Bytes of unpacked models from the store on disk.",
            )?,
            models_loaded: gauge(&registry, "longshore_models_loaded", "Models that can answer.")?,
            requests_running: gauge(
                &registry,
                "longshore_requests_running",
                "Requests on the compute threads.",
            )?,
            requests_waiting: gauge(
                &registry,
                "longshore_requests_waiting",
                "Requests waiting for a compute thread.",
            )?,
            stuck_runs: gauge(
                &registry,
                "longshore_stuck_runs",
                "Runs that continue although they were cancelled.",
            )?,
            stuck_models: gauge(
                &registry,
                "longshore_stuck_models",
                "Models that refuse requests until their stuck runs end.",
            )?,
            memory_reserved_bytes: gauge(
                &registry,
                "longshore_memory_reserved_bytes",
                "Bytes reserved for loaded models and for loads in progress.",
            )?,
            memory_mapped_bytes: gauge(
                &registry,
                "longshore_memory_mapped_bytes",
                "Bytes of weights that loaded models map from files.",
            )?,
            shared_constants: gauge(
                &registry,
                "longshore_shared_constants",
                "Number of large constants in memory, each shared by all loaded models that contain it.",
            )?,
            shared_constant_bytes: gauge(
                &registry,
                "longshore_shared_constant_bytes",
                "Bytes of large constants in memory; part of the reserved and mapped bytes.",
            )?,
            shared_constant_saved_bytes: gauge(
                &registry,
                "longshore_shared_constant_saved_bytes",
                "Bytes that the loaded models would need in addition if each had its own large constants.",
            )?,
            memory_requests_bytes: gauge(
                &registry,
                "longshore_memory_requests_bytes",
                "Bytes reserved for running requests.",
            )?,
            memory_limit_bytes: gauge(
                &registry,
                "longshore_memory_limit_bytes",
                "Limit of the memory for models, in bytes.",
            )?,
            worker_restarts: register(
                &registry,
                IntCounter::new(
                    "longshore_worker_restarts_total",
                    "Times that the serving process was killed and restarted.",
                )?,
            )?,
            registry,
        };
        Ok(metrics)
    }

    /// Starts to count a request. The record counts it once, when it is dropped.
    pub fn start_request(&self, route: Route) -> RequestRecord<'_> {
        RequestRecord {
            metrics: self,
            route,
            started: Instant::now(),
            status: CLIENT_CLOSED_REQUEST,
        }
    }

    fn request(&self, route: Route, status: u16, seconds: f64) {
        let series = &self.routes[route as usize];
        series.seconds.observe(seconds);
        if status == OK {
            series.ok.inc();
        } else {
            let mut buffer = itoa::Buffer::new();
            let labels = [route.label(), buffer.format(status)];
            self.requests.with_label_values(&labels).inc();
        }
    }

    pub fn model_operation(&self, operation: Operation, outcome: &str, seconds: f64) {
        let operation = match operation {
            Operation::Load => "load",
            Operation::Unload => "unload",
        };
        self.model_operations.with_label_values(&[operation, outcome]).inc();
        self.model_operation_seconds
            .with_label_values(&[operation])
            .observe(seconds);
    }

    pub fn evictions(&self, reason: Eviction) {
        self.evictions.with_label_values(&[reason.label()]).inc();
    }

    /// Raises the counters to the engine's totals: batches, requests in them, and stuck runs.
    pub fn set_engine_counters(&self, batches: u64, batched_requests: u64, stuck_runs: u64) {
        // Locked, because reading a counter and adding the difference must be one step.
        let engine_counters = self.engine_counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, now) in [
            (&engine_counters.batches, batches),
            (&engine_counters.batched_requests, batched_requests),
            (&engine_counters.stuck_runs, stuck_runs),
        ] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }

    /// Renders all metrics as text.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, GenericGauge::new(name, help)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_as_prometheus_text() {
        let metrics = Metrics::new().unwrap();
        metrics.request(Route::Invoke, 200, 0.002);
        metrics.request(Route::Load, 507, 0.002);
        metrics.model_operation(Operation::Load, "ok", 0.01);
        metrics.evictions(Eviction::Idle);
        metrics.models_loaded.set(3);
        metrics.set_engine_counters(2, 7, 3);
        metrics.set_engine_counters(1, 5, 2);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "longshore_requests_total{route=\"invoke\",status=\"200\"} 1",
            "longshore_requests_total{route=\"load\",status=\"507\"} 1",
            "longshore_request_seconds_count{route=\"load\"} 1",
            "longshore_model_operations_total{operation=\"load\",outcome=\"ok\"} 1",
            "longshore_evictions_total{reason=\"idle\"} 1",
            "longshore_models_loaded 3",
            "longshore_batches_total 2",
            "longshore_batched_requests_total 7",
            "longshore_stuck_runs_total 3",
            "# TYPE longshore_request_seconds histogram",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn every_route_has_its_own_series() {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
            assert_eq!(
                Route::ALL.iter().filter(|other| other.label() == route.label()).count(),
                1
            );
        }
    }
}
