//! Archives on disk: bounded whatever was requested, and kept while their model is loaded.

use std::fs;
use std::path::Path;

use super::{Store, assert_scales, files_called, noise};
use crate::harness::{eventually, scale};
use crate::support::archive::{Form, archive_as};

/// Size of the file that fills each archive, in bytes, and the name by which it is found on disk.
const FILLER: usize = 300_000;
const FILLER_NAME: &str = "filler-of-the-archive.bin";

/// Puts an archive that occupies about [`FILLER`] bytes while it is on disk.
fn put_filled(store: &Store, name: &str, factor: f32) -> u64 {
    let (model, filler) = (scale(factor), noise(FILLER, factor.to_bits().into()));
    let archive = archive_as(Form::Gzip, &[(FILLER_NAME, &filler), ("model.onnx", &model)]);
    store.put(name, &archive);
    archive.len() as u64
}

fn on_disk(cache: &Path) -> usize {
    let files = files_called(cache, FILLER_NAME);
    // A file that is being removed or written may have any length.
    files
        .iter()
        .filter_map(|file| fs::metadata(file).ok())
        .map(|file| file.len() as usize)
        .sum()
}

fn name(index: usize) -> String {
    format!("m{index:02}.tar.gz")
}

#[test]
fn archives_on_disk_stay_within_their_limit_and_all_models_serve() {
    const MODELS: usize = 10;
    const BOUND: usize = 1 << 20;
    let store = Store::new();
    for index in 0..MODELS {
        put_filled(&store, &name(index), index as f32 + 1.0);
    }
    let server = store.server().arguments(["--archive-cache-size", "1MiB"]).start();
    let cache = server.models().cache().to_owned();
    for round in 0..2 {
        for index in 0..MODELS {
            assert_scales(&server, &name(index), index as f32 + 1.0);
            server.unload(&name(index)).expect(200);
            eventually("the archives stay within their limit", || on_disk(&cache) <= BOUND);
        }
        assert!(on_disk(&cache) > BOUND / 2, "round {round}: nothing is kept");
    }
    // The most recently used archive is still there; the least recently used is fetched again.
    let (last, first) = (name(MODELS - 1), name(0));
    let sent = (store.sent(&last), store.sent(&first));
    assert_scales(&server, &last, MODELS as f32);
    assert_eq!(store.sent(&last), sent.0);
    assert_scales(&server, &first, 1.0);
    assert!(store.sent(&first) > sent.1);
}

#[test]
fn archives_of_loaded_models_stay_on_disk_beyond_the_limit() {
    const MODELS: usize = 10;
    let store = Store::new();
    for index in 0..MODELS {
        put_filled(&store, &name(index), index as f32 + 1.0);
    }
    let server = store.server().arguments(["--archive-cache-size", "1MiB"]).start();
    for round in 0..2 {
        for index in 0..MODELS {
            assert_scales(&server, &name(index), index as f32 + 1.0);
        }
        let loads = || server.count_in_log("model loaded");
        eventually("the log has all loads", || loads() >= MODELS);
        assert_eq!(loads(), MODELS, "round {round}");
    }
    for index in 0..MODELS {
        server.unload(&name(index)).expect(200);
    }
    let cache = server.models().cache().to_owned();
    eventually("the archives stay within their limit", || on_disk(&cache) <= 1 << 20);
}

#[test]
fn an_archive_larger_than_the_limit_is_kept_only_while_it_is_loaded() {
    let store = Store::new();
    put_filled(&store, "large.tar.gz", 2.0);
    let server = store.server().arguments(["--archive-cache-size", "100KiB"]).start();
    for _ in 0..3 {
        assert_scales(&server, "large.tar.gz", 2.0);
    }
    server.unload("large.tar.gz").expect(200);
    let cache = server.models().cache().to_owned();
    eventually("the archive is removed", || on_disk(&cache) == 0);
    assert_scales(&server, "large.tar.gz", 2.0);
}

#[test]
fn a_replaced_archive_is_removed_from_disk() {
    let store = Store::new();
    let server = store.server().arguments(["--revalidate", "1ms"]).start();
    for factor in [1.0, 2.0, 3.0, 4.0] {
        put_filled(&store, "a.tar.gz", factor);
        eventually("the new model answers", || {
            super::ask(&server, "a.tar.gz").expect(200).json() == super::answer(factor)
        });
    }
    let cache = server.models().cache().to_owned();
    eventually("the old archives are removed", || {
        files_called(&cache, FILLER_NAME).len() == 1
    });
}

#[test]
fn archives_with_deleted_files_are_fetched_again() {
    let store = Store::new();
    let size = put_filled(&store, "a.tar.gz", 2.0);
    let server = store.server().start();
    assert_scales(&server, "a.tar.gz", 2.0);
    server.unload("a.tar.gz").expect(200);
    let found = files_called(server.models().cache(), FILLER_NAME);
    assert_eq!(found.len(), 1, "{found:?}");
    fs::remove_dir_all(found[0].parent().unwrap()).unwrap();
    assert_scales(&server, "a.tar.gz", 2.0);
    assert_eq!(store.sent("a.tar.gz"), 2 * size);
}
