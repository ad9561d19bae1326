//! Limits on size and time: the refusal gives the reason, and a client that is still sending can
//! read it.

use serde_json::json;

use crate::harness::{Builder, Connection, Request, Server, eventually};

/// Returns a valid body of exactly `length` bytes.
fn body_of(length: usize) -> Vec<u8> {
    let mut body = br#"{"instances": [1]}"#.to_vec();
    body.resize(length, b' ');
    body
}

fn with_limits(arguments: &[&str]) -> Server {
    let server = Builder::multi().arguments(arguments).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server
}

#[test]
fn a_client_that_sends_a_body_over_the_limit_can_read_the_413() {
    let server = with_limits(&[]);
    let body = vec![b' '; 30 << 20];
    let invocation = Server::invocation("m").header("Content-Type", "application/json");
    let requests = [
        invocation.clone().body(body.clone()),
        invocation.chunks(body.chunks(1 << 20)),
    ];
    for request in requests {
        let refusal = server.send(&request).expect(413);
        assert!(refusal.message().contains("--max-body"), "{}", refusal.message());
    }
    server.assert_scales("m", 2.0);
}

#[test]
fn a_connection_stays_usable_after_a_413() {
    let server = with_limits(&["--max-body", "1KiB"]);
    let mut connection = server.connect();
    let invocation = Server::invocation("m").header("Content-Type", "application/json");
    for _ in 0..3 {
        connection
            .send(&invocation.clone().body(vec![b' '; 100_000]))
            .expect(413);
        connection
            .send(&invocation.clone().chunks([vec![b' '; 100_000]]))
            .expect(413);
        connection
            .send(&invocation.clone().body(r#"{"instances": [1]}"#))
            .expect(200);
    }
}

#[test]
fn a_client_that_is_still_sending_can_read_an_early_refusal() {
    // As above, for errors that are found before the body: a connection reset would hide the
    // reason.
    let server = with_limits(&[]);
    let body = vec![b' '; 20 << 20];
    let table = [
        (Server::invocation("absent"), 404),
        (
            Server::invocation("m").header("X-Amzn-SageMaker-Custom-Attributes", "x".repeat(1025)),
            400,
        ),
        (Request::post("/invocations"), 400),
        (Request::post("/models"), 413),
        (Request::new("PUT", "/models/m"), 405),
        (Request::post("/nothing"), 404),
    ];
    for (request, status) in table {
        for request in [request.clone().body(body.clone()), request.chunks(body.chunks(1 << 20))] {
            server.send(&request).expect(status);
        }
    }
}

#[test]
fn the_limit_itself_is_allowed_and_one_byte_more_is_not() {
    let server = with_limits(&["--max-body", "1000"]);
    let invocation = Server::invocation("m").header("Content-Type", "application/json");
    for (length, status) in [(999, 200), (1000, 200), (1001, 413)] {
        server.send(&invocation.clone().body(body_of(length))).expect(status);
        server
            .send(&invocation.clone().chunks([body_of(length)]))
            .expect(status);
        server
            .send(
                &invocation
                    .clone()
                    .chunks([&body_of(length)[..600], &body_of(length)[600..]]),
            )
            .expect(status);
    }
}

#[test]
fn variables_of_awss_images_set_the_body_limit() {
    for (name, value, limit) in [
        ("SAGEMAKER_MAX_REQUEST_SIZE", "2000", 2000),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "1", 1 << 20),
    ] {
        let server = Builder::multi().environment(name, value).start();
        let url = server.models().place_scale("m", 2.0);
        server.load("m", &url).expect(200);
        let invocation = Server::invocation("m").header("Content-Type", "application/json");
        server.send(&invocation.clone().body(body_of(limit))).expect(200);
        server.send(&invocation.clone().body(body_of(limit + 1))).expect(413);
    }
}

#[test]
fn a_body_as_large_as_the_platform_sends_is_served() {
    // The limit for real-time requests is 25 MiB.
    let server = with_limits(&[]);
    let count = 3_000_000;
    let body = format!("[{}1]", "0.25,".repeat(count - 1));
    assert!(body.len() > 14 << 20);
    let answer = server
        .send(
            &Server::invocation("m")
                .header("Content-Type", "application/json")
                .body(body),
        )
        .expect(200);
    let numbers = answer.json();
    let numbers = numbers["predictions"].as_array().unwrap();
    assert_eq!(numbers.len(), count);
    assert_eq!((&numbers[0], &numbers[count - 1]), (&json!(0.5), &json!(2.0)));
}

#[test]
fn a_long_list_of_headers_is_refused() {
    let server = with_limits(&[]);
    let long = Request::get("/ping").header("X-Long", "a".repeat(64 << 10));
    let many = (0..200).fold(Request::get("/ping"), |request, index| {
        request.header(&format!("X-{index}"), "v")
    });
    let huge = Request::get("/ping").header("X-Huge", "a".repeat(1 << 20));
    for request in [long, many, huge] {
        let mut connection = server.connect();
        // The server may close the connection before it has read the whole head.
        let written = connection.write(&request.to_bytes());
        match connection.read_unchecked("GET") {
            Ok(refusal) => assert!([400, 431].contains(&refusal.status), "{refusal:?}"),
            Err(error) => assert!(
                written.is_err() || error.kind() == std::io::ErrorKind::ConnectionReset,
                "{error}"
            ),
        }
        server.ping().expect(200);
    }
}

#[test]
fn headers_up_to_the_limit_are_accepted() {
    // Each of SageMaker's own headers has at most 1 KiB.
    let server = with_limits(&[]);
    let request = (0..20).fold(Request::get("/ping"), |request, index| {
        request.header(&format!("X-{index}"), "v".repeat(1024))
    });
    server.send(&request).expect(200);
}

#[test]
fn a_client_that_never_finishes_its_head_is_disconnected() {
    let server = with_limits(&["--header-timeout", "2s"]);
    let mut connections: Vec<Connection> = (0..3).map(|_| server.connect()).collect();
    connections[1].write(b"GET /ping HT").unwrap();
    connections[2].write(b"GET /ping HTTP/1.1\r\nHost: x\r\n").unwrap();
    for connection in &mut connections[1..] {
        // The connection ends, with or without a response.
        let answer = connection.read_to_end().unwrap_or_default();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    server.ping().expect(200);
}

#[test]
fn a_client_that_never_finishes_its_body_gets_a_408() {
    let server = with_limits(&["--request-timeout", "500ms"]);
    let mut connection = server.connect();
    connection
        .write(b"POST /models/m/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    connection.read_response("POST").unwrap().expect(408);
    server.assert_scales("m", 2.0);
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive() {
    let server = with_limits(&["--keep-alive", "1s"]);
    let mut connection = server.connect();
    connection.send(&Request::get("/ping")).expect(200);
    assert_eq!(connection.read_to_end().unwrap(), b"");
}

#[test]
fn a_load_without_free_file_descriptors_is_a_503_and_a_later_one_works() {
    // MM-18: the model is not broken, and unloading another would not help, so neither 400 nor
    // 507.
    let few_files = ["sh", "-c", "ulimit -n 90; exec \"$@\"", "sh"];
    let server = Builder::multi()
        .arguments(["--max-connections", "128"])
        .through(few_files)
        .start();
    let url = server.models().place_scale("m", 2.0);
    let load = Request::post("/models").json(&json!({"model_name": "m", "url": url}));
    let mut connection = server.connect();
    connection.send(&Request::get("/ping")).expect(200);
    let idle: Vec<_> = (0..80).map(|_| server.connect()).collect();
    // The server accepts the connections one at a time, until no descriptor is left.
    let mut refusal = None;
    eventually("a load is refused", || {
        let response = connection.send(&load);
        if response.status == 200 {
            connection.send(&Request::delete("/models/m")).expect(200);
            return false;
        }
        refusal = Some(response.expect(503));
        true
    });
    // The words depend on the file that could not be opened.
    let message = refusal.unwrap().message();
    let says_so = ["Too many open files", "too many files are open"];
    assert!(says_so.iter().any(|words| message.contains(words)), "{message}");
    drop(idle);
    eventually("the load works", || connection.send(&load).status == 200);
    connection.send(&Request::get("/ping")).expect(200);
}

#[test]
fn idle_connections_leave_enough_file_descriptors_for_a_load() {
    let few_files = ["sh", "-c", "ulimit -n 90; exec \"$@\"", "sh"];
    let server = Builder::multi().through(few_files).start();
    let url = server.models().place_scale("m", 2.0);
    let mut connection = server.connect();
    connection.send(&Request::get("/ping")).expect(200);
    let load = Request::post("/models").json(&json!({"model_name": "m", "url": url}));
    let idle: Vec<_> = (0..80).map(|_| server.connect()).collect();
    for _ in 0..20 {
        connection.send(&load).expect(200);
        connection.send(&Request::delete("/models/m")).expect(200);
    }
    drop(idle);
}
