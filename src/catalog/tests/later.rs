//! Models that are prepared while they serve.

use super::*;
use crate::engine::{LoadError, PoolError, SessionError};
use engine::no_room;

/// Whether the next request to `name` runs in a prepared model.
async fn is_prepared(server: &Server, name: &str) -> bool {
    server.get(name).await.unwrap().as_ref().is_prepared
}

async fn wait_until_prepared(server: &Server, name: &str) {
    let patience = Patience::new();
    while !is_prepared(server, name).await {
        patience.wait().await;
    }
}

async fn wait_for_bytes(server: &Server, bytes: u64) {
    let patience = Patience::new();
    while server.engine.counts().bytes != bytes {
        patience.wait().await;
    }
}

#[tokio::test]
async fn a_model_answers_before_it_is_prepared_and_requests_keep_the_model_that_they_have() {
    let server = Server::new(["a"]);
    let mut preparation = server.engine.hold_preparation(&path("a"));
    server.load("a").await.unwrap();
    preparation.begun().await;
    let early = server.get("a").await.unwrap();
    assert!(!early.as_ref().is_prepared);
    preparation.succeed();
    wait_until_prepared(&server, "a").await;
    assert!(!early.as_ref().is_prepared);
    assert_eq!(server.engine.counts().bytes, 200);
    assert!(std::ptr::eq(early.stats(), server.get("a").await.unwrap().stats()));
    drop(early);
    wait_for_bytes(&server, 100).await;
    assert_eq!(server.journal.lines(), ["+a"]);
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_preparation_delays_no_unload_and_loads_nothing_after_it() {
    let server = Server::new(["a"]);
    let mut preparation = server.engine.hold_preparation(&path("a"));
    server.load("a").await.unwrap();
    preparation.begun().await;
    server.unload("a").await.unwrap();
    server.assert_not_found("a").await;
    preparation.succeed();
    settle().await;
    assert_eq!(server.engine.counts().loaded, 1);
    server.assert_balanced();
}

#[tokio::test]
async fn a_prepared_model_is_not_put_in_the_place_of_a_later_load() {
    let server = Server::new(["a"]);
    let mut first = server.engine.hold_preparation(&path("a"));
    let mut second = server.engine.hold_preparation(&path("a"));
    server.load("a").await.unwrap();
    first.begun().await;
    server.unload("a").await.unwrap();
    server.load("a").await.unwrap();
    first.succeed();
    second.begun().await;
    assert!(!is_prepared(&server, "a").await);
    second.succeed();
    wait_until_prepared(&server, "a").await;
    wait_for_bytes(&server, 100).await;
    server.assert_balanced();
}

#[tokio::test]
async fn models_wait_for_their_turn_and_those_that_are_unloaded_meanwhile_are_not_prepared() {
    let server = Server::new(["a", "b", "c"]);
    let mut first = server.engine.hold_preparation(&path("a"));
    let mut second = server.engine.hold_preparation(&path("b"));
    let mut third = server.engine.hold_preparation(&path("c"));
    for name in ["a", "b", "c"] {
        server.load(name).await.unwrap();
    }
    first.begun().await;
    settle().await;
    assert!(!second.has_begun());
    server.unload("b").await.unwrap();
    first.succeed();
    third.begun().await;
    assert!(!second.has_begun());
    third.succeed();
    wait_until_prepared(&server, "c").await;
    wait_for_bytes(&server, 200).await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_ends_after_both_models_are_free() {
    let server = Server::new(["a"]);
    server.engine.hold_preparation(&path("a")).succeed();
    let early = {
        server.load("a").await.unwrap();
        server.get("a").await.unwrap()
    };
    wait_until_prepared(&server, "a").await;
    let mut unload = waiting(server.unload("a"));
    drop(early);
    (&mut unload).await.unwrap();
    assert_eq!(server.engine.counts().bytes, 0);
    settle().await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_preparation_without_room_is_tried_again() {
    let server = Server::new(["a"]);
    server
        .engine
        .hold_preparation(&path("a"))
        .fail(no_room(100, 50, 1000).into());
    let mut second = server.engine.hold_preparation(&path("a"));
    server.load("a").await.unwrap();
    second.begun().await;
    second.succeed();
    wait_until_prepared(&server, "a").await;
    wait_for_bytes(&server, 100).await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_whose_preparation_fails_serves_on_as_it_is() {
    let server = Server::new(["a"]);
    let rejected = LoadError::Session(SessionError::Rejected("no".to_owned()));
    for error in [rejected, LoadError::Pool(PoolError::Panicked)] {
        server.engine.hold_preparation(&path("a")).fail(error);
        let mut never = server.engine.hold_preparation(&path("a"));
        server.load("a").await.unwrap();
        settle().await;
        assert!(!is_prepared(&server, "a").await);
        assert!(!never.has_begun());
        server.assert_found("a").await;
        server.assert_balanced();
        server.unload("a").await.unwrap();
        server.engine.forget_preparations();
    }
}

#[tokio::test]
async fn a_model_that_is_restored_unprepared_is_prepared_too() {
    let server = Server::restarted([record("a")]).await;
    let mut preparation = server.engine.hold_preparation(&path("a"));
    assert!(!is_prepared(&server, "a").await);
    preparation.begun().await;
    preparation.succeed();
    wait_until_prepared(&server, "a").await;
    wait_for_bytes(&server, 100).await;
    assert_eq!(server.journal.lines(), [""; 0]);
    server.assert_balanced();
}
