//! Faults of the store and of the network: each gives a clear error, and leaves nothing behind.

use std::time::Duration;

use super::{Store, answer, ask, assert_scales, noise, question, request};
use crate::harness::{Builder, Fault, Rule, S3, Server, eventually, scale};
use crate::support::archive::{Form, archive_as};

/// Size of an archive that arrives in several pieces, in bytes.
const LARGE: usize = 600_000;

/// An archive of about [`LARGE`] bytes with a model that multiplies by `factor`.
fn large(factor: f32) -> Vec<u8> {
    let (model, filler) = (scale(factor), noise(LARGE, factor.to_bits().into()));
    archive_as(Form::Gzip, &[("filler.bin", &filler), ("model.onnx", &model)])
}

/// A server that forgets failures quickly.
fn impatient(store: &Store, retries: &str) -> Server {
    store
        .server()
        .arguments(["--negative-ttl", "50ms", "--store-retries", retries])
        .start()
}

#[track_caller]
fn refusal(server: &Server, store: &Store, name: &str) -> String {
    let message = ask(server, name).expect(503).message();
    assert!(message.contains(&store.url_of(name)), "{message}");
    message
}

#[track_caller]
fn wait_until_it_scales(server: &Server, name: &str, factor: f32) {
    eventually("the model is served", || {
        let response = ask(server, name);
        if response.status == 200 {
            assert_eq!(response.json(), answer(factor), "{name}");
            return true;
        }
        response.expect(503);
        false
    });
}

#[test]
fn temporary_errors_are_hidden_by_retries() {
    for fault in [Fault::INTERNAL, Fault::SLOW_DOWN] {
        let store = Store::new();
        let size = store.put_scale("a.tar.gz", 2.0);
        let server = store.server().arguments(["--store-retries", "3"]).start();
        store.proxy.rule(Rule::new(fault).times(2));
        assert_scales(&server, "a.tar.gz", 2.0);
        assert_eq!(store.sent("a.tar.gz"), size);
    }
}

#[test]
fn permanent_errors_are_a_503_with_the_reason_and_the_next_load_succeeds() {
    for (fault, part) in [
        (Fault::INTERNAL, "500"),
        (Fault::SLOW_DOWN, "503"),
        (Fault::DENIED, "denied"),
        (Fault::Error(403, "InvalidAccessKeyId"), "403 invalidaccesskeyid"),
        (Fault::Error(403, "SignatureDoesNotMatch"), "403 signaturedoesnotmatch"),
        (Fault::Cut(0), "a.tar.gz"),
        (Fault::Cut(LARGE / 2), "a.tar.gz"),
    ] {
        let store = Store::new();
        store.put("a.tar.gz", &large(2.0));
        let server = impatient(&store, "1");
        store.proxy.rule(Rule::new(fault).method("GET"));
        let message = refusal(&server, &store, "a.tar.gz").to_lowercase();
        assert!(message.contains(part), "{fault:?}: {message}");
        store.proxy.no_rules();
        wait_until_it_scales(&server, "a.tar.gz", 2.0);
        server.ping().expect(200);
    }
}

#[test]
fn errors_that_a_retry_cannot_fix_are_not_retried() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    let server = store.server().arguments(["--store-retries", "5"]).start();
    store.proxy.rule(Rule::new(Fault::DENIED));
    refusal(&server, &store, "a.tar.gz");
    // At most one of each kind of request.
    assert!(store.proxy.requests().len() <= 2, "{:#?}", store.proxy.requests());
}

#[test]
fn a_missing_bucket_is_named() {
    let store = Store::new();
    let server = store.server_of("s3://no-such-bucket/models/").start();
    server.ping().expect(200);
    let response = ask(&server, "a.tar.gz");
    // S3 responds with 404 to both.
    assert!([404, 503].contains(&response.status), "{}", response.text());
    assert!(response.message().contains("no-such-bucket"), "{}", response.message());
}

#[test]
fn missing_credentials_are_named() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    let variables = S3::environment(store.proxy.address())
        .into_iter()
        .filter(|(name, _)| !name.contains("KEY"));
    let server = Builder::store(&store.url(), variables)
        .arguments(["--store-retries", "0"])
        .start();
    let message = refusal(&server, &store, "a.tar.gz");
    assert!(message.to_lowercase().contains("credentials"), "{message}");
    assert_eq!(store.proxy.requests(), []);
}

