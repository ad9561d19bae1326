//! The routes of the protocol, and the errors for all other paths.

use serde_json::json;

use super::{answer, ask, get, infer, question};
use crate::harness::{Builder, Request};

#[test]
fn unknown_paths_and_methods_are_refused_in_the_protocols_error_form() {
    let server = Builder::multi().start();
    for path in [
        "/v2/health",
        "/v2/models",
        "/v2/models//infer",
        "/v2/models/m/versions//infer",
        "/v2/models/m/config",
        "/v2/models/m/stats",
        "/v2/models/%FF/infer",
        "/v2/repository",
        "/v2/systemsharedmemory/status",
        "/v2/logging",
    ] {
        for request in [Request::get(path), Request::post(path).body("{}")] {
            let error = server.send(&request).expect(404).error();
            assert!(error.contains(path), "{error}");
        }
    }
    let table = [
        ("/v2", "GET"),
        ("/v2/health/live", "GET"),
        ("/v2/health/ready", "GET"),
        ("/v2/models/m", "GET"),
        ("/v2/models/m/ready", "GET"),
        ("/v2/models/m/infer", "POST"),
        ("/v2/repository/index", "POST"),
        ("/v2/repository/models/m/load", "POST"),
        ("/v2/repository/models/m/unload", "POST"),
    ];
    for (path, allowed) in table {
        for method in ["GET", "POST", "PUT", "DELETE"]
            .into_iter()
            .filter(|method| *method != allowed)
        {
            let refusal = server.send(&Request::new(method, path).body("{}")).expect(405);
            assert_eq!(refusal.header("allow"), Some(allowed), "{method} {path}");
            assert!(refusal.error().contains(method), "{}", refusal.error());
        }
    }
    // A path with the same beginning is not part of the protocol.
    let refusal = get(&server, "/v2x").expect(404);
    assert!(!refusal.message().is_empty());
}

#[test]
fn oversized_headers_are_refused_in_the_protocols_error_form() {
    let server = Builder::multi().argument("--max-headers").argument("1KiB").start();
    let error = server
        .send(&Request::get("/v2").header("X-Long", "x".repeat(2000)))
        .expect(431)
        .error();
    assert!(error.contains("--max-headers"), "{error}");
}

#[test]
fn the_server_metadata_names_the_server_and_its_extensions() {
    let server = Builder::multi().start();
    let expected = json!({
        "name": "longshore", "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_repository"],
    });
    for path in ["/v2", "/v2/", "/v2?verbose=1"] {
        assert_eq!(get(&server, path).expect(200).json(), expected, "{path}");
    }
    assert_eq!(
        get(&server, "/v2/health/live").expect(200).json(),
        json!({"live": true})
    );
    assert_eq!(
        get(&server, "/v2/health/ready").expect(200).json(),
        json!({"ready": true})
    );
}

#[test]
fn a_name_may_have_its_slashes_encoded_or_not_in_every_call() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    let names = [
        ("a", "a"),
        ("team/a.tar.gz", "team/a.tar.gz"),
        ("team/b c.tar.gz", "team%2Fb%20c.tar.gz"),
        ("infer", "infer"),
        ("x/infer", "x%2Finfer"),
        ("x/ready", "x%2Fready"),
        ("x/config", "x%2Fconfig"),
        ("x/versions/2", "x%2Fversions%2F2"),
        ("Größe 世界 🚢", "Gr%C3%B6%C3%9Fe%20%E4%B8%96%E7%95%8C%20%F0%9F%9A%A2"),
    ];
    for (name, path) in names {
        let path_of = |part: &str| format!("/v2/models/{path}{part}");
        get(&server, &path_of("/ready")).expect(404);
        server.load(name, &url).expect(200);
        assert_eq!(ask(&server, path).expect(200).json(), answer(name, 2.0));
        assert_eq!(
            get(&server, &path_of("/ready")).expect(200).json(),
            json!({"name": name, "ready": true})
        );
        assert_eq!(get(&server, &path_of("")).expect(200).json()["name"], name);
    }
}

#[test]
fn the_only_version_of_a_model_is_1() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    assert_eq!(ask(&server, "m/versions/1").expect(200).json(), answer("m", 2.0));
    get(&server, "/v2/models/m/versions/1").expect(200);
    get(&server, "/v2/models/m/versions/1/ready").expect(200);
    for version in ["2", "0", "latest", "1.0", "%31%30"] {
        for refusal in [
            ask(&server, &format!("m/versions/{version}")),
            get(&server, &format!("/v2/models/m/versions/{version}")),
            get(&server, &format!("/v2/models/m/versions/{version}/ready")),
        ] {
            let error = refusal.expect(404).error();
            assert!(error.contains("no version"), "{error}");
        }
    }
}

#[test]
fn content_types_are_ignored_and_unknown_encodings_refused() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    for content_type in [
        None,
        Some("application/json; charset=utf-8"),
        Some("application/octet-stream"),
        Some("application/x-www-form-urlencoded"),
        Some("text/csv"),
        Some("rubbish"),
    ] {
        let request = infer("m").header("Accept", "text/html").body(question().to_string());
        let request = content_type
            .into_iter()
            .fold(request, |request, value| request.header("Content-Type", value));
        let reply = server.send(&request).expect(200);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.json(), answer("m", 2.0));
    }
    let question = question().to_string();
    let chunks = infer("m").chunks([&question[..9], &question[9..]]);
    assert_eq!(server.send(&chunks).expect(200).json(), answer("m", 2.0));
    let packed = zstd::encode_all(question.as_bytes(), 1).unwrap();
    let request = infer("m").header("Content-Encoding", "zstd").body(packed);
    assert_eq!(server.send(&request).expect(200).json(), answer("m", 2.0));
    let refusal = server
        .send(&infer("m").header("Content-Encoding", "br").body(question))
        .expect(415);
    assert!(refusal.error().contains("gzip or zstd"), "{}", refusal.error());
}

#[test]
fn inferences_of_the_protocol_have_their_own_metrics() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    ask(&server, "m").expect(200);
    ask(&server, "other").expect(404);
    get(&server, "/v2/health/live").expect(200);
    for (labels, count) in [
        ("{route=\"v2-infer\",status=\"200\"}", 1),
        ("{route=\"v2-infer\",status=\"404\"}", 1),
        ("{route=\"v2\",status=\"200\"}", 1),
    ] {
        assert_eq!(
            server.metric(&format!("longshore_requests_total{labels}")),
            count,
            "{labels}"
        );
    }
}
