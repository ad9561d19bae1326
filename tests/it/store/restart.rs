//! Restarts after any kind of end: files on disk are complete and reused, or gone.

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Store, answer, assert_scales, files_called, noise, question, request};
use crate::harness::{Builder, Fault, Process, Rule, Server, eventually, scale, try_send};
use crate::support::archive::{Form, archive_as};

/// A file at the start of the archive, which is on disk while the rest is still downloaded.
const FIRST: &str = "first-of-the-archive.bin";

fn two_parts(factor: f32) -> Vec<u8> {
    let (first, rest, model) = (noise(200_000, 1), noise(400_000, 2), scale(factor));
    archive_as(
        Form::Gzip,
        &[(FIRST, &first), ("rest.bin", &rest), ("model.onnx", &model)],
    )
}

/// A server whose caches outlive it.
fn with_cache(store: &Store, cache: &TempDir) -> Builder {
    store.server().argument("--cache-dir").argument(cache.path())
}

/// Kills both processes of the server, and waits until they have ended.
fn kill(server: Server) {
    let processes: [Process; 2] = [server.process(), server.supervisor()];
    drop(server);
    eventually("the processes are gone", || {
        !processes.iter().any(|process| process.is_alive())
    });
}

#[test]
fn archives_on_disk_are_used_after_a_restart() {
    let store = Store::new();
    let cache = tempfile::tempdir().unwrap();
    let sizes = [store.put_scale("a.tar.gz", 2.0), store.put_scale("team/b.tar.gz", 3.0)];
    for restart in 0..3 {
        let server = with_cache(&store, &cache).start();
        assert_scales(&server, "a.tar.gz", 2.0);
        assert_scales(&server, "team/b.tar.gz", 3.0);
        assert_eq!(store.sent("a.tar.gz"), sizes[0], "restart {restart}");
        assert_eq!(store.sent("team/b.tar.gz"), sizes[1], "restart {restart}");
        if restart == 0 {
            server.terminate();
            assert!(server.wait_for_end().status.success());
        } else {
            kill(server);
        }
    }
}

#[test]
fn an_object_replaced_while_the_server_is_down_is_noticed() {
    let store = Store::new();
    let cache = tempfile::tempdir().unwrap();
    store.put_scale("a.tar.gz", 2.0);
    let server = with_cache(&store, &cache).start();
    assert_scales(&server, "a.tar.gz", 2.0);
    kill(server);
    store.put_scale("a.tar.gz", 3.0);
    let server = with_cache(&store, &cache).arguments(["--revalidate", "1ms"]).start();
    eventually("the new model answers", || {
        let seen = super::ask(&server, "a.tar.gz").expect(200).json();
        assert!([answer(2.0), answer(3.0)].contains(&seen), "{seen}");
        seen == answer(3.0)
    });
}

#[test]
fn archives_on_disk_are_served_while_the_store_is_unreachable() {
    let store = Store::new();
    let cache = tempfile::tempdir().unwrap();
    store.put_scale("a.tar.gz", 2.0);
    let server = with_cache(&store, &cache).start();
    assert_scales(&server, "a.tar.gz", 2.0);
    kill(server);
    store.proxy.refuse_connections();
    let server = with_cache(&store, &cache)
        .arguments(["--store-retries", "0", "--revalidate", "1ms"])
        .start();
    assert_scales(&server, "a.tar.gz", 2.0);
}

#[test]
fn a_kill_during_a_download_leaves_no_partial_archive() {
    let store = Store::new();
    let cache = tempfile::tempdir().unwrap();
    let archive = two_parts(2.0);
    store.put("a.tar.gz", &archive);
    let server = with_cache(&store, &cache).start();
    store.proxy.rule(
        Rule::new(Fault::HoldAfter(archive.len() * 3 / 4))
            .method("GET")
            .on("a.tar.gz"),
    );
    let mut asking = server.connect();
    asking.write(&request("a.tar.gz", &question()).to_bytes()).unwrap();
    store.proxy.wait_for_held(1);
    eventually("a part is on disk", || !files_called(cache.path(), FIRST).is_empty());
    kill(server);
    store.proxy.release();

    let server = with_cache(&store, &cache).start();
    assert_scales(&server, "a.tar.gz", 2.0);
    // Only the complete archive is left.
    eventually("the unfinished archive is removed", || {
        files_called(cache.path(), FIRST).len() == 1
    });
    let before = store.sent("a.tar.gz");
    kill(server);
    let server = with_cache(&store, &cache).start();
    assert_scales(&server, "a.tar.gz", 2.0);
    assert_eq!(store.sent("a.tar.gz"), before);
}

#[test]
fn a_new_worker_serves_the_models_of_a_killed_one() {
    let store = Store::new();
    let sizes = [store.put_scale("a.tar.gz", 2.0), store.put_scale("b.tar.gz", 3.0)];
    let server = store.server().start();
    assert_scales(&server, "a.tar.gz", 2.0);
    server.process().signal(Signal::KILL);
    eventually("another process serves", || {
        let result = try_send(server.address(), &request("a.tar.gz", &question()));
        result.is_ok_and(|response| response.status == 200)
    });
    assert_scales(&server, "a.tar.gz", 2.0);
    assert_scales(&server, "b.tar.gz", 3.0);
    assert_eq!([store.sent("a.tar.gz"), store.sent("b.tar.gz")], sizes);
}

#[test]
fn a_new_worker_repeats_the_download_of_a_killed_one() {
    let store = Store::new();
    let cache = tempfile::tempdir().unwrap();
    let archive = two_parts(2.0);
    store.put("a.tar.gz", &archive);
    let server = with_cache(&store, &cache).start();
    store.proxy.rule(
        Rule::new(Fault::HoldAfter(archive.len() * 3 / 4))
            .method("GET")
            .on("a.tar.gz"),
    );
    let mut asking = server.connect();
    asking.write(&request("a.tar.gz", &question()).to_bytes()).unwrap();
    store.proxy.wait_for_held(1);
    server.process().signal(Signal::KILL);
    store.proxy.release();
    eventually("another process serves", || {
        let result = try_send(server.address(), &request("a.tar.gz", &question()));
        result.is_ok_and(|response| response.status == 200)
    });
    assert_scales(&server, "a.tar.gz", 2.0);
    eventually("the unfinished archive is removed", || {
        files_called(cache.path(), FIRST).len() == 1
    });
}

#[test]
fn a_stop_does_not_wait_for_a_silent_store() {
    let store = Store::new();
    store.put_scale("a.tar.gz", 2.0);
    let server = store.server().arguments(["--drain-timeout", "1s"]).start();
    store.proxy.rule(Rule::new(Fault::Hold).on("a.tar.gz"));
    let mut asking = server.connect();
    asking.write(&request("a.tar.gz", &question()).to_bytes()).unwrap();
    store.proxy.wait_for_held(1);
    server.terminate();
    // The download is still in flight.
    assert!(server.wait_for_end().status.success());
}
