//! The model repository, which is the store of standalone mode. Here it is a directory; other
//! tests cover other stores.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::{answer, ask, get, index};
use crate::harness::{Builder, Request, Response, Server, scale};
use crate::support::archive::archive_of;

/// A store with `team/a.tar.gz`, and a server of it.
fn started(arguments: &[&str]) -> (TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    put(&folder, "team/a.tar.gz", &archive_of(&scale(2.0)));
    let server = Builder::store(folder.path().to_str().unwrap(), [])
        .arguments(arguments)
        .start();
    (folder, server)
}

fn put(folder: &TempDir, name: &str, bytes: &[u8]) {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // The rename makes the file appear at once, like an object in a store.
    let new = folder.path().join("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

#[track_caller]
fn change(server: &Server, name: &str, verb: &str, body: &str) -> Response {
    server.send(&Request::post(format!("/v2/repository/models/{name}/{verb}")).body(body))
}

const A: &str = "team/a.tar.gz";

fn is(name: &str, state: &str) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

#[test]
fn invalid_repository_requests_are_refused() {
    let (folder, server) = started(&[]);
    for body in ["[]", "{", "1", "\u{0}", r#"{"parameters":[]}"#, r#"{"parameters":"x"}"#] {
        let error = change(&server, A, "load", body).expect(400).error();
        assert!(error.contains("must be empty or JSON"), "{body}: {error}");
    }
    for body in ["[1]", "{", r#"{"ready":1}"#] {
        let error = server
            .send(&Request::post("/v2/repository/index").body(body))
            .expect(400)
            .error();
        assert!(error.contains("must be empty or JSON"), "{body}: {error}");
    }
    // Parameters that would load a model other than the one in the store.
    for parameters in [
        json!({"config": "{}"}),
        json!({"file:1/model.onnx": "AAAA", "config": "{}"}),
    ] {
        let body = json!({"parameters": parameters}).to_string();
        let error = change(&server, A, "load", &body).expect(400).error();
        assert!(error.contains("\"config\""), "{error}");
    }
    change(&server, A, "load", &" ".repeat(1 << 20)).expect(413);
    for name in ["../a.tar.gz", "team/../../a", "%2Fetc%2Fpasswd", "team//a.tar.gz"] {
        change(&server, name, "load", "").expect(400);
    }
    change(&server, "team/none.tar.gz", "load", "").expect(404);
    let error = change(&server, A, "unload", "").expect(404).error();
    assert!(error.contains("is not loaded"), "{error}");
    put(&folder, "broken.tar.gz", b"no model");
    let error = change(&server, "broken.tar.gz", "load", "").expect(400).error();
    assert!(error.contains("broken.tar.gz"), "{error}");
    assert_eq!(index(&server, r#"{"ready":true}"#), []);
}

#[test]
fn a_model_is_loaded_is_ready_and_is_unloaded() {
    let (_folder, server) = started(&[]);
    for path in [A, "team%2Fa.tar.gz"] {
        get(&server, &format!("/v2/models/{path}/ready")).expect(404);
        assert_eq!(index(&server, ""), []);
        assert_eq!(change(&server, path, "load", "").expect(200).body, b"");
        get(&server, &format!("/v2/models/{path}/ready")).expect(200);
        assert_eq!(index(&server, ""), [is(A, "READY")]);
        assert_eq!(ask(&server, path).expect(200).json(), answer(A, 2.0));
        // A repeated load or unload succeeds too.
        change(&server, path, "load", "{}").expect(200);
        let body = json!({"parameters": {"unload_dependents": false}}).to_string();
        assert_eq!(change(&server, path, "unload", &body).expect(200).body, b"");
        assert_eq!(server.reserved(), 0);
    }
}

#[test]
fn an_inference_or_metadata_request_loads_the_model_on_demand() {
    let (_folder, server) = started(&[]);
    assert_eq!(ask(&server, A).expect(200).json(), answer(A, 2.0));
    change(&server, A, "unload", "").expect(200);
    assert_eq!(get(&server, &format!("/v2/models/{A}")).expect(200).json()["name"], A);
    assert_eq!(index(&server, ""), [is(A, "READY")]);
    ask(&server, "team/none.tar.gz").expect(404);
    get(&server, "/v2/models/team/none.tar.gz").expect(404);
}

#[test]
fn loading_a_loaded_model_loads_the_current_version_from_the_store() {
    let (folder, server) = started(&["--revalidate", "1h"]);
    change(&server, A, "load", "").expect(200);
    put(&folder, A, &archive_of(&scale(3.0)));
    // No request has checked the store since.
    assert_eq!(ask(&server, A).expect(200).json(), answer(A, 2.0));
    change(&server, A, "load", "").expect(200);
    assert_eq!(ask(&server, A).expect(200).json(), answer(A, 3.0));
    put(&folder, A, b"no model");
    // A repeated load fails again.
    for _ in 0..2 {
        let error = change(&server, A, "load", "").expect(400).error();
        assert!(error.contains("is not a model"), "{error}");
    }
    assert_eq!(ask(&server, A).expect(200).json(), answer(A, 3.0));
    fs::remove_file(folder.path().join(A)).unwrap();
    change(&server, A, "load", "").expect(404);
    assert_eq!(index(&server, r#"{"ready":true}"#), []);
}

#[test]
fn the_index_gives_the_reason_of_an_unavailable_model() {
    let (folder, server) = started(&["--negative-ttl", "1h"]);
    put(&folder, "broken.tar.gz", b"no model");
    ask(&server, "broken.tar.gz").expect(503);
    ask(&server, A).expect(200);
    assert_eq!(index(&server, ""), [is("broken.tar.gz", "UNAVAILABLE"), is(A, "READY")]);
    assert_eq!(index(&server, r#"{"ready":true}"#), [is(A, "READY")]);
    let reply = server.send(&Request::post("/v2/repository/index")).expect(200).json();
    let reason = reply[0]["reason"].as_str().unwrap();
    assert!(reason.contains("is not a model"), "{reason}");
    assert_eq!(reply[1]["reason"], "");
    // An explicit load ignores the remembered failure.
    put(&folder, "broken.tar.gz", &archive_of(&scale(5.0)));
    ask(&server, "broken.tar.gz").expect(503);
    change(&server, "broken.tar.gz", "load", "").expect(200);
    assert_eq!(
        ask(&server, "broken.tar.gz").expect(200).json(),
        answer("broken.tar.gz", 5.0)
    );
}

#[test]
fn null_members_count_as_absent() {
    let (_folder, server) = started(&[]);
    for body in [
        r#"{"parameters": null}"#,
        r#"{"parameters": {"config": null}}"#,
        "\u{feff}{}",
    ] {
        change(&server, A, "load", body).expect(200);
        change(&server, A, "unload", body).expect(200);
    }
    change(&server, A, "load", r#"{"parameters": {"config": "{}"}}"#).expect(400);
    change(&server, A, "load", "[null]").expect(400);
    ask(&server, A).expect(200);
    assert_eq!(index(&server, r#"{"ready": null}"#), [is(A, "READY")]);
}
