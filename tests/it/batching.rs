//! Batching: requests that wait for a busy model run together, and each response is the same as
//! without batching.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::harness::{Builder, Request, Response, Server, Stop, eventually};

/// Manifest that declares rows as independent.
const ALLOWED: &str = r#"{"batching": true}"#;

/// Starts a server with a model of `tests/models` under the name `m`. A single thread runs it, so
/// that requests wait.
fn serving(fixture: &str, manifest: &str, arguments: &[&str]) -> Server {
    let server = Builder::multi()
        .arguments(["--threads", "1", "--http-threads", "2"])
        .arguments(arguments)
        .start();
    let url = server.models().place_with_manifest(fixture, "m", manifest);
    server.load("m", &url).expect(200);
    server
}

/// Builds a request to the `lookup` model for the rows of these ids.
fn lookup(ids: &[&[i64]]) -> Request {
    Server::invocation("m").json(&json!({"instances": ids}))
}

fn batches(server: &Server) -> u64 {
    server.metric("longshore_batch_requests_count")
}

/// Returns the parts of a response that a client sees.
fn seen(response: &Response) -> (u16, Option<&str>, &[u8]) {
    (response.status, response.header("content-type"), &response.body)
}

/// Sends each of `requests` alone. Then sends them all repeatedly from parallel clients, and
/// compares every response with the first one, until `until` returns true.
#[track_caller]
fn assert_same_under_load(server: &Server, requests: &[Request], until: impl Fn(usize) -> bool) {
    let requests: Vec<Request> = requests.iter().cloned().map(Request::not_inline).collect();
    let alone: Vec<Response> = requests.iter().map(|request| server.send(request)).collect();
    let before = batches(server);
    assert_eq!(before, 0, "requests sent one at a time ran as a batch");
    let (stop, answered) = (Stop::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let stop_clients = stop.on_drop();
        let clients: Vec<_> = requests
            .iter()
            .zip(&alone)
            .map(|(request, alone)| {
                scope.spawn(|| {
                    let mut connection = server.connect();
                    while !stop.raised() {
                        let answer = connection.send(request);
                        assert_eq!(seen(&answer), seen(alone), "{}", answer.text());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        eventually("there are enough responses", || {
            until(answered.load(Ordering::Relaxed)) || clients.iter().any(|client| client.is_finished())
        });
        drop(stop_clients);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn waiting_requests_are_batched_and_each_gets_its_own_response() {
    let server = serving("lookup", ALLOWED, &[]);
    let answer = server.send(&lookup(&[&[3, 4]])).expect(200).json();
    let turned = [17.5, 14.0, 14.5, 15.0, 15.5, 16.0, 16.5, 17.0];
    assert_eq!(answer, json!({"predictions": [{"turned": turned, "first": 3}]}));
    // Requests with one row and with several.
    let requests: Vec<Request> = (0..12i64)
        .map(|id| match id % 4 {
            0 => lookup(&[&[id, 1], &[id, 2], &[id, 3]]),
            _ => lookup(&[&[id, 15 - id]]),
        })
        .collect();
    assert_same_under_load(&server, &requests, |_| batches(&server) > 30);
    let requests = server.metric("longshore_batch_requests_sum");
    assert!(requests > 2 * batches(&server), "{requests}");
    // No state is left behind.
    server.wait_for_running(0);
    assert_eq!(server.metric("longshore_requests_waiting"), 0);
    server.unload("m").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_request_with_a_division_error_does_not_fail_its_batch() {
    let server = serving("int_divide", ALLOWED, &[]);
    let process = server.process();
    let divide = |a: i64, b: i64| Server::invocation("m").json(&json!({"inputs": {"a": [a, a], "b": [b, b]}}));
    let traps = cfg!(target_arch = "x86_64");
    server.send(&divide(i64::MIN, -1)).expect(if traps { 400 } else { 200 });
    let mut requests: Vec<Request> = (0..11).map(|number| divide(1000 * number, 7)).collect();
    requests.push(divide(i64::MIN, -1));
    // The engine batches less after failures, so the test waits for few batches.
    assert_same_under_load(&server, &requests, |answered| batches(&server) > 0 && answered > 500);
    assert_eq!(server.process(), process);
}

#[test]
fn requests_of_different_shapes_formats_and_outputs_are_not_mixed_up() {
    let server = serving("lookup", ALLOWED, &[]);
    let tensor = |outputs: &[&str]| {
        let outputs: Vec<_> = outputs.iter().map(|name| json!({"name": name})).collect();
        Server::invocation("m").json(&json!({
            "inputs": [{"name": "ids", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}],
            "outputs": outputs,
        }))
    };
    let csv = |body: &str| {
        Server::invocation("m")
            .header("Content-Type", "text/csv")
            .body(body.to_owned())
    };
    let requests = [
        lookup(&[&[1, 2]]),
        lookup(&[&[5, 6]]),
        lookup(&[&[7]]),
        lookup(&[&[8, 9, 10]]),
        lookup(&[&[11, 12, 13], &[14, 15, 0]]),
        lookup(&[&[1, 2]]).header("Accept", "text/csv"),
        lookup(&[&[1, 2]]).header("Accept", "application/jsonlines"),
        // Refused before it runs, because there are two outputs.
        lookup(&[&[1, 2]]).header("Accept", "application/x-npy"),
        tensor(&["first"]),
        tensor(&["turned"]),
        tensor(&["first", "turned"]),
        tensor(&["turned", "first"]),
        csv("3,4\n5,6\n"),
        csv("3,4\nfive,6\n"),
        Server::invocation("m").json(&json!({"inputs": [[2, 3], [4, 5], [6, 7]]})),
        Server::invocation("m").json(&json!({"instances": []})),
    ];
    assert_same_under_load(&server, &requests, |answered| answered > 300 && batches(&server) > 30);
}

#[test]
fn bad_data_in_one_request_does_not_fail_the_rest_of_the_batch() {
    let server = serving("lookup", ALLOWED, &[]);
    let good: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    // There are only 16 ids; the model detects that during the run.
    let bad = [lookup(&[&[16, 2]]), lookup(&[&[1, 2], &[1, 99]]), lookup(&[&[1, -17]])];
    for request in &bad {
        server.send(request).expect(400);
    }
    let requests: Vec<Request> = good.into_iter().chain(bad).collect();
    assert_same_under_load(&server, &requests, |answered| answered > 300 && batches(&server) > 3);
}

#[test]
fn clients_that_hang_up_do_not_cancel_the_batch_of_other_clients() {
    let server = serving("lookup", ALLOWED, &[]);
    let requests: Vec<Request> = (0..6i64).map(|id| lookup(&[&[id, 2]])).collect();
    assert_same_under_load(&server, &requests, |_| {
        for _ in 0..20 {
            let mut connection = server.connect();
            connection.write(&lookup(&[&[9, 9]]).to_bytes()).unwrap();
        }
        batches(&server) > 100
    });
    server.wait_for_running(0);
    assert_eq!(server.metric("longshore_requests_waiting"), 0);
}

#[test]
fn requests_are_not_batched_unless_it_is_proven_safe_and_enabled() {
    let table: [(&str, &[&str]); 4] = [
        // Without preparation, the rows are not proven to be independent.
        ("{}", &["--prepare", "off"]),
        (r#"{"batching": false}"#, &[]),
        (r#"{"batching": {"max_rows": 1}}"#, &[]),
        (ALLOWED, &["--max-batch", "1"]),
    ];
    let requests: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    for (manifest, arguments) in table {
        let server = serving("lookup", manifest, arguments);
        assert_same_under_load(&server, &requests, |answered| answered > 100);
        assert_eq!(batches(&server), 0, "{manifest} {arguments:?}");
    }
}

#[test]
fn a_model_that_keeps_rows_independent_is_batched_by_default() {
    // Null counts as absent.
    let server = serving("lookup", r#"{"batching": null, "model": null}"#, &[]);
    let requests: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    assert_same_under_load(&server, &requests, |_| batches(&server) > 10);
}

#[test]
fn a_batch_has_at_most_the_rows_that_the_manifest_allows() {
    let server = serving("lookup", r#"{"batching": {"max_rows": 2}}"#, &[]);
    let requests: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    assert_same_under_load(&server, &requests, |_| batches(&server) > 10);
    // The metrics are read one at a time.
    let batched = server.metric("longshore_batch_requests_sum");
    assert_eq!(batched, 2 * batches(&server));
}

#[test]
fn a_model_that_mixes_rows_is_not_batched_even_if_its_manifest_allows_it() {
    // Preparation would have detected it in a trial.
    let server = serving("one_more", ALLOWED, &["--prepare", "off"]);
    let requests: Vec<Request> = (0..6)
        .map(|index| Server::invocation("m").json(&json!({"instances": [[index, 1], [index, 2]]})))
        .collect();
    let answer = server.send(&requests[3]).expect(200).json();
    let last = [-1.0, -1.0];
    assert_eq!(answer, json!({"predictions": [[[3.0, 1.0], last], [[3.0, 2.0], last]]}));
    assert_same_under_load(&server, &requests, |answered| answered > 200);
    server.wait_for_log("batching disabled for this model");
    assert_eq!(batches(&server), 0);
}

#[test]
fn loads_and_unloads_continue_between_batches() {
    let server = serving("lookup", ALLOWED, &[]);
    let url = server.models().path("m").join("model").display().to_string();
    let stop = Stop::default();
    let expected = server.send(&lookup(&[&[1, 2]])).expect(200);
    thread::scope(|scope| {
        let _stop = stop.on_drop();
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.raised() {
                    let answer = server.send(&lookup(&[&[1, 2]]));
                    let as_expected = seen(&answer) == seen(&expected);
                    assert!(as_expected || answer.status == 404, "{}", answer.text());
                }
            });
        }
        for _ in 0..20 {
            let before = batches(&server);
            eventually("there are batches", || batches(&server) > before);
            server.unload("m").expect(200);
            assert_eq!(server.reserved(), 0);
            server.load("m", &url).expect(200);
        }
    });
}

#[test]
fn an_invalid_batching_key_in_a_manifest_is_refused_with_the_reason() {
    let server = Builder::multi().start();
    let table = [
        (r#"{"batching": "yes"}"#, "expected true, false or"),
        (
            r#"{"batching": {"rows": 2}}"#,
            "\"batching.rows\" is not a key of longshore.json",
        ),
        (r#"{"batching": {"max_rows": 0}}"#, "with an N of 1 or more"),
        (r#"{"batching": {}}"#, "expected true, false or {\"max_rows\": N}"),
        (r#"{"batch": true}"#, "did you mean \"batching\"?"),
        (
            r#"{"batching": {"max_rows": null}}"#,
            "expected true, false or {\"max_rows\": N}",
        ),
    ];
    for (manifest, reason) in table {
        let url = server.models().place_with_manifest("lookup", "m", manifest);
        let refusal = server.load("m", &url).expect(400);
        assert!(refusal.message().contains(reason), "{}", refusal.message());
    }
}
