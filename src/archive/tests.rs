//! Unpacking of valid, hostile, damaged and random archives.

#[path = "../../tests/support/archives.rs"]
mod archives;
mod damage;
mod limits;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;

use super::{ExpectedFormat, PackSource, UnpackError, UnpackLimits, Unpacked, unpack, write};
use archives::{entry, file, folder, gzip, header, long_name, noise, pax, seal, tar, zstd};

const BOUNDS: UnpackLimits = UnpackLimits {
    entries: archives::MAX_ENTRIES,
    bytes: archives::MAX_UNPACKED,
    ratio: archives::MAX_RATIO,
};

type Files = BTreeMap<String, Vec<u8>>;

/// Unpacks an archive within `bounds`, and checks the invariants: nothing is outside of the folder,
/// and its contents are within the limits and have the right permissions. Returns the files.
fn unpacked_within(archive: impl Read, bounds: &UnpackLimits) -> Result<Files, UnpackError> {
    let around = tempfile::tempdir().unwrap();
    let into = around.path().join("deep/er/into");
    fs::create_dir_all(&into).unwrap();
    let result = unpack(archive, ExpectedFormat::Anything("model.onnx"), &into, bounds);
    let names: Vec<_> = fs::read_dir(around.path()).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(fs::read_dir(around.path().join("deep")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(around.path().join("deep/er")).unwrap().count(), 1);
    let mut files = Files::new();
    let entries = walk(&into, &into, &mut files);
    let bytes: u64 = files.values().map(|content| content.len() as u64).sum();
    assert!(entries <= bounds.entries, "{entries} entries");
    assert!(bytes <= bounds.bytes, "{bytes} bytes");
    let unpacked = result?;
    assert_eq!(unpacked.bytes, bytes);
    assert!(unpacked.entries >= entries, "{unpacked:?} of {entries}");
    Ok(files)
}

fn unpacked(archive: &[u8]) -> Result<Files, UnpackError> {
    unpacked_within(archive, &BOUNDS)
}

/// Reads the contents of `folder`. Returns the number of files and folders.
fn walk(folder: &Path, root: &Path, files: &mut Files) -> u64 {
    let mut entries = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        entries += 1;
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            assert_eq!(mode & !0o755, 0, "{path:?}");
            entries += walk(&path, root, files);
        } else {
            assert!(metadata.is_file(), "{path:?}");
            assert_eq!(mode & !0o644, 0, "{path:?}");
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    entries
}

fn files(expected: &[(&str, &[u8])]) -> Files {
    expected
        .iter()
        .map(|(name, content)| ((*name).to_owned(), content.to_vec()))
        .collect()
}

/// An archive of two files, and the files.
fn two() -> (Vec<u8>, Files) {
    let content = noise(1500);
    let archive = tar(&[folder("a/"), file("a/one", &content), file("two", b"2")]);
    (archive, files(&[("a/one", &content), ("two", b"2")]))
}

#[test]
fn hostile_archives_are_refused_with_their_defect() {
    let mut names = BTreeSet::new();
    for hostile in archives::hostile() {
        let error = unpacked(&hostile.bytes).map(drop).unwrap_err().to_string();
        assert!(error.contains(hostile.says), "{}: {error}", hostile.name);
        assert!(names.insert(hostile.name), "{} is there twice", hostile.name);
    }
}

#[test]
fn every_way_to_write_a_name_is_understood() {
    let long = "l".repeat(180);
    let mut old = header(b"old", 0, b"1");
    // As before archives had magic bytes.
    old[257..265].fill(0);
    seal(&mut old);
    old.extend([b'0'; 512]);
    let mut prefixed = header(b"c", b'0', b"00000000000\0");
    prefixed[345..349].copy_from_slice(b"deep");
    seal(&mut prefixed);
    let archive = tar(&[
        old,
        prefixed,
        folder("./"),
        folder("folder/"),
        file("./folder/a", b"1"),
        folder("folder"),
        entry(b"before/there/were/kinds/", 0, b""),
        long_name(long.as_bytes()),
        file("cut", b"2"),
        pax(b'g', &[("comment", "none")]),
        pax(
            b'x',
            &[
                ("path", "b/é"),
                ("mtime", "1.5"),
                ("SCHILY.xattr.user.x", "a\nb"),
                ("size", "1"),
            ],
        ),
        file("b", b"3"),
        pax(b'x', &[("hdrcharset", "BINARY"), ("path", "binary")]),
        entry(b"b", b'7', b"4"),
    ]);
    let expected = files(&[
        ("old", b"0"),
        ("deep/c", b""),
        ("folder/a", b"1"),
        (&long, b"2"),
        ("b/é", b"3"),
        ("binary", b"4"),
    ]);
    assert_eq!(unpacked(&archive).unwrap(), expected);
    assert_eq!(unpacked(&gzip(&archive)).unwrap(), expected);
}

/// Archives `file`, which has holes, with the system's tar and `options`.
fn tar_sparse(folder: &Path, options: &[&str]) -> Vec<u8> {
    let archive = folder.join("out.tar");
    let done = std::process::Command::new("tar")
        .args(["--sparse", "--create", "--file"])
        .arg(&archive)
        .args(options)
        .arg("--directory")
        .arg(folder.join("in"))
        .args(["first", "holes", "last"])
        .status()
        .unwrap();
    assert!(done.success(), "{options:?}");
    fs::read(archive).unwrap()
}

#[test]
fn a_sparse_file_in_any_layout_of_gnu_tar_becomes_the_whole_file() {
    // The old layout has room for 4 pieces in a header, and for 21 in each block after it.
    for pieces in [0, 1, 4, 5, 30] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        let mut content = vec![0; (pieces + 1) * (256 << 10)];
        for piece in 0..pieces {
            let at = piece * (256 << 10) + 4096;
            content[at..at + 4096].copy_from_slice(&noise(4096));
        }
        let path = |name: &str| folder.path().join("in").join(name);
        fs::write(path("first"), b"1").unwrap();
        fs::write(path("last"), b"2").unwrap();
        let file = fs::File::create(path("holes")).unwrap();
        for piece in 0..pieces {
            let at = piece * (256 << 10) + 4096;
            file.write_all_at(&content[at..at + 4096], at as u64).unwrap();
        }
        file.set_len(content.len() as u64).unwrap();
        let expected = files(&[("first", b"1"), ("holes", &content), ("last", b"2")]);
        for layout in [
            &["--format=gnu"][..],
            &["--format=posix", "--sparse-version=0.0"],
            &["--format=posix", "--sparse-version=0.1"],
            &["--format=posix", "--sparse-version=1.0"],
        ] {
            let archive = tar_sparse(folder.path(), layout);
            assert!(
                archive.len() < content.len(),
                "{layout:?} {pieces}: the archive stores the holes"
            );
            let found = unpacked(&archive).unwrap_or_else(|error| panic!("{layout:?} {pieces}: {error}"));
            assert!(found == expected, "{layout:?} {pieces}");
            assert!(unpacked(&gzip(&archive)).unwrap() == expected, "{layout:?} {pieces}");
        }
    }
}

