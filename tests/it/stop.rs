//! The stop: after SIGTERM the server drains and exits within the platform's 30 seconds (ST-2,
//! ST-3, PI-6).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::endpoint::command::local_endpoint::LocalEndpoint;
use crate::harness::{
    A_SECOND, Builder, Connection, FOREVER, PATIENCE, Request, Server, eventually, fixture, skip_unless, try_send,
};

/// Time limit for the stop, below the 30 s after which the platform kills the container.
const BEFORE_SIGKILL: Duration = Duration::from_secs(28);

/// Sends SIGTERM and waits for a clean exit.
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
fn after_sigterm_a_request_in_flight_is_answered_and_its_connection_closed() {
    let server = with_model("spin");
    let address = server.address();
    thread::scope(|scope| {
        // The client would keep this connection open.
        let in_flight = scope.spawn(|| server.connect().send(&Server::spin("model", A_SECOND)));
        server.wait_for_running(1);
        server.terminate();
        server.wait_for_log("draining");
        // PI-6: a ping on a connection that is still accepted gets a 503.
        eventually("the ping fails", || {
            try_send(address, &Request::get("/ping")).map_or(true, |response| response.status == 503)
        });
        let answer = in_flight.join().unwrap().expect(200);
        let (answer, connection) = (answer.json(), answer.header("connection").map(str::to_owned));
        assert_eq!(connection.as_deref(), Some("close"));
        assert_eq!(answer, json!({"outputs": (A_SECOND % 64) as f64}));
    });
    let start = Instant::now();
    assert_ends(server, start);
}

#[test]
fn idle_connections_do_not_delay_the_stop() {
    let server = with_model("scale");
    let mut connections: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for connection in &mut connections[..3] {
        connection.send(&Request::get("/ping")).expect(200);
    }
    // One connection has sent half a head, one nothing at all.
    connections[3].write(b"POST /models HTTP/1.1\r\nHost:").unwrap();
    assert_stops(server);
    for mut connection in connections {
        // The server has closed the connection, with or without a reset.
        let _ = connection.read_to_end();
    }
}

/// Sends requests to a paused server, on new and on used connections, and stops it. At the signal
/// the server has not read any of them, and it must answer them all with `expected`.
fn assert_answers_what_has_arrived(server: &Server, request: &Request, expected: &[u16]) {
    let bytes = request.to_bytes();
    let used: Vec<Connection> = (0..20)
        .map(|_| {
            let mut connection = server.connect();
            connection.write(&Request::get("/ping").to_bytes()).unwrap();
            connection.read_unchecked("GET").unwrap();
            connection
        })
        .collect();
    let process = server.process();
    // Paused, so that SIGTERM is pending when the process continues: it handles the signal before
    // the requests.
    process.pause();
    let fresh: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    let mut connections: Vec<Connection> = used.into_iter().chain(fresh).collect();
    for connection in &mut connections {
        connection.write(&bytes).unwrap();
    }
    server.terminate();
    eventually("the signal waits for the process", || process.has_pending(Signal::TERM));
    process.signal(Signal::CONT);
    for (number, connection) in connections.iter_mut().enumerate() {
        let answer = connection.read_unchecked(request.method());
        let answer = answer.unwrap_or_else(|error| panic!("connection {number}: {error}"));
        assert!(expected.contains(&answer.status), "{answer:?}");
        assert_eq!(connection.read_to_end().unwrap(), b"");
    }
}

#[test]
fn requests_that_arrived_before_sigterm_are_answered() {
    let server = with_model("scale");
    let invocation = Server::invocation("model").json(&json!({"instances": [1]}));
    assert_answers_what_has_arrived(&server, &invocation, &[200]);
    assert_ends(server, Instant::now());
    // PI-6: the ping tells the platform to stop sending requests.
    let server = with_model("scale");
    assert_answers_what_has_arrived(&server, &Request::get("/ping"), &[200, 503]);
    assert_ends(server, Instant::now());

    let server = Builder::single(fixture("scale")).start();
    eventually("the model is loaded", || server.ping().status == 200);
    let invocation = Request::post("/invocations").json(&json!({"instances": [1]}));
    assert_answers_what_has_arrived(&server, &invocation, &[200]);
    assert_ends(server, Instant::now());
}

#[test]
fn the_local_endpoint_answers_what_arrived_before_sigterm() {
    let local = LocalEndpoint::start(Builder::endpoint());
    let list = Request::post("/")
        .header("X-Amz-Target", "SageMaker.ListModels")
        .body("{}");
    assert_answers_what_has_arrived(&local.0, &list, &[200]);
    assert_ends(local.0, Instant::now());
}

#[test]
fn pipelined_requests_are_all_answered_before_the_stop() {
    let server = with_model("spin");
    let mut connection = server.connect();
    let request = Server::spin("model", A_SECOND / 4).to_bytes();
    connection.write(&request.repeat(4)).unwrap();
    server.wait_for_running(1);
    server.terminate();
    for _ in 0..4 {
        connection.read_response("POST").unwrap().expect(200);
    }
    assert_ends(server, Instant::now());
}

