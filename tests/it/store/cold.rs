//! First requests: each finds its model, one at a time or hundreds at once.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Store, answer, ask, assert_scales, listed, noise, question, request};
use crate::harness::{Connection, Fault, Request, Rule, Server, eventually, in_parallel, scale};
use crate::support::archive::{Form, archive_as};

#[test]
fn a_hundred_models_load_from_a_bucket_at_their_first_requests() {
    const SEGMENTS: usize = 100;
    let store = Store::new();
    let indices: Vec<usize> = (0..SEGMENTS).collect();
    let name = |index: usize| format!("segments/s{index:03}.tar.gz");
    let sizes = in_parallel(4, &indices, |&index| store.put_scale(&name(index), index as f32 + 0.5));
    let server = store.server().start();
    server.ping().expect(200);
    assert_eq!(server.list(""), json!({"models": []}));

    in_parallel(8, &indices, |&index| {
        assert_scales(&server, &name(index), index as f32 + 0.5)
    });
    // Later requests do not need the store.
    in_parallel(8, &indices, |&index| {
        assert_scales(&server, &name(index), index as f32 + 0.5)
    });
    for index in indices {
        assert_eq!(store.sent(&name(index)), sizes[index], "{index}");
    }
    let list = server.list("");
    let models = list["models"].as_array().unwrap();
    assert_eq!(models.len(), SEGMENTS);
    for (index, model) in models.iter().enumerate() {
        let expected = json!({"modelName": name(index), "modelUrl": store.url_of(&name(index))});
        assert_eq!(*model, expected);
        assert_eq!(server.describe(&name(index)).expect(200).json(), expected);
    }
}

#[test]
fn the_path_of_an_invocation_names_a_model_like_the_header() {
    let store = Store::new();
    store.put_scale("team/a.tar.gz", 3.0);
    let server = store.server().start();
    server.assert_scales("team/a.tar.gz", 3.0);
    assert_scales(&server, "team/a.tar.gz", 3.0);
    // MM-7: the path decides, whatever a header names.
    store.put_scale("team/b.tar.gz", 5.0);
    let both = Server::invocation("team/b.tar.gz")
        .header("X-Amzn-SageMaker-Target-Model", "team/a.tar.gz")
        .json(&question());
    assert_eq!(server.send(&both).expect(200).json(), answer(5.0));
    assert_eq!(listed(&server), ["team/a.tar.gz", "team/b.tar.gz"]);
}

#[test]
fn an_invocation_without_a_model_explains_how_to_name_one() {
    let store = Store::new();
    let server = store.server().start();
    for request in [
        Request::post("/invocations").json(&question()),
        request("", &question()),
    ] {
        let message = server.send(&request).expect(400).message();
        assert!(message.contains("X-Amzn-SageMaker-Target-Model"), "{message}");
    }
    assert_eq!(store.proxy.requests(), []);
}

#[test]
fn two_hundred_concurrent_first_requests_share_one_download() {
    const CALLERS: usize = 200;
    let store = Store::new();
    let size = store.put_scale("cold.tar.gz", 7.0);
    let server = store.server().start();
    store.proxy.rule(Rule::new(Fault::Hold).on("cold.tar.gz"));
    let mut callers: Vec<Connection> = (0..CALLERS).map(|_| server.connect()).collect();
    for caller in &mut callers {
        caller.write(&request("cold.tar.gz", &question()).to_bytes()).unwrap();
    }
    store.proxy.wait_for_held(1);
    // When one is in flight, the others have progressed as far as they can.
    server.ping().expect(200);
    store.proxy.release();
    for caller in &mut callers {
        let response = caller.read_response("POST").unwrap();
        assert_eq!(response.expect(200).json(), answer(7.0));
    }
    assert_eq!(store.sent("cold.tar.gz"), size, "{:#?}", store.proxy.requests());
    server.wait_for_log("model loaded");
    assert_eq!(server.count_in_log("model loaded"), 1);
}

