//! Idle models, and models of which the store has a newer version.

use futures_util::future::join_all;

use super::*;
use crate::catalog::model_engine::LoadedModel;
use crate::catalog::tests::{Patience, waiting};
use crate::engine::{ContentHash, SessionError};

fn content(handle: &Handle<TestModel>) -> ContentHash {
    *handle.as_ref().content()
}

/// The content of the model under `name`, as a request finds it.
async fn served(server: &Server, name: &str) -> ContentHash {
    content(&server.get(name).await.unwrap())
}

fn version(text: &str) -> ContentHash {
    TestArtifact::of(text).content
}

/// A server with the model `a` loaded, and another version of it in the store.
async fn replaced() -> Server {
    let server = Server::new(["a"]);
    server.get("a").await.unwrap();
    server.put("a", "new", TestArtifact::of("new"));
    server
}

#[tokio::test]
async fn an_idle_model_is_unloaded_and_a_busy_one_is_not() {
    let options = DemandConfig {
        idle_unload: Some(Duration::ZERO),
        ..options()
    };
    let server = Server::start(["busy", "a", "b"], options);
    let busy = server.get("busy").await.unwrap();
    server.get("a").await.unwrap();
    let upkeep = task::spawn(Arc::clone(&server.catalog).unload_idle());
    let patience = Patience::new();
    while server.list() != ["busy"] {
        patience.wait().await;
    }
    // The next round comes after a whole one.
    server.get("b").await.unwrap();
    while server.list() != ["busy"] {
        patience.wait().await;
    }
    assert_eq!(server.evicted(UnloadReason::Idle), 2);
    drop(busy);
    while !server.list().is_empty() {
        patience.wait().await;
    }
    upkeep.abort();
    server.assert_balanced();
}

#[tokio::test]
async fn a_newer_version_takes_the_place_of_the_old_one_whose_requests_go_on() {
    let server = replaced().await;
    let old = server.get("a").await.unwrap();
    old.stats().hung_up();
    let mut check = waiting(server.catalog.load_newest("a"));
    let patience = Patience::new();
    while served(&server, "a").await != version("new") {
        patience.wait().await;
        assert!((&mut check).now_or_never().is_none(), "the old model has a request");
    }
    assert_eq!(content(&old), version("a"));
    assert_eq!(server.engine.counts().bytes, 200);
    drop(old);
    check.await.unwrap();
    assert_eq!(server.evicted(UnloadReason::Replaced), 1);
    assert_eq!(server.list(), ["a"]);
    let statistics = server.catalog.listed("a").await.unwrap().stats;
    assert_eq!(statistics.failures(), 1, "the statistics are those of the name");
    server.assert_balanced();
}

#[tokio::test]
async fn a_request_checks_the_store_when_the_last_check_is_long_ago() {
    let options = DemandConfig {
        revalidate: Duration::ZERO,
        ..options()
    };
    let server = Server::start(["a"], options);
    server.get("a").await.unwrap();
    server.put("a", "new", TestArtifact::of("new"));
    let patience = Patience::new();
    while served(&server, "a").await != version("new") {
        patience.wait().await;
    }
}

#[tokio::test]
async fn an_unchanged_model_stays_as_it_is() {
    let server = Server::new(["a"]);
    server.get("a").await.unwrap();
    server.catalog.load_newest("a").await.unwrap();
    assert_eq!(server.engine.counts().begun, 1);
    assert_eq!(server.evicted(UnloadReason::Replaced), 0);
    server.assert_balanced();
}

#[tokio::test]
async fn the_newest_version_of_a_model_that_is_not_loaded_is_loaded() {
    let server = replaced().await;
    server.catalog.unload("a").await.unwrap();
    // The copy on disk is fresh, so a request would get the old version.
    server.catalog.load_newest("a").await.unwrap();
    assert_eq!(served(&server, "a").await, version("new"));
    server.assert_balanced();
}

#[tokio::test]
async fn a_version_that_cannot_be_loaded_leaves_the_old_one_in_use() {
    let server = replaced().await;
    server
        .engine
        .fail_load(&path("new"), SessionError::Rejected("no".to_owned()).into());
    server.catalog.load_newest("a").await.unwrap_err();
    assert_eq!(served(&server, "a").await, version("a"));
    assert_eq!(server.evicted(UnloadReason::Replaced), 0);
    // It is tried again when someone asks for it.
    server.catalog.load_newest("a").await.unwrap();
    assert_eq!(served(&server, "a").await, version("new"));
    server.assert_balanced();
}

#[tokio::test]
async fn a_check_does_not_try_a_version_again_that_could_not_be_loaded() {
    let server = replaced().await;
    let (demand, entry) = (
        Arc::clone(server.catalog.demand.as_ref().unwrap()),
        Arc::clone(&server.get("a").await.unwrap().entry),
    );
    server
        .engine
        .fail_load(&path("new"), SessionError::Rejected("no".to_owned()).into());
    server.catalog.refresh(&demand, "a", &entry).await.unwrap_err();
    server.catalog.refresh(&demand, "a", &entry).await.unwrap();
    assert_eq!(server.engine.counts().begun, 2);
    server.put("a", "newest", TestArtifact::of("newest"));
    server.catalog.refresh(&demand, "a", &entry).await.unwrap();
    assert_eq!(served(&server, "a").await, version("newest"));
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_that_the_store_has_lost_is_unloaded() {
    let server = Server::new(["a"]);
    server.get("a").await.unwrap();
    fs::remove_file(server.store.path().join("a")).unwrap();
    server.catalog.load_newest("a").await.unwrap_err();
    assert_eq!(server.list(), [""; 0]);
    assert_eq!(server.evicted(UnloadReason::Gone), 1);
    server.assert_balanced();
}

#[tokio::test]
async fn the_old_version_is_unloaded_first_when_both_do_not_fit() {
    let server = replaced().await;
    server.engine.set_limit(150);
    server.catalog.load_newest("a").await.unwrap();
    assert_eq!(served(&server, "a").await, version("new"));
    assert_eq!(server.evicted(UnloadReason::Replaced), 1);
    server.assert_balanced();
}

#[tokio::test]
async fn two_checks_of_a_model_replace_it_once() {
    let server = replaced().await;
    let call = server.engine.hold_load(&path("new"));
    // Both have found the old model in memory.
    let checks = ["a", "a"].map(|name| waiting(server.catalog.load_newest(name)));
    call.succeed();
    for checked in join_all(checks).await {
        checked.unwrap();
    }
    assert_eq!(server.engine.counts().loaded, 2);
    assert_eq!(server.evicted(UnloadReason::Replaced), 1);
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_during_a_replacement_wins() {
    let server = replaced().await;
    let mut call = server.engine.hold_load(&path("new"));
    let mut check = waiting(server.catalog.load_newest("a"));
    let patience = Patience::new();
    while !call.has_begun() {
        patience.wait().await;
        assert!((&mut check).now_or_never().is_none());
    }
    let unload = waiting(server.catalog.unload("a"));
    call.succeed();
    check.await.unwrap();
    assert_eq!(unload.await.unwrap(), 100);
    assert_eq!(server.list(), [""; 0]);
    server.assert_balanced();
}
