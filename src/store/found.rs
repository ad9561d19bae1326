//! What was found in a store: an object or a folder, and the bytes of its files.

use std::io::{self, Read};

use super::bucket::Opened;
use super::download::Incoming;
use super::error::StoreError;
use super::listing::StoredFile;
use super::local::LocalFile;
use super::remote::At;
use super::thread::on;
use super::version::Version;

/// What a name means in a store.
pub enum Found {
    /// It is the version that was known.
    Unchanged,
    Object(Object),
    Folder(Folder),
}

/// A single object, of which the first bytes may be on their way: read it soon or drop it.
pub struct Object {
    pub(super) found: At,
    pub(super) version: Version,
    pub(super) bytes: u64,
    /// None for a local file.
    pub(super) opened: Option<Opened>,
}

/// Files below a common prefix.
pub struct Folder {
    pub(super) found: At,
    pub(super) version: Version,
    pub(super) files: Vec<StoredFile>,
}

/// The bytes of a file in a store, in order. Reading blocks, so it is for threads that may; its errors have a [`StoreError`]
/// inside ([`StoreError::of`]). Dropping it ends the download.
pub struct Reader(pub(super) Bytes);

pub(super) enum Bytes {
    Local(LocalFile),
    Incoming(Incoming),
    Failed(StoreError),
}

impl Object {
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads it. [`StoreError::Changed`] means that it is to be found anew.
    pub fn into_reader(self) -> Reader {
        self.found.read(None, &self.version, self.bytes, self.opened)
    }
}

impl Folder {
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Its files, in the order of their names.
    pub fn files(&self) -> &[StoredFile] {
        &self.files
    }

    /// The size of all files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Reads one of its files.
    pub fn reader(&self, file: &StoredFile) -> Reader {
        self.found.read(Some(&file.name), &file.version, file.bytes, None)
    }

    /// Whether it is still the same: each file is of the version that was found, and this says that they belong together.
    pub async fn confirm(&self) -> Result<(), StoreError> {
        let (at, version) = (self.found.clone(), self.version.clone());
        let (runtime, url) = (at.runtime.clone(), at.url.clone());
        on(&runtime, url.clone(), async move {
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
    /// The reason that reading from a store failed for.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Bytes::Local(file) => file.read(buffer),
            Bytes::Incoming(incoming) => incoming.read(buffer),
            Bytes::Failed(error) => Err(io::Error::other(error.clone())),
        }
    }
}
