//! Content negotiation: which types the server reads, and which it sends (CT-1 to CT-4, MC-5,
//! MC-6).

use serde_json::json;

use crate::harness::{Builder, Response, Server};

const JSON: &str = r#"{"instances": [[1, 2], [3, 4]]}"#;

/// Starts a server with a model that returns its input: two columns of floats.
fn with_identity(builder: Builder) -> Server {
    let server = builder.start();
    let url = server.models().place("identity_float32", "m");
    server.load("m", &url).expect(200);
    server
}

#[track_caller]
fn ask(server: &Server, content_type: Option<&str>, accept: Option<&str>, body: &[u8]) -> Response {
    let request = Server::invocation("m").body(body);
    let request = content_type
        .into_iter()
        .fold(request, |request, value| request.header("Content-Type", value));
    server.send(
        &accept
            .into_iter()
            .fold(request, |request, value| request.header("Accept", value)),
    )
}

#[test]
fn the_response_has_the_preferred_supported_type() {
    const NPY: &str = "application/x-npy";
    const LINES: &str = "application/jsonlines";
    let table = [
        (None, "application/json"),
        (Some(""), "application/json"),
        (Some("*/*"), "application/json"),
        (Some("*"), "application/json"),
        (Some("application/json"), "application/json"),
        (Some("APPLICATION/Json"), "application/json"),
        (Some("application/json; charset=utf-8"), "application/json"),
        (Some("application/json; verbose=true"), "application/json"),
        (Some("application/*"), "application/json"),
        (Some("text/csv"), "text/csv"),
        (Some("text/csv; charset=UTF-8"), "text/csv"),
        (Some("text/*"), "text/csv"),
        (Some(NPY), NPY),
        (Some(LINES), LINES),
        (Some("application/x-ndjson"), LINES),
        // The header of the SDK's PandasDeserializer.
        (Some("text/csv, application/json"), "text/csv"),
        (Some("application/json, text/csv"), "application/json"),
        (Some("text/csv;q=0.5, application/json"), "application/json"),
        (Some("text/csv;q=0.5, application/json;q=0.4"), "text/csv"),
        (Some("text/csv ; Q=0.1 ,application/json;q=0.2"), "application/json"),
        (Some("image/png, text/csv;q=0.1"), "text/csv"),
        (Some("image/png, */*;q=0.1"), "application/json"),
        (Some("text/csv;q=0, */*"), "application/json"),
        (Some("garbage, text/csv"), "text/csv"),
    ];
    let server = with_identity(Builder::multi());
    for (accept, expected) in table {
        let answer = ask(&server, Some("application/json"), accept, JSON.as_bytes()).expect(200);
        assert_eq!(answer.header("content-type"), Some(expected), "{accept:?}");
        match expected {
            "application/json" => assert_eq!(answer.json(), json!({"predictions": [[1.0, 2.0], [3.0, 4.0]]})),
            "text/csv" => assert_eq!(answer.text().lines().count(), 2, "{}", answer.text()),
            LINES => assert_eq!(answer.text(), "[1.0,2.0]\n[3.0,4.0]\n"),
            _ => assert!(answer.body.starts_with(b"\x93NUMPY")),
        }
    }
}

#[test]
fn several_accept_headers_are_one_list() {
    let server = with_identity(Builder::multi());
    let request = Server::invocation("m")
        .header("Content-Type", "application/json")
        .body(JSON);
    let request = request
        .header("Accept", "image/png, application/json;q=0.2")
        .header("Accept", "text/csv;q=0.3");
    assert_eq!(
        server.send(&request).expect(200).header("content-type"),
        Some("text/csv")
    );
}

#[test]
fn an_unsupported_accept_header_is_a_406_that_lists_the_supported_types() {
    let server = with_identity(Builder::multi());
    for accept in [
        "image/png",
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "garbage",
        "application/x-parquet",
        "/",
        ";",
    ] {
        let refusal = ask(&server, Some("application/json"), Some(accept), JSON.as_bytes()).expect(406);
        for part in ["application/json", "text/csv", "application/x-npy"] {
            assert!(refusal.message().contains(part), "{accept}: {}", refusal.message());
        }
    }
}

