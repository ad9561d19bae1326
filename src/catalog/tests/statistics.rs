//! Statistics of models: how long they live, and who finds them.

use super::*;
use crate::catalog::ModelStatus;
use crate::telemetry::cause::Cause;

#[tokio::test]
async fn the_statistics_of_a_model_end_with_its_unload() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    handle.stats().failed(Cause::Memory, "no memory");
    let by_name = server.catalog.listed("a").await.unwrap().stats;
    assert_eq!(by_name.failures(), 1, "a request and a name find the same ones");
    drop(handle);
    server.unload("a").await.unwrap();
    assert!(server.catalog.listed("a").await.is_none());
    server.load("a").await.unwrap();
    assert_eq!(server.get("a").await.unwrap().stats().failures(), 0);
}

#[tokio::test]
async fn only_a_request_that_waits_for_its_model_is_cold() {
    let server = Server::restarted([record("a")]).await;
    assert!(server.get("a").await.unwrap().is_cold());
    assert!(!server.get("a").await.unwrap().is_cold());
}

#[tokio::test]
async fn the_overview_has_each_listed_model_with_its_state_and_memory() {
    let server = Server::restarted([record("b")]).await;
    server.engine.put(&path("a"), TestArtifact::of("a"));
    server.load("a").await.unwrap();
    let mut models = server.catalog.overview();
    models.sort_by(|one, other| one.name.cmp(&other.name));
    let [a, b] = &*models else { panic!("{models:?}") };
    assert_eq!((a.name.as_str(), a.url.as_str()), ("a", path("a").as_str()));
    assert!(matches!(a.status, ModelStatus::Loaded));
    assert_eq!(a.memory.map(|memory| memory.own), Some(100));
    assert!(matches!(b.status, ModelStatus::Restored));
    assert_eq!((b.name.as_str(), b.memory), ("b", None));
    server.unload("a").await.unwrap();
    assert_eq!(server.catalog.overview().len(), 1);
}