/// Runs a client that sends requests until it fails to connect, on one connection or on a new one
/// for each request. Returns the errors of requests that were sent completely before `stopped`,
/// and the number of these requests.
fn client(address: SocketAddr, request: &[u8], keeps: bool, stopped: &Mutex<Option<Instant>>) -> (Vec<String>, usize) {
    let (mut lost, mut sent_in_time) = (Vec::new(), 0);
    let mut kept: Option<TcpStream> = None;
    loop {
        let stream = match kept.take() {
            Some(stream) => Ok(stream),
            None => TcpStream::connect(address),
        };
        // The connection is refused, because the server has stopped listening.
        let Ok(mut stream) = stream else {
            return (lost, sent_in_time);
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let is_sent = stream.write_all(request).is_ok();
        let at = Instant::now();
        let answer = read_answer(&mut stream);
        let in_time = is_sent && stopped.lock().unwrap().is_none_or(|stopped| at < stopped);
        sent_in_time += usize::from(in_time);
        match answer {
            Ok(closes) => kept = Some(stream).filter(|_| keeps && !closes),
            Err(error) if in_time => lost.push(error),
            Err(_) if stopped.lock().unwrap().is_some() => return (lost, sent_in_time),
            Err(error) => lost.push(error),
        }
    }
}

/// Reads a response with status 200, and returns whether the connection closes after it.
fn read_answer(stream: &mut TcpStream) -> Result<bool, String> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("closed after {} bytes", answer.len())),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) => return Err(format!("{error} after {} bytes", answer.len())),
        }
        let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        if body.len() >= length {
            return match head.starts_with("http/1.1 200") {
                true => Ok(head.contains("connection: close")),
                false => Err(text),
            };
        }
    }
}

#[test]
fn no_request_sent_before_sigterm_is_lost_under_load() {
    for round in 0..8 {
        let server = with_model("scale");
        let (address, stopped) = (server.address(), Mutex::new(None));
        let request = Server::invocation("model").json(&json!({"instances": [1]})).to_bytes();
        let (lost, sent) = thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn({
                        let (request, stopped) = (&request, &stopped);
                        move || client(address, request, number % 2 == 0, stopped)
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(150 + 37 * round));
            *stopped.lock().unwrap() = Some(Instant::now());
            server.terminate();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .fold((Vec::new(), 0), |(lost, sent), (more, count)| {
                    ([lost, more].concat(), sent + count)
                })
        });
        assert_eq!(lost, Vec::<String>::new(), "of {sent} requests, round {round}");
        assert!(sent > 0);
        assert_ends(server, Instant::now());
    }
}

#[test]
fn requests_that_outlive_the_drain_timeout_get_a_503() {
    let server = Builder::multi()
        .arguments(["--drain-timeout", "1s", "--threads", "1"])
        .start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let slow = server.models().place_slow("slow", 12);
    let load = Request::post("/models").json(&json!({"model_name": "slow", "url": slow}));
    let requests = [
        (Server::spin("spin", FOREVER), true),
        // Queued behind the first one.
        (Server::spin("spin", FOREVER), true),
        // The load may complete in time.
        (load, false),
        (
            Request::post("/v2/models/spin/infer").json(&json!({"inputs": [
                {"name": "iterations", "shape": [], "datatype": "INT64", "data": [FOREVER]}
            ]})),
            false,
        ),
    ];
    let mut connections: Vec<(Connection, bool)> = Vec::new();
    for (request, is_cut) in requests {
        let mut connection = server.connect();
        connection.write(&request.to_bytes()).unwrap();
        connections.push((connection, is_cut));
    }
    server.wait_for_running(1);
    server.terminate();
    for (mut connection, is_cut) in connections {
        let answer = connection.read_response("POST").unwrap();
        if is_cut {
            assert_eq!(answer.header("connection"), Some("close"));
            assert!(answer.message().contains("--drain-timeout"), "{}", answer.message());
            answer.expect(503);
        }
        let _ = connection.read_to_end();
    }
    assert_ends(server, Instant::now());
}

#[test]
fn an_endless_load_does_not_delay_the_stop() {
    let server = Builder::multi().arguments(["--drain-timeout", "2s"]).start();
    let url = server.models().place("bad/function_bomb", "bomb");
    let address = server.address();
    thread::scope(|scope| {
        let request = Request::post("/models").json(&json!({"model_name": "bomb", "url": url}));
        // The load may be cut off or refused; both are fine for a container that stops.
        scope.spawn(move || try_send(address, &request).is_ok());
        eventually("the load has begun", || server.reserved() > 0);
        assert_stops(server);
    });
}

#[test]
fn an_endless_run_does_not_delay_the_stop() {
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
fn a_second_signal_stops_the_server_at_once() {
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
    let server = Builder::single(fixture("bad/function_bomb")).start();
    eventually("the load has begun", || server.reserved() > 0);
    assert_stops(server);
}

#[test]
fn sigterm_stops_a_server_that_is_process_1() {
    // ST-2: the kernel ignores signals without a handler for process 1.
    let namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if skip_unless(&[&namespace[..], &["true"]].concat()) {
        return;
    }
    let server = Builder::multi().through(namespace).start();
    server.ping().expect(200);
    assert_stops(server);
}
