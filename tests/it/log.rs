//! The log (ST-11), with readers that stop reading and with hostile names.

use serde_json::{Value, json};

use crate::harness::{Builder, FOREVER, Request, Response, Server, eventually};

/// A caller's span, by W3C's Trace Context.
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn a_log_that_is_not_read_does_not_block_requests() {
    // For example a log driver that hangs: the pipe is full after 64 KiB.
    let server = Builder::multi().start();
    let model = server.models().place("iris_zipmap", "iris");
    let name = "n".repeat(1000);
    server.read_log(false);
    for _ in 0..400 {
        server.load(&name, &model).expect(200);
        server.unload(&name).expect(200);
    }
    server.load(&name, &model).expect(200);
    server.send(&Request::get("/ping")).expect(200);
    server.invoke(&name, &json!([[5.1, 3.5, 1.4, 0.2]])).expect(200);

    server.read_log(true);
    eventually("the log reports the lost lines", || {
        server.unload(&name).expect(200);
        server.load(&name, &model).expect(200);
        server.count_in_log("log lines lost because they were not read: ") == 1
    });
}

#[test]
fn a_name_cannot_end_a_log_record_or_reverse_its_text() {
    // ST-11: every record is one line for every reader.
    let name = "a\u{2028}b\u{2029}c\u{202e}d\u{2066}e\u{200f}f\u{61c}g\u{85}h\n\u{1b}[2Ji";
    for format in ["text", "json"] {
        let server = Builder::multi().arguments(["--log-format", format]).start();
        let refusal = server.load(name, "/outside").expect(400);
        assert!(refusal.status == 400);
        server.invoke(name, &json!([1])).expect(404);
        server.wait_for_log("404");
        let log = server.log();
        for line in &log {
            assert!(!line.contains([
                '\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}', '\u{85}', '\u{1b}'
            ]));
        }
        let refusal = log.iter().find(|line| line.contains("404")).unwrap();
        assert!(refusal.contains("u{2028}") || refusal.contains("u2028"), "{refusal}");
        if format == "json" {
            let record: Value = serde_json::from_str(refusal).unwrap();
            assert!(
                record.to_string().contains('\u{202e}'),
                "the JSON must decode to the original name: {refusal}"
            );
        }
    }
}

/// A server whose log is JSON and has each answered request.
fn logging(arguments: &[&str]) -> Builder {
    let all = ["--log-format", "json", "--access-log", "1"];
    Builder::multi().arguments(all).arguments(arguments)
}

