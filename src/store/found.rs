//! Search results of a store: an object or a folder, and readers of their files.

use std::io::{self, Read};

use super::bucket::OpenedObject;
use super::download::Incoming;
use super::error::StoreError;
use super::listing::StoredFile;
use super::local::LocalFile;
use super::remote::RemoteName;
use super::thread::run_on;
use super::version::Version;

/// The result of a search for a name.
pub enum FoundModel {
    /// The object or folder has the known version.
    Unchanged,
    Object(Object),
    Folder(Folder),
}

/// A single object. Its first bytes may be in transit, so read it soon or drop it.
pub struct Object {
    pub(super) found: RemoteName,
    pub(super) version: Version,
    pub(super) bytes: u64,
    /// None for a local file.
    pub(super) opened: Option<OpenedObject>,
}

/// The files below a common prefix.
pub struct Folder {
    pub(super) found: RemoteName,
    pub(super) version: Version,
    pub(super) files: Vec<StoredFile>,
}

/// The bytes of a file in a store, in order. Reading blocks, so it belongs on threads that may
/// block. Errors contain a [`StoreError`] ([`StoreError::of`]). Dropping the reader ends the
/// download.
pub struct StoreReader(pub(super) ReaderSource);

pub(super) enum ReaderSource {
    Local(LocalFile),
    Incoming(Incoming),
    Failed(StoreError),
}

impl Object {
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the object. [`StoreError::Changed`] means that it has to be searched for again.
    pub fn into_reader(self) -> StoreReader {
        self.found.read(None, &self.version, self.bytes, self.opened)
    }
}

impl Folder {
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[StoredFile] {
        &self.files
    }

    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads one of the files.
    pub fn reader(&self, file: &StoredFile) -> StoreReader {
        self.found.read(Some(&file.name), &file.version, file.bytes, None)
    }

    /// Confirms that the folder is unchanged. Each file has the version that was found; this check
    /// confirms that the files belong together.
    pub async fn confirm(&self) -> Result<(), StoreError> {
        let (at, version) = (self.found.clone(), self.version.clone());
        let (runtime, url) = (at.runtime.clone(), at.url.clone());
        run_on(&runtime, url.clone(), async move {
            match at.listing().await {
                Ok(listing) if listing.version() == version => Ok(()),
                Ok(_) | Err(StoreError::NotFound { .. }) => Err(StoreError::Changed { url }),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

impl StoreError {
    /// The store error inside an error of a `StoreReader`.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl Read for StoreReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            ReaderSource::Local(file) => file.read(buffer),
            ReaderSource::Incoming(incoming) => incoming.read(buffer),
            ReaderSource::Failed(error) => Err(io::Error::other(error.clone())),
        }
    }
}
