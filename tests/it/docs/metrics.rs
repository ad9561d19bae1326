//! `docs/metrics.md`: every metric, generated from the table in `src/telemetry/metrics/table.rs`.

use longshore::telemetry::cause::Cause;
use longshore::telemetry::metrics::table::{MetricInfo, MetricKind, TABLE};

use super::assert_generated;

const INTRODUCTION: &str = "\
<!-- The test `metrics` writes this page: UPDATE=1 cargo test --test it docs:: -->

# Metrics

`GET /metrics` answers in the Prometheus text format (version 0.0.4). `--metrics off` switches the counting and the page off.

- **Few series.** CloudWatch charges for each series, so a series appears with its first event. A server at rest has about a dozen.
  Queries must expect that a series is missing: `rate(x[5m]) or vector(0)`.
- **Models.** The `--metrics-models` busiest models (10) have series of their own, and all others share the model `other`. A model keeps
  its place until another one is twice as busy for a minute, or until it is unloaded. Then its series end. Its name in `model` is the one
  in the path; `target_model` is the client's name, if the load request had one. Names of more than 128 bytes are shortened.
- **Quantiles** are those of the last 30 to 60 seconds; sums and counts are those of all time.
- **Cost.** A request reads the clock a few times and increments counters that threads do not share: 1 to 2 % of the server's CPU time. No
  request waits for a reading, which takes 9 ms and has 8 KB with 10,000 loaded models ([measured](benchmarks.md#metrics)).
- The names are stable. A rename is in `CHANGELOG.md`.

## Where the metrics go

| platform | how |
|---|---|
| Prometheus | scrapes `/metrics`; `container/deploy/prometheus/alerts.yaml` has alert rules, and `container/deploy/grafana/dashboard.json` a dashboard |
| SageMaker | reads `/metrics` each minute into CloudWatch, if `MetricsConfig.EnableDetailedObservability` of the endpoint configuration is true; see [Deployment](sagemaker.md#what-to-watch) |
| any log that goes to CloudWatch Logs | `--emf 60s` writes the [Embedded Metric Format](#embedded-metric-format) to standard output |
| KServe | the annotations of `container/deploy/kserve/runtime.yaml` name the path |

## Signals for scaling

These gauges are made for an autoscaler. They are there from the start, the last one where the memory has a limit.

| signal | add a server when it is |
|---|---|
| `longshore_load` | above 0.7 for minutes: one number for all of the following, as below |
| `longshore_compute_saturation_ratio` | above 0.8 for minutes: the compute threads are busy |
| `longshore_queue_wait_seconds` | above the time that a client may wait: requests queue for a thread |
| `longshore_memory_used_ratio` | near 1, and models are evicted and loaded again: the models do not fit |

A multi-model endpoint with many models is normally full, so memory alone is not a reason to add a server.

`longshore_load` is the larger one of two figures of the last minute. It has no upper bound, so an autoscaler can compute the number of
servers from it: *servers x load / 0.7*.

- **Compute**: the time that requests ran, and the time that they waited for a thread, over the time that the compute threads have. 0.5
  means that half of the threads are busy. 3 means that for each thread one request runs and two wait.
- **Memory**: models that were evicted for lack of memory, over the models in memory. 0.1 means that a tenth of the models in memory was
  replaced within a minute. A server whose memory is full of models that are in use evicts none.

[A fleet of servers](fleet.md) scales by it.
";

const EMF: &str = "
## Embedded Metric Format

`--emf TIME` writes lines of JSON to standard output. CloudWatch Logs makes metrics from them in the namespace of `--emf-namespace`, with
the dimensions of `--emf-dimension NAME=VALUE`. The worker writes them, also those of an interval that ends early because the server stops.

<!-- not run: it serves until it is stopped -->
```sh
longshore --model-dir tests/models/iris_zipmap --emf 60s --emf-dimension EndpointName=segments
```

Each interval has one line for the server and one for each of the busiest models that had requests. A line of a model has the dimension
`Model` in addition: the client's name for the model, or the name in the path.

| metric | unit | of | meaning |
|---|---|---|---|
| `Invocations` | count | server, models | requests to models in the interval |
| `Errors` | count | server, models | those without an answer |
| `Latency` | milliseconds | server, models | up to 100 quantiles at equal distances, from which CloudWatch computes percentiles; the model `other` has none |
| `ColdStarts` | count | server | requests that waited for the load of their model |
| `Loads`, `LoadErrors`, `Unloads`, `Evictions` | count | server | in the interval, if there were any |
| `ModelsLoaded`, `QueueDepth` | count | server | at the end of the interval |
| `QueueWait` | milliseconds | server | 99th percentile of the waits for a compute thread |
| `ComputeSaturation`, `MemoryUsed` | percent | server | the [signals for scaling](#signals-for-scaling) |
| `MemoryBytes` | bytes | server, models | private bytes in memory |

## The profile of a model

With `--profiles`, `POST /debug/profile/NAME` runs a request to a model once, and answers with ONNX Runtime's own profile of that run: the
time, type and shapes of each operator, as JSON for `chrome://tracing` or [Perfetto](https://ui.perfetto.dev). The body and the headers are
those of a request to the model. There is one profile at a time, within the deadline of a request and 32 MiB. Other requests to the model go
on meanwhile.

```sh
longshore --model-dir tests/models/iris_zipmap --profiles &
curl localhost:8080/ping
curl localhost:8080/debug/profile/model -d '[[5.1, 3.5, 1.4, 0.2]]'
kill %1
```
";

/// Heading of a part of the table, with the metric that begins it.
const PARTS: [(&str, &str); 5] = [
    ("Requests", "longshore_requests_total"),
    ("Models", "longshore_models_loaded"),
    ("Memory and disk", "longshore_memory_reserved_bytes"),
    ("Process", "longshore_worker_restarts_total"),
    ("Single models", "longshore_model_seconds"),
];

#[test]
fn the_page_of_metrics_lists_every_metric() {
    assert_generated("docs/metrics.md", &page());
}

fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## All metrics\n\nHistograms and summaries have a sum and a count. \"From the start\" marks the series of a server at rest.\n");
    for metric in TABLE {
        if let Some((heading, _)) = PARTS.iter().find(|(_, first)| *first == metric.name) {
            text.push_str(&format!(
                "\n### {heading}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"
            ));
        }
        text.push_str(&row(metric));
    }
    text.push_str("\n### Causes of errors\n\nThe label `cause` of `longshore_errors_total` is one of: ");
    let causes: Vec<_> = Cause::ALL.iter().map(|cause| format!("`{}`", cause.label())).collect();
    text.push_str(&causes.join(", "));
    text.push_str(".\n");
    text.push_str(EMF);
    text
}

fn row(metric: &MetricInfo) -> String {
    let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let start = if metric.is_always_there { " From the start." } else { "" };
    let kind = match metric.kind {
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Histogram | MetricKind::Summary => metric.kind.label(),
    };
    format!(
        "| `{}` | {kind} | {} | {}{start} |\n",
        metric.name,
        labels.join(", "),
        metric.help
    )
}
