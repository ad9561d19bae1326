//! A client that hangs up cancels its request: its run ends and its slot is free long before the
//! deadline.

use serde_json::json;

use crate::harness::{A_SECOND, Builder, Connection, FOREVER, Request, Server, eventually};

/// Starts a server with the `spin` model, one compute thread, and a deadline that no test reaches.
fn with_spin(arguments: &[&str]) -> Server {
    let server = Builder::multi()
        .arguments(["--threads", "1", "--request-timeout", "1h"])
        .arguments(arguments)
        .start();
    let url = server.models().place("spin", "spin");
    server.load("spin", &url).expect(200);
    server
}

/// Connects a client that has sent a request and waits for the response.
fn asking(server: &Server, iterations: u64) -> Connection {
    let mut connection = server.connect();
    connection.write(&Server::spin("spin", iterations).to_bytes()).unwrap();
    connection
}

fn wait_for_waiting(server: &Server, count: u64) {
    eventually("the requests wait", || {
        server.metric("longshore_requests_waiting") == count
    });
}

#[test]
fn clients_that_hang_up_cancel_their_runs_and_free_their_slots() {
    let server = with_spin(&["--queue", "8"]);
    let running = asking(&server, FOREVER);
    server.wait_for_running(1);
    let waiting: Vec<Connection> = (0..8).map(|_| asking(&server, FOREVER)).collect();
    wait_for_waiting(&server, 8);
    server.send(&Server::spin("spin", 1)).expect(503);
    drop((running, waiting));
    server.wait_for_running(0);
    wait_for_waiting(&server, 0);
    let counted = |status: u16| {
        server.metric(&format!(
            "longshore_requests_total{{route=\"invoke\",status=\"{status}\"}}"
        ))
    };
    eventually("each is counted once", || counted(499) == 9);
    server.send(&Server::spin("spin", 1)).expect(200);
    assert_eq!((counted(200), counted(499), counted(503)), (1, 9, 1));
    server.unload("spin").expect(200);
    assert_eq!(server.reserved(), 0);
}

#[test]
fn a_slot_in_the_queue_is_free_as_soon_as_its_client_hangs_up() {
    let server = with_spin(&["--queue", "2"]);
    let running = asking(&server, FOREVER);
    server.wait_for_running(1);
    for _ in 0..3 {
        let waiting = [asking(&server, 1), asking(&server, 1)];
        wait_for_waiting(&server, 2);
        server.send(&Server::spin("spin", 1)).expect(503);
        drop(waiting);
        // The first request is still running.
        wait_for_waiting(&server, 0);
        assert_eq!(server.metric("longshore_requests_running"), 1);
    }
    let mut last = asking(&server, 1);
    drop(running);
    last.read_response("POST").unwrap().expect(200);
}

#[test]
fn a_client_that_closes_its_sending_side_has_hung_up() {
    let server = with_spin(&[]);
    let connection = asking(&server, FOREVER);
    server.wait_for_running(1);
    connection.close_half();
    server.wait_for_running(0);
}

#[test]
fn pipelined_requests_on_a_kept_connection_are_not_cancelled() {
    let server = with_spin(&[]);
    let mut connection = server.connect();
    // The next requests arrive while the first one runs.
    let counts = [A_SECOND / 4, 3, A_SECOND / 4, 5];
    let together: Vec<u8> = counts
        .iter()
        .flat_map(|&count| Server::spin("spin", count).to_bytes())
        .collect();
    connection.write(&together).unwrap();
    for count in counts {
        let answer = connection.read_response("POST").unwrap().expect(200);
        assert_eq!(answer.json(), json!({"outputs": (count % 64) as f64}));
    }
    // Another client hangs up while a request of this one runs.
    for _ in 0..5 {
        connection
            .write(&Server::spin("spin", A_SECOND / 8).to_bytes())
            .unwrap();
        server.wait_for_running(1);
        drop(asking(&server, FOREVER));
        connection.read_response("POST").unwrap().expect(200);
    }
}

#[test]
fn a_load_and_an_unload_continue_after_their_client_hangs_up() {
    // MM-14: the platform stops waiting after a minute and asks again later.
    let server = Builder::multi().start();
    let url = server.models().place_slow("slow", 12);
    let mut connection = server.connect();
    let load = Request::post("/models").json(&json!({"model_name": "slow", "url": url}));
    connection.write(&load.to_bytes()).unwrap();
    eventually("the load has begun", || server.reserved() > 0);
    drop(connection);
    eventually("the load is done", || server.describe("slow").status == 200);
    let mut connection = server.connect();
    connection.write(&Request::delete("/models/slow").to_bytes()).unwrap();
    drop(connection);
    eventually("the unload is done", || server.reserved() == 0);
    server.describe("slow").expect(404);
}

#[test]
fn a_client_that_does_not_read_its_reply_is_disconnected() {
    let server = Builder::multi().arguments(["--write-timeout", "500ms"]).start();
    // Before any request, whose connection might still be closing.
    let before = server.process().sockets();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let body = format!("[{}1]", "0.25,".repeat(2_000_000));
    let request = Server::invocation("m")
        .header("Content-Type", "application/json")
        .body(body);
    let mut connection = server.connect();
    connection.write(&request.to_bytes()).unwrap();
    // The response is larger than the kernel's buffer, so part of it is still in the server.
    eventually("the request is answered", || {
        server.metric("longshore_requests_total{route=\"invoke\",status=\"200\"}") == 1
    });
    eventually("the connection is closed", || server.process().sockets() <= before);
    assert!(connection.read_response("POST").is_err(), "the response is complete");
    // A client that reads gets its response.
    let mut connection = server.connect();
    connection.write(&request.to_bytes()).unwrap();
    connection.read_response("POST").unwrap().expect(200);
}
