//! Objects that are not models: each gives a clear error, and is not downloaded for every request.

use serde_json::json;

use super::{Store, ask, assert_scales, question, request};
use crate::harness::{Fault, Rule, eventually, fixture, in_parallel, scale};
use crate::support::archive::{Form, archive_as, archive_of};

/// Name and content of each object, and a part of its error message.
fn broken() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = archive_of(&scale(2.0));
    let mut checksum = good.clone();
    let at = checksum.len() - 8;
    checksum[at] ^= 1;
    let mut inside = good.clone();
    let middle = inside.len() / 2;
    inside[middle] ^= 0x55;
    let truncated = std::fs::read(fixture("bad/truncated").join("model.onnx")).unwrap();
    let mut zstd = archive_as(Form::Zstd, &[("model.onnx", &scale(2.0))]);
    zstd.truncate(zstd.len() / 2);
    vec![
        ("empty", Vec::new(), ""),
        ("cut", good[..good.len() / 2].to_vec(), "damaged"),
        ("checksum", checksum, "damaged"),
        ("inside", inside, "archive"),
        ("zstd", zstd, "damaged"),
        ("no archive", b"<html>not found</html>".repeat(50), ""),
        (
            "no model",
            archive_as(Form::Gzip, &[("readme.txt", b"nothing")]),
            "no model",
        ),
        ("bad model", archive_of(&truncated), "is not a model"),
    ]
}

#[test]
fn broken_archives_are_a_503_on_demand_and_a_400_for_a_load_request() {
    let store = Store::new();
    let server = store.server().arguments(["--negative-ttl", "1h"]).start();
    for (what, content, part) in broken() {
        let name = format!("{what}.tar.gz");
        store.put(&name, &content);
        let response = ask(&server, &name);
        assert_eq!(response.status, 503, "{what}: {}", response.text());
        assert!(response.message().contains(part), "{what}: {}", response.message());
        let loaded = server.load(&name, &store.url_of(&name));
        assert_eq!(loaded.status, 400, "{what}: {}", loaded.text());
        assert!(loaded.message().contains(part), "{what}: {}", loaded.message());
        server.describe(&name).expect(404);
    }
    assert_eq!(server.list(""), json!({"models": []}));
    assert_eq!(server.reserved(), 0);
    store.put_scale("good.tar.gz", 2.0);
    assert_scales(&server, "good.tar.gz", 2.0);
}

#[test]
fn a_broken_archive_is_fetched_once_for_many_requests() {
    let store = Store::new();
    let (_, content, _) = broken().swap_remove(1);
    store.put("cut.tar.gz", &content);
    let server = store.server().arguments(["--negative-ttl", "1h"]).start();
    store.proxy.rule(Rule::new(Fault::Hold).on("cut.tar.gz"));
    let mut asking: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for connection in &mut asking {
        connection
            .write(&request("cut.tar.gz", &question()).to_bytes())
            .unwrap();
    }
    store.proxy.wait_for_held(1);
    store.proxy.release();
    let messages: Vec<String> = asking
        .iter_mut()
        .map(|connection| connection.read_response("POST").unwrap().expect(503).message())
        .collect();
    // Later requests get the same error.
    let late = in_parallel(8, &[(); 200], |()| ask(&server, "cut.tar.gz").expect(503).message());
    assert!(
        messages.iter().chain(&late).all(|message| message.contains("damaged")),
        "{messages:?} {late:?}"
    );
    let sent = store.sent("cut.tar.gz");
    assert_eq!(sent, content.len() as u64, "{:#?}", store.proxy.requests());
}

#[test]
fn a_failure_is_remembered_for_the_negative_ttl() {
    let store = Store::new();
    let (_, content, _) = broken().swap_remove(1);
    store.put("a.tar.gz", &content);
    let server = store.server().arguments(["--negative-ttl", "50ms"]).start();
    ask(&server, "a.tar.gz").expect(503);
    store.put_scale("a.tar.gz", 2.0);
    eventually("the repaired model is served", || {
        ask(&server, "a.tar.gz").status == 200
    });
    assert_scales(&server, "a.tar.gz", 2.0);
}

#[test]
fn a_load_request_ignores_a_remembered_failure() {
    // An operator who has repaired the archive does not have to wait.
    let store = Store::new();
    let (_, content, _) = broken().swap_remove(1);
    store.put("a.tar.gz", &content);
    let server = store.server().arguments(["--negative-ttl", "1h"]).start();
    ask(&server, "a.tar.gz").expect(503);
    store.put_scale("a.tar.gz", 2.0);
    server.load("a.tar.gz", &store.url_of("a.tar.gz")).expect(200);
    assert_scales(&server, "a.tar.gz", 2.0);
}
