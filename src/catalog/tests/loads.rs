//! Loads: which names and paths are accepted, and what a load leaves behind when it fails.

use std::fs;
use std::io;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::engine::{AdapterError, ArtifactError, LoadError, PoolError, PrepareError, SessionError};
use engine::{no_room, quarantined};

/// A failure of each kind.
fn failures() -> Vec<LoadError> {
    vec![
        ArtifactError::Missing { path: path("a") }.into(),
        SessionError::Rejected("no".to_owned()).into(),
        SessionError::OutOfMemory.into(),
        LoadError::Adapter {
            file: "adapter".to_owned(),
            source: Box::new(AdapterError::NotAnAdapter),
        },
        quarantined().into(),
        no_room(100, 50, 1000).into(),
        PrepareError::NoChild(Arc::new(io::Error::other("no"))).into(),
        LoadError::Pool(PoolError::Stopping),
    ]
}

#[tokio::test]
async fn a_failed_load_leaves_nothing_behind_and_reports_the_cause() {
    for failure in failures() {
        let cause = failure.to_string();
        let server = Server::new(["a"]);
        server.engine.fail_load(&path("a"), failure);
        let error = server.load("a").await.unwrap_err();
        assert!(matches!(&error, CatalogError::Load { source, .. } if source.to_string() == cause));
        assert_eq!(server.journal.lines(), [""; 0], "{cause}");
        server.assert_not_found("a").await;
        server.load("a").await.unwrap();
        server.assert_found("a").await;
        server.assert_balanced();
    }
}

#[tokio::test]
async fn a_full_server_refuses_a_load_until_a_model_is_unloaded() {
    let server = Server::new(["a", "b", "c"]);
    server.engine.set_limit(250);
    server.load("a").await.unwrap();
    server.load("b").await.unwrap();
    let error = server.load("c").await.unwrap_err();
    assert!(matches!(&error, CatalogError::Load { source, .. } if matches!(**source, LoadError::NoRoom(_))));
    assert_eq!(server.list(), ["a", "b"], "the platform chooses what to unload");
    server.unload("a").await.unwrap();
    server.load("c").await.unwrap();
    assert_eq!(server.list(), ["b", "c"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_manifest_that_does_not_match_the_model_fails_the_load() {
    let server = Server::new([]);
    let manifest = json!({"outputs": ["other"]});
    server
        .engine
        .put(&path("a"), TestArtifact::of("a").with_manifest(manifest));
    let error = server.load("a").await.unwrap_err();
    assert!(matches!(error, CatalogError::Manifest { .. }), "{error:?}");
    assert_eq!(server.engine.counts().unloaded, 1, "the model is given back");
    server.assert_not_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_name_has_at_most_4096_bytes_and_is_not_a_relative_folder() {
    let server = Server::new([]);
    let long = "n".repeat(4096);
    for name in ["", ".", "..", &format!("{long}n")] {
        let error = server.catalog.load(name, "/models/a", None).await.unwrap_err();
        assert!(matches!(error, CatalogError::Name), "{error:?}");
    }
    for name in ["...", "a/../b", &long] {
        let error = server.catalog.load(name, "/models/a", None).await.unwrap_err();
        assert!(!matches!(error, CatalogError::Name), "{error:?}");
    }
    assert_eq!(server.engine.counts().begun, 0);
}

#[tokio::test]
async fn a_load_takes_an_artifact_below_a_root_only() {
    let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&root, &other] {
        fs::write(folder.path().join("model.onnx"), path("a")).unwrap();
    }
    let (engine, journal) = (TestEngine::new(), Arc::<TestJournal>::default());
    engine.put(&path("a"), TestArtifact::of("a"));
    let settings = CatalogConfig {
        roots: vec![root.path().to_owned()],
        ..settings(NEVER, Some(Arc::clone(&journal) as Arc<dyn Journal>))
    };
    let catalog = Arc::new(Catalog::new(Arc::clone(&engine), settings, None));
    let url = |folder: &tempfile::TempDir| folder.path().to_str().unwrap().to_owned();

    let error = catalog.load("a", &url(&other), None).await.unwrap_err();
    assert!(matches!(error, CatalogError::OutsideRoots { .. }), "{error:?}");
    let missing = format!("{}/missing", url(&root));
    let error = catalog.load("a", &missing, None).await.unwrap_err();
    assert!(matches!(error, CatalogError::MissingUrl { .. }), "{error:?}");
    assert_eq!(engine.counts().begun, 0);

    catalog.load("a", &url(&root), Some("a.tar.gz")).await.unwrap();
    let handle = catalog.get("a", Instant::now() + NEVER).await.unwrap();
    assert_eq!(handle.target_model(), Some("a.tar.gz"));
    let expected = Record {
        url: url(&root),
        target_model: Some("a.tar.gz".to_owned()),
        ..record("a")
    };
    assert_eq!(journal.record("a"), Some(expected));
}

#[tokio::test]
async fn the_journal_has_the_manifest_of_a_model() {
    let server = Server::new([]);
    let manifest = json!({"labels": ["no", "yes"]});
    server
        .engine
        .put(&path("a"), TestArtifact::of("a").with_manifest(manifest.clone()));
    server.load("a").await.unwrap();
    let recorded = server.journal.record("a").unwrap().manifest.unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&recorded).unwrap(), manifest);
}

#[tokio::test]
async fn a_page_has_the_names_after_the_last_one_of_the_page_before() {
    let server = Server::new(["a", "b", "c"]);
    for name in ["c", "a", "b"] {
        server.load(name).await.unwrap();
    }
    let model = |name: &str| (name.to_owned(), path(name));
    assert_eq!(server.catalog.page(None, 2), (vec![model("a"), model("b")], true));
    assert_eq!(server.catalog.page(Some("b"), 2), (vec![model("c")], false));
    assert_eq!(server.catalog.page(Some("c"), 2), (vec![], false));
}

#[tokio::test]
async fn the_first_request_to_a_model_after_a_report_is_noted_as_its_use() {
    let server = Server::new(["a", "b"]);
    server.load("a").await.unwrap();
    server.load("b").await.unwrap();
    server.get("b").await.unwrap();
    server.get("b").await.unwrap();
    assert_eq!(server.catalog.recent_use.take(), [record("b").content.short()]);
    assert_eq!(server.catalog.recent_use.take(), [0; 0]);
}
