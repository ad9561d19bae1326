//! Model names: only keys below the store's prefix.

use super::{Store, ask, assert_scales, question, request};
use crate::harness::{Request, eventually, scale};
use crate::support::archive::archive_of;

#[test]
fn names_that_leave_the_prefix_are_refused_without_a_request_to_the_store() {
    let store = Store::new();
    let archive = archive_of(&scale(2.0));
    for key in ["secret.tar.gz", "models2/secret.tar.gz", "modelssecret.tar.gz"] {
        store.bucket.put(key, &archive);
    }
    let server = store.server().start();
    for name in [
        "../secret.tar.gz",
        "../models2/secret.tar.gz",
        "team/../../secret.tar.gz",
        "team/../a.tar.gz",
        "./a.tar.gz",
        "team/./a.tar.gz",
        "..",
        ".",
        "/secret.tar.gz",
        "/",
        "team//a.tar.gz",
        "s3://elsewhere/secret.tar.gz",
    ] {
        let message = ask(&server, name).expect(400).message();
        assert!(message.contains("name"), "{name}: {message}");
        // The same name in a path, with encoded slashes. A path with two dots may not be a model's
        // path at all.
        let refusal = server.invoke(name, &question());
        assert!([400, 404].contains(&refusal.status), "{name}: {}", refusal.text());
    }
    // A header can carry this byte only at its ends, where it is trimmed.
    server.invoke("nul\0byte", &question()).expect(400);
    server.invoke("new\nline", &question()).expect(400);
    assert_eq!(store.proxy.requests(), []);
}

#[test]
fn keys_with_special_characters_are_found() {
    let store = Store::new();
    let names = [
        "a.tar.gz",
        "deep/er/and/deeper/a.tar.gz",
        "with blank.tar.gz",
        "100%25.tar.gz",
        "a+b=c&d.tar.gz",
        "dots..in.tar.gz",
        "..leading.tar.gz",
        "q?x#y.tar.gz",
        "no-extension",
    ];
    for (index, name) in names.iter().enumerate() {
        store.put_scale(name, index as f32 + 2.0);
    }
    let server = store.server().start();
    for (index, name) in names.iter().enumerate() {
        assert_scales(&server, name, index as f32 + 2.0);
        server.assert_scales(name, index as f32 + 2.0);
    }
    // Only in a path: headers are ASCII.
    store.put_scale("größe/世界.tar.gz", 50.0);
    server.assert_scales("größe/世界.tar.gz", 50.0);
}

#[test]
fn a_missing_object_is_a_404_until_it_exists() {
    let store = Store::new();
    let server = store.server().arguments(["--negative-ttl", "50ms"]).start();
    let message = ask(&server, "team/a.tar.gz").expect(404).message();
    assert!(message.contains(&store.url_of("team/a.tar.gz")), "{message}");
    server.invoke("team/a.tar.gz", &question()).expect(404);
    server.describe("team/a.tar.gz").expect(404);
    server.unload("team/a.tar.gz").expect(404);
    store.put_scale("team/a.tar.gz", 2.0);
    // A part of a key is not a key.
    ask(&server, "team/a.tar").expect(404);
    ask(&server, "a.tar.gz").expect(404);
    eventually("the new object is found", || {
        ask(&server, "team/a.tar.gz").status == 200
    });
}

#[test]
fn a_store_without_a_prefix_is_the_whole_bucket() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    for url in [store.bucket.url(), format!("{}/", store.bucket.url())] {
        let server = store.server_of(&url).start();
        assert_scales(&server, "models/a.tar.gz", 2.0);
        let url = format!("{}/models/a.tar.gz", store.bucket.url());
        let description = server.describe("models/a.tar.gz").expect(200).json();
        assert_eq!(description["modelUrl"], url.as_str());
    }
}

#[test]
fn the_prefix_of_a_store_ends_at_a_slash() {
    // Like SageMaker's ModelDataUrl, which may be written with or without a slash at the end.
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    store.bucket.put("models2/a.tar.gz", b"another");
    let url = format!("{}/models", store.bucket.url());
    let server = store.server_of(&url).start();
    assert_scales(&server, "a.tar.gz", 2.0);
    ask(&server, "2/a.tar.gz").expect(404);
}

#[test]
fn a_load_sends_only_the_expected_requests_to_the_store() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    let server = store.server().start();
    for path in ["/ping", "/models", "/metrics", "/execution-parameters"] {
        server.send(&Request::get(path));
    }
    server
        .send(&request("a.tar.gz", &question()).header("Content-Encoding", "br"))
        .expect(415);
    assert_eq!(store.proxy.requests(), []);
}
