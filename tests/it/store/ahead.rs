//! The model API in standalone mode: load before the first request, list, unload.

use serde_json::json;

use super::{Store, ask, assert_scales, listed};
use crate::harness::{Fault, Models, Rule, eventually};

#[test]
fn a_load_request_names_a_model_by_its_url_in_the_store() {
    let store = Store::new();
    let size = store.put_scale("team/a.tar.gz", 2.0);
    let server = store.server().start();
    let url = store.url_of("team/a.tar.gz");
    let loaded = server.load("team/a.tar.gz", &url).expect(200);
    assert!(loaded.text().contains("team/a.tar.gz"), "{}", loaded.text());
    assert_eq!(store.sent("team/a.tar.gz"), size);
    let expected = json!({"modelName": "team/a.tar.gz", "modelUrl": url});
    assert_eq!(server.list(""), json!({"models": [expected]}));
    server.load("team/a.tar.gz", &url).expect(409);
    assert_scales(&server, "team/a.tar.gz", 2.0);
    server.assert_scales("team/a.tar.gz", 2.0);
    assert_eq!(store.sent("team/a.tar.gz"), size);
}

#[test]
fn a_model_loaded_on_demand_counts_as_loaded() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    let server = store.server().start();
    assert_scales(&server, "a.tar.gz", 2.0);
    server.load("a.tar.gz", &store.url_of("a.tar.gz")).expect(409);
}

#[test]
fn a_load_and_concurrent_requests_share_one_download() {
    let store = Store::new();
    let size = store.put_scale("a.tar.gz", 2.0);
    let server = store.server().start();
    store.proxy.rule(Rule::new(Fault::Hold).on("a.tar.gz"));
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&server, "a.tar.gz"))).collect();
        store.proxy.wait_for_held(1);
        let load = scope.spawn(|| server.load("a.tar.gz", &store.url_of("a.tar.gz")));
        store.proxy.release();
        for asking in asking {
            asking.join().unwrap().expect(200);
        }
        // Either may have been first.
        let status = load.join().unwrap().status;
        assert!([200, 409].contains(&status), "{status}");
    });
    assert_eq!(store.sent("a.tar.gz"), size);
}

#[test]
fn a_load_refuses_a_url_that_does_not_match_the_name() {
    let store = Store::new();
    store.put_scale("team/a.tar.gz", 2.0);
    store.bucket.put("elsewhere/a.tar.gz", b"");
    let local = Models::new();
    let local = local.place_scale("local", 2.0);
    let server = store.server().start();
    let bucket = store.bucket.url();
    for url in [
        "",
        "team/a.tar.gz",
        &local,
        "s3://other/models/team/a.tar.gz",
        &format!("{bucket}/elsewhere/a.tar.gz"),
        &format!("{bucket}/models/../elsewhere/a.tar.gz"),
        &format!("{bucket}/models/team/../team/a.tar.gz"),
        &format!("{bucket}/models/team/b.tar.gz"),
        &format!("{bucket}/models/"),
        &format!("{bucket}2/models/team/a.tar.gz"),
        "https://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
    ] {
        let refusal = server.load("team/a.tar.gz", url);
        assert_eq!(refusal.status, 400, "{url}: {}", refusal.text());
    }
    assert_eq!(store.proxy.requests(), []);
    assert_eq!(server.list(""), json!({"models": []}));
}

#[test]
fn a_load_request_names_a_missing_object() {
    let store = Store::new();
    let server = store.server().start();
    let url = store.url_of("gone.tar.gz");
    let refusal = server.load("gone.tar.gz", &url);
    // The artifact is bad, or there is none: either status makes the platform give up.
    assert!([400, 404].contains(&refusal.status), "{}", refusal.text());
    assert!(refusal.message().contains(&url), "{}", refusal.text());
}

#[test]
fn an_unloaded_model_loads_again_on_demand() {
    let store = Store::new();
    let size = store.put_scale("a.tar.gz", 2.0);
    let server = store.server().start();
    assert_scales(&server, "a.tar.gz", 2.0);
    server.unload("a.tar.gz").expect(200);
    assert_eq!(server.list(""), json!({"models": []}));
    assert_eq!(server.reserved(), 0);
    server.describe("a.tar.gz").expect(404);
    server.unload("a.tar.gz").expect(404);
    assert_scales(&server, "a.tar.gz", 2.0);
    assert_eq!(listed(&server), ["a.tar.gz"]);
    // The archive is still on disk.
    assert_eq!(store.sent("a.tar.gz"), size);
}

#[test]
fn idle_models_are_unloaded_and_load_again_on_demand() {
    let store = Store::new();
    let size = store.put_scale("a.tar.gz", 2.0);
    let server = store.server().arguments(["--idle-unload", "100ms"]).start();
    for _ in 0..3 {
        assert_scales(&server, "a.tar.gz", 2.0);
        eventually("the idle model is unloaded", || listed(&server).is_empty());
        eventually("its memory is free", || server.reserved() == 0);
    }
    assert_eq!(store.sent("a.tar.gz"), size);
}
