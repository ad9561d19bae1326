//! Objects that are replaced or deleted: the server notices after `--revalidate`, and never mixes
//! two versions.

use std::thread;

use serde_json::Value;

use super::{Store, answer, ask, assert_scales, listed};
use crate::harness::{Fault, Rule, Stop, eventually};

#[test]
fn every_answer_during_a_replacement_is_from_the_old_or_the_new_model() {
    const ROUNDS: usize = 5;
    let store = Store::new();
    store.put_scale("a.tar.gz", 1.0);
    let server = store.server().arguments(["--revalidate", "20ms"]).start();
    assert_scales(&server, "a.tar.gz", 1.0);
    for round in 1..=ROUNDS {
        let (old, new) = (answer(round as f32), answer(round as f32 + 1.0));
        let stop = Stop::default();
        thread::scope(|scope| {
            let on_drop = stop.on_drop();
            let asking: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen: Vec<Value> = Vec::new();
                        while !stop.raised() {
                            seen.push(ask(&server, "a.tar.gz").expect(200).json());
                        }
                        seen
                    })
                })
                .collect();
            store.put_scale("a.tar.gz", round as f32 + 1.0);
            eventually("the new model answers", || {
                ask(&server, "a.tar.gz").expect(200).json() == new
            });
            drop(on_drop);
            for seen in asking.into_iter().flat_map(|asking| asking.join().unwrap()) {
                assert!(seen == old || seen == new, "round {round}: {seen}");
            }
        });
        // The server keeps the new model.
        for _ in 0..10 {
            assert_scales(&server, "a.tar.gz", round as f32 + 1.0);
        }
        assert_eq!(listed(&server), ["a.tar.gz"]);
    }
}

#[test]
fn the_store_is_not_asked_again_before_revalidate() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 1.0);
    let server = store.server().arguments(["--revalidate", "1h"]).start();
    assert_scales(&server, "a.tar.gz", 1.0);
    let requests = store.proxy.requests();
    store.put_scale("a.tar.gz", 2.0);
    for _ in 0..10 {
        assert_scales(&server, "a.tar.gz", 1.0);
    }
    // The server does not ask either when it reads the archive again.
    server.unload("a.tar.gz").expect(200);
    assert_scales(&server, "a.tar.gz", 1.0);
    assert_eq!(store.proxy.requests(), requests);
}

#[test]
fn an_unchanged_object_is_checked_but_not_downloaded_again() {
    let store = Store::new();
    let size = store.put_scale("a.tar.gz", 1.0);
    let server = store.server().arguments(["--revalidate", "1ms"]).start();
    assert_scales(&server, "a.tar.gz", 1.0);
    eventually("the store is asked whether it has changed", || {
        assert_scales(&server, "a.tar.gz", 1.0);
        let requests = store.proxy.requests_of("a.tar.gz");
        requests.iter().filter(|seen| seen.status == Some(304)).count() >= 3
    });
    assert_eq!(store.sent("a.tar.gz"), size);
    server.wait_for_log("model loaded");
    assert_eq!(server.count_in_log("model loaded"), 1);
}

#[test]
fn an_object_rewritten_with_equal_content_stays_loaded() {
    // A pipeline may upload everything again; equal contents need no load.
    let store = Store::new();
    let size = store.put_scale("a.tar.gz", 1.0);
    let server = store.server().arguments(["--revalidate", "1ms"]).start();
    for _ in 0..5 {
        assert_scales(&server, "a.tar.gz", 1.0);
        store.put_scale("a.tar.gz", 1.0);
    }
    assert_eq!(store.sent("a.tar.gz"), size);
}

#[test]
fn a_deleted_object_becomes_a_404_until_it_is_written_again() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 1.0);
    let server = store
        .server()
        .arguments(["--revalidate", "20ms", "--negative-ttl", "20ms"])
        .start();
    assert_scales(&server, "a.tar.gz", 1.0);
    store.delete("a.tar.gz");
    eventually("the deletion is noticed", || {
        let response = ask(&server, "a.tar.gz");
        if response.status == 200 {
            assert_eq!(response.json(), answer(1.0));
            return false;
        }
        response.expect(404);
        true
    });
    eventually("the model is unloaded", || listed(&server).is_empty());
    store.put_scale("a.tar.gz", 2.0);
    eventually("the new object is found", || ask(&server, "a.tar.gz").status == 200);
    assert_scales(&server, "a.tar.gz", 2.0);
}

#[test]
fn loaded_models_stay_while_the_store_is_unreachable() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 1.0);
    let server = store
        .server()
        .arguments(["--revalidate", "1ms", "--store-retries", "0", "--negative-ttl", "1ms"])
        .start();
    assert_scales(&server, "a.tar.gz", 1.0);
    store.proxy.refuse_connections();
    for _ in 0..20 {
        assert_scales(&server, "a.tar.gz", 1.0);
    }
    store.proxy.accept_connections();
    for fault in [Fault::INTERNAL, Fault::DENIED] {
        store.proxy.rule(Rule::new(fault).times(5));
        for _ in 0..20 {
            assert_scales(&server, "a.tar.gz", 1.0);
        }
    }
    store.proxy.no_rules();
    store.put_scale("a.tar.gz", 2.0);
    eventually("the new model answers", || {
        ask(&server, "a.tar.gz").expect(200).json() == answer(2.0)
    });
}

#[test]
fn a_broken_replacement_leaves_the_old_model_loaded() {
    let store = Store::new();
    let size = store.put_scale("a.tar.gz", 1.0);
    let server = store
        .server()
        .arguments(["--revalidate", "1ms", "--negative-ttl", "1h"])
        .start();
    assert_scales(&server, "a.tar.gz", 1.0);
    let broken = b"no archive, and no model either";
    store.put("a.tar.gz", broken);
    let sent = size + broken.len() as u64;
    eventually("the new object is fetched", || {
        assert_scales(&server, "a.tar.gz", 1.0);
        store.sent("a.tar.gz") == sent
    });
    // Requests for the model fetch the broken object only once.
    for _ in 0..20 {
        assert_scales(&server, "a.tar.gz", 1.0);
    }
    assert_eq!(store.sent("a.tar.gz"), sent);
}