#[test]
fn a_type_that_cannot_represent_the_outputs_is_a_406_with_the_reason() {
    let server = Builder::multi().start();
    for model in ["iris_zipmap", "columns", "sequence"] {
        let url = server.models().place(model, model);
        server.load(model, &url).expect(200);
    }
    let ask = |model: &str, body: &serde_json::Value, accept: &str| {
        server.send(&Server::invocation(model).json(body).header("Accept", accept))
    };
    let iris = json!({"instances": [[5.1, 3.5, 1.4, 0.2]]});
    let columns = json!({"instances": [{"age": 1, "income": 2, "city": "Oslo"}]});
    // The response has the first output, unless the request names another one.
    for (model, body) in [("iris_zipmap", &iris), ("columns", &columns)] {
        let first = ask(model, body, "application/x-npy").expect(200);
        assert_eq!(first.header("content-type"), Some("application/x-npy"));
        let refusal = ask(model, body, "application/x-npy; output=none").expect(406);
        assert!(
            refusal.message().contains("no output \"none\""),
            "{}",
            refusal.message()
        );
        // A client that also accepts another type gets that one.
        let answer = ask(model, body, "application/x-npy; output=none, application/json;q=0.1").expect(200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let refusal = ask("iris_zipmap", &iris, "text/libsvm").expect(406);
    assert!(refusal.message().contains("for requests only"), "{}", refusal.message());
    let refusal = ask("sequence", &json!({"instances": [[1, 2]]}), "application/x-npy").expect(406);
    assert!(refusal.message().contains("not a tensor"), "{}", refusal.message());
}

#[test]
fn content_types_match_in_any_case_and_with_any_parameters() {
    let lines = "[1, 2]\n[3, 4]\n";
    let csv = "1,2\n3,4\n";
    let table = [
        (None, JSON),
        // The default of curl.
        (Some("application/x-www-form-urlencoded"), JSON),
        (Some("application/json"), JSON),
        (Some("Application/JSON"), JSON),
        (Some("application/json; charset=utf-8"), JSON),
        (Some("application/json;charset=\"UTF-8\""), JSON),
        (Some("application/json; charset=us-ascii; profile=x"), JSON),
        (Some("text/csv"), csv),
        (Some("text/csv; charset=UTF-8"), csv),
        (Some("TEXT/CSV;header=absent"), csv),
        (Some("application/jsonlines"), lines),
        (Some("application/x-ndjson"), lines),
        (Some("application/jsonl; charset=utf-8"), lines),
    ];
    let server = with_identity(Builder::multi());
    for (content_type, body) in table {
        let answer = ask(&server, content_type, None, body.as_bytes());
        assert_eq!(answer.status, 200, "{content_type:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json(),
            json!({"predictions": [[1.0, 2.0], [3.0, 4.0]]}),
            "{content_type:?}"
        );
    }
}

#[test]
fn a_body_of_an_unknown_type_is_a_415_that_lists_the_known_ones() {
    let server = with_identity(Builder::multi());
    let unknown = [
        "image/png",
        "text/plain",
        "text/html; charset=utf-8",
        "application/xml",
        "application/x-parquet",
        "application/vnd.apache.arrow.stream",
        "application",
        "json",
        "*/*",
        "application/json/x",
    ];
    for content_type in unknown {
        let refusal = ask(&server, Some(content_type), None, JSON.as_bytes()).expect(415);
        assert!(refusal.message().contains("text/csv"), "{}", refusal.message());
    }
    for content_type in [
        "application/json; charset=utf-16",
        "text/csv; charset=windows-1252",
        "text/csv;charset=x",
    ] {
        let refusal = ask(&server, Some(content_type), None, JSON.as_bytes()).expect(415);
        assert!(refusal.message().contains("charset"), "{}", refusal.message());
    }
}

#[test]
fn options_set_the_default_types() {
    // MC-5: users set these for pipelines.
    let builder = Builder::multi()
        .environment("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
        .arguments(["--default-content-type", "text/csv"]);
    let server = with_identity(builder);
    let table = [
        (None, "text/csv"),
        (Some("*/*"), "text/csv"),
        (Some("image/png, */*;q=0.1"), "text/csv"),
        (Some("application/json"), "application/json"),
        (Some("application/*"), "application/json"),
    ];
    for (accept, expected) in table {
        let answer = ask(&server, None, accept, b"1,2\n3,4\n").expect(200);
        assert_eq!(answer.header("content-type"), Some(expected), "{accept:?}");
    }
    ask(&server, Some("application/json"), None, JSON.as_bytes()).expect(200);
}

#[test]
fn an_open_inference_request_gets_a_response_in_its_protocol_with_any_default() {
    let server = with_identity(Builder::multi().arguments(["--default-accept", "text/csv"]));
    let body = json!({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]});
    let answer = server.invoke("m", &body).expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let output = json!({"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]});
    assert_eq!(answer.json()["outputs"], json!([output]));
}

#[test]
fn a_form_content_type_counts_as_missing() {
    let server = with_identity(Builder::multi());
    for content_type in [
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "application/x-www-form-urlencoded;charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded ; x=y",
        " ",
    ] {
        let answer = ask(&server, Some(content_type), None, b"[[1, 2]]").expect(200);
        assert_eq!(answer.json(), json!({"predictions": [[1.0, 2.0]]}), "{content_type:?}");
    }
}

#[test]
fn a_byte_order_mark_before_a_text_body_is_ignored() {
    let server = with_identity(Builder::multi());
    for (content_type, body) in [
        ("application/json", "\u{feff}[[1, 2]]"),
        ("application/json", "\u{feff}\r\n{\"instances\": [[1, 2]]}"),
        ("application/jsonlines", "\u{feff}[1, 2]\n"),
        ("text/csv", "\u{feff}1,2\n"),
    ] {
        let answer = ask(&server, Some(content_type), Some("application/json"), body.as_bytes()).expect(200);
        assert_eq!(
            answer.json(),
            json!({"predictions": [[1.0, 2.0]]}),
            "{content_type} {body:?}"
        );
    }
}
