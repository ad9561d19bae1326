//! The files in the cache's folder, and the file system of the folder.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::discard;

/// Prefix of all entries. Earlier versions had none, and their names did not depend on a key.
pub(super) const PREFIX: &str = "prepared-";

/// An entry in the folder.
pub(super) struct FolderEntry {
    /// Path of the entry's files, without their extensions.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) last: Option<SystemTime>,
}

/// Lists all entries in the folder, by their paths without extensions.
pub(super) fn entries(folder: &Path) -> io::Result<HashMap<PathBuf, FolderEntry>> {
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
        let used = entries.entry(path.clone()).or_insert(FolderEntry {
            path,
            bytes: 0,
            last: None,
        });
        used.bytes += metadata.len();
        // Each use touches the description; no file is older than its entry.
        used.last = used.last.max(metadata.modified().ok());
    }
    Ok(entries)
}

/// Removes entries of earlier versions. Their names could be predicted, so another user may have
/// written them.
pub(super) fn remove_unkeyed_entries(folder: &Path) {
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

/// Whether the disk has space for the prepared form of a model of `weights` bytes. False if the
/// folder is gone.
pub(super) fn has_space(folder: &Path, weights: u64) -> bool {
    const SPARE: u64 = 1 << 20;
    let needed = weights.saturating_mul(2).saturating_add(SPARE);
    free_bytes(folder).is_ok_and(|free| free >= needed)
}

/// Bytes that this user may still write to the folder's file system.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Whether the folder is on a file system in memory: its mapped files cannot be dropped and reread.
pub fn is_in_memory(folder: &Path) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type;
    Ok(kind == TMPFS || kind == RAMFS)
}