fn records(server: &Server) -> Vec<Value> {
    let lines = server.log();
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn load_as(server: &Server, name: &str, target_model: &str, url: &str) -> Response {
    let request = Request::post("/models").header("X-Amzn-SageMaker-Target-Model", target_model);
    server.send(&request.json(&json!({"model_name": name, "url": url})))
}

#[test]
fn a_log_that_is_not_on_a_terminal_is_json() {
    let server = Builder::multi().environment("LONGSHORE_LOG_FORMAT", "auto").start();
    assert!(records(&server).iter().any(|record| record["message"] == "listening"));
}

#[test]
fn every_record_about_a_model_has_its_name_and_its_target_model() {
    let server = logging(&["--log-level", "debug"]).start();
    let url = server.models().place("iris_zipmap", "iris");
    load_as(&server, "3f9c", "team/a.tar.gz", &url).expect(200);
    server.invoke("3f9c", &json!([[5.1, 3.5, 1.4, 0.2]])).expect(200);
    server.invoke("3f9c", &json!([["x"]])).expect(400);
    server.unload("3f9c").expect(200);
    server.wait_for_log("model unloaded");
    let about: Vec<Value> = records(&server)
        .into_iter()
        .filter(|record| {
            let text = record.to_string();
            // Requests for the list, and the start, are about no model.
            ["3f9c", "model loaded", "model unloaded", "run alone", "are batched"]
                .iter()
                .any(|part| text.contains(part))
        })
        .collect();
    assert!(about.len() >= 5, "{about:?}");
    for record in about {
        assert_eq!(record["model"], "3f9c", "{record}");
        assert_eq!(record["target_model"], "team/a.tar.gz", "{record}");
    }
}

#[test]
fn a_failed_load_names_the_model_and_its_target_model() {
    let server = logging(&[]).start();
    load_as(&server, "3f9c", "team/a.tar.gz", "/outside").expect(400);
    server.wait_for_log("\"status\":400");
    let records = records(&server);
    let refusal = records.iter().find(|record| record["status"] == 400).unwrap();
    assert_eq!(
        (&refusal["model"], &refusal["target_model"]),
        (&json!("3f9c"), &json!("team/a.tar.gz"))
    );
}

#[test]
fn an_answered_request_has_one_record_with_its_ids_and_times() {
    let server = logging(&[]).start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    let request = Server::invocation("iris")
        .header("X-Amzn-SageMaker-Inference-Id", "order-7")
        .header("traceparent", PARENT)
        .json(&json!([[5.1, 3.5, 1.4, 0.2]]));
    let response = server.send(&request.not_inline()).expect(200);
    let of_invocation = |record: &Value| record["message"] == "request" && record["path"] == "/models/iris/invoke";
    eventually("the request is logged", || records(&server).iter().any(of_invocation));
    let all = records(&server);
    let record = all.iter().find(|record| of_invocation(record)).unwrap();
    assert_eq!(all.iter().filter(|record| of_invocation(record)).count(), 1);
    assert_eq!(record["status"], 200);
    assert_eq!(record["inference_id"], "order-7");
    assert_eq!(record["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(record["request_bytes"], 80 << 10);
    assert_eq!(record["response_bytes"], response.body.len());
    let time = |name: &str| record[name].as_f64().unwrap_or_else(|| panic!("{name}: {record}"));
    let parts = ["read_ms", "parse_ms", "queue_ms", "run_ms", "write_ms"].map(time);
    assert!(parts.iter().sum::<f64>() <= time("duration_ms"), "{record}");
    assert_eq!(record["load_ms"], Value::Null);
    // Health checks are not logged.
    assert!(all.iter().all(|record| record["path"] != "/ping"));
}

#[test]
fn a_request_is_logged_if_its_client_hangs_up() {
    let server = logging(&[]).start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let mut connection = server.connect();
    connection.write(&Server::spin("spin", FOREVER).to_bytes()).unwrap();
    server.wait_for_running(1);
    drop(connection);
    server.wait_for_log("\"status\":499");
}

#[test]
fn a_response_has_the_ids_of_its_request() {
    let server = Builder::multi().start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    let body = json!([[5.1, 3.5, 1.4, 0.2]]);
    for (body, status) in [(&body, 200), (&json!("x"), 400)] {
        let request = Server::invocation("iris").json(body);
        let plain = server.send(&request).expect(status);
        assert_eq!(
            (
                plain.header("traceparent"),
                plain.header("x-amzn-sagemaker-inference-id")
            ),
            (None, None)
        );
        let request = request.header("X-Amzn-SageMaker-Inference-Id", "a b");
        // By W3C's rules, an invalid header is as a missing one.
        let invalid = server
            .send(&request.clone().header("traceparent", "00-1-2-3"))
            .expect(status);
        assert_eq!(invalid.header("traceparent"), None);
        let response = server.send(&request.header("traceparent", PARENT)).expect(status);
        // Without traces of its own, the server passes the caller's span on.
        assert_eq!(response.header("traceparent"), Some(PARENT));
        assert_eq!(response.header("x-amzn-sagemaker-inference-id"), Some("a b"));
    }
}

#[test]
fn no_record_has_a_part_of_a_body_or_a_secret() {
    let server = logging(&["--log-level", "trace"]).start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    let secret = "S3cretText";
    let bodies = [
        json!([["S3cretText"]]),
        json!({"S3cretText": [[5.1, 3.5, 1.4, 0.2]]}),
        json!({"inputs": [[5.1, 3.5, 1.4, 0.2]], "parameters": {"S3cretText": 1}}),
        json!([[5.1, 3.5, 1.4, "S3cretText"]]),
    ];
    for body in &bodies {
        let request = Server::invocation("iris")
            .header("Authorization", secret)
            .header("Cookie", secret);
        server.send(&request.json(body));
    }
    for (content_type, body) in [
        ("text/csv", "1,2,3,S3cretText"),
        ("application/json", "{S3cretText"),
        ("application/x-npy", secret),
    ] {
        let request = Server::invocation("iris").header("Content-Type", content_type);
        server.send(&request.body(body)).expect(400);
    }
    let load = Request::post("/models").header("Content-Type", "application/json");
    server.send(&load.body("{\"model_name\": S3cretText}")).expect(400);
    server.unload("iris").expect(200);
    server.wait_for_log("model unloaded");
    for line in server.log() {
        assert!(!line.contains(secret), "{line}");
    }
}

#[test]
fn the_level_of_the_log_can_change_while_the_server_runs() {
    let server = Builder::multi().argument("--log-control").start();
    let level = |request: &Request| server.send(request).expect(200).json()["level"].clone();
    assert_eq!(level(&Request::get("/debug/log-level")), "info");
    let debug = Request::new("PUT", "/debug/log-level").body("warn,engine=debug");
    assert_eq!(level(&debug), "warn,engine=debug");
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    server.wait_for_log("requests to this model");
    assert_eq!(server.count_in_log("model loaded"), 0, "that record is at info");
    // A change for a time ends by itself.
    assert_eq!(
        level(&Request::new("PUT", "/debug/log-level?for=10ms").body("error")),
        "error"
    );
    server.wait_for_log("that of --log-level again");
    assert_eq!(level(&Request::get("/debug/log-level")), "info");

    for (target, body) in [("", "loud"), ("", ""), ("?for=soon", "debug"), ("?until=1s", "debug")] {
        let request = Request::new("PUT", format!("/debug/log-level{target}")).body(body);
        server.send(&request).expect(400);
    }
    server
        .send(&Request::post("/debug/log-level").body("debug"))
        .expect(405);
}

#[test]
fn the_level_of_the_log_cannot_change_by_requests_unless_that_is_allowed() {
    let server = Builder::multi().start();
    for request in [
        Request::get("/debug/log-level"),
        Request::new("PUT", "/debug/log-level").body("trace"),
    ] {
        let refusal = server.send(&request).expect(404);
        assert!(refusal.message().contains("--log-control"), "{}", refusal.message());
    }
}
