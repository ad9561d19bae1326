//! An entry's description as it is written, and what says that its files are still what was written.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::artifact::Facts;
use crate::engine::prepare::Findings;
use crate::private::Key;

/// `<key>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) findings: Findings,
    pub(super) facts: Facts,
    /// Of the prepared file, when there is one.
    pub(super) hash: Option<String>,
    pub(super) bytes: u64,
}

impl Entry {
    /// The entry as it is written: a line with the hash of the rest, which only the owner of `key` can make; the rest.
    pub(super) fn to_bytes(&self, key: &Key) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let hash = keyed(key, &text).to_hex();
        Ok([hash.as_bytes(), b"\n", &text].concat())
    }

    /// `None` when it is not as it was written.
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

/// Identity of a file's content without reading it. Without the time of change, which a rename moves: only this user writes here,
/// and no file twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
}

impl Stamp {
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

/// The hash of `file` from its beginning on.
pub(super) fn hash(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}
