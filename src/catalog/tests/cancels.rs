//! Operations that are dropped before they end.

use super::*;
use serde_json::json;

#[tokio::test]
async fn a_dropped_load_leaves_nothing_behind() {
    let server = Server::new(["a"]);
    let _call = server.engine.hold_load(&path("a"));
    drop(waiting(server.load("a")));
    server.assert_not_found("a").await;
    assert_eq!(server.journal.lines(), [""; 0]);
    server.load("a").await.unwrap();
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn a_waiting_load_takes_the_place_of_a_dropped_one() {
    let server = Server::new(["a"]);
    let _call = server.engine.hold_load(&path("a"));
    let first = waiting(server.load("a"));
    let second = waiting(server.load("a"));
    drop(first);
    second.await.unwrap();
    assert_eq!(server.journal.lines(), ["+a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_load_that_is_dropped_after_the_model_is_in_memory_drops_the_model() {
    let server = Server::new([]);
    let manifest = json!({"warmup": [{"body": [1.0]}]});
    server
        .engine
        .put(&path("a"), TestArtifact::of("a").with_manifest(manifest));
    let mut run = server.engine.keep_handle_of_answer();
    let load = waiting(server.load("a"));
    let run = run.try_recv().expect("the request of the manifest runs");
    assert_eq!(server.engine.counts().bytes, 100);
    drop(load);
    drop(run);
    let counts = server.engine.counts();
    assert_eq!((counts.dropped, counts.bytes), (1, 0));
    assert_eq!(server.journal.lines(), [""; 0]);
    server.assert_not_found("a").await;
    server.load("a").await.unwrap();
    server.assert_found("a").await;
}

#[tokio::test]
async fn the_next_unload_completes_a_dropped_one() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    drop(waiting(server.unload("a")));
    server.assert_not_found("a").await;
    let mut unload = waiting(server.unload("a"));
    settle().await;
    assert_waits(&mut unload);
    drop(handle);
    assert_eq!(unload.await.unwrap(), 100);
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn the_next_load_completes_a_dropped_unload() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    drop(waiting(server.unload("a")));
    let load = waiting(server.load("a"));
    drop(handle);
    load.await.unwrap();
    assert_eq!(server.journal.lines(), ["+a", "-a", "+a"]);
    server.assert_found("a").await;
    server.assert_balanced();
}

#[tokio::test]
async fn an_unload_that_is_dropped_while_it_frees_the_model_is_completed_without_it() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let _call = server.engine.hold_unload();
    drop(waiting(server.unload("a")));
    assert_eq!(server.engine.counts().bytes, 0);
    server.assert_not_found("a").await;
    assert_eq!(server.unload("a").await.unwrap(), 0);
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
    assert!(is_not_loaded(&server.unload("a").await.unwrap_err()));
}

#[tokio::test]
async fn a_waiting_unload_takes_the_place_of_a_dropped_one() {
    let server = Server::new(["a"]);
    server.load("a").await.unwrap();
    let handle = server.get("a").await.unwrap();
    let first = waiting(server.unload("a"));
    let second = waiting(server.unload("a"));
    drop(first);
    drop(handle);
    assert_eq!(second.await.unwrap(), 100);
    assert_eq!(server.journal.lines(), ["+a", "-a"]);
    server.assert_balanced();
}

#[tokio::test]
async fn a_restore_continues_when_its_request_times_out_or_hangs_up() {
    let server = Server::restarted([record("a")]).await;
    let mut call = server.engine.hold_load(&path("a"));
    let late = server.catalog.get("a", Instant::now()).await.unwrap_err();
    assert!(late.to_string().contains("the deadline passed"), "{late}");
    call.begun().await;
    drop(waiting(server.get("a")));
    call.succeed();
    settle().await;
    assert_eq!(server.engine.counts().loaded, 1);
    server.assert_found("a").await;
    let counts = server.engine.counts();
    assert_eq!((counts.begun, counts.loaded), (1, 1));
    server.assert_balanced();
}
