//! The dashboard for Grafana and the alert rules for Prometheus below `container/deploy/`,
//! generated from the panels and alerts here. They name only metrics of the table. The dashboard
//! shows all of them.

use std::collections::BTreeSet;
use std::fmt::Write;

use longshore::telemetry::metrics::table::{MetricKind, TABLE};
use serde_json::{Value, json};

use super::assert_generated;

/// The file of the alert rules.
pub const ALERTS_FILE: &str = "container/deploy/prometheus/alerts.yaml";

/// A panel: its title, its unit in Grafana, and its queries with their legends.
struct Panel {
    title: &'static str,
    unit: &'static str,
    queries: &'static [(&'static str, &'static str)],
}

struct Row {
    title: &'static str,
    panels: &'static [Panel],
}

const ROWS: [Row; 5] = [
    Row {
        title: "Requests",
        panels: &[
            Panel {
                title: "Requests by route and status",
                unit: "reqps",
                queries: &[(
                    "sum by (route, status) (rate(longshore_requests_total{$server}[$__rate_interval]))",
                    "{{route}} {{status}}",
                )],
            },
            Panel {
                title: "Errors by cause",
                unit: "reqps",
                queries: &[(
                    "sum by (cause) (rate(longshore_errors_total{$server}[$__rate_interval]))",
                    "{{cause}}",
                )],
            },
            Panel {
                title: "Latency",
                unit: "s",
                queries: &[
                    (
                        "histogram_quantile(0.5, sum by (le) (rate(longshore_request_seconds_bucket{$server}[$__rate_interval])))",
                        "p50",
                    ),
                    (
                        "histogram_quantile(0.99, sum by (le) (rate(longshore_request_seconds_bucket{$server}[$__rate_interval])))",
                        "p99",
                    ),
                ],
            },
            Panel {
                title: "Where the time goes (p99 of each phase)",
                unit: "s",
                queries: &[(
                    "max by (phase) (longshore_phase_seconds{$server, quantile=\"0.99\"})",
                    "{{phase}}",
                )],
            },
            Panel {
                title: "Requests in a batch (mean)",
                unit: "short",
                queries: &[(
                    "sum(rate(longshore_batch_requests_sum{$server}[$__rate_interval])) / \
                     sum(rate(longshore_batch_requests_count{$server}[$__rate_interval]))",
                    "mean",
                )],
            },
        ],
    },
    Row {
        title: "Load",
        panels: &[
            Panel {
                title: "Queue",
                unit: "short",
                queries: &[
                    ("sum(longshore_requests_waiting{$server})", "waiting"),
                    ("sum(longshore_requests_running{$server})", "running"),
                ],
            },
            Panel {
                title: "Wait for a compute thread (p99)",
                unit: "s",
                queries: &[("longshore_queue_wait_seconds{$server}", "{{instance}}")],
            },
            Panel {
                title: "Saturation of the compute threads",
                unit: "percentunit",
                queries: &[("longshore_compute_saturation_ratio{$server}", "{{instance}}")],
            },
            Panel {
                title: "Load",
                unit: "short",
                queries: &[("longshore_load{$server}", "{{instance}}")],
            },
            Panel {
                title: "Stuck runs",
                unit: "short",
                queries: &[
                    ("sum(longshore_stuck_runs{$server})", "runs"),
                    ("sum(longshore_stuck_models{$server})", "models"),
                    (
                        "sum(increase(longshore_stuck_runs_total{$server}[$__rate_interval]))",
                        "new",
                    ),
                ],
            },
            Panel {
                title: "Restarts of the serving process",
                unit: "short",
                queries: &[("longshore_worker_restarts_total{$server}", "{{instance}}")],
            },
        ],
    },
    Row {
        title: "Models",
        panels: &[
            Panel {
                title: "Listed models",
                unit: "short",
                queries: &[("longshore_models_loaded{$server}", "{{instance}}")],
            },
            Panel {
                title: "Requests that waited for a load",
                unit: "percentunit",
                queries: &[(
                    "sum(rate(longshore_model_lookups_total{$server, state=\"cold\"}[$__rate_interval])) / \
                     sum(rate(longshore_model_lookups_total{$server}[$__rate_interval]))",
                    "cold",
                )],
            },
            Panel {
                title: "Loads by outcome, unloads by reason",
                unit: "ops",
                queries: &[
                    (
                        "sum by (outcome) (rate(longshore_loads_total{$server}[$__rate_interval]))",
                        "load {{outcome}}",
                    ),
                    (
                        "sum by (reason) (rate(longshore_unloads_total{$server}[$__rate_interval]))",
                        "unload {{reason}}",
                    ),
                ],
            },
            Panel {
                title: "Time of loads and unloads (p99)",
                unit: "s",
                queries: &[
                    ("max(longshore_load_seconds{$server, quantile=\"0.99\"})", "load"),
                    ("max(longshore_unload_seconds{$server, quantile=\"0.99\"})", "unload"),
                ],
            },
        ],
    },
    Row {
        title: "Memory and disk",
        panels: &[
            Panel {
                title: "Memory",
                unit: "bytes",
                queries: &[
                    ("sum(longshore_memory_reserved_bytes{$server})", "reserved for models"),
                    ("sum(longshore_memory_requests_bytes{$server})", "reserved for requests"),
                    ("sum(longshore_memory_mapped_bytes{$server})", "mapped weights"),
                    ("sum(longshore_memory_process_bytes{$server})", "process"),
                    ("sum(longshore_memory_limit_bytes{$server})", "limit"),
                ],
            },
            Panel {
                title: "Memory used",
                unit: "percentunit",
                queries: &[("longshore_memory_used_ratio{$server}", "{{instance}}")],
            },
            Panel {
                title: "Shared constants",
                unit: "bytes",
                queries: &[
                    ("sum(longshore_shared_constant_bytes{$server})", "in memory"),
                    ("sum(longshore_shared_constant_saved_bytes{$server})", "saved"),
                ],
            },
            Panel {
                title: "Number of shared constants",
                unit: "short",
                queries: &[("sum(longshore_shared_constants{$server})", "constants")],
            },
            Panel {
                title: "Caches on disk",
                unit: "bytes",
                queries: &[("sum by (cache) (longshore_cache_bytes{$server})", "{{cache}}")],
            },
            Panel {
                title: "Unpacked archives on disk",
                unit: "short",
                queries: &[("sum by (cache) (longshore_cache_entries{$server})", "{{cache}}")],
            },
        ],
    },
    Row {
        title: "The busiest models",
        panels: &[
            Panel {
                title: "Answered requests",
                unit: "reqps",
                queries: &[(
                    "sum by (model, target_model) (rate(longshore_model_seconds_count{$server}[$__rate_interval]))",
                    "{{model}} {{target_model}}",
                )],
            },
            Panel {
                title: "Latency (p99)",
                unit: "s",
                queries: &[(
                    "max by (model, target_model) (longshore_model_seconds{$server, quantile=\"0.99\"})",
                    "{{model}} {{target_model}}",
                )],
            },
            Panel {
                title: "Failed requests",
                unit: "reqps",
                queries: &[(
                    "sum by (model, target_model) (rate(longshore_model_errors_total{$server}[$__rate_interval]))",
                    "{{model}} {{target_model}}",
                )],
            },
        ],
    },
];

