use std::collections::BTreeSet;

use std::time::Instant;

use super::*;
use crate::telemetry::recorder::Phase;

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
        free: Some(4_000),
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
    metrics.start_request(Route::Get).answered(404, Some(Cause::NotFound));
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
        "longshore_requests_total{route=\"health\",status=\"404\"} 1",
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
