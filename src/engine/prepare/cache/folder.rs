//! The files in the cache's folder, and the disk that it lies on.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::discard;

/// What the names of entries begin with. Those of earlier versions did not depend on a key, and had none.
pub(super) const PREFIX: &str = "prepared-";

/// An entry in the folder.
pub(super) struct Used {
    /// Of its files, without what tells them apart.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) last: Option<SystemTime>,
}

/// All entries in the folder, by their files' paths without what tells them apart.
pub(super) fn entries(folder: &Path) -> io::Result<HashMap<PathBuf, Used>> {
    let mut entries = HashMap::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let file = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        if !file.extension().is_some_and(|kind| kind == "ort" || kind == "json") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let path = file.with_extension("");
        let used = entries.entry(path.clone()).or_insert(Used {
            path,
            bytes: 0,
            last: None,
        });
        used.bytes += metadata.len();
        // Of the two, the description is touched when it is used; neither is older than the entry.
        used.last = used.last.max(metadata.modified().ok());
    }
    Ok(entries)
}

/// Removes entries under names that could be foreseen, which earlier versions have made: another user may have.
pub(super) fn remove_foreseeable(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_hash =
            |stem: &str| stem.len() == 2 * blake3::OUT_LEN && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !path.file_stem().and_then(|stem| stem.to_str()).is_some_and(is_hash) {
            continue;
        }
        match path.extension().and_then(|kind| kind.to_str()) {
            Some("ort" | "json") => discard(&path),
            Some("tensorrt") => drop(fs::remove_dir_all(&path)),
            Some(_) | None => {}
        }
    }
}

/// Whether there is room for the prepared form of a model of `weights` bytes. There is none in a folder that is gone.
pub(super) fn has_room(folder: &Path, weights: u64) -> bool {
    const SPARE: u64 = 1 << 20;
    let needed = weights.saturating_mul(2).saturating_add(SPARE);
    free_bytes(folder).is_ok_and(|free| free >= needed)
}

/// Bytes that this user may still write there.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Whether files there are memory: a mapping of them cannot be given up and read again.
pub fn is_in_memory(folder: &Path) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type;
    Ok(kind == TMPFS || kind == RAMFS)
}
