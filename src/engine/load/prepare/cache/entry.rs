//! The description of an entry, and the check that the entry's files are unchanged.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::load::artifact::Facts;
use crate::engine::load::prepare::Findings;
use crate::private::Key;

/// The content of `prepared-<name>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EntryDescription {
    pub(super) findings: Findings,
    pub(super) facts: Facts,
    /// Hash of the prepared file, if there is one.
    pub(super) hash: Option<String>,
    pub(super) bytes: u64,
}

impl EntryDescription {
    /// Serialises the entry: a line with the keyed hash of the rest, then the rest. Only the owner
    /// of `key` can compute the hash.
    pub(super) fn to_bytes(&self, key: &Key) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let hash = keyed(key, &text).to_hex();
        Ok([hash.as_bytes(), b"\n", &text].concat())
    }

    /// Parses an entry. `None` if it was not written with this `key`, or is damaged.
    pub(super) fn from_bytes(bytes: &[u8], key: &Key) -> Option<Self> {
        let (hash, text) = bytes.split_at_checked(2 * blake3::OUT_LEN)?;
        let text = text.strip_prefix(b"\n")?;
        let is_whole = blake3::Hash::from_hex(hash).is_ok_and(|hash| hash == keyed(key, text));
        is_whole.then(|| serde_json::from_slice(text).ok()).flatten()
    }
}

fn keyed(key: &Key, text: &[u8]) -> blake3::Hash {
    key.hasher("longshore 2026 description of a prepared model")
        .update(text)
        .finalize()
}

/// Identity of a file's content without reading it. Leaves out the change time, which a rename
/// updates: only this user writes here, and no file is written twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreparedFileStamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
}

impl PreparedFileStamp {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::of_metadata(&fs::symlink_metadata(path)?))
    }

    pub(super) fn of_metadata(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Computes the hash of `file` from its beginning.
pub(super) fn hash(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}