#[test]
fn cold_models_load_independently() {
    let store = Store::new();
    store.put_scale("held.tar.gz", 2.0);
    store.put_scale("free.tar.gz", 3.0);
    let server = store.server().start();
    store.proxy.rule(Rule::new(Fault::Hold).on("held.tar.gz"));
    let mut held = server.connect();
    held.write(&request("held.tar.gz", &question()).to_bytes()).unwrap();
    store.proxy.wait_for_held(1);
    assert_scales(&server, "free.tar.gz", 3.0);
    server.ping().expect(200);
    assert_eq!(listed(&server), ["free.tar.gz"]);
    store.proxy.release();
    assert_eq!(held.read_response("POST").unwrap().expect(200).json(), answer(2.0));
}

#[test]
fn a_client_that_hangs_up_does_not_end_a_shared_download() {
    let store = Store::new();
    let size = store.put_scale("cold.tar.gz", 7.0);
    let server = store.server().start();
    store.proxy.rule(Rule::new(Fault::HoldAfter(100)).on("cold.tar.gz"));
    let asking = || {
        let mut connection = server.connect();
        connection
            .write(&request("cold.tar.gz", &question()).to_bytes())
            .unwrap();
        connection
    };
    let first = asking();
    store.proxy.wait_for_held(1);
    let mut second = asking();
    drop(first);
    server.ping().expect(200);
    store.proxy.release();
    assert_eq!(second.read_response("POST").unwrap().expect(200).json(), answer(7.0));
    assert_eq!(store.sent("cold.tar.gz"), size);
}

#[test]
fn a_deadline_ends_the_wait_and_not_the_load() {
    let store = Store::new();
    let size = store.put_scale("slow.tar.gz", 7.0);
    let server = store.server().arguments(["--request-timeout", "1s"]).start();
    store.proxy.rule(Rule::new(Fault::HoldAfter(100)).on("slow.tar.gz"));
    ask(&server, "slow.tar.gz").expect(504);
    store.proxy.release();
    eventually("the load is over", || listed(&server) == ["slow.tar.gz"]);
    assert_scales(&server, "slow.tar.gz", 7.0);
    assert_eq!(store.sent("slow.tar.gz"), size);
}

#[test]
fn equal_contents_under_two_names_are_two_models() {
    let store = Store::new();
    let factors = BTreeMap::from([("a.tar.gz", 2.0), ("b.tar.gz", 2.0), ("c.tar.gz", 3.0)]);
    for (name, factor) in &factors {
        store.put_scale(name, *factor);
    }
    let server = store.server().start();
    for (name, factor) in &factors {
        assert_scales(&server, name, *factor);
    }
    assert_eq!(listed(&server), ["a.tar.gz", "b.tar.gz", "c.tar.gz"]);
    server.unload("a.tar.gz").expect(200);
    assert_eq!(listed(&server), ["b.tar.gz", "c.tar.gz"]);
    assert_scales(&server, "b.tar.gz", 2.0);
}

#[test]
fn a_large_object_is_downloaded_once_in_several_requests() {
    let store = Store::new();
    let filler = noise(1 << 20, 1).repeat(48);
    let archive = archive_as(Form::Plain, &[("filler.bin", &filler), ("model.onnx", &scale(2.0))]);
    store.put("large.tar", &archive);
    let server = store.server().start();
    assert_scales(&server, "large.tar", 2.0);
    assert_eq!(store.sent("large.tar"), archive.len() as u64);
}

/// The stack of a thread counts against the data limit of the process, so a thread could not start
/// while models fill the memory.
#[test]
fn a_first_request_needs_no_new_thread() {
    let store = Store::new();
    for name in ["a.tar.gz", "b.tar.gz"] {
        store.put_scale(name, 2.0);
    }
    let server = store.server().start();
    server.ping().expect(200);
    let process = server.process();
    let threads = process.threads();
    for name in ["a.tar.gz", "b.tar.gz"] {
        assert_scales(&server, name, 2.0);
    }
    assert_eq!(process.threads(), threads);
}
