//! Connections at their limit: which are closed, and which are served in any case.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::endpoint::command::local_endpoint::LocalEndpoint;
use crate::harness::{A_SECOND, Builder, Connection, Request, Server, eventually};

/// Starts a server with a model and `places` connections, one of which is reserved for health
/// checks.
fn with_places(places: usize) -> Server {
    let places = places.to_string();
    let server = Builder::multi()
        .arguments(["--max-connections", &places, "--reserved-connections", "1"])
        .start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server
}

/// The head of an invocation and the first byte of its body.
const HALF: &[u8] =
    b"POST /models/m/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{";

fn is_closed(connection: &mut Connection) -> bool {
    match connection.read_to_end() {
        Ok(rest) => rest.is_empty(),
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn the_longest_idle_connections_are_closed_for_new_ones() {
    let server = with_places(10);
    let mut connections: Vec<Connection> = (0..40)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(&Request::get("/ping")).expect(200);
            connection
        })
        .collect();
    server.assert_scales("m", 2.0);
    server.ping().expect(200);
    assert!(is_closed(&mut connections[0]));
    // The last connection is the most recently used.
    connections[39].send(&Request::get("/ping")).expect(200);
}

#[test]
fn incomplete_requests_do_not_block_other_clients() {
    let server = with_places(10);
    let beginnings: [&[u8]; 3] = [HALF, b"GET /pi", b""];
    for beginning in beginnings {
        let mut connections: Vec<Connection> = (0..40)
            .map(|_| {
                let mut connection = server.connect();
                connection.write(beginning).unwrap();
                connection
            })
            .collect();
        server.ping().expect(200);
        server.assert_scales("m", 2.0);
        if beginning == HALF {
            connections[0].read_response("POST").unwrap().expect(408);
        }
        assert!(
            !connections[0]
                .read_to_end()
                .unwrap_or_default()
                .starts_with(b"HTTP/1.1 200")
        );
    }
}

#[test]
fn a_running_request_keeps_its_connection_and_health_checks_get_a_reserved_one() {
    let server = with_places(4);
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    let mut running: Vec<Connection> = (0..3).map(|_| server.connect()).collect();
    for connection in &mut running {
        connection
            .write(&Server::spin("spin", 4 * A_SECOND).to_bytes())
            .unwrap();
    }
    eventually("all requests have arrived", || {
        let asked = ["longshore_requests_running", "longshore_requests_waiting"];
        asked.map(|name| server.metric(name)).iter().sum::<u64>() == 3
    });
    for _ in 0..5 {
        let refusal = server.invoke("m", &json!({"instances": [1]})).expect(503);
        assert!(refusal.message().contains("--max-connections"), "{}", refusal.message());
        server.ping().expect(200);
        server.list("");
    }
    for mut connection in running {
        connection.read_response("POST").unwrap().expect(200);
    }
    eventually("other requests are served", || {
        server.invoke("m", &json!({"instances": [1]})).status == 200
    });
}

#[test]
fn clients_that_take_turns_are_never_disconnected() {
    // Each request uses a new connection, many more than the limit in total; all are answered.
    let server = with_places(8);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    server.assert_scales("m", 2.0);
                }
            });
        }
    });
}

#[test]
fn idle_connections_are_closed_when_file_descriptors_run_out() {
    let few_files = ["sh", "-c", "ulimit -n 90; exec \"$@\"", "sh"];
    let server = Builder::multi()
        .arguments(["--max-connections", "1000"])
        .through(few_files)
        .start();
    let mut idle: Vec<Connection> = (0..120)
        .map(|_| {
            let mut connection = server.connect();
            connection.write(&Request::get("/ping").to_bytes()).unwrap();
            connection
        })
        .collect();
    server.ping().expect(200);
    idle[0].read_response("GET").unwrap().expect(200);
    assert!(is_closed(&mut idle[0]));
}

#[test]
fn every_request_head_on_a_connection_has_a_deadline() {
    let server = Builder::multi().arguments(["--header-timeout", "1s"]).start();
    let mut connection = server.connect();
    for _ in 0..2 {
        connection.send(&Request::get("/ping")).expect(200);
    }
    connection.write(b"GET /ping HT").unwrap();
    assert!(is_closed(&mut connection));
}

#[test]
fn the_deadline_of_a_body_grows_with_the_bytes_that_have_arrived() {
    let server = Builder::multi()
        .arguments(["--body-timeout", "1s", "--body-rate", "100B"])
        .start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let body = format!("{:1000}", json!({"instances": [1]}).to_string());
    let request = Server::invocation("m")
        .header("Content-Type", "application/json")
        .body(body.as_str())
        .to_bytes();
    let (head, body) = request.split_at(request.len() - body.len());

    let mut steady = server.connect();
    steady.write(head).unwrap();
    for piece in body.chunks(100) {
        thread::sleep(Duration::from_millis(200));
        steady.write(piece).unwrap();
    }
    steady.read_response("POST").unwrap().expect(200);

    let mut stopped = server.connect();
    stopped.write(head).unwrap();
    stopped.write(&body[..50]).unwrap();
    stopped.read_response("POST").unwrap().expect(408);
}

#[test]
fn the_local_endpoint_applies_the_same_connection_limits() {
    let local =
        LocalEndpoint::start(Builder::endpoint().arguments(["--max-connections", "10", "--header-timeout", "1s"]));
    let connect = |first: &[u8]| {
        let mut connection = Connection::open(local.0.address()).unwrap();
        connection.write(first).unwrap();
        connection
    };
    let control = b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: SageMaker.ListModels\r\nContent-Length: 9\r\n\r\n{";
    for first in [&Request::get("/ping").to_bytes()[..], control, b"GET"] {
        let mut connections: Vec<Connection> = (0..40).map(|_| connect(first)).collect();
        local.send(&Request::get("/ping")).expect(200);
        local.control("ListModels", &json!({})).expect(200);
        // The connection has been closed, with any response.
        let _ = connections[0].read_to_end();
    }
    let mut connection = connect(&Request::get("/ping").to_bytes());
    connection.read_unchecked("GET").unwrap().expect(200);
    connection.write(b"GET /ping HT").unwrap();
    assert!(is_closed(&mut connection));
}
