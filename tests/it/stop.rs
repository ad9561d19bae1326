//! Stopping: SIGTERM drains and exits within the platform's 30 seconds (ST-2, ST-3, PI-6).

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{A_SECOND, Builder, FOREVER, Request, Server, eventually, skip_unless, try_send};

/// The platform kills 30 s after SIGTERM.
const BEFORE_SIGKILL: Duration = Duration::from_secs(28);

/// Sends SIGTERM and waits for a clean end.
#[track_caller]
fn assert_stops(server: Server) {
    let start = Instant::now();
    server.terminate();
    assert_ends(server, start);
}

#[track_caller]
fn assert_ends(server: Server, start: Instant) {
    let ended = server.wait_for_end();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(start.elapsed() < BEFORE_SIGKILL, "{:?}", start.elapsed());
}

fn with_model(fixture: &str) -> Server {
    let server = Builder::multi().start();
    let url = server.models().place(fixture, "model");
    server.load("model", &url).expect(200);
    server
}

#[test]
fn an_idle_server_stops_on_sigterm() {
    assert_stops(Builder::multi().start());
}

#[test]
fn a_server_at_a_terminal_stops_on_sigint() {
    let server = Builder::multi().start();
    let start = Instant::now();
    server.supervisor().signal(Signal::INT);
    assert_ends(server, start);
}

#[test]
fn a_request_in_flight_is_answered_and_no_new_one_is_asked_for() {
    let server = with_model("spin");
    let address = server.address();
    thread::scope(|scope| {
        let in_flight = scope.spawn(|| server.send(&Server::spin("model", 2 * A_SECOND)));
        server.wait_for_running(1);
        server.terminate();
        server.wait_for_log("draining");
        // PI-6: whoever can still connect is told to go elsewhere.
        eventually("the ping fails", || {
            try_send(address, &Request::get("/ping")).map_or(true, |response| response.status == 503)
        });
        let answer = in_flight.join().unwrap().expect(200).json();
        assert_eq!(answer, json!({"outputs": (2 * A_SECOND % 64) as f64}));
    });
    let start = Instant::now();
    assert_ends(server, start);
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let server = with_model("scale");
    let mut connections: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for connection in &mut connections[..3] {
        connection.send(&Request::get("/ping")).expect(200);
    }
    // One has sent half a head, one nothing at all.
    connections[3].write(b"POST /models HTTP/1.1\r\nHost:").unwrap();
    assert_stops(server);
    for mut connection in connections {
        // Closed by the server, by whatever means.
        let _ = connection.read_to_end();
    }
}

#[test]
fn a_load_that_never_ends_does_not_hold_up_the_end() {
    let server = Builder::multi().arguments(["--drain-timeout", "2s"]).start();
    let url = server.models().place("bad/function_bomb", "bomb");
    let address = server.address();
    thread::scope(|scope| {
        let request = Request::post("/models").json(&json!({"model_name": "bomb", "url": url}));
        // Cut off or refused: both are fine for somebody whose container goes away.
        scope.spawn(move || try_send(address, &request).is_ok());
        eventually("the load has begun", || server.reserved() > 0);
        assert_stops(server);
    });
}

#[test]
fn a_run_that_never_ends_does_not_hold_up_the_end() {
    let server = Builder::multi().arguments(["--drain-timeout", "2s"]).start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let address = server.address();
    thread::scope(|scope| {
        scope.spawn(move || try_send(address, &Server::spin("spin", FOREVER)).is_ok());
        server.wait_for_running(1);
        assert_stops(server);
    });
}

#[test]
fn whoever_asks_twice_does_not_wait_for_what_runs() {
    let server = with_model("spin");
    let address = server.address();
    thread::scope(|scope| {
        scope.spawn(move || try_send(address, &Server::spin("model", FOREVER)).is_ok());
        server.wait_for_running(1);
        server.terminate();
        server.wait_for_log("draining");
        server.terminate();
        server.wait_for_log("stopped at once");
        assert_eq!(server.wait_for_end().status.code(), Some(0));
    });
}

#[test]
fn a_single_model_server_stops_while_its_model_loads() {
    let server = Builder::single(crate::harness::fixture("bad/function_bomb")).start();
    eventually("the load has begun", || server.reserved() > 0);
    assert_stops(server);
}

#[test]
fn as_the_first_process_of_a_container_sigterm_stops_it_too() {
    // ST-2: for PID 1 the kernel ignores signals without a handler.
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if skip_unless(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    let server = Builder::multi().through(namespace).start();
    server.ping().expect(200);
    assert_stops(server);
}
