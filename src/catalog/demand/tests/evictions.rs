//! Loads that evict other models.

use super::*;
use crate::catalog::tests::{Patience, settle, waiting};

/// Loads the models in this order of use, the least recent one first.
async fn load<const N: usize>(server: &Server, names: [&str; N]) {
    for (name, time) in names.into_iter().zip(0..) {
        set_used(&server.get(name).await.unwrap(), time);
    }
}

/// Loads a model that is not in the store.
async fn load_at_start(server: &Server) {
    let default = path("default");
    server.engine.put(&default, TestArtifact::of("default"));
    server
        .catalog
        .load_trusted("default", Path::new(&default))
        .await
        .unwrap();
}

fn is_no_room(error: &CatalogError) -> bool {
    let CatalogError::OnDemand { source, .. } = error else {
        return false;
    };
    matches!(&**source, CatalogError::Load { source, .. } if matches!(**source, LoadError::NoRoom(_)))
}

#[tokio::test]
async fn a_load_evicts_the_least_recently_used_model_and_tries_again() {
    let server = Server::new(["a", "b", "c"]);
    server.engine.set_limit(250);
    load(&server, ["b", "a"]).await;
    server.get("c").await.unwrap();
    assert_eq!(server.list(), ["a", "c"]);
    assert_eq!(server.evicted(UnloadReason::Memory), 1);
    assert_eq!(server.engine.counts().begun, 4, "c is tried twice");
    server.assert_balanced();
}

#[tokio::test]
async fn a_large_model_evicts_as_many_models_as_it_needs() {
    let server = Server::new(["a", "b", "c"]);
    let large = TestArtifact {
        bytes: 250,
        ..TestArtifact::of("large")
    };
    server.put("large", "large", large);
    server.engine.set_limit(350);
    load(&server, ["c", "a", "b"]).await;
    server.get("large").await.unwrap();
    assert_eq!(server.list(), ["b", "large"]);
    assert_eq!(server.evicted(UnloadReason::Memory), 2);
}

