//! The folder of a cache: its owner, its secret, and the files in it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::private::{self, Key, Refusal};

/// Reasons why a folder cannot hold a cache.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{} cannot be used: {source}", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    NotOurs(Refusal),
    #[error("{} is on tmpfs; prepared models stored there would use the memory they are meant to save", path.display())]
    InMemory { path: PathBuf },
}

/// An existing folder of this user alone, with the secret that the names of its entries depend on.
#[derive(Debug)]
pub struct CacheFolder {
    path: PathBuf,
    key: Key,
}

impl CacheFolder {
    /// Opens or creates the folder at `path`.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        make(path)?;
        Ok(Self {
            path: path.to_owned(),
            key: Key::open(path).map_err(unusable(path))?,
        })
    }

    /// Creates the folder again if it was deleted. If another user has created it since, that is an
    /// error.
    pub fn ensure(&self) -> Result<(), FolderError> {
        make(&self.path)?;
        self.key.put(&self.path).map_err(unusable(&self.path))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hashes `text` for one purpose. Other users cannot predict the result.
    pub fn hash(&self, purpose: &str, text: &[u8]) -> blake3::Hash {
        self.key.hasher(purpose).update(text).finalize()
    }
}

/// Creates the folder at `path` if it is missing, and checks that it belongs to this user alone.
pub fn make(path: &Path) -> Result<(), FolderError> {
    private::make(path).map_err(|refusal| match refusal {
        Refusal::Unusable { source, .. } => unusable(path)(source),
        refusal => FolderError::NotOurs(refusal),
    })
}

/// The error of a folder, from its cause.
pub fn unusable(path: &Path) -> impl Fn(io::Error) -> FolderError {
    move |source| FolderError::Unusable {
        path: path.to_owned(),
        source,
    }
}

/// Lists the paths in `folder`, which may be missing.
pub fn paths(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Records the use of an entry as the time of its description.
pub fn touch(description: &Path) -> io::Result<()> {
    File::open(description)?.set_modified(SystemTime::now())
}

/// Removes a file, link or folder, which may be missing. Does not follow links.
pub fn discard(path: &Path) -> io::Result<()> {
    let removed = fs::symlink_metadata(path).and_then(|metadata| match metadata.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
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
