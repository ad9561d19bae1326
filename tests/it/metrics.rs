//! The metrics: series of single models, switches, the Embedded Metric Format, and profiles.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Builder, FOREVER, Request, Server, eventually, try_send};

/// A server with these options and a model for each name, which all multiply by two.
fn with_models(options: &[&str], names: &[&str]) -> Server {
    let server = Builder::multi().arguments(options).start();
    load(&server, names);
    server
}

fn load(server: &Server, names: &[&str]) {
    let url = server.models().place_scale("scale", 2.0);
    for name in names {
        server.load(name, &url).expect(200);
    }
}

fn ask(server: &Server, name: &str, times: usize) {
    for _ in 0..times {
        server.assert_scales(name, 2.0);
    }
}

fn page(server: &Server) -> String {
    server.send(&Request::get("/metrics")).expect(200).text()
}

#[test]
fn only_the_busiest_models_have_series_and_an_unload_ends_them() {
    let server = with_models(&["--metrics-models", "2"], &["a", "b", "c", "d"]);
    for (name, times) in [("a", 1), ("b", 9), ("c", 8), ("d", 2)] {
        ask(&server, name, times);
    }
    let count = |model: &str| server.metric(&format!("longshore_model_seconds_count{{model=\"{model}\"}}"));
    assert_eq!(["a", "b", "c", "d", "other"].map(count), [0, 9, 8, 0, 3]);
    server.unload("b").expect(200);
    let after = page(&server);
    assert!(
        !after.contains("model=\"b\"") && after.contains("model=\"c\""),
        "{after}"
    );
    // Another model takes the place. Its earlier requests stay with the others.
    ask(&server, "d", 1);
    assert_eq!(["c", "d", "other"].map(count), [8, 3, 3]);
    assert_eq!(server.metric("longshore_unloads_total{reason=\"request\"}"), 1);
}

#[test]
fn the_target_model_of_a_load_is_a_label_of_its_series() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("scale", 2.0);
    let load = Request::post("/models").header("X-Amzn-SageMaker-Target-Model", "team/a.tar.gz");
    server
        .send(&load.json(&json!({"model_name": "3f9c", "url": url})))
        .expect(200);
    ask(&server, "3f9c", 1);
    let series = "longshore_model_seconds_count{model=\"3f9c\",target_model=\"team/a.tar.gz\"}";
    assert_eq!(server.metric(series), 1);
}

#[test]
fn a_server_at_rest_has_a_dozen_series() {
    let server = Builder::multi().start();
    let page = page(&server);
    let series: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(series.len() <= 15, "{page}");
    for signal in [
        "longshore_memory_used_ratio",
        "longshore_queue_wait_seconds",
        "longshore_compute_saturation_ratio",
    ] {
        assert!(series.iter().any(|line| line.starts_with(signal)), "{signal} in {page}");
    }
}

#[test]
fn the_phases_of_each_request_are_recorded() {
    let server = with_models(&[], &["a"]);
    ask(&server, "a", 40);
    let count = |phase: &str| server.metric(&format!("longshore_phase_seconds_count{{phase=\"{phase}\"}}"));
    for phase in ["read", "parse", "run", "write"] {
        // A compute thread records the last phase after the answer.
        eventually("each request is recorded", || count(phase) >= 40);
    }
    // The first request waits for a compute thread; later ones are known to be short.
    assert!((1..=40).contains(&count("queue")), "{}", count("queue"));
    assert_eq!(server.metric("longshore_request_seconds_count"), 40);
}

#[test]
fn errors_are_counted_by_cause_and_by_model() {
    let server = with_models(&[], &["a"]);
    ask(&server, "a", 1);
    server.invoke("a", &json!({"instances": ["x"]})).expect(400);
    server.invoke("b", &json!({"instances": [1]})).expect(404);
    let picture = Server::invocation("a").header("Accept", "image/png");
    server.send(&picture.json(&json!({"instances": [1]}))).expect(406);
    for (series, count) in [
        ("longshore_errors_total{cause=\"bad_request\"}", 1),
        ("longshore_errors_total{cause=\"not_found\"}", 1),
        ("longshore_errors_total{cause=\"unsupported\"}", 1),
        ("longshore_model_errors_total{model=\"a\"}", 2),
    ] {
        assert_eq!(server.metric(series), count, "{series} in {}", page(&server));
    }
}

