//! HTTP itself: routes, methods, connections and unusual requests.

use std::io::{Read, Write};

use serde_json::json;

use crate::harness::{Builder, Request, Response, Server, cases, eventually, fixture};

fn with_scale() -> Server {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server
}

#[test]
fn an_unknown_path_is_a_404() {
    let server = Builder::multi().start();
    for path in [
        "/",
        "/Ping",
        "/ping/",
        "/invocations/x",
        "/model",
        "/adapters",
        "/v1/models/m",
        "//ping",
        "/%70ing/",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            // That is the page for browsers.
            if (method, path) == ("GET", "/") {
                continue;
            }
            let refusal = server.send(&Request::new(method, path)).expect(404);
            assert_eq!(refusal.json()["type"], "ResourceNotFoundException", "{method} {path}");
        }
    }
}

#[test]
fn a_404_explains_how_to_encode_slashes_in_a_model_name() {
    let server = Builder::multi().start();
    let error = server
        .send(&Request::post("/models/de/berlin/invoke"))
        .expect(404)
        .message();
    assert!(error.contains("%2F"), "{error}");
    let error = server
        .send(&Request::post("/model/berlin/invoke"))
        .expect(404)
        .message();
    assert!(!error.contains("%2F"), "{error}");
}

#[test]
fn a_wrong_method_is_a_405_that_lists_the_allowed_methods() {
    let server = with_scale();
    let table = [
        ("/ping", "GET, HEAD, POST", vec!["PUT", "DELETE", "PATCH", "OPTIONS"]),
        ("/invocations", "POST", vec!["GET", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        ("/execution-parameters", "GET", vec!["POST", "PUT", "DELETE"]),
        ("/metrics", "GET", vec!["POST", "PUT", "DELETE"]),
        ("/models", "GET, POST", vec!["PUT", "DELETE", "PATCH"]),
        ("/models/m", "GET, DELETE", vec!["POST", "PUT", "PATCH"]),
        ("/models/m/invoke", "POST", vec!["GET", "PUT", "DELETE", "PATCH"]),
    ];
    for (path, allowed, methods) in table {
        for method in methods {
            let refusal = server.send(&Request::new(method, path)).expect(405);
            assert_eq!(refusal.header("allow"), Some(allowed), "{method} {path}");
        }
    }
    server.assert_scales("m", 2.0);
}

#[test]
fn the_health_check_is_answered_as_get_head_and_post() {
    // PI-7
    let server = Builder::multi().start();
    for method in ["GET", "HEAD", "POST"] {
        let answer = server.send(&Request::new(method, "/ping")).expect(200);
        assert_eq!(answer.text(), "", "{method}");
    }
    server.send(&Request::get("/ping?cache=1")).expect(200);
}

#[test]
fn a_connection_serves_further_requests_after_any_response() {
    let server = with_scale();
    let mut connection = server.connect();
    let invocation = Server::invocation("m").json(&json!({"instances": [2]}));
    for _ in 0..3 {
        connection.send(&Request::get("/ping")).expect(200);
        assert_eq!(
            connection.send(&invocation).expect(200).json(),
            json!({"predictions": [4.0]})
        );
        connection.send(&Request::get("/nothing")).expect(404);
        connection
            .send(&Server::invocation("m").json(&json!({"instances": "x"})))
            .expect(400);
        connection.send(&Request::get("/models/absent")).expect(404);
        connection.send(&Request::post("/models").body("{")).expect(400);
        connection.send(&Request::new("PUT", "/models/m")).expect(405);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = with_scale();
    let mut connection = server.connect();
    let invocations: Vec<Request> = (0..10)
        .map(|number| Server::invocation("m").json(&json!({"instances": [number]})))
        .collect();
    let together: Vec<u8> = invocations.iter().flat_map(Request::to_bytes).collect();
    connection.write(&together).unwrap();
    for number in 0..10 {
        let answer = connection.read_response("POST").unwrap().expect(200).json();
        assert_eq!(answer, json!({"predictions": [f64::from(number) * 2.0]}));
    }
}

#[test]
fn chunked_bodies_are_read() {
    let server = with_scale();
    let chunks: [&[&str]; 4] = [
        &[r#"{"instances": [1, 2]}"#],
        &[r#"{"inst"#, r#"ances": [1"#, r#", 2]}"#],
        &["{", "\"instances\"", ":", "[", "1", ",", "2", "]", "}"],
        &[r#"{"instances": [1, 2]}"#, "   \n"],
    ];
    for chunks in chunks {
        let request = Server::invocation("m")
            .header("Content-Type", "application/json")
            .chunks(chunks);
        assert_eq!(
            server.send(&request).expect(200).json(),
            json!({"predictions": [2.0, 4.0]}),
            "{chunks:?}"
        );
    }
}

#[test]
fn a_body_that_arrives_byte_by_byte_is_read() {
    let server = with_scale();
    let mut connection = server.connect();
    for byte in Server::invocation("m").json(&json!({"instances": [1, 2]})).to_bytes() {
        connection.write(&[byte]).unwrap();
    }
    let answer = connection.read_response("POST").unwrap().expect(200).json();
    assert_eq!(answer, json!({"predictions": [2.0, 4.0]}));
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    let server = with_scale();
    let body = json!({"instances": [1]}).to_string();
    let request = Server::invocation("m")
        .header("Content-Type", "application/json")
        .header("Expect", "100-continue")
        .body(body.as_str())
        .to_bytes();
    let (head, body) = request.split_at(request.len() - body.len());
    let mut connection = server.connect();
    connection.write(head).unwrap();
    let mut interim = [0; 25];
    connection.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.write(body).unwrap();
    connection.read_response("POST").unwrap().expect(200);
}

#[test]
fn a_body_over_the_limit_is_refused_before_a_client_with_expect_continue_sends_it() {
    let server = with_scale();
    let head = |path: &str, length: u64| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Expect: 100-continue\r\n\r\n"
        )
    };
    for (path, length) in [
        ("/models/m/invoke", 300_000_000),
        ("/models/m/invoke", u64::MAX),
        ("/models", 1 << 20),
        ("/v2/models/m/infer", 300_000_000),
        ("/v2/repository/index", 1 << 20),
    ] {
        let mut connection = server.connect();
        connection.write(head(path, length).as_bytes()).unwrap();
        // There is no interim response first: the client would read its status as the result.
        let answer = connection.read_response("POST").unwrap().expect(413);
        assert!(answer.text().contains("larger than"), "{}", answer.text());
        // The server would read later data of the client as the body, so the connection closes.
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
    }
    let refused = "longshore_requests_total{route=\"invoke\",status=\"413\"}";
    assert_eq!(server.metric(refused), 2);
    server.assert_scales("m", 2.0);
}

#[test]
fn malformed_http_is_refused_and_the_server_keeps_running() {
    let server = with_scale();
    let invocation = "POST /models/m/invoke HTTP/1.1\r\nHost: x\r\n";
    let requests: [Vec<u8>; 11] = [
        b"BROKEN\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n".to_vec(),
        b"GET /ping HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(),
        b"GET  /ping HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n".to_vec(),
        b"GET /ping HTTP/1.1\r\nHost: x\r\nbad\0name: y\r\n\r\n".to_vec(),
        format!("{invocation}Content-Length: -3\r\n\r\n").into(),
        format!("{invocation}Content-Length: 3\r\nContent-Length: 4\r\n\r\n[1]]").into(),
        format!("{invocation}Content-Length: 99999999999999999999999\r\n\r\n").into(),
        format!("{invocation}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n").into(),
        format!("{invocation}Transfer-Encoding: chunked\r\n\r\nzz\r\n[1]\r\n0\r\n\r\n").into(),
    ];
    for request in requests {
        let text = String::from_utf8_lossy(&request).into_owned();
        let mut connection = server.connect();
        connection.write(&request).unwrap();
        let refusal = connection.read_unchecked("POST").unwrap();
        assert_eq!(refusal.status, 400, "{text}");
        // The rest of the connection does not matter.
        let _ = connection.read_to_end();
        server.ping().expect(200);
    }
    server.assert_scales("m", 2.0);
}

#[test]
fn a_client_that_hangs_up_during_its_request_leaves_nothing_behind() {
    let server = with_scale();
    let request = Server::invocation("m")
        .json(&json!({"instances": vec![1; 1000]}))
        .to_bytes();
    for length in [1, 20, 60, request.len() / 2, request.len() - 1, request.len()] {
        let mut connection = server.connect();
        connection.write(&request[..length]).unwrap();
    }
    let chunked = b"POST /models/m/invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ins";
    server.connect().write(chunked).unwrap();
    server.wait_for_running(0);
    server.assert_scales("m", 2.0);
    server.unload("m").expect(200);
}

#[test]
fn a_compressed_body_is_decompressed_up_to_the_body_limit() {
    const LIMIT: usize = 256 << 10;
    let server = Builder::multi().arguments(["--max-body", "256KiB"]).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let send = |encoding: &str, body: Vec<u8>| {
        let request = Server::invocation("m").header("Content-Encoding", encoding);
        server.send(&request.header("Content-Type", "application/json").body(body))
    };
    // JSON ignores white space, so it can fill the body up to the limit.
    let body = |spaces: usize| [b"[1.0]".as_slice(), &vec![b' '; spaces]].concat();
    for spaces in [0, 100_000, LIMIT - 5] {
        let body = body(spaces);
        let expected = server.invoke("m", &json!([1.0])).expect(200).json();
        assert_eq!(send("gzip", gzip(&body)).expect(200).json(), expected);
        assert_eq!(
            send("zstd", zstd::encode_all(&body[..], 1).unwrap()).expect(200).json(),
            expected
        );
        assert_eq!(send("identity", body).expect(200).json(), expected);
    }
    // A bomb: 64 MiB in 64 KB (gzip) or 6 KB (zstd).
    let bomb = body(64 << 20);
    for (encoding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd::encode_all(&bomb[..], 1).unwrap())] {
        assert!(body.len() < LIMIT);
        let refusal = send(encoding, body).expect(413);
        assert!(refusal.message().contains("--max-body"), "{}", refusal.message());
    }
    let cut = |mut packed: Vec<u8>| {
        packed.truncate(packed.len() - 4);
        packed
    };
    for (encoding, body) in [
        ("gzip", b"[1.0]".to_vec()),
        ("zstd", b"[1.0]".to_vec()),
        ("gzip", cut(gzip(b"[1.0]"))),
        ("zstd", cut(zstd::encode_all(&b"[1.0]"[..], 1).unwrap())),
    ] {
        let refusal = send(encoding, body).expect(400);
        assert!(refusal.message().contains(encoding), "{}", refusal.message());
    }
    let refusal = send("br", b"[1.0]".to_vec()).expect(415);
    assert!(refusal.message().contains("gzip or zstd"), "{}", refusal.message());
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_long_response_is_compressed_for_clients_that_accept_it_if_compress_above_is_set() {
    let server = Builder::multi().arguments(["--compress-above", "1KiB"]).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let ask = |values: usize, accepted: &str| {
        let request = Server::invocation("m").header("Accept-Encoding", accepted);
        server.send(&request.json(&json!(vec![1.0; values]))).expect(200)
    };
    let plain = ask(1000, "br");
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    let zipped = ask(1000, "gzip, deflate");
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&zipped.body[..])
        .read_to_end(&mut text)
        .unwrap();
    assert_eq!(text, plain.body);
    let packed = ask(1000, "gzip, zstd");
    assert_eq!(packed.header("content-encoding"), Some("zstd"));
    assert_eq!(zstd::decode_all(&packed.body[..]).unwrap(), plain.body);
    assert_eq!(ask(4, "gzip").header("content-encoding"), None);
    let quiet = with_scale();
    let request = Server::invocation("m").header("Accept-Encoding", "gzip");
    let reply = quiet.send(&request.json(&json!(vec![1.0; 1000]))).expect(200);
    assert_eq!((reply.header("content-encoding"), reply.header("vary")), (None, None));
}

#[test]
fn custom_attributes_are_echoed_up_to_their_limit() {
    // IN-3
    let server = with_scale();
    let ask = |value: &[u8]| -> Response {
        let request = Server::invocation("m").json(&json!({"instances": [1]}));
        server.send(&request.header("X-Amzn-SageMaker-Custom-Attributes", value))
    };
    for value in ["trace-id=42", "a b;c=\"d\",e", &"x".repeat(1024)] {
        let answer = ask(value.as_bytes()).expect(200);
        assert_eq!(answer.header("x-amzn-sagemaker-custom-attributes"), Some(value));
    }
    for value in ["x".repeat(1025).as_bytes(), "größer".as_bytes(), b"\xff"] {
        let refusal = ask(value).expect(400);
        assert!(refusal.message().contains("1024"), "{}", refusal.message());
        assert_eq!(refusal.header("x-amzn-sagemaker-custom-attributes"), None);
    }
    let without = server.invoke("m", &json!({"instances": [1]})).expect(200);
    assert_eq!(without.header("x-amzn-sagemaker-custom-attributes"), None);
}

#[test]
fn headers_of_the_platform_do_not_change_the_response() {
    // IN-1
    let server = with_scale();
    let request = Server::invocation("m")
        .json(&json!({"instances": [1]}))
        .header("X-Amzn-SageMaker-Inference-Id", "7")
        .header("X-Amzn-SageMaker-Session-Id", "NEW_SESSION")
        .header("X-Amzn-SageMaker-Target-Variant", "blue")
        .header("X-Amzn-SageMaker-Forwarded-Api", "InvokeEndpoint")
        .header("X-Amzn-SageMaker-Enable-Explanations", "`true`")
        .header("X-Something-New", "gr\u{f6}\u{df}er")
        .header("User-Agent", "AHC/2.0");
    assert_eq!(server.send(&request).expect(200).json(), json!({"predictions": [2.0]}));
}

#[test]
fn execution_parameters_describe_how_batch_transform_should_call() {
    // BT-2
    let server = Builder::multi().start();
    let parameters = server.send(&Request::get("/execution-parameters")).expect(200).json();
    let expected = json!({"MaxConcurrentTransforms": 2, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 6});
    assert_eq!(parameters, expected);

    let server = Builder::single(fixture("mlp"))
        .environment("SAGEMAKER_BATCH", "true")
        .environment("SAGEMAKER_MAX_PAYLOAD_IN_MB", "100")
        .start();
    let parameters = server.send(&Request::get("/execution-parameters")).expect(200).json();
    let expected = json!({"MaxConcurrentTransforms": 1, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": 100});
    assert_eq!(parameters, expected);
    eventually("the model is loaded", || server.ping().status == 200);
    let row = serde_json::to_string(&cases("mlp")[0].inputs["features"].data).unwrap();
    let request = Request::post("/invocations").header("Content-Type", "text/csv");
    server.send(&request.body(row.trim_matches(['[', ']']))).expect(200);
}

#[test]
fn metrics_count_requests_by_route_and_only_listed_models_by_name() {
    let server = with_scale();
    for _ in 0..3 {
        server.assert_scales("m", 2.0);
    }
    server.load("m", "/outside").expect(400);
    server.invoke("secret-name", &json!({"instances": [1]})).expect(404);
    let page = server.send(&Request::get("/metrics")).expect(200);
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(!page.text().contains("secret-name"));
    let table = [
        (r#"longshore_requests_total{route="invoke",status="200"}"#, 3),
        (r#"longshore_requests_total{route="invoke",status="404"}"#, 1),
        (r#"longshore_requests_total{route="load",status="200"}"#, 1),
        (r#"longshore_requests_total{route="load",status="400"}"#, 1),
        (r#"longshore_errors_total{cause="not_found"}"#, 1),
        (r#"longshore_errors_total{cause="bad_request"}"#, 1),
        (r#"longshore_loads_total{outcome="ok"}"#, 1),
        (r#"longshore_loads_total{outcome="refused"}"#, 1),
        ("longshore_load_seconds_count", 1),
        ("longshore_request_seconds_count", 3),
        (r#"longshore_model_lookups_total{state="warm"}"#, 3),
        (r#"longshore_model_seconds_count{model="m"}"#, 3),
        ("longshore_models_loaded", 1),
        ("longshore_requests_running", 0),
        ("longshore_requests_waiting", 0),
    ];
    for (name, expected) in table {
        assert_eq!(server.metric(name), expected, "{name} in {}", page.text());
    }
    assert!(server.metric("longshore_memory_limit_bytes") > server.reserved());
    assert!(server.reserved() > 0);
}