struct Alert {
    name: &'static str,
    expression: &'static str,
    wait: &'static str,
    severity: &'static str,
    summary: &'static str,
    description: &'static str,
}

/// The alerts. That of errors counts the causes that the operator can correct.
const ALERTS: [Alert; 10] = [
    Alert {
        name: "LongshoreErrors",
        expression: "sum by (instance) (rate(longshore_errors_total{cause=~\"internal|quarantined|queue_full|deadline|stuck|store|exhausted\"}[5m])) \
                     > 0.01 * sum by (instance) (rate(longshore_requests_total{route!=\"health\"}[5m]))",
        wait: "5m",
        severity: "page",
        summary: "More than one request in a hundred fails",
        description: "The causes: sum by (cause) (rate(longshore_errors_total[5m])). The log has each refusal with its model.",
    },
    Alert {
        name: "LongshoreSlow",
        expression: "histogram_quantile(0.99, sum by (instance, le) (rate(longshore_request_seconds_bucket[5m]))) > 0.5",
        wait: "10m",
        severity: "ticket",
        summary: "One answer in a hundred takes more than half a second",
        description: "longshore_phase_seconds tells which phase takes the time, and longshore_model_seconds which model.",
    },
    Alert {
        name: "LongshoreQueues",
        expression: "longshore_queue_wait_seconds > 0.25",
        wait: "5m",
        severity: "ticket",
        summary: "Requests wait for a compute thread",
        description: "Add servers, or larger ones. If longshore_compute_saturation_ratio is low, a single model is slow.",
    },
    Alert {
        name: "LongshoreSaturated",
        expression: "longshore_compute_saturation_ratio > 0.9",
        wait: "15m",
        severity: "ticket",
        summary: "The compute threads are busy",
        description: "Add servers, or larger ones.",
    },
    Alert {
        name: "LongshoreMemoryRefusals",
        expression: "sum by (instance) (rate(longshore_errors_total{cause=\"memory\"}[10m])) > 0.05",
        wait: "10m",
        severity: "ticket",
        summary: "Requests or loads are refused for lack of memory",
        description: "On SageMaker the platform unloads models after such a refusal. Frequent ones mean that the models do not fit.",
    },
    Alert {
        name: "LongshoreColdStarts",
        expression: "sum by (instance) (rate(longshore_model_lookups_total{state=\"cold\"}[15m])) > 0.1 * sum by (instance) (rate(longshore_model_lookups_total[15m]))",
        wait: "15m",
        severity: "ticket",
        summary: "One request in ten waits for its model",
        description: "The models do not fit into memory: longshore_unloads_total{reason=\"memory\"} counts evictions.",
    },
    Alert {
        name: "LongshoreLoadsFail",
        expression: "sum by (instance) (rate(longshore_loads_total{outcome=\"failed\"}[15m])) > 0",
        wait: "15m",
        severity: "ticket",
        summary: "Loads of models fail",
        description: "The log names the models and the reasons.",
    },
    Alert {
        name: "LongshoreStuck",
        expression: "longshore_stuck_runs > 0",
        wait: "1m",
        severity: "page",
        summary: "A run does not end",
        description: "Its model refuses requests until it does. The log names the model.",
    },
    Alert {
        name: "LongshoreRestarted",
        expression: "longshore_worker_restarts_total > (longshore_worker_restarts_total offset 15m or longshore_worker_restarts_total * 0)",
        wait: "0m",
        severity: "page",
        summary: "The serving process was killed and restarted",
        description: "The log names the model that was to blame, if there was one. It is refused for a while.",
    },
    Alert {
        name: "LongshoreDown",
        expression: "up{job=\"longshore\"} == 0",
        wait: "2m",
        severity: "page",
        summary: "A server does not answer",
        description: "Prometheus cannot read its metrics.",
    },
];