#[test]
fn without_metrics_there_is_no_page_and_requests_are_served() {
    let server = with_models(&["--metrics", "off"], &["a"]);
    ask(&server, "a", 3);
    server.invoke("a", &json!({"instances": ["x"]})).expect(400);
    let refusal = server.send(&Request::get("/metrics")).expect(404);
    assert!(refusal.message().contains("--metrics on"), "{}", refusal.message());
}

/// A server whose standard output is a file, and the lines of metrics in it.
struct Emf {
    server: Server,
    _folder: tempfile::TempDir,
    output: std::path::PathBuf,
}

impl Emf {
    fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let server = Builder::multi()
            .through(["sh", "-c", "out=$1; shift; exec \"$@\" > \"$out\"", "sh"])
            .through([&output])
            .arguments(options)
            .start();
        Self {
            server,
            _folder: folder,
            output,
        }
    }

    fn lines(output: &std::path::Path) -> Vec<Value> {
        let text = fs::read_to_string(output).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines = lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        lines.collect()
    }

    /// The sum of a metric over the lines of the server, or of a model.
    fn sum(output: &std::path::Path, name: &str, model: Option<&str>) -> u64 {
        let lines = Self::lines(output);
        let lines = lines.iter().filter(|line| line["Model"].as_str() == model);
        lines.filter_map(|line| line[name].as_u64()).sum()
    }
}

#[test]
fn metrics_are_written_to_standard_output_at_each_interval_by_one_process() {
    let Emf {
        server,
        output,
        _folder,
    } = Emf::start(&[
        "--emf",
        "200ms",
        "--emf-namespace",
        "Test",
        "--emf-dimension",
        "EndpointName=e",
    ]);
    load(&server, &["a"]);
    eventually("an interval ends", || !Emf::lines(&output).is_empty());
    ask(&server, "a", 7);
    server.invoke("a", &json!({"instances": ["x"]})).expect(400);
    eventually("the requests are counted", || {
        Emf::sum(&output, "Invocations", None) == 8
    });
    let of_models = || Emf::sum(&output, "Invocations", Some("a")) + Emf::sum(&output, "Invocations", Some("other"));
    assert_eq!((of_models(), Emf::sum(&output, "Errors", None)), (8, 1));
    assert_eq!(Emf::sum(&output, "Loads", None), 1);
    for line in Emf::lines(&output) {
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(
            (&directive["Namespace"], &line["EndpointName"]),
            (&json!("Test"), &json!("e"))
        );
    }
    let times: Vec<_> = Emf::lines(&output)
        .into_iter()
        .filter(|line| line.get("Model").is_none())
        .map(|line| line["_aws"]["Timestamp"].as_u64().unwrap())
        .collect();
    // Two processes that wrote would not keep the distance of the interval.
    assert!(times.windows(2).all(|times| times[1] - times[0] >= 100), "{times:?}");
}

#[test]
fn a_server_that_stops_writes_the_metrics_of_its_last_interval() {
    let Emf {
        server,
        output,
        _folder,
    } = Emf::start(&["--emf", "1h"]);
    load(&server, &["a"]);
    ask(&server, "a", 3);
    assert_eq!(Emf::lines(&output), [json!(null); 0]);
    server.terminate();
    assert_eq!(server.wait_for_end().status.code(), Some(0));
    assert_eq!(Emf::sum(&output, "Invocations", None), 3);
    // Nothing was counted for the others before.
    assert_eq!(Emf::sum(&output, "Invocations", Some("a")), 3);
}

