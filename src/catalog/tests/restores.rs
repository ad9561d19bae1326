//! Models that are listed since a restart, and loaded again later.

use std::io;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::catalog::model_engine::LoadedModel;
use crate::engine::{AdapterError, ArtifactError, LoadError, PoolError, PrepareError, SessionError};
use engine::{HeldCall, no_room, quarantined};

/// Holds the load of each name.
fn hold<const N: usize>(server: &Server, names: [&str; N]) -> [HeldCall; N] {
    names.map(|name| server.engine.hold_load(&path(name)))
}

#[tokio::test]
async fn models_are_restored_in_the_given_order_so_many_at_a_time() {
    let server = Server::restarted([record("a"), record("b"), record("c")]).await;
    let [mut a, mut b, mut c] = hold(&server, ["a", "b", "c"]);
    let names = ["c", "a", "b"].map(str::to_owned);
    let all = task::spawn(Arc::clone(&server.catalog).restore_all(names.into(), 2));
    settle().await;
    assert!(c.has_begun() && a.has_begun());
    assert!(!b.has_begun());
    c.succeed();
    b.begun().await;
    a.succeed();
    b.succeed();
    all.await.unwrap();
    assert_eq!(server.engine.counts().loaded, 3);
    assert_eq!(server.journal.lines(), [""; 0]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_request_restores_its_model_out_of_order() {
    let server = Server::restarted([record("a"), record("b")]).await;
    let [a] = hold(&server, ["a"]);
    let names = ["a", "b"].map(str::to_owned);
    let all = task::spawn(Arc::clone(&server.catalog).restore_all(names.into(), 1));
    server.get("b").await.unwrap();
    a.succeed();
    all.await.unwrap();
    let counts = server.engine.counts();
    assert_eq!((counts.begun, counts.loaded), (2, 2), "each is loaded once");
    server.assert_balanced();
}

#[tokio::test]
async fn requests_to_a_restored_model_load_it_once() {
    let server = Server::restarted([record("a")]).await;
    let [mut call] = hold(&server, ["a"]);
    let first = waiting(server.get("a"));
    let second = waiting(server.get("a"));
    call.begun().await;
    call.succeed();
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(server.engine.counts().begun, 1);
    server.assert_balanced();
}

/// Failures of the machine, which may pass.
fn passing_failures() -> Vec<LoadError> {
    let error = || io::Error::other("no");
    vec![
        ArtifactError::Changed { file: path("a") }.into(),
        ArtifactError::NoDescriptors {
            path: path("a"),
            source: error(),
        }
        .into(),
        ArtifactError::NoCopy {
            file: path("a"),
            folder: "/tmp".into(),
            needed: 100,
            source: error(),
        }
        .into(),
        SessionError::NoDescriptors.into(),
        SessionError::Device("it is lost".to_owned()).into(),
        PrepareError::NoChild(Arc::new(error())).into(),
        PrepareError::Killed.into(),
        quarantined().into(),
        LoadError::Pool(PoolError::Stopping),
    ]
}

/// Failures of the artifact.
fn lasting_failures() -> Vec<LoadError> {
    vec![
        ArtifactError::Missing { path: path("a") }.into(),
        SessionError::Rejected("no".to_owned()).into(),
        LoadError::Adapter {
            file: "adapter".to_owned(),
            source: Box::new(AdapterError::NotAnAdapter),
        },
    ]
}

#[tokio::test]
async fn a_model_that_cannot_be_restored_now_stays_listed_for_the_next_request() {
    for failure in passing_failures() {
        let cause = failure.to_string();
        let server = Server::restarted([record("a")]).await;
        server.engine.fail_load(&path("a"), failure);
        let error = server.get("a").await.unwrap_err();
        assert!(error.to_string().ends_with(&cause), "{error}");
        assert_eq!(server.list(), ["a"], "{cause}");
        assert_eq!(server.journal.lines(), [""; 0], "{cause}");
        server.assert_found("a").await;
        server.assert_balanced();
    }
}

#[tokio::test]
async fn a_model_that_can_never_be_restored_leaves_the_list() {
    for failure in lasting_failures() {
        let cause = failure.to_string();
        let server = Server::restarted([record("a")]).await;
        server.engine.fail_load(&path("a"), failure);
        assert!(is_not_loaded(&server.get("a").await.unwrap_err()), "{cause}");
        assert_eq!(server.journal.lines(), ["-a"], "{cause}");
        server.assert_not_found("a").await;
        server.load("a").await.unwrap();
        server.assert_balanced();
    }
}

#[tokio::test]
async fn a_model_whose_files_hold_another_one_now_leaves_the_list() {
    let server = Server::restarted([record("a")]).await;
    server.engine.put(&path("a"), TestArtifact::of("other"));
    assert!(is_not_loaded(&server.get("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().unloaded, 1, "the other model is given back");
    assert_eq!(server.journal.lines(), ["-a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_outside_the_roots_leaves_the_list() {
    let elsewhere = Record {
        url: "/elsewhere/a".to_owned(),
        ..record("a")
    };
    let server = Server::restarted([elsewhere]).await;
    assert!(is_not_loaded(&server.get("a").await.unwrap_err()));
    assert_eq!(server.engine.counts().begun, 0);
    assert_eq!(server.journal.lines(), ["-a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_is_restored_with_its_recorded_manifest_and_without_running_its_requests() {
    let wrong = json!({"labels": ["no"], "golden": [{"request": {"body": [1.0]}, "response": "wrong"}]});
    let with_manifest = |manifest: String| Record {
        manifest: Some(manifest),
        ..record("a")
    };
    let server = Server::restarted([with_manifest(wrong.to_string())]).await;
    assert_eq!(server.get("a").await.unwrap().as_ref().manifest().labels, ["no"]);
    server.assert_balanced();

    let server = Server::restarted([with_manifest("{".to_owned())]).await;
    assert!(is_not_loaded(&server.get("a").await.unwrap_err()));
    assert_eq!(server.journal.lines(), ["-a"]);
}

#[tokio::test]
async fn a_quarantined_model_is_refused_without_a_load_and_stays_listed() {
    let server = Server::restarted([record("a")]).await;
    server.engine.quarantine(record("a").content);
    let error = server.get("a").await.unwrap_err();
    assert!(matches!(error, CatalogError::Refused { .. }), "{error:?}");
    assert_eq!(server.engine.counts().begun, 0);
    assert_eq!(server.list(), ["a"]);
    server.engine.release_quarantine();
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_that_its_restore_quarantines_stays_listed() {
    let server = Server::restarted([record("a")]).await;
    let [mut call] = hold(&server, ["a"]);
    let request = waiting(server.get("a"));
    call.begun().await;
    server.engine.quarantine(record("a").content);
    call.fail(SessionError::Rejected("no".to_owned()).into());
    let error = request.await.unwrap_err();
    assert!(matches!(error, CatalogError::Refused { .. }), "{error:?}");
    assert_eq!(server.list(), ["a"]);
    assert_eq!(server.journal.lines(), [""; 0]);
}

#[tokio::test]
async fn a_restore_without_memory_is_tried_again_while_no_other_one_runs() {
    for failure in [no_room(100, 50, 1000).into(), SessionError::OutOfMemory.into()] {
        let server = Server::restarted([record("a"), record("b")]).await;
        let [mut other] = hold(&server, ["b"]);
        let other_request = waiting(server.get("b"));
        other.begun().await;
        server.engine.fail_load(&path("a"), failure);
        let [mut second] = hold(&server, ["a"]);
        let request = waiting(server.get("a"));
        settle().await;
        assert!(!second.has_begun(), "the other restore runs");
        other.succeed();
        other_request.await.unwrap();
        second.begun().await;
        second.succeed();
        request.await.unwrap();
        server.assert_balanced();
    }
}

#[tokio::test]
async fn a_model_that_does_not_fit_stays_listed() {
    let server = Server::restarted([record("a"), record("b")]).await;
    server.engine.set_limit(150);
    let names = ["a", "b"].map(str::to_owned);
    Arc::clone(&server.catalog).restore_all(names.into(), 1).await;
    assert_eq!(server.engine.counts().loaded, 1);
    let error = server.get("b").await.unwrap_err();
    assert!(matches!(&error, CatalogError::Load { source, .. } if matches!(**source, LoadError::NoRoom(_))));
    assert_eq!(server.list(), ["a", "b"]);
    server.unload("a").await.unwrap();
    server.assert_found("b").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_of_a_model_that_is_being_restored_waits_and_unloads_it() {
    let server = Server::restarted([record("a")]).await;
    let [mut call] = hold(&server, ["a"]);
    let request = waiting(server.get("a"));
    call.begun().await;
    let unload = waiting(server.unload("a"));
    assert_eq!(server.list(), ["a"]);
    call.succeed();
    assert_eq!(unload.await.unwrap(), 100);
    assert!(is_not_loaded(&request.await.unwrap_err()));
    assert_eq!(server.journal.lines(), ["-a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_restore_that_finds_its_model_unloaded_does_nothing() {
    let server = Server::restarted([record("a"), record("b")]).await;
    server.unload("a").await.unwrap();
    let names = ["a", "b"].map(str::to_owned);
    Arc::clone(&server.catalog).restore_all(names.into(), 2).await;
    assert_eq!(server.engine.counts().loaded, 1);
    assert_eq!(server.list(), ["b"]);
    assert_eq!(server.journal.lines(), ["-a"]);
    server.assert_balanced();
}