fn dashboard() -> Value {
    let mut panels = Vec::new();
    let (mut id, mut y) = (0, 0);
    for row in &ROWS {
        id += 1;
        panels.push(json!({
            "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        }));
        y += 1;
        for (index, panel) in row.panels.iter().enumerate() {
            id += 1;
            let targets: Vec<Value> = panel
                .queries
                .iter()
                .zip('A'..)
                .map(|((expression, legend), letter)| {
                    json!({
                        "refId": letter.to_string(),
                        "expr": expression.replace("$server", "instance=~\"$instance\""),
                        "legendFormat": legend,
                    })
                })
                .collect();
            panels.push(json!({
                "id": id, "type": "timeseries", "title": panel.title,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
                "gridPos": {"h": 8, "w": 8, "x": index % 3 * 8, "y": y + index / 3 * 8},
                "targets": targets,
            }));
        }
        y += row.panels.len().div_ceil(3) * 8;
    }
    json!({
        "title": "Longshore",
        "uid": "longshore",
        "tags": ["longshore"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
            {
                "name": "instance", "type": "query", "label": "Server", "multi": true, "includeAll": true, "refresh": 2,
                "datasource": {"type": "prometheus", "uid": "${datasource}"},
                "query": {"query": "label_values(longshore_models_loaded, instance)", "refId": "servers"},
                "current": {"text": "All", "value": "$__all"},
            },
        ]},
        "panels": panels,
    })
}

fn alerts() -> String {
    let mut text = String::from(
        "# Alert rules for Prometheus. The test `dashboard` writes this file: UPDATE=1 cargo test --test it docs::\n\
         groups:\n  - name: longshore\n    rules:\n",
    );
    for alert in &ALERTS {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        writeln!(text, "      - alert: {}", alert.name).unwrap();
        writeln!(text, "        expr: {}", quoted(alert.expression)).unwrap();
        writeln!(text, "        for: {}", alert.wait).unwrap();
        writeln!(text, "        labels: {{severity: {}}}", alert.severity).unwrap();
        writeln!(text, "        annotations:").unwrap();
        writeln!(text, "          summary: {}", quoted(alert.summary)).unwrap();
        writeln!(text, "          description: {}", quoted(alert.description)).unwrap();
    }
    text
}

/// The names of series in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("longshore_"))
}

/// The metric of a series, by the table.
fn metric(series: &str) -> Option<&'static str> {
    let found = TABLE.iter().find(|metric| match metric.kind {
        MetricKind::Counter | MetricKind::Gauge => series == metric.name,
        MetricKind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|end| series.strip_suffix(end) == Some(metric.name)),
        MetricKind::Summary => {
            series == metric.name
                || ["_sum", "_count"]
                    .iter()
                    .any(|end| series.strip_suffix(end) == Some(metric.name))
        }
    });
    found.map(|metric| metric.name)
}

#[test]
fn the_dashboard_and_the_alert_rules_equal_their_files() {
    let dashboard = serde_json::to_string_pretty(&dashboard()).unwrap() + "\n";
    assert_generated("container/deploy/grafana/dashboard.json", &dashboard);
    assert_generated(ALERTS_FILE, &alerts());
}

#[test]
fn the_dashboard_shows_every_metric_of_the_table_and_no_other() {
    let panels = ROWS.iter().flat_map(|row| row.panels).flat_map(|panel| panel.queries);
    let shown: BTreeSet<_> = panels
        .flat_map(|(expression, _)| names(expression))
        .map(|series| metric(series).unwrap_or_else(|| panic!("{series} is not in the table")))
        .collect();
    let all: BTreeSet<_> = TABLE.iter().map(|metric| metric.name).collect();
    assert_eq!(shown, all);
}

#[test]
fn the_alert_rules_name_only_metrics_of_the_table() {
    for alert in &ALERTS {
        for series in names(alert.expression) {
            assert!(metric(series).is_some(), "{}: {series}", alert.name);
        }
        // A description names metrics, too.
        for name in names(alert.description) {
            assert!(TABLE.iter().any(|metric| metric.name == name), "{}: {name}", alert.name);
        }
    }
}