#[test]
fn a_restarted_worker_continues_to_write_metrics() {
    let Emf {
        server,
        output,
        _folder,
    } = Emf::start(&["--emf", "200ms"]);
    load(&server, &["a"]);
    ask(&server, "a", 1);
    eventually("the request is counted", || Emf::sum(&output, "Invocations", None) == 1);
    server.process().signal(Signal::KILL);
    eventually("another worker answers", || {
        try_send(server.address(), &Request::get("/metrics"))
            .is_ok_and(|page| page.text().contains("longshore_worker_restarts_total 1"))
    });
    ask(&server, "a", 1);
    eventually("its request is counted", || Emf::sum(&output, "Invocations", None) == 2);
}

#[test]
fn options_of_the_format_are_checked() {
    for (options, part) in [
        (vec!["--emf", "1s", "--metrics", "off"], "--metrics on"),
        (
            vec!["--emf", "1s", "--emf-dimension", "a=1,b=2,c=3,d=4,e=5,f=6,g=7,h=8,i=9"],
            "8 dimensions",
        ),
        (vec!["--emf-dimension", "Model=a"], "NAME=VALUE"),
        (vec!["--emf-namespace", "AWS/SageMaker"], "namespace"),
    ] {
        let ended = Builder::multi().arguments(&options).run_to_end();
        assert_ne!(ended.status.code(), Some(0));
        let log = ended.log.join("\n");
        assert!(log.contains(part), "{options:?}: {log}");
    }
}

#[test]
fn a_profile_shows_the_operators_of_a_model() {
    let server = Builder::multi().argument("--profiles").start();
    let url = server.models().place("mlp", "mlp");
    server.load("team/mlp", &url).expect(200);
    let body = json!({"instances": [vec![0.5; 32]]});
    let profile = server
        .send(&Request::post("/debug/profile/team%2Fmlp").json(&body))
        .expect(200);
    assert_eq!(profile.header("content-type"), Some("application/json"));
    let events: Vec<Value> = serde_json::from_slice(&profile.body).unwrap();
    let operators = events.iter().filter(|event| event["args"]["op_name"].is_string());
    assert!(operators.count() >= 2, "{events:?}");
    // The next one is not the same, and ordinary requests are not profiled.
    server.invoke("team/mlp", &body).expect(200);
    let again = server
        .send(&Request::post("/debug/profile/team%2Fmlp").json(&body))
        .expect(200);
    let again: Vec<Value> = serde_json::from_slice(&again.body).unwrap();
    assert_eq!(again.len(), events.len());
    for (path, body, status) in [
        ("/debug/profile/other", &body, 404),
        ("/debug/profile/", &body, 404),
        ("/debug/profile/team%2Fmlp", &json!({"instances": ["x"]}), 400),
    ] {
        server.send(&Request::post(path).json(body)).expect(status);
    }
    server.send(&Request::get("/debug/profile/team%2Fmlp")).expect(405);
    let left = fs::read_dir(server.models().cache()).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("profile"));
    assert_eq!(left.count(), 0);
}

#[test]
fn profiles_are_off_by_default() {
    let server = with_models(&[], &["a"]);
    let request = Request::post("/debug/profile/a").json(&json!({"instances": [1]}));
    let refusal = server.send(&request).expect(404);
    assert!(refusal.message().contains("--profiles"), "{}", refusal.message());
}

#[test]
fn one_profile_is_made_at_a_time_within_the_deadline() {
    let server = Builder::multi()
        .arguments(["--profiles", "--request-timeout", "3s"])
        .start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let spin = |iterations: u64| Request::post("/debug/profile/spin").json(&json!({"inputs": iterations}));
    eventually("a second profile is refused during the first one", || {
        let mut first = server.connect();
        first.write(&spin(FOREVER).to_bytes()).unwrap();
        // Either of the two may be the first one for the server.
        let second = server.send(&spin(1));
        let is_refused = second.status == 503 && second.message().contains("another profile");
        first.read_response("POST").unwrap().status == 504 && is_refused
    });
    eventually("the run has ended", || server.send(&spin(1)).status == 200);
    let mut first = server.connect();
    first.write(&spin(FOREVER).to_bytes()).unwrap();
    drop(first);
    eventually("a client that hangs up ends its run", || {
        server.send(&spin(1)).status == 200
    });
}
