//! Hostile archives in the store: each is refused with the reason, and nothing is written outside
//! the cache.

use std::fs;
use std::path::Path;

use tar::EntryType;

use super::{Store, ask, assert_scales, files_called};
use crate::harness::{eventually, scale};
use crate::support::archive::{Entry, Form, tar_of};
use crate::support::archives::{self, MAX_ENTRIES, MAX_RATIO, MAX_UNPACKED};

/// The file that the archives try to write.
const MARK: &str = "longshore-was-here";

/// Entries that precede a valid model in the archive, and a part of the error message.
fn hostile() -> Vec<(&'static str, Vec<Entry>, &'static str)> {
    let file = |name: &str| Entry::file(name, b"written");
    let absolute = format!("/tmp/{MARK}");
    vec![
        ("absolute", vec![file(&absolute)], MARK),
        ("parent", vec![file(&format!("../{MARK}"))], MARK),
        (
            "far parent",
            vec![file(&format!("a/../../../../../../../../tmp/{MARK}"))],
            MARK,
        ),
        ("hidden parent", vec![file(&format!("a/./../../{MARK}"))], MARK),
        (
            "symbolic link",
            vec![Entry::link(EntryType::Symlink, "link", "/etc/passwd")],
            "link",
        ),
        (
            "through a link",
            vec![
                Entry::link(EntryType::Symlink, "link", "/tmp"),
                file(&format!("link/{MARK}")),
            ],
            "link",
        ),
        (
            "hard link",
            vec![Entry::link(EntryType::Link, "hard", "/etc/passwd")],
            "hard",
        ),
        ("device", vec![Entry::new(EntryType::Char, "device", b"")], "device"),
        ("block device", vec![Entry::new(EntryType::Block, "disk", b"")], "disk"),
        ("pipe", vec![Entry::new(EntryType::Fifo, "pipe", b"")], "pipe"),
        (
            "sparse without a map",
            vec![Entry::new(EntryType::GNUSparse, "sparse", b"x")],
            "sparse",
        ),
        ("twice", vec![file("twice.bin"), file("twice.bin")], "twice.bin"),
        (
            "the model twice",
            vec![Entry::file("model.onnx", b"another")],
            "model.onnx",
        ),
        ("file as a folder", vec![file("a"), file("a/b")], "a/b"),
        (
            "no UTF-8",
            vec![Entry::new(EntryType::Regular, b"\xff\xfe", b"")],
            "UTF-8",
        ),
        (
            "too many",
            (0..200).map(|index| file(&format!("f{index}"))).collect(),
            "--max-entries",
        ),
        (
            "too much",
            vec![Entry::file("big.bin", &super::noise(3 << 20, 1))],
            "--max-unpacked",
        ),
        (
            "too much claimed",
            vec![file("big.bin").claiming(1 << 40)],
            "--max-unpacked",
        ),
        ("zeros", vec![Entry::file("zeros.bin", &vec![0; 3 << 20])], "--max-"),
    ]
}

#[test]
fn hostile_archives_are_refused_with_the_reason_and_write_nothing_outside() {
    let store = Store::new();
    let server = store
        .server()
        .arguments(["--max-entries", "100", "--max-unpacked", "2MiB", "--negative-ttl", "1h"])
        .start();
    let cache = server.models().cache().to_owned();
    for (what, mut entries, part) in hostile() {
        entries.push(Entry::file("model.onnx", &scale(2.0)));
        let tar = tar_of(entries);
        for (form, extension) in [(Form::Gzip, "tar.gz"), (Form::Zstd, "tar.zst"), (Form::Plain, "tar")] {
            let name = format!("{what}.{extension}");
            store.put(&name, &form.pack(&tar));
            let response = ask(&server, &name);
            assert_eq!(response.status, 503, "{name}: {}", response.text());
            assert!(response.message().contains(part), "{name}: {}", response.message());
            let loaded = server.load(&name, &store.url_of(&name));
            assert_eq!(loaded.status, 400, "{name}: {}", loaded.text());
            assert!(loaded.message().contains(part), "{name}: {}", loaded.message());
        }
        // Neither at the target nor in the folder of the unpacked archive.
        assert!(!Path::new("/tmp").join(MARK).exists(), "{what}");
        let names = [MARK, "link", "twice.bin", "big.bin", "zeros.bin", "model.onnx"];
        for name in names {
            assert_eq!(files_called(server.models().root(), name), [] as [&Path; 0], "{what}");
        }
        eventually("the unpacked files are removed", || {
            names.iter().all(|name| files_called(&cache, name).is_empty())
        });
    }
    store.put_scale("good.tar.gz", 2.0);
    assert_scales(&server, "good.tar.gz", 2.0);
    assert_eq!(files_called(&cache, "model.onnx").len(), 1);
}

#[test]
fn a_decompression_bomb_is_refused_by_its_ratio() {
    let store = Store::new();
    let server = store.server().arguments(["--max-ratio", "100"]).start();
    let tar = tar_of([Entry::file("zeros.bin", &vec![0; 64 << 20])]);
    for (name, form) in [("bomb.tar.gz", Form::Gzip), ("bomb.tar.zst", Form::Zstd)] {
        store.put(name, &form.pack(&tar));
        let message = ask(&server, name).expect(503).message();
        assert!(message.contains("--max-ratio"), "{name}: {message}");
    }
}

#[test]
fn a_prefix_with_too_many_or_too_large_files_is_refused() {
    let store = Store::new();
    let server = store
        .server()
        .arguments(["--max-entries", "5", "--max-unpacked", "1MiB"])
        .start();
    for index in 0..10 {
        store.put(&format!("many/f{index}"), b"");
    }
    store.put("many/model.onnx", &scale(2.0));
    let message = ask(&server, "many").expect(503).message();
    assert!(message.contains("--max-entries"), "{message}");
    store.put("large/filler.bin", &super::noise(2 << 20, 1));
    store.put("large/model.onnx", &scale(2.0));
    let message = ask(&server, "large").expect(503).message();
    assert!(message.contains("--max-unpacked"), "{message}");
    let filler = files_called(server.models().cache(), "filler.bin");
    assert!(filler.iter().all(|file| fs::metadata(file).is_err()), "{filler:?}");
}

#[test]
fn unusual_archive_entries_are_refused_with_their_kind() {
    let store = Store::new();
    let server = store
        .server()
        .arguments(["--max-entries", &MAX_ENTRIES.to_string()])
        .arguments(["--max-unpacked", &MAX_UNPACKED.to_string()])
        .arguments(["--max-ratio", &MAX_RATIO.to_string()])
        .start();
    for (number, hostile) in archives::hostile().into_iter().enumerate() {
        let name = format!("{number}.tar.gz");
        store.put(&name, &hostile.bytes);
        let refused = ask(&server, &name);
        assert_eq!(refused.status, 503, "{}: {}", hostile.name, refused.text());
        let message = refused.message();
        assert!(message.contains(hostile.says), "{}: {message}", hostile.name);
    }
    assert_eq!(server.metric("longshore_cache_entries{cache=\"archives\"}"), 0);
    eventually("the archives are removed", || {
        server.metric("longshore_cache_bytes{cache=\"archives\"}") == 0
    });
    store.put_scale("good.tar.gz", 2.0);
    assert_scales(&server, "good.tar.gz", 2.0);
}
