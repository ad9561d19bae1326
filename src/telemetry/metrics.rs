//! What is counted, for `GET /metrics` in Prometheus' text format.
//!
//! Labels are bounded: a route, a status, an outcome, never a model's name, of which there may be thousands. What every
//! request counts on is looked up once, at the start: finding a series by its labels costs more than counting in it.

use std::sync::{Mutex, PoisonError};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::{Collector, GenericGauge},
};

/// The recorders of one server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// By [`Route`], in the order of [`Route::ALL`].
    routes: [RouteSeries; Route::ALL.len()],
    model_operations: IntCounterVec,
    model_operation_seconds: HistogramVec,
    followed: Mutex<Followed>,
    evictions: IntCounterVec,
    /// Requests to models of a store that were loaded, and that were not.
    pub demand_hits: IntCounter,
    pub demand_misses: IntCounter,
    /// What was fetched from a store and is on disk.
    pub archives: IntGauge,
    pub archive_bytes: IntGauge,
    /// Models that are loaded.
    pub models_loaded: IntGauge,
    /// Requests that run on the compute threads, and that wait for them.
    pub requests_running: IntGauge,
    pub requests_waiting: IntGauge,
    /// Runs that cannot be ended, and models that take no requests for that.
    pub stuck_runs: IntGauge,
    pub stuck_models: IntGauge,
    /// The memory ledger.
    pub memory_reserved_bytes: IntGauge,
    pub memory_mapped_bytes: IntGauge,
    pub memory_requests_bytes: IntGauge,
    pub memory_limit_bytes: IntGauge,
    /// Workers that were killed before this one.
    pub worker_restarts: IntCounter,
}

/// Counted by the engine; these follow.
#[derive(Debug)]
struct Followed {
    batches: IntCounter,
    batched_requests: IntCounter,
    stuck_runs: IntCounter,
}

/// What counts every request to a route.
#[derive(Debug)]
struct RouteSeries {
    ok: IntCounter,
    seconds: Histogram,
}

/// What a request asks for.
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
    /// Anything else of it.
    Protocol,
    /// Nothing that there is.
    Other,
}

impl Route {
    pub const ALL: [Self; 12] = [
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
        Self::Other,
    ];

    const fn label(self) -> &'static str {
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
            Self::Other => "other",
        }
    }
}

/// The status of nearly all requests.
const OK: u16 = 200;

/// What is done to models.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Load,
    Unload,
}

/// Why a model was unloaded that nobody had asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Others needed the room.
    Memory,
    /// Nobody had asked for it for long.
    Idle,
    /// The store has another version.
    Replaced,
    /// The store has it no more.
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

impl Metrics {
    /// # Errors
    /// Never with the names below; they are checked by a test.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let fast = vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
        ];
        let requests = register(
            &registry,
            IntCounterVec::new(
                Opts::new("longshore_requests_total", "Requests answered, by route and status."),
                &["route", "status"],
            )?,
        )?;
        let request_seconds = register(
            &registry,
            HistogramVec::new(
                HistogramOpts::new(
                    "longshore_request_seconds",
                    "From the request's head to the reply's head, by route.",
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
                    "Models of the store that were unloaded without being asked to, by reason.",
                ),
                &["reason"],
            )?,
        )?;
        // A rate needs a series that begins at none.
        for reason in Eviction::ALL {
            evictions.with_label_values(&[reason.label()]);
        }
        let metrics = Self {
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
            followed: Mutex::new(Followed {
                batches: register(
                    &registry,
                    IntCounter::new("longshore_batches_total", "Runs that answered several requests.")?,
                )?,
                batched_requests: register(
                    &registry,
                    IntCounter::new(
                        "longshore_batched_requests_total",
                        "Requests that were answered by runs that answered several.",
                    )?,
                )?,
                stuck_runs: register(
                    &registry,
                    IntCounter::new(
                        "longshore_stuck_runs_total",
                        "Runs that did not end when they were told to.",
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
                "Models from the store that are on disk, unpacked.",
            )?,
            archive_bytes: gauge(
                &registry,
                "longshore_archive_bytes",
                "Bytes that models from the store take on disk, unpacked.",
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
                "Runs that go on although they were told to end.",
            )?,
            stuck_models: gauge(
                &registry,
                "longshore_stuck_models",
                "Models that take no requests until their stuck runs have ended.",
            )?,
            memory_reserved_bytes: gauge(
                &registry,
                "longshore_memory_reserved_bytes",
                "Bytes that loaded models take, and loads under way may take.",
            )?,
            memory_mapped_bytes: gauge(
                &registry,
                "longshore_memory_mapped_bytes",
                "Weights that loaded models read from mapped files.",
            )?,
            memory_requests_bytes: gauge(
                &registry,
                "longshore_memory_requests_bytes",
                "Memory reserved for requests under way.",
            )?,
            memory_limit_bytes: gauge(&registry, "longshore_memory_limit_bytes", "Bytes for models in all.")?,
            worker_restarts: register(
                &registry,
                IntCounter::new(
                    "longshore_worker_restarts_total",
                    "Times that the serving process was killed and started again.",
                )?,
            )?,
            registry,
        };
        Ok(metrics)
    }

    pub fn request(&self, route: Route, status: u16, seconds: f64) {
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

    /// So many batches have run so far, so many requests were in them, and so many runs were stuck.
    pub fn follow(&self, batches: u64, batched_requests: u64, stuck_runs: u64) {
        // Locked because reading how far a counter is behind and making up for it is one step.
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, now) in [
            (&followed.batches, batches),
            (&followed.batched_requests, batched_requests),
            (&followed.stuck_runs, stuck_runs),
        ] {
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }

    /// All of it as text.
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
    fn what_was_counted_is_rendered_as_prometheus_text() {
        let metrics = Metrics::new().unwrap();
        metrics.request(Route::Invoke, 200, 0.002);
        metrics.request(Route::Load, 507, 0.002);
        metrics.model_operation(Operation::Load, "ok", 0.01);
        metrics.evictions(Eviction::Idle);
        metrics.models_loaded.set(3);
        metrics.follow(2, 7, 3);
        metrics.follow(1, 5, 2);
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
    fn every_route_counts_in_its_own_series() {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
            assert_eq!(
                Route::ALL.iter().filter(|other| other.label() == route.label()).count(),
                1
            );
        }
    }
}
