//! Loads of models whose manifest has requests.

use serde_json::{Value as Json, json};

use super::*;
use crate::catalog::model_engine::LoadedModel;
use crate::engine::{InferenceError, LoadError, PoolError, RunError};

/// Puts the artifact `a`, a model that returns its input, with requests in its manifest.
fn put(server: &Server, manifest: Json) {
    server
        .engine
        .put(&path("a"), TestArtifact::of("a").with_manifest(manifest));
}

fn golden(response: &Json) -> Json {
    json!({"warmup": [{"body": [3.0]}], "golden": [{"request": {"body": [1.0, 2.0]}, "response": response}]})
}

#[tokio::test]
async fn a_model_that_passes_its_requests_is_loaded_without_them() {
    let server = Server::new([]);
    put(&server, golden(&json!({"predictions": [1.0, 2.0]})));
    server.load("a").await.unwrap();
    let manifest = server.get("a").await.unwrap().as_ref().manifest().clone();
    assert!(manifest.warmup.is_empty() && manifest.golden.is_empty());
    assert_eq!(server.journal.record("a").unwrap().manifest, None);
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_with_a_wrong_answer_is_given_back() {
    let server = Server::new([]);
    put(&server, golden(&json!({"predictions": [1.0, 2.5]})));
    let error = server.load("a").await.unwrap_err();
    assert!(matches!(error, CatalogError::Rehearsal { .. }), "{error:?}");
    assert_eq!(server.engine.counts().unloaded, 1);
    assert_eq!(server.journal.lines(), [""; 0]);
    server.assert_not_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_model_that_fails_a_request_is_given_back() {
    let server = Server::new([]);
    put(&server, golden(&json!({"predictions": [1.0, 2.0]})));
    server
        .engine
        .fail_answer(InferenceError::Run(RunError::Data("no".to_owned())));
    let error = server.load("a").await.unwrap_err();
    assert!(matches!(error, CatalogError::Rehearsal { .. }), "{error:?}");
    server.assert_not_found("a").await;
    server.load("a").await.unwrap();
    assert_eq!(server.engine.counts().unloaded, 1);
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_waits_for_the_end_of_the_runs_of_its_requests() {
    let server = Server::new([]);
    put(&server, golden(&json!({"predictions": [1.0, 2.0]})));
    let mut run = server.engine.keep_handle_of_answer();
    let mut load = waiting(server.load("a"));
    let run = run.try_recv().expect("the first request runs");
    settle().await;
    assert_waits(&mut load);
    server.assert_not_found("a").await;
    drop(run);
    load.await.unwrap();
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_fails_when_the_run_of_a_request_does_not_end() {
    let server = Server::impatient([]);
    put(&server, golden(&json!({"predictions": [1.0, 2.0]})));
    let run = server.engine.keep_handle_of_answer();
    let error = server.load("a").await.unwrap_err();
    assert!(
        matches!(&error, CatalogError::Load { source, .. } if matches!(**source, LoadError::Pool(PoolError::Deadline))),
        "{error:?}"
    );
    server.assert_not_found("a").await;
    assert_eq!(server.engine.counts().bytes, 100, "the run still holds the model");
    drop(run);
    let counts = server.engine.counts();
    assert_eq!((counts.dropped, counts.bytes), (1, 0));
    assert_eq!(server.journal.lines(), [""; 0]);
}
