//! Side files of models, such as tokenizers, that have to outlive the artifact, found by their
//! hash.
//!
//! The platform may delete an artifact once its model is loaded (MM-17), and a restarted process
//! still has to load the model again. Models with the same side file share one copy. It counts
//! against the limit of prepared models, and is used only after its hash was checked.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use super::PreparedCache;
use super::folder::PREFIX;
use crate::disk_cache::{self, CacheFolder};
use crate::private::TemporaryFile;

impl PreparedCache {
    /// Keeps `bytes`, whose hash is `hash`. Does nothing without a usable folder.
    pub fn keep_side_file(&self, hash: &blake3::Hash, bytes: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let path = side_file_path(folder, hash);
        if path.exists() {
            return;
        }
        let written = self.add(folder, bytes.len() as u64, || {
            let new = TemporaryFile::new(folder.path())?;
            new.file().write_all(bytes)?;
            new.finish(&path).map(drop)
        });
        if let Err(error) = written {
            self.log_once(folder, &error);
        }
    }

    /// Reads the bytes with this `hash`, if they are kept.
    pub fn side_file(&self, hash: &blake3::Hash) -> Option<Vec<u8>> {
        let path = side_file_path(self.folder.as_ref()?, hash);
        let bytes = fs::read(&path).ok()?;
        if blake3::hash(&bytes) != *hash {
            tracing::warn!(file = %path.display(), "a kept file is damaged and is removed");
            let _ = disk_cache::discard(&path);
            return None;
        }
        // Eviction goes by the time of the last use.
        let _ = disk_cache::touch(&path);
        Some(bytes)
    }
}

/// The path of a side file. It has the extension of a description, so that it counts as an entry
/// against the limit.
fn side_file_path(folder: &CacheFolder, hash: &blake3::Hash) -> PathBuf {
    let name = folder.hash("longshore 2026 file beside a model", hash.as_bytes());
    folder.path().join(format!("{PREFIX}{}.json", name.to_hex()))
}
