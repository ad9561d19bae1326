//! Unloads of models that requests or stuck runs hold.

use super::*;
use crate::engine::SessionError;

/// Loads `a` and returns a handle to it.
async fn loaded(server: &Server) -> Handle<TestModel> {
    server.load("a").await.unwrap();
    server.get("a").await.unwrap()
}

#[tokio::test]
async fn an_unload_waits_for_the_last_handle() {
    let server = Server::new(["a"]);
    let one = loaded(&server).await;
    let (other, clone) = (server.get("a").await.unwrap(), one.clone());
    let mut unload = waiting(server.unload("a"));
    for handle in [one, other] {
        drop(handle);
        settle().await;
        assert_waits(&mut unload);
    }
    assert_eq!(server.engine.counts().unloaded, 0);
    drop(clone);
    assert_eq!(unload.await.unwrap(), 100);
    server.assert_balanced();
}

#[tokio::test]
async fn the_journal_records_an_unload_once_the_memory_is_free() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let mut call = server.engine.hold_unload();
    let unload = waiting(server.unload("a"));
    assert!(call.has_begun());
    assert_eq!(server.journal.lines(), ["+a"]);
    call.succeed();
    unload.await.unwrap();
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
}

#[tokio::test]
async fn an_unload_that_outlasts_its_limit_leaves_the_model_to_its_last_request() {
    let server = Server::impatient(["a"]);
    let handle = loaded(&server).await;
    assert!(is_still_busy(&server.unload("a").await.unwrap_err()));
    assert_eq!(
        server.journal.lines(),
        ["+a", "-a"],
        "a restarted server does not list it"
    );
    server.assert_not_found("a").await;
    assert!(is_still_busy(&server.unload("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().unloaded, 0);
    drop(handle);
    settle().await;
    assert_eq!(server.engine.counts().unloaded, 1, "no unload waits for it");
    assert_eq!(
        server.unload("a").await.unwrap(),
        100,
        "the bytes that were freed since"
    );
    assert!(is_not_loaded(&server.unload("a").await.unwrap_err()));
    assert_eq!(server.journal.lines(), ["+a", "-a"], "the unload is recorded once");
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_does_not_take_a_name_whose_old_model_still_answers_requests() {
    let server = Server::impatient(["a"]);
    let handle = loaded(&server).await;
    assert!(is_still_busy(&server.unload("a").await.unwrap_err()));
    assert!(is_still_busy(&server.load("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().begun, 1);
    server.assert_not_found("a").await;
    drop(handle);
    server.load("a").await.unwrap();
    assert_eq!(server.journal.lines(), ["+a", "-a", "+a"]);
    server.assert_found("a").await;
    settle().await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_waits_for_requests_beside_stuck_runs() {
    let server = Server::impatient(["a"]);
    let (stuck, request) = (loaded(&server).await, server.get("a").await.unwrap());
    let standing = stuck.entry.standing().unwrap();
    standing.set(1, 1);
    assert!(is_still_busy(&server.unload("a").await.unwrap_err()));
    drop(request);
    assert!(is_still_held(&server.unload("a").await.unwrap_err()));
    standing.set(0, 0);
    drop(stuck);
    assert_eq!(server.unload("a").await.unwrap(), 100);
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_ends_when_the_runs_that_it_waits_for_become_stuck() {
    let server = Server::new(["a"]);
    let handle = loaded(&server).await;
    let unload = waiting(server.unload("a"));
    handle.entry.standing().unwrap().set(1, 1);
    assert!(is_still_held(&unload.await.unwrap_err()));
    drop(handle);
    settle().await;
    assert_eq!(server.unload("a").await.unwrap(), 100);
    server.assert_balanced();
}

#[tokio::test]
async fn a_request_that_ends_while_the_unload_looks_for_stuck_runs_is_not_one() {
    let server = Server::new(["a"]);
    let handle = loaded(&server).await;
    server.engine.at_next_standing(move || drop(handle));
    assert_eq!(server.unload("a").await.unwrap(), 100);
    server.assert_balanced();
}

#[tokio::test]
async fn the_memory_of_a_held_model_is_freed_even_when_a_load_has_taken_its_name() {
    let server = Server::new(["a"]);
    let stuck = loaded(&server).await;
    stuck.entry.standing().unwrap().set(1, 1);
    assert!(is_still_held(&server.unload("a").await.unwrap_err()));
    server
        .engine
        .fail_load(&path("a"), SessionError::Rejected("no".to_owned()).into());
    server.load("a").await.unwrap_err();
    assert!(is_not_loaded(&server.unload("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().bytes, 100);
    drop(stuck);
    settle().await;
    server.assert_balanced();
}
