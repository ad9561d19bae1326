//! Requests that wait for a busy model run together, and nobody can tell by the answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::harness::{Builder, Request, Response, Server, Stop, eventually};

/// Rows are independent, says whoever packed the model.
const ALLOWED: &str = r#"{"batching": true}"#;

/// A server with a model of `tests/models` under the name `m`. One thread runs it, so that requests
/// wait.
fn serving(fixture: &str, manifest: &str, arguments: &[&str]) -> Server {
    let server = Builder::multi()
        .arguments(["--threads", "1", "--http-threads", "2"])
        .arguments(arguments)
        .start();
    let url = server.models().place_with_manifest(fixture, "m", manifest);
    server.load("m", &url).expect(200);
    server
}

/// Asks the `lookup` model for the rows of these ids.
fn lookup(ids: &[&[i64]]) -> Request {
    Server::invocation("m").json(&json!({"instances": ids}))
}

fn batches(server: &Server) -> u64 {
    server.metric("longshore_batches_total")
}

/// What a client sees of an answer.
fn seen(response: &Response) -> (u16, Option<&str>, &[u8]) {
    (response.status, response.header("content-type"), &response.body)
}

/// Asks each of `requests` alone; then lets a client for each ask it over and over, all of them at
/// once, and compares every answer with that first one, `until` something has happened.
#[track_caller]
fn assert_same_under_load(server: &Server, requests: &[Request], until: impl Fn(usize) -> bool) {
    let alone: Vec<Response> = requests.iter().map(|request| server.send(request)).collect();
    let before = batches(server);
    assert_eq!(before, 0, "a request that nobody joined was part of a batch");
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
        eventually("enough has been answered", || {
            until(answered.load(Ordering::Relaxed)) || clients.iter().any(|client| client.is_finished())
        });
        drop(stop_clients);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn requests_that_wait_run_together_and_each_gets_its_own_answer() {
    let server = serving("lookup", ALLOWED, &[]);
    let answer = server.send(&lookup(&[&[3, 4]])).expect(200).json();
    let turned = [17.5, 14.0, 14.5, 15.0, 15.5, 16.0, 16.5, 17.0];
    assert_eq!(answer, json!({"predictions": [{"turned": turned, "first": 3}]}));
    // Of one row each, and of several.
    let requests: Vec<Request> = (0..12i64)
        .map(|id| match id % 4 {
            0 => lookup(&[&[id, 1], &[id, 2], &[id, 3]]),
            _ => lookup(&[&[id, 15 - id]]),
        })
        .collect();
    assert_same_under_load(&server, &requests, |_| batches(&server) > 30);
    let requests = server.metric("longshore_batched_requests_total");
    assert!(requests > 2 * batches(&server), "{requests}");
    // Nothing of it stays behind.
    server.wait_for_running(0);
    assert_eq!(server.metric("longshore_requests_waiting"), 0);
    server.unload("m").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_request_that_divides_without_a_result_spoils_no_batch() {
    let server = serving("int_divide", ALLOWED, &[]);
    let process = server.process();
    let divide = |a: i64, b: i64| Server::invocation("m").json(&json!({"inputs": {"a": [a, a], "b": [b, b]}}));
    let traps = cfg!(target_arch = "x86_64");
    server.send(&divide(i64::MIN, -1)).expect(if traps { 400 } else { 200 });
    let mut requests: Vec<Request> = (0..11).map(|number| divide(1000 * number, 7)).collect();
    requests.push(divide(i64::MIN, -1));
    // Batches that fail become rare, so few are asked for.
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
        // Refused before it runs, for there are two outputs.
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
fn one_requests_bad_data_is_refused_and_its_neighbours_are_answered() {
    let server = serving("lookup", ALLOWED, &[]);
    let good: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    // There are 16 ids; the model finds out when it runs.
    let bad = [lookup(&[&[16, 2]]), lookup(&[&[1, 2], &[1, 99]]), lookup(&[&[1, -17]])];
    for request in &bad {
        server.send(request).expect(400);
    }
    let requests: Vec<Request> = good.into_iter().chain(bad).collect();
    assert_same_under_load(&server, &requests, |answered| answered > 300 && batches(&server) > 3);
}

#[test]
fn clients_that_leave_do_not_end_the_runs_of_those_who_stay() {
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
fn nothing_is_joined_where_that_is_not_known_to_be_right_or_not_wanted() {
    let table: [(&str, &[&str]); 4] = [
        // Nobody has looked.
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
fn a_model_that_was_found_to_keep_rows_apart_has_batches_without_being_told() {
    // Null is as absent.
    let server = serving("lookup", r#"{"batching": null, "model": null}"#, &[]);
    let requests: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    assert_same_under_load(&server, &requests, |_| batches(&server) > 10);
}

#[test]
fn batches_have_no_more_rows_than_the_manifest_allows() {
    let server = serving("lookup", r#"{"batching": {"max_rows": 2}}"#, &[]);
    let requests: Vec<Request> = (0..8i64).map(|id| lookup(&[&[id, 2]])).collect();
    assert_same_under_load(&server, &requests, |_| batches(&server) > 10);
    // The metrics are read one after the other.
    let batched = server.metric("longshore_batched_requests_total");
    assert_eq!(batched, 2 * batches(&server));
}

#[test]
fn a_model_that_does_not_keep_rows_apart_has_no_batches_whatever_was_said_of_it() {
    // A trial would have found that out.
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
fn loads_and_unloads_go_on_between_batches() {
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
fn a_manifest_that_says_something_else_of_batching_is_refused_with_the_reason() {
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