#[test]
fn the_server_waits_for_a_slow_store() {
    let store = Store::new();
    store.put("a.tar.gz", &large(2.0));
    let server = store.server().arguments(["--store-timeout", "5s"]).start();
    store
        .proxy
        .rule(Rule::new(Fault::Delay(Duration::from_millis(100))).times(2));
    let trickle = Fault::Trickle(LARGE / 20, Duration::from_millis(20));
    store.proxy.rule(Rule::new(trickle));
    assert_scales(&server, "a.tar.gz", 2.0);
}

#[test]
fn a_request_to_a_silent_store_times_out_and_a_later_one_succeeds() {
    for fault in [Fault::Hold, Fault::HoldAfter(LARGE / 2)] {
        let store = Store::new();
        store.put("a.tar.gz", &large(2.0));
        let server = store
            .server()
            .arguments([
                "--store-timeout",
                "200ms",
                "--store-retries",
                "1",
                "--negative-ttl",
                "50ms",
            ])
            .start();
        store.proxy.rule(Rule::new(fault).method("GET").on("a.tar.gz"));
        refusal(&server, &store, "a.tar.gz");
        store.proxy.release();
        wait_until_it_scales(&server, "a.tar.gz", 2.0);
    }
}

#[test]
fn an_interrupted_download_resumes_at_its_position() {
    let store = Store::new();
    let archive = large(2.0);
    store.put("a.tar.gz", &archive);
    let server = store.server().arguments(["--store-retries", "3"]).start();
    store
        .proxy
        .rule(Rule::new(Fault::Cut(LARGE / 2)).method("GET").on("a.tar.gz").times(1));
    assert_scales(&server, "a.tar.gz", 2.0);
    let sent = store.sent("a.tar.gz");
    assert!(
        sent < archive.len() as u64 + LARGE as u64 / 4,
        "{sent} bytes: {:#?}",
        store.proxy.requests()
    );
    let requests = store.proxy.requests_of("a.tar.gz");
    let resumed = requests.iter().rfind(|seen| seen.method == "GET").unwrap();
    assert!(resumed.range.is_some(), "{requests:#?}");
    // The rest must come from the same object, which may have been replaced since.
    assert!(resumed.if_match.is_some(), "{requests:#?}");
}

#[test]
fn a_download_never_mixes_two_versions_of_an_object() {
    let store = Store::new();
    store.put("a.tar.gz", &large(2.0));
    let server = impatient(&store, "3");
    store
        .proxy
        .rule(Rule::new(Fault::Cut(LARGE / 2)).method("GET").on("a.tar.gz").times(1));
    store.proxy.rule(Rule::new(Fault::Hold).method("GET").on("a.tar.gz"));
    let mut asking = server.connect();
    asking.write(&request("a.tar.gz", &question()).to_bytes()).unwrap();
    store.proxy.wait_for_held(1);
    store.put("a.tar.gz", &large(3.0));
    store.proxy.release();
    let first = asking.read_response("POST").unwrap();
    if first.status == 200 {
        assert_eq!(first.json(), answer(3.0));
    } else {
        first.expect(503);
    }
    wait_until_it_scales(&server, "a.tar.gz", 3.0);
}

#[test]
fn refused_connections_are_503_with_the_reason_until_the_store_is_back() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    store.put_scale("b.tar.gz", 3.0);
    let server = impatient(&store, "1");
    assert_scales(&server, "a.tar.gz", 2.0);
    store.proxy.refuse_connections();
    let message = refusal(&server, &store, "b.tar.gz").to_lowercase();
    assert!(message.contains("connect"), "{message}");
    // Loaded models do not need the store.
    assert_scales(&server, "a.tar.gz", 2.0);
    server.ping().expect(200);
    store.proxy.accept_connections();
    wait_until_it_scales(&server, "b.tar.gz", 3.0);
}

#[test]
fn a_server_starts_without_a_reachable_store() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    store.proxy.refuse_connections();
    let server = impatient(&store, "0");
    server.ping().expect(200);
    refusal(&server, &store, "a.tar.gz");
    store.proxy.accept_connections();
    wait_until_it_scales(&server, "a.tar.gz", 2.0);
}

#[test]
fn the_log_gives_the_reason_of_a_failed_load() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    let server = impatient(&store, "0");
    store.proxy.rule(Rule::new(Fault::DENIED));
    refusal(&server, &store, "a.tar.gz");
    server.wait_for_log(&store.url_of("a.tar.gz"));
    // The log contains no part of the credentials.
    assert_eq!(server.count_in_log("secret"), 0);
}
