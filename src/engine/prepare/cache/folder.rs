//! The folder that the cache is kept in: ours alone, on a disk, and what lies in it.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::CacheError;

/// Makes `folder`, if need be, and sees to it that nobody else may write there.
pub(super) fn make(folder: &Path) -> Result<(), CacheError> {
    let unusable = |source| CacheError::Unusable {
        folder: folder.to_owned(),
        source,
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    let metadata = fs::symlink_metadata(folder).map_err(unusable)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && ours && metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(CacheError::NotOurs {
            folder: folder.to_owned(),
        })
    }
}

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

/// Whether there is room for the prepared form of a model of `weights` bytes. There is none in a folder that is gone.
pub(super) fn has_room(folder: &Path, weights: u64) -> bool {
    const SPARE: u64 = 1 << 20;
    let needed = weights.saturating_mul(2).saturating_add(SPARE);
    rustix::fs::statvfs(folder).is_ok_and(|system| system.f_bavail.saturating_mul(system.f_frsize) >= needed)
}

/// Whether files there are memory: a mapping of them cannot be given up and read again.
pub(super) fn is_in_memory(folder: &Path) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(folder)?.f_type;
    Ok(kind == TMPFS || kind == RAMFS)
}
