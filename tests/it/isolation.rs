//! Isolation: problems of one model affect neither other models nor the health check (PI-2,
//! MM-16).

use std::thread;

use serde_json::json;

use crate::harness::{A_SECOND, Builder, FOREVER, Request, Server, eventually, try_send};

/// Starts a server with the `spin` model under its own name.
fn with_spin(arguments: &[&str]) -> Server {
    let server = Builder::multi().arguments(arguments).start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    server
}

/// Sends every kind of platform request, for another model than the one with problems.
#[track_caller]
fn assert_serves_others(server: &Server, rounds: usize) {
    let url = server.models().place_scale("other", 2.0);
    for _ in 0..rounds {
        server.ping().expect(200);
        server.list("");
        server.load("other", &url).expect(200);
        server.assert_scales("other", 2.0);
        server.describe("other").expect(200);
        server.unload("other").expect(200);
    }
}

#[test]
fn other_requests_are_answered_during_a_long_load() {
    let server = Builder::multi().start();
    let url = server.models().place("bad/function_bomb", "bomb");
    let address = server.address();
    let request = Request::post("/models").json(&json!({"model_name": "bomb", "url": url}));
    // The test does not wait for this load; it ends with the server.
    thread::spawn(move || try_send(address, &request).is_ok());
    eventually("the load has begun", || server.reserved() > 0);
    assert_serves_others(&server, 20);
    assert_eq!(server.list(""), json!({"models": []}));
    server.describe("bomb").expect(404);
    server.invoke("bomb", &json!({"instances": [1]})).expect(404);
    assert!(
        server.reserved() > 0,
        "the load has already ended, so the test proves nothing"
    );
}

#[test]
fn loaded_models_and_the_health_check_answer_while_all_load_threads_hang() {
    let server = Builder::multi().arguments(["--load-threads", "2"]).start();
    let url = server.models().place_scale("loaded", 2.0);
    server.load("loaded", &url).expect(200);
    server.load("leaving", &url).expect(200);
    let baseline = server.reserved();
    let mut seen = baseline;
    for index in 0..2 {
        let url = server
            .models()
            .place_another("bad/function_bomb", &format!("bomb{index}"));
        let request = Request::post("/models").json(&json!({"model_name": format!("bomb{index}"), "url": url}));
        let address = server.address();
        thread::spawn(move || try_send(address, &request).is_ok());
        eventually("the load has begun", || server.reserved() > seen);
        seen = server.reserved();
    }
    for _ in 0..20 {
        server.ping().expect(200);
        server.assert_scales("loaded", 2.0);
    }
    assert_eq!(server.list("")["models"].as_array().unwrap().len(), 2);
    // MM-16: an unload does not queue behind loads.
    server.unload("leaving").expect(200);
    assert!(
        server.reserved() > baseline / 2,
        "the loads have already ended, so the test proves nothing"
    );
}

#[test]
fn another_model_answers_while_the_runs_of_one_hold_all_compute_threads() {
    let server = with_spin(&[]);
    let address = server.address();
    for _ in 0..8 {
        thread::spawn(move || try_send(address, &Server::spin("spin", FOREVER)).is_ok());
    }
    server.wait_for_running(2);
    eventually("the other requests wait", || {
        server.metric("longshore_requests_waiting") == 6
    });
    assert_serves_others(&server, 20);
    assert_eq!(server.metric("longshore_requests_running"), 2);
}

#[test]
fn a_fast_model_that_becomes_slow_does_not_delay_others() {
    // The time of a run may depend on its input, so earlier runs do not predict it.
    let server = with_spin(&["--http-threads", "2"]);
    let mut connections: Vec<_> = (0..6).map(|_| server.connect()).collect();
    for _ in 0..30 {
        for connection in &mut connections {
            connection.send(&Server::spin("spin", 0)).expect(200);
        }
    }
    // The connections are spread over the HTTP threads, so each of these gets a request.
    for connection in &mut connections {
        connection.write(&Server::spin("spin", FOREVER).to_bytes()).unwrap();
    }
    server.wait_for_running(2);
    assert_serves_others(&server, 20);
}

