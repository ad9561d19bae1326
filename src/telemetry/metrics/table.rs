//! The one table of all metrics: name, type, labels and meaning.
//!
//! The page `docs/metrics.md`, the dashboard and the alert rules below `container/deploy/` are made
//! from it by tests. A name here is stable: a rename is a change for the people who watch it, and
//! gets a line in the changelog.

/// Type of a metric in the Prometheus text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
    /// Sum and count, and the quantiles of the last minute.
    Summary,
}

impl MetricKind {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// A metric: a family of series that differ by their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricInfo {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Whether the metric has a series from the start. Any other series appears with its first
    /// event.
    pub is_always_there: bool,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $always:literal, $help:literal;)*) => {
        $(
            pub const $constant: MetricInfo = MetricInfo {
                name: $name,
                kind: MetricKind::$kind,
                labels: &[$($label),*],
                help: $help,
                is_always_there: $always,
            };
        )*
        /// All metrics, in the order of the page.
        pub const TABLE: &[MetricInfo] = &[$($constant),*];
    };
}

metrics! {
    REQUESTS = "longshore_requests_total", Counter, ["route", "status"], false,
        "Requests by route and status; 499 for clients that hung up before the response. Requests for health and state \
         share the route health.";
    ERRORS = "longshore_errors_total", Counter, ["cause"], false,
        "Refused and failed requests by cause.";
    REQUEST_SECONDS = "longshore_request_seconds", Histogram, [], false,
        "Time from the head of a request to a model to its response, for requests with an answer.";
    PHASE_SECONDS = "longshore_phase_seconds", Summary, ["phase", "quantile"], false,
        "Time of the phases of a request: read, parse, queue, run, write.";
    BATCH_REQUESTS = "longshore_batch_requests", Histogram, [], false,
        "Number of requests in a run that answered several.";
    REQUESTS_RUNNING = "longshore_requests_running", Gauge, [], true,
        "Requests on the compute threads.";
    REQUESTS_WAITING = "longshore_requests_waiting", Gauge, [], true,
        "Requests that wait for a compute thread: the depth of all queues.";
    QUEUE_WAIT_SECONDS = "longshore_queue_wait_seconds", Gauge, [], true,
        "99th percentile of the waits for a compute thread in the last minute; 0 without waits. A signal for scaling.";
    COMPUTE_SATURATION = "longshore_compute_saturation_ratio", Gauge, [], true,
        "Time spent on requests in the last minute, over the time that the compute threads have: from 0 to 1. A signal for \
         scaling.";
    LOAD = "longshore_load", Gauge, [], true,
        "The load of the server in one number, of the last minute: requests that ran or waited for each compute thread, or \
         evicted models over models in memory, whichever is larger. A signal for scaling.";
    STUCK_RUNS = "longshore_stuck_runs", Gauge, [], false,
        "Runs that continue although they were cancelled.";
    STUCK_MODELS = "longshore_stuck_models", Gauge, [], false,
        "Models that refuse requests until their stuck runs end.";
    STUCK_RUNS_TOTAL = "longshore_stuck_runs_total", Counter, [], false,
        "Runs that did not end when they were cancelled.";
    MODELS_LOADED = "longshore_models_loaded", Gauge, [], true,
        "Listed models.";
    MODEL_LOOKUPS = "longshore_model_lookups_total", Counter, ["state"], false,
        "Requests whose model was in memory (warm), and requests that waited for its load (cold).";
    LOADS = "longshore_loads_total", Counter, ["outcome"], false,
        "Loads by outcome: ok, already_loaded, refused (name or place), no_memory, failed.";
    LOAD_SECONDS = "longshore_load_seconds", Summary, ["quantile"], false,
        "Time of loads, with downloads, for loads that were not refused.";
    UNLOADS = "longshore_unloads_total", Counter, ["reason"], false,
        "Unloads by reason: request, or an eviction because of memory, idle, replaced, gone (from the store).";
    UNLOAD_SECONDS = "longshore_unload_seconds", Summary, ["quantile"], false,
        "Time of unloads, with the wait for the last requests.";
    MEMORY_RESERVED = "longshore_memory_reserved_bytes", Gauge, [], true,
        "Bytes reserved for loaded models and for loads in progress.";
    MEMORY_MAPPED = "longshore_memory_mapped_bytes", Gauge, [], true,
        "Bytes of weights that loaded models map from files.";
    MEMORY_REQUESTS = "longshore_memory_requests_bytes", Gauge, [], true,
        "Bytes reserved for requests.";
    MEMORY_PROCESS = "longshore_memory_process_bytes", Gauge, [], true,
        "Private bytes of the serving process in memory.";
    MEMORY_LIMIT = "longshore_memory_limit_bytes", Gauge, [], false,
        "Limit of the memory, if there is one.";
    MEMORY_USED = "longshore_memory_used_ratio", Gauge, [], false,
        "Share of the limit that models cannot take any more: in use, promised, or kept free for requests. A signal for \
         scaling.";
    SHARED_CONSTANTS = "longshore_shared_constants", Gauge, [], false,
        "Large constants in memory, each shared by all loaded models that contain it.";
    SHARED_BYTES = "longshore_shared_constant_bytes", Gauge, [], false,
        "Bytes of large constants in memory; part of the reserved and mapped bytes.";
    SHARED_SAVED = "longshore_shared_constant_saved_bytes", Gauge, [], false,
        "Bytes that the loaded models would need in addition if each had its own large constants.";
    CACHE_BYTES = "longshore_cache_bytes", Gauge, ["cache"], false,
        "Bytes on disk: unpacked models of the store (archives), prepared models (prepared).";
    CACHE_ENTRIES = "longshore_cache_entries", Gauge, ["cache"], false,
        "Unpacked models of the store on disk.";
    WORKER_RESTARTS = "longshore_worker_restarts_total", Counter, [], false,
        "Times that the serving process was killed and restarted.";
    MODEL_SECONDS = "longshore_model_seconds", Summary, ["model", "target_model", "quantile"], false,
        "Time of the answered requests of the busiest models (--metrics-models); the sum and the count of all others have \
         the model other.";
    MODEL_ERRORS = "longshore_model_errors_total", Counter, ["model", "target_model"], false,
        "Failed requests of the busiest models; those of all others have the model other.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let names: BTreeSet<_> = TABLE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for MetricInfo { name, kind, labels, .. } in TABLE {
            assert!(name.starts_with("longshore_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert!(!labels.contains(&"le"), "{name}");
        }
    }
}
