//! The files in the cache's folder.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::disk_cache::{discard, free_bytes, paths};

/// Prefix of all entries. Earlier versions had none, and their names did not depend on a key.
pub(super) const PREFIX: &str = "prepared-";

/// Extensions of an entry's files. The description is first.
pub(super) const KINDS: [&str; 4] = ["json", "ort", "onnx", "constants"];

/// An entry in the folder.
#[derive(Default)]
pub(super) struct FolderEntry {
    pub(super) bytes: u64,
    pub(super) last: Option<SystemTime>,
}

/// Lists all entries in the folder, by the paths of their files without extensions.
pub(super) fn entries(folder: &Path) -> io::Result<HashMap<PathBuf, FolderEntry>> {
    let mut entries: HashMap<PathBuf, FolderEntry> = HashMap::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let file = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        if !file
            .extension()
            .is_some_and(|kind| KINDS.iter().any(|ours| kind == *ours))
        {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let used = entries.entry(file.with_extension("")).or_default();
        used.bytes += metadata.len();
        // Each use touches the description; no file is older than its entry.
        used.last = used.last.max(metadata.modified().ok());
    }
    Ok(entries)
}

/// Removes entries of earlier versions. Their names could be predicted, so another user may have
/// written them.
pub(super) fn remove_unkeyed_entries(folder: &Path) -> io::Result<()> {
    let is_hash = |stem: &str| stem.len() == 2 * blake3::OUT_LEN && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    for path in paths(folder)? {
        let is_kind = path
            .extension()
            .is_some_and(|kind| ["ort", "json", "tensorrt"].iter().any(|ours| kind == *ours));
        if is_kind && path.file_stem().and_then(|stem| stem.to_str()).is_some_and(is_hash) {
            discard(&path)?;
        }
    }
    Ok(())
}

/// Whether the disk has space for the prepared form of a model of `weights` bytes. False if the
/// folder is gone.
pub(super) fn has_space(folder: &Path, weights: u64) -> bool {
    const SPARE: u64 = 1 << 20;
    let needed = weights.saturating_mul(2).saturating_add(SPARE);
    free_bytes(folder).is_ok_and(|free| free >= needed)
}