#[test]
fn a_request_past_its_deadline_gets_a_504_and_its_run_is_cancelled() {
    // The server's own error comes before the platform's timeout.
    let server = with_spin(&["--request-timeout", "1s", "--threads", "1"]);
    let refusal = server.send(&Server::spin("spin", FOREVER)).expect(504);
    assert_eq!(refusal.json()["type"], "DeadlineExceededException");
    server.wait_for_running(0);
    for _ in 0..50 {
        let answer = server.send(&Server::spin("spin", 100)).expect(200).json();
        assert_eq!(answer, json!({"outputs": 36.0}));
    }
    // The same for a model that was fast before.
    server.send(&Server::spin("spin", FOREVER)).expect(504);
    server.wait_for_running(0);
    server.unload("spin").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_queued_request_gets_a_504_at_its_own_deadline() {
    let server = with_spin(&["--request-timeout", "1s", "--threads", "1"]);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.send(&Server::spin("spin", FOREVER))))
            .collect();
        for call in calls {
            call.join().unwrap().expect(504);
        }
    });
    server.wait_for_running(0);
    server.send(&Server::spin("spin", 1)).expect(200);
}

#[test]
fn a_full_queue_is_a_503_and_other_models_have_their_own_queues() {
    let server = with_spin(&["--queue", "1", "--threads", "1"]);
    let url = server.models().place_scale("other", 2.0);
    server.load("other", &url).expect(200);
    let address = server.address();
    thread::spawn(move || try_send(address, &Server::spin("spin", FOREVER)).is_ok());
    server.wait_for_running(1);
    thread::spawn(move || try_send(address, &Server::spin("spin", FOREVER)).is_ok());
    eventually("the second request waits", || {
        server.metric("longshore_requests_waiting") == 1
    });
    let refusal = server.send(&Server::spin("spin", 1)).expect(503);
    assert_eq!(refusal.json()["type"], "ServiceUnavailableException");
    assert!(refusal.message().contains("--queue"), "{}", refusal.message());
    server.assert_scales("other", 2.0);
}

#[test]
fn an_unload_waits_for_running_requests_and_refuses_new_ones() {
    // MM-15
    let server = with_spin(&[]);
    thread::scope(|scope| {
        let running = scope.spawn(|| server.send(&Server::spin("spin", A_SECOND)));
        server.wait_for_running(1);
        let unloading = scope.spawn(|| server.unload("spin"));
        eventually("the unload has begun", || server.describe("spin").status == 404);
        server.send(&Server::spin("spin", 1)).expect(404);
        let answer = running.join().unwrap().expect(200).json();
        assert_eq!(answer, json!({"outputs": (A_SECOND % 64) as f64}));
        unloading.join().unwrap().expect(200);
    });
    assert_eq!(server.reserved(), 0);
}

#[test]
fn an_unload_that_times_out_reports_it_and_a_later_one_completes() {
    let server = with_spin(&["--unload-timeout", "200ms", "--request-timeout", "3s"]);
    thread::scope(|scope| {
        let running = scope.spawn(|| server.send(&Server::spin("spin", FOREVER)));
        server.wait_for_running(1);
        let refusal = server.unload("spin").expect(503);
        assert!(refusal.message().contains("try again"), "{}", refusal.message());
        // The model is being unloaded: it is not listed and refuses requests.
        assert_eq!(server.list(""), json!({"models": []}));
        server.send(&Server::spin("spin", 1)).expect(404);
        running.join().unwrap().expect(504);
    });
    server.wait_for_running(0);
    server.unload("spin").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_failed_load_after_a_timed_out_unload_leaves_nothing_of_the_old_model() {
    let server = with_spin(&["--unload-timeout", "200ms", "--request-timeout", "2s"]);
    thread::scope(|scope| {
        let running = scope.spawn(|| server.send(&Server::spin("spin", FOREVER)));
        server.wait_for_running(1);
        server.unload("spin").expect(503);
        running.join().unwrap().expect(504);
    });
    server.wait_for_running(0);
    let broken = server.models().place("bad/garbage", "broken");
    server.load("spin", &broken).expect(400);
    assert_eq!(server.reserved(), 0);
    server.unload("spin").expect(404);
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    server.send(&Server::spin("spin", 1)).expect(200);
}