#[tokio::test]
async fn a_model_with_requests_is_not_evicted_while_another_one_has_none() {
    let server = Server::new(["a", "b", "c"]);
    server.engine.set_limit(250);
    load(&server, ["a", "b"]).await;
    let request = server.get("a").await.unwrap();
    set_used(&request, 0);
    server.get("c").await.unwrap();
    assert_eq!(server.list(), ["a", "c"]);
    drop(request);
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_closes_a_busy_model_at_last_and_waits_for_its_requests() {
    let server = Server::new(["a", "b"]);
    server.engine.set_limit(150);
    let busy = server.get("a").await.unwrap();
    let mut request = waiting(server.get("b"));
    let patience = Patience::new();
    while !busy.entry.users.is_closed() {
        patience.wait().await;
    }
    assert!(server.engine.counts().begun > 3, "it tries again before that");
    assert_eq!(server.list(), [""; 0]);
    assert!((&mut request).now_or_never().is_none());
    assert_eq!(server.engine.counts().unloaded, 0);
    drop(busy);
    request.await.unwrap();
    assert_eq!(server.list(), ["b"]);
    assert_eq!(server.evicted(UnloadReason::Memory), 1);
    server.assert_balanced();
}

#[tokio::test]
async fn a_request_that_waits_for_a_load_keeps_the_model_from_eviction() {
    let server = Server::new(["a", "b"]);
    server.engine.set_limit(150);
    let mut call = server.engine.hold_load(&path("a"));
    let first = waiting(server.get("a"));
    call.begun().await;
    call.succeed();
    let patience = Patience::new();
    while server.list().is_empty() {
        patience.wait().await;
    }
    // The first request has not continued since.
    let mut second = waiting(server.get("b"));
    while server.engine.counts().begun < 3 {
        patience.wait().await;
        assert!((&mut second).now_or_never().is_none());
    }
    let handle = first.await.unwrap();
    assert_eq!(server.engine.counts().unloaded, 0);
    drop(handle);
    second.await.unwrap();
    assert_eq!(server.list(), ["b"]);
    server.assert_balanced();
}

#[tokio::test]
async fn loads_that_lack_the_same_memory_evict_once() {
    let server = Server::new(["a", "b", "rest"]);
    let large = TestArtifact {
        bytes: 200,
        ..TestArtifact::of("large")
    };
    server.put("large", "large", large);
    server.engine.set_limit(300);
    load(&server, ["large", "rest"]).await;
    let mut calls = ["a", "b"].map(|name| server.engine.hold_load(&path(name)));
    let requests = ["a", "b"].map(|name| waiting(server.get(name)));
    for call in &mut calls {
        call.begun().await;
    }
    // The first eviction goes on until both loads have been refused.
    let eviction = server.engine.hold_unload();
    for call in calls {
        call.succeed();
    }
    settle().await;
    eviction.succeed();
    for request in requests {
        request.await.unwrap();
    }
    assert_eq!(server.list(), ["a", "b", "rest"]);
    assert_eq!(server.evicted(UnloadReason::Memory), 1);
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_waits_for_memory_that_another_load_may_leave() {
    let server = Server::new(["a", "b"]);
    load_at_start(&server).await;
    server.engine.set_limit(150);
    let mut other_call = server.engine.hold_load(&path("a"));
    let other = waiting(server.get("a"));
    other_call.begun().await;
    let request = waiting(server.get("b"));
    let patience = Patience::new();
    while server.engine.counts().begun < 4 {
        patience.wait().await;
    }
    server.engine.set_limit(300);
    other_call.succeed();
    request.await.unwrap();
    other.await.unwrap();
    assert_eq!(server.list(), ["a", "b", "default"]);
    server.assert_balanced();
}

#[tokio::test]
async fn nothing_is_evicted_for_a_model_that_never_fits() {
    let server = Server::new(["a"]);
    let large = TestArtifact {
        bytes: 300,
        ..TestArtifact::of("large")
    };
    server.put("large", "large", large);
    server.engine.set_limit(250);
    load(&server, ["a"]).await;
    assert!(is_no_room(&server.get("large").await.unwrap_err()));
    assert_eq!(server.list(), ["a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn nothing_is_evicted_when_the_operator_forbids_it() {
    let options = DemandConfig {
        evict: false,
        ..options()
    };
    let server = Server::start(["a", "b"], options);
    server.engine.set_limit(150);
    load(&server, ["a"]).await;
    assert!(is_no_room(&server.get("b").await.unwrap_err()));
    assert_eq!(server.list(), ["a"]);
    server.catalog.unload("a").await.unwrap();
    server.get("b").await.unwrap();
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_with_stuck_runs_is_not_evicted() {
    let server = Server::new(["a", "b"]);
    server.engine.set_limit(150);
    load(&server, ["a"]).await;
    let standing = server.get("a").await.unwrap().entry.standing().unwrap();
    standing.set(1, 1);
    assert!(is_no_room(&server.get("b").await.unwrap_err()));
    assert_eq!(server.list(), ["a"]);
    standing.set(0, 0);
    server.get("b").await.unwrap();
    assert_eq!(server.list(), ["b"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_of_the_start_is_never_evicted() {
    let server = Server::new(["b"]);
    server.engine.set_limit(150);
    load_at_start(&server).await;
    assert!(is_no_room(&server.get("b").await.unwrap_err()));
    assert_eq!(server.list(), ["default"]);
    server.assert_balanced();
}

#[tokio::test]
async fn an_eviction_leaves_a_model_alone_that_was_loaded_under_the_name_since() {
    let server = Server::new(["a"]);
    let old = Arc::clone(&server.get("a").await.unwrap().entry);
    server.catalog.unload("a").await.unwrap();
    server.get("a").await.unwrap();
    assert!(!server.catalog.unload_entry("a", &old).await.unwrap());
    assert_eq!(server.list(), ["a"]);
    server.assert_balanced();
}
