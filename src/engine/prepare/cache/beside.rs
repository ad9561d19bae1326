//! Files beside a model that have to outlive the artifact, such as its tokenizer: by their content.
//!
//! The platform may delete an artifact once its model is loaded (MM-17), and a restarted process
//! loads the model again all the same. A file is kept once for all models that have it, under the
//! same bound as prepared models, and is believed only when its hash is right.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::folder::PREFIX;
use super::{Cache, Unfinished};

impl Cache {
    /// Keeps `bytes`, whose hash is `hash`. Without a place for them nothing happens.
    pub fn keep_beside(&self, hash: &blake3::Hash, bytes: &[u8]) {
        let Some(folder) = &self.folder else { return };
        let path = self.beside_path(folder, hash);
        if path.exists() {
            return;
        }
        let written = self.make_room(folder, bytes.len() as u64).and_then(|adding| {
            let new = Unfinished::new(folder)?;
            let mut file = new.file();
            file.write_all(bytes)?;
            new.finish(&path)?;
            adding.done();
            Ok(())
        });
        if let Err(error) = written {
            self.complain(folder, &error);
        }
    }

    /// The bytes of hash `hash`, if they are kept.
    pub fn beside(&self, hash: &blake3::Hash) -> Option<Vec<u8>> {
        let path = self.beside_path(self.folder.as_ref()?, hash);
        let bytes = fs::read(&path).ok()?;
        if blake3::hash(&bytes) != *hash {
            tracing::warn!(file = %path.display(), "a kept file is damaged and is removed");
            super::discard(&path);
            return None;
        }
        // The bound spares what was used last.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes)
    }

    /// The extension is that of an entry's first file, so that the bound counts it as an entry.
    fn beside_path(&self, folder: &Path, hash: &blake3::Hash) -> PathBuf {
        let mut hasher = self.key.hasher("longshore 2026 file beside a model");
        hasher.update(hash.as_bytes());
        folder.join(format!("{PREFIX}{}.json", hasher.finalize().to_hex()))
    }
}
