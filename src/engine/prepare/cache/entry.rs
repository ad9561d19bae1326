//! An entry's description as it is written, and what says that its files are still what was written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::artifact::Facts;
use crate::engine::prepare::Findings;

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
    /// The entry as it is written: a line with the hash of the rest, the rest.
    pub(super) fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let text = serde_json::to_vec(self)?;
        let hash = blake3::hash(&text).to_hex();
        Ok([hash.as_bytes(), b"\n", &text].concat())
    }

    /// `None` when it is not as it was written.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (hash, text) = bytes.split_at_checked(2 * blake3::OUT_LEN)?;
        let text = text.strip_prefix(b"\n")?;
        let is_whole = blake3::Hash::from_hex(hash).is_ok_and(|hash| hash == blake3::hash(text));
        is_whole.then(|| serde_json::from_slice(text).ok()).flatten()
    }
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
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

pub(super) fn hash(file: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
