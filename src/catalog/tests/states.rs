//! A test for each cell of the table in `catalog.rs`.

use super::*;
use crate::catalog::model_engine::LoadedModel;
use crate::engine::{LoadError, SessionError};

fn refused() -> LoadError {
    SessionError::Rejected("no".to_owned()).into()
}

// The name is absent.

#[tokio::test]
async fn a_load_of_an_absent_name_loads_it() {
    let server = Server::new(["a"]);
    assert_eq!(server.load("a").await.unwrap().own, 100);
    assert_eq!(server.journal.lines(), ["+a"]);
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_absent_name_is_not_found() {
    let server = Server::new(["a", "b"]);
    server.load("b").await.unwrap();
    server.assert_not_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_absent_name_cannot_be_unloaded() {
    let server = Server::new(["a"]);
    assert!(is_not_loaded(&server.unload("a").await.unwrap_err()));
    assert_eq!(server.journal.lines(), [""; 0]);
}

// The name is loading.

#[tokio::test]
async fn a_second_load_of_a_name_waits_and_is_refused_when_the_first_one_succeeds() {
    let server = Server::new(["a"]);
    let first_call = server.engine.hold_load(&path("a"));
    let first = waiting(server.load("a"));
    let second = waiting(server.load("a"));
    first_call.succeed();
    assert!(first.await.is_ok());
    assert!(is_already_loaded(&second.await.unwrap_err()));
    assert_eq!(
        server.engine.counts().begun,
        1,
        "the second load does not reach the engine"
    );
    assert_eq!(server.journal.lines(), ["+a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_second_load_of_a_name_waits_and_loads_it_when_the_first_one_fails() {
    let server = Server::new(["a"]);
    let first_call = server.engine.hold_load(&path("a"));
    let first = waiting(server.load("a"));
    let second = waiting(server.load("a"));
    first_call.fail(refused());
    assert!(matches!(first.await.unwrap_err(), CatalogError::Load { .. }));
    second.await.unwrap();
    assert_eq!(server.engine.counts().begun, 2);
    assert_eq!(server.journal.lines(), ["+a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_loading_name_is_not_found() {
    let server = Server::new(["a"]);
    let call = server.engine.hold_load(&path("a"));
    let load = waiting(server.load("a"));
    server.assert_not_found("a").await;
    assert_eq!(server.journal.lines(), [""; 0]);
    call.succeed();
    load.await.unwrap();
    server.assert_found("a").await;
}

#[tokio::test]
async fn an_unload_of_a_loading_name_waits_and_unloads_it() {
    let server = Server::new(["a"]);
    let call = server.engine.hold_load(&path("a"));
    let load = waiting(server.load("a"));
    let unload = waiting(server.unload("a"));
    call.succeed();
    load.await.unwrap();
    assert_eq!(unload.await.unwrap(), 100);
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
    server.assert_not_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_of_a_loading_name_finds_nothing_when_the_load_fails() {
    let server = Server::new(["a"]);
    let call = server.engine.hold_load(&path("a"));
    let load = waiting(server.load("a"));
    let unload = waiting(server.unload("a"));
    call.fail(refused());
    load.await.unwrap_err();
    assert!(is_not_loaded(&unload.await.unwrap_err()));
    assert_eq!(server.journal.lines(), [""; 0]);
}

#[tokio::test]
async fn other_names_do_not_wait_for_a_load() {
    let server = Server::new(["a", "b"]);
    let call = server.engine.hold_load(&path("a"));
    let load = waiting(server.load("a"));
    server.load("b").await.unwrap();
    server.assert_found("b").await;
    server.unload("b").await.unwrap();
    call.succeed();
    load.await.unwrap();
    server.assert_balanced();
}

// The name is loaded.

#[tokio::test]
async fn a_load_of_a_loaded_name_is_refused_and_the_model_stays() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    assert!(is_already_loaded(&server.load("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().begun, 1);
    assert_eq!(server.journal.lines(), ["+a"]);
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_of_a_loaded_name_frees_its_model_before_it_ends() {
    let server = Server::new(["a", "b"]);
    server.load("a").await.unwrap();
    server.load("b").await.unwrap();
    assert_eq!(server.unload("a").await.unwrap(), 100);
    assert_eq!(server.engine.counts().bytes, 100, "the other model stays");
    assert_eq!(server.journal.lines(), ["+a", "+b", "-a"]);
    server.assert_not_found("a").await;
    server.assert_found("b").await;
    server.assert_balanced();
}

// The name is unloading.

#[tokio::test]
async fn a_load_of_an_unloading_name_waits_and_loads_it() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    let unload = waiting(server.unload("a"));
    let load = waiting(server.load("a"));
    drop(handle);
    unload.await.unwrap();
    load.await.unwrap();
    assert_eq!(server.journal.lines(), ["+a", "-a", "+a"]);
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unloading_name_is_not_found() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    let mut unload = waiting(server.unload("a"));
    server.assert_not_found("a").await;
    assert_waits(&mut unload);
    drop(handle);
    unload.await.unwrap();
    server.assert_not_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_second_unload_of_a_name_waits_and_finds_nothing() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    let first = waiting(server.unload("a"));
    let second = waiting(server.unload("a"));
    drop(handle);
    assert_eq!(first.await.unwrap(), 100);
    assert!(is_not_loaded(&second.await.unwrap_err()));
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
    server.assert_balanced();
}

// Stuck runs hold the model after an unload.

/// Loads `a`, and returns the handle of a stuck run that has made an unload fail.
async fn held(server: &Server) -> Handle<TestModel> {
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    handle.entry.standing().unwrap().set(1, 1);
    assert!(is_still_held(&server.unload("a").await.unwrap_err()));
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
    handle
}

#[tokio::test]
async fn a_name_held_by_stuck_runs_can_be_loaded() {
    let server = Server::new(["a"]);
    let stuck = held(&server).await;
    server.load("a").await.unwrap();
    assert_eq!(server.engine.counts().bytes, 200);
    assert_eq!(server.journal.lines(), ["+a", "-a", "+a"]);
    server.assert_found("a").await;
    drop(stuck);
    settle().await;
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_name_held_by_stuck_runs_is_not_found() {
    let server = Server::new(["a"]);
    let stuck = held(&server).await;
    server.assert_not_found("a").await;
    drop(stuck);
    settle().await;
    server.assert_not_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_of_a_name_held_by_stuck_runs_fails_until_its_memory_is_free() {
    let server = Server::new(["a"]);
    let stuck = held(&server).await;
    let error = server.unload("a").await.unwrap_err();
    assert!(
        matches!(
            &error,
            CatalogError::StillHeld {
                runs: 1,
                bytes: 100,
                ..
            }
        ),
        "{error:?}"
    );
    drop(stuck);
    settle().await;
    assert_eq!(server.engine.counts().bytes, 0, "no unload waits for it");
    assert_eq!(server.unload("a").await.unwrap(), 100);
    assert!(is_not_loaded(&server.unload("a").await.unwrap_err()));
    assert_eq!(server.journal.lines(), ["+a", "-a"], "the unload is recorded once");
    server.assert_balanced();
}

// The name is restored.

#[tokio::test]
async fn a_load_of_a_restored_name_is_refused() {
    let server = Server::restarted([record("a")]).await;
    assert!(is_already_loaded(&server.load("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().begun, 0);
    assert_eq!(server.journal.lines(), [""; 0]);
    assert_eq!(server.list(), ["a"]);
}

#[tokio::test]
async fn a_restored_name_is_listed_and_a_request_loads_it_first() {
    let server = Server::restarted([record("a"), record("b")]).await;
    assert_eq!(server.list(), ["a", "b"]);
    assert_eq!(server.catalog.describe("a").await.unwrap().url, path("a"));
    assert_eq!(server.engine.counts().begun, 0, "the list does not load it");
    let handle = server.get("a").await.unwrap();
    assert_eq!(handle.as_ref().charge(), 100);
    assert_eq!(server.engine.counts().loaded, 1);
    server.assert_found("a").await;
    assert_eq!(
        server.engine.counts().loaded,
        1,
        "the second request finds it in memory"
    );
    assert_eq!(server.journal.lines(), [""; 0], "the journal has it already");
}

#[tokio::test]
async fn an_unload_of_a_restored_name_removes_it_from_the_list() {
    let server = Server::restarted([record("a"), record("b")]).await;
    assert_eq!(server.unload("a").await.unwrap(), 0);
    assert_eq!(server.list(), ["b"]);
    assert_eq!(server.journal.lines(), ["-a"]);
    server.assert_not_found("a").await;
    assert_eq!(server.engine.counts().begun, 0);
}