#[test]
fn an_entry_for_the_root_creates_nothing() {
    // GNU tar writes "./", and Python's tarfile "/", for a root that it packs under an empty name.
    for root in ["./", ".", "/", "//", ""] {
        let archive = tar(&[folder(root), file("model.onnx", b"1"), folder(root)]);
        assert_eq!(unpacked(&archive).unwrap(), files(&[("model.onnx", b"1")]), "{root:?}");
    }
    let error = unpacked(&tar(&[file("/", b"")])).unwrap_err();
    assert!(matches!(error, UnpackError::NoFile), "{error}");
}

#[test]
fn every_output_of_common_compressors_is_read() {
    let (archive, expected) = two();
    let (first, second) = archive.split_at(1000);
    let skippable = b"\x5a\x2a\x4d\x18\x03\0\0\0abc";
    let mut one_zero_block = archive.clone();
    one_zero_block.truncate(archive.len() - 512);
    let mut record = archive.clone();
    record.resize(40 * 512, 0);
    let mut odd = archive.clone();
    odd.extend([0; 77]);
    let table = [
        ("tar", archive.clone()),
        ("tar with a short end", one_zero_block),
        ("tar in records", record),
        ("tar with odd zeros after it", odd),
        ("gzip", gzip(&archive)),
        ("gzip in members", [gzip(first), gzip(b""), gzip(second)].concat()),
        ("gzip with zeros after it", [gzip(&archive), vec![0; 300]].concat()),
        ("zstd", zstd(&archive)),
        ("zstd in frames", [zstd(first), zstd(b""), zstd(second)].concat()),
        (
            "zstd with skippable frames",
            [skippable, &zstd(first)[..], skippable, &zstd(second)[..], skippable].concat(),
        ),
    ];
    for (name, bytes) in table {
        let found = unpacked(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, expected, "{name}");
        // Also where one byte comes at a time.
        let found = unpacked_within(Trickle::of(bytes), &BOUNDS);
        assert_eq!(found.unwrap(), expected, "{name}");
    }
}

