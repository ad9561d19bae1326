//! Loads by requests, and explicit ones.

use super::*;
use crate::catalog::tests::{is_already_loaded, is_not_loaded, settle, waiting};
use crate::engine::SessionError;

fn rejected() -> LoadError {
    SessionError::Rejected("no".to_owned()).into()
}

#[tokio::test]
async fn a_request_loads_its_model_and_the_next_one_finds_it() {
    let server = Server::new(["a", "b"]);
    assert!(server.get("a").await.unwrap().is_cold());
    assert_eq!(server.list(), ["a"]);
    assert!(!server.get("a").await.unwrap().is_cold());
    // A folder of objects may be named with a slash.
    assert!(!server.get("a/").await.unwrap().is_cold());
    assert_eq!(server.engine.counts().begun, 1);
    server.assert_balanced();
}

#[tokio::test]
async fn concurrent_requests_share_one_load() {
    let server = Server::new(["a"]);
    let mut call = server.engine.hold_load(&path("a"));
    let requests = [waiting(server.get("a")), waiting(server.get("a"))];
    call.begun().await;
    let late = waiting(server.get("a"));
    assert!(matches!(server.catalog.statuses()["a"], ModelStatus::Loading));
    assert_eq!(server.list(), [""; 0]);
    call.succeed();
    for request in requests.into_iter().chain([late]) {
        request.await.unwrap();
    }
    assert_eq!(server.engine.counts().begun, 1);
    assert!(matches!(server.catalog.statuses()["a"], ModelStatus::Loaded));
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_continues_when_its_requests_time_out_or_hang_up() {
    let server = Server::new(["a"]);
    let mut call = server.engine.hold_load(&path("a"));
    drop(waiting(server.get("a")));
    let late = server.catalog.get("a", Deadline::now()).await.unwrap_err();
    assert!(late.to_string().contains("the deadline passed"), "{late}");
    call.begun().await;
    call.succeed();
    settle().await;
    assert_eq!(server.list(), ["a"]);
    server.get("a").await.unwrap();
    assert_eq!(server.engine.counts().begun, 1);
    server.assert_balanced();
}

#[tokio::test]
async fn a_lasting_failure_answers_the_next_requests_too() {
    let server = Server::new(["a"]);
    server.engine.fail_load(&path("a"), rejected());
    let first = server.get("a").await.unwrap_err();
    assert!(matches!(first, CatalogError::OnDemand { again: None, .. }), "{first:?}");
    let second = server.get("a").await.unwrap_err();
    assert!(
        matches!(second, CatalogError::OnDemand { again: Some(_), .. }),
        "{second:?}"
    );
    assert_eq!(server.engine.counts().begun, 1);
    assert!(matches!(server.catalog.statuses()["a"], ModelStatus::Failed(..)));
    // An explicit load wants to know the present state.
    server.load("a").await.unwrap();
    server.get("a").await.unwrap();
    server.assert_balanced();
}

#[tokio::test]
async fn an_explicit_load_makes_the_server_forget_an_earlier_failure() {
    let server = Server::new(["a"]);
    server.engine.fail_load(&path("a"), rejected());
    server.get("a").await.unwrap_err();
    server
        .engine
        .fail_load(&path("a"), LoadError::Pool(PoolError::Stopping));
    server.load("a").await.unwrap_err();
    server.get("a").await.unwrap();
    server.assert_balanced();
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_by_the_next_request() {
    let server = Server::new(["a"]);
    server
        .engine
        .fail_load(&path("a"), LoadError::Pool(PoolError::Stopping));
    server.get("a").await.unwrap_err();
    server.get("a").await.unwrap();
    assert_eq!(server.engine.counts().begun, 2);
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_that_the_store_does_not_have_is_not_found() {
    let server = Server::new([]);
    let error = server.get("a").await.unwrap_err();
    let CatalogError::OnDemand { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(source.is_not_found(), "{error:?}");
    assert_eq!(server.engine.counts().begun, 0);
    assert!(server.demand().pending().is_empty());
}

#[tokio::test]
async fn an_explicit_load_is_refused_when_the_model_is_loaded_or_loading() {
    let server = Server::new(["a"]);
    let mut call = server.engine.hold_load(&path("a"));
    let request = waiting(server.get("a"));
    call.begun().await;
    let load = waiting(server.load("a"));
    call.succeed();
    assert!(is_already_loaded(&load.await.unwrap_err()));
    request.await.unwrap();
    assert!(is_already_loaded(&server.load("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().begun, 1);
    server.assert_balanced();
}

#[tokio::test]
async fn an_explicit_load_names_the_place_of_the_model_in_the_store() {
    let server = Server::new(["a"]);
    let error = server.catalog.load("a", "/elsewhere/a", None).await.unwrap_err();
    assert!(matches!(error, CatalogError::OtherUrl { .. }), "{error:?}");
    let error = server.catalog.load("../a", "/a", None).await.unwrap_err();
    assert!(matches!(error, CatalogError::StoreName(_)), "{error:?}");
    assert_eq!(server.engine.counts().begun, 0);
}

#[tokio::test]
async fn a_request_after_an_unload_loads_the_model_again() {
    let server = Server::new(["a"]);
    server.get("a").await.unwrap();
    assert_eq!(server.catalog.unload("a").await.unwrap(), 100);
    assert!(is_not_loaded(&server.catalog.unload("a").await.unwrap_err()));
    server.get("a").await.unwrap();
    assert_eq!(server.engine.counts().loaded, 2);
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_of_a_loading_model_waits_for_the_requests_that_wait_for_it() {
    let server = Server::new(["a"]);
    let mut call = server.engine.hold_load(&path("a"));
    let request = waiting(server.get("a"));
    call.begun().await;
    let unload = waiting(server.catalog.unload("a"));
    call.succeed();
    let handle = request.await.unwrap();
    drop(handle);
    assert_eq!(unload.await.unwrap(), 100);
    assert_eq!(server.list(), [""; 0]);
    server.assert_balanced();
}