#[test]
fn a_source_that_is_not_an_archive_becomes_the_file() {
    for bytes in [noise(300_000), b"\x08\x08\x12\x07pytorch".to_vec(), vec![8]] {
        assert_eq!(unpacked(&bytes).unwrap(), files(&[("model.onnx", &bytes)]));
    }
    let bounds = UnpackLimits { bytes: 1000, ..BOUNDS };
    let error = unpacked_within(&noise(1001)[..], &bounds).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge(1000)), "{error}");
}

#[test]
fn an_unexpected_format_is_refused_before_anything_is_written() {
    let archive = tar(&[file("model.onnx", b"model")]);
    let (gzip, zstd, bare) = (gzip(&archive), zstd(&archive), noise(1000));
    let archive = archive.as_slice();
    let table: [(&[u8], ExpectedFormat<'_>, Option<&str>); 8] = [
        (&gzip, ExpectedFormat::TarGzip, None),
        (&gzip, ExpectedFormat::Archive, None),
        (archive, ExpectedFormat::Archive, None),
        (&zstd, ExpectedFormat::Archive, None),
        (archive, ExpectedFormat::TarGzip, Some("it is not compressed with gzip")),
        (&zstd, ExpectedFormat::TarGzip, Some("it is not compressed with gzip")),
        (&bare, ExpectedFormat::TarGzip, Some("it is not an archive")),
        (&bare, ExpectedFormat::Archive, Some("it is not an archive")),
    ];
    for (source, expected, refusal) in table {
        let into = tempfile::tempdir().unwrap();
        let refused = unpack(source, expected, into.path(), &BOUNDS)
            .err()
            .map(|error| error.to_string());
        let agrees = match (&refused, refusal) {
            (Some(message), Some(refusal)) => message.starts_with(refusal),
            (message, refusal) => message.is_none() && refusal.is_none(),
        };
        assert!(agrees, "{expected:?}: {refused:?}");
        let files = fs::read_dir(into.path()).unwrap().count();
        assert_eq!(files, usize::from(refusal.is_none()), "{expected:?}");
    }
}

#[test]
fn times_and_permissions_of_the_archive_are_ignored() {
    let mut bytes = header(b"run", b'0', b"00000000000\0");
    bytes[100..108].copy_from_slice(b"0006777\0");
    seal(&mut bytes);
    let into = tempfile::tempdir().unwrap();
    let unpacked = unpack(
        &tar(&[bytes])[..],
        ExpectedFormat::Anything("model.onnx"),
        into.path(),
        &BOUNDS,
    )
    .unwrap();
    assert_eq!(unpacked, Unpacked { entries: 1, bytes: 0 });
    let metadata = fs::metadata(into.path().join("run")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7133, 0);
    let age = metadata.modified().unwrap().elapsed().unwrap_or_default();
    assert!(age.as_secs() < 24 * 60 * 60, "{age:?}");
}

/// Yields one byte at a time, with an interrupt before each.
struct Trickle {
    bytes: Cursor<Vec<u8>>,
    is_interrupted: bool,
}

impl Trickle {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Cursor::new(bytes),
            is_interrupted: false,
        }
    }
}

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.is_interrupted = !self.is_interrupted;
        if self.is_interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = buffer.len().min(1);
        self.bytes.read(&mut buffer[..most])
    }
}
