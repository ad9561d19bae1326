//! Where models come from when there is no platform that brings them: a store of objects, and a folder in which what was
//! fetched from it lies unpacked.
//!
//! Finding and fetching are two steps, so that whoever wants a model can make room in between.
//!
//! What always holds: a model is of one version, never of parts of two; what lies in the folder is whole; a copy is
//! used without asking the store for as long as it was said to be, and beyond that only when the store cannot be asked.

mod advice;
mod aws;
mod azure;
mod bucket;
mod cache;
mod clouds;
mod container;
mod download;
mod environment;
mod error;
mod exchange;
mod folder;
mod found;
mod google;
mod listing;
mod local;
mod location;
mod name;
mod objects;
mod profile;
mod progress;
mod remote;
mod thread;
mod tries;
mod version;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task;

use crate::archive::{self, Expected, UnpackError, UnpackLimits};

pub use cache::{CacheError, Lease, Usage};
pub use environment::Environment;
pub use error::{OpenError as LocationError, StoreError};
pub use name::{Name, NameError};
pub use objects::{ObjectError, Objects};
pub use version::Version;

use cache::DiskCache;
use found::{Folder, Found, Object};
use progress::Watched;
use remote::{Remote, RemoteSettings};

/// What is asked for at once of a large object, and how many of it: 16 MiB under way hide the time that a store takes to
/// answer, and are little beside such an object's model.
const PART_BYTES: u64 = 4 << 20;
const PARTS: usize = 4;

/// Times that a model is looked for when it is replaced again and again while it is read.
const CHANGES: usize = 4;

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `s3://bucket/prefix`, a directory, and so on.
    pub url: String,
    /// The environment, for credentials and endpoints.
    pub environment: Environment,
    /// For the store to send something.
    pub timeout: Duration,
    /// Of a request that failed or was cut short.
    pub retries: u32,
    /// Models at once.
    pub downloads: usize,
    pub bounds: UnpackLimits,
    /// Whether names bind, as on SageMaker: what is called `.tar.gz` is tar and gzip, and a model that is no archive is
    /// called `.onnx` or `.ort`. Else objects are what their content says.
    pub names_bind: bool,
    /// How long a copy is used without asking the store.
    pub revalidate: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error("--cache-dir: {0}")]
    Cache(#[from] CacheError),
}

/// Why a model was not brought.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the archive {url} is refused: {source}")]
    Archive {
        url: String,
        #[source]
        source: UnpackError,
    },
    #[error("it cannot be kept on disk: {0}; see --cache-dir and --archive-cache-size")]
    Disk(String),
    /// The disk is full, whatever the bound says, with what is in use alone.
    #[error("it cannot be kept on disk: {0}; see --cache-dir and --archive-cache-size")]
    NoRoom(String),
    #[error("the server is stopping")]
    Stopping,
}

impl FetchError {
    /// Whether the store has no such model.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(StoreError::NotFound { .. }))
    }
}

/// Where a model of the version that is to be used is.
pub enum Located {
    /// On disk.
    Here(Lease),
    /// In the store.
    There(Arrival),
}

impl Located {
    pub fn version(&self) -> &Version {
        match self {
            Self::Here(lease) => lease.version(),
            Self::There(arrival) => arrival.version(),
        }
    }
}

/// A model that is to be fetched, soon: its first bytes may be on their way.
pub struct Arrival {
    name: Name,
    what: What,
}

impl Arrival {
    fn version(&self) -> &Version {
        match &self.what {
            What::Object(object) => object.version(),
            What::Folder(folder) => folder.version(),
        }
    }
}

enum What {
    Object(Object),
    Folder(Folder),
}

/// Where models lie unpacked: in a folder that this process has for itself, and within a bound. Stores may share it.
#[derive(Clone)]
pub struct Disk(Arc<DiskCache>);

impl Disk {
    /// Below `folder`, for `bound` bytes.
    pub fn open(folder: &Path, bound: u64) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(DiskCache::open(folder, bound)?)))
    }
}

/// A store, and what of it is on disk.
pub struct Store {
    remote: Remote,
    cache: Arc<DiskCache>,
    downloads: Semaphore,
    bounds: UnpackLimits,
    names_bind: bool,
    revalidate: Duration,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("url", &self.remote.url())
            .finish_non_exhaustive()
    }
}

impl Store {
    pub fn open(settings: Settings, disk: &Disk) -> Result<Self, OpenError> {
        let remote = Remote::open(&RemoteSettings {
            url: settings.url,
            environment: settings.environment,
            timeout: settings.timeout,
            retries: settings.retries,
            part_bytes: PART_BYTES,
            parts: PARTS,
            max_files: settings.bounds.entries,
            max_bytes: settings.bounds.bytes,
        })?;
        Ok(Self {
            remote,
            cache: Arc::clone(&disk.0),
            downloads: Semaphore::new(settings.downloads),
            bounds: settings.bounds,
            names_bind: settings.names_bind,
            revalidate: settings.revalidate,
        })
    }

    /// The store, for people: without credentials.
    pub fn url(&self) -> String {
        self.remote.url()
    }

    /// Where the model called `name` is, for people and for the list of models: without credentials.
    pub fn url_of(&self, name: &Name) -> String {
        self.remote.url_of(name)
    }

    /// What is on disk, of all stores that share it.
    pub fn usage(&self) -> Usage {
        self.cache.usage()
    }

    /// Looks for `name`: on disk, while what is there is fresh, else in the store.
    pub async fn find(&self, name: &Name) -> Result<Located, FetchError> {
        let url = self.url_of(name);
        let Some(here) = self.cached(&url).await? else {
            return match self.ask(name, None).await? {
                Some(arrival) => Ok(Located::There(arrival)),
                None => Err(StoreError::Changed { url }.into()),
            };
        };
        if here
            .checked()
            .is_some_and(|checked| checked.elapsed() < self.revalidate)
        {
            return Ok(Located::Here(here));
        }
        match self.ask(name, Some(here.version())).await {
            Ok(Some(arrival)) => Ok(Located::There(arrival)),
            Ok(None) => {
                here.set_checked();
                Ok(Located::Here(here))
            }
            Err(error) if error.is_not_found() => Err(error),
            Err(error) => {
                tracing::warn!(url, "what is on disk is used, which may be old: {error}");
                Ok(Located::Here(here))
            }
        }
    }

    /// What is on disk of `name` is not used again before the store was asked.
    pub async fn doubt(&self, name: &Name) -> Result<(), FetchError> {
        if let Some(here) = self.cached(&self.url_of(name)).await? {
            here.set_unchecked();
        }
        Ok(())
    }

    /// Looks whether the store has another version of `name` than `known`; `None` when it has not.
    pub async fn newer(&self, name: &Name, known: &Version) -> Result<Option<Located>, FetchError> {
        let Some(arrival) = self.ask(name, Some(known)).await? else {
            return Ok(None);
        };
        let here = self.cached(&self.url_of(name)).await?;
        Ok(Some(match here {
            Some(here) if here.version() == arrival.version() => {
                here.set_checked();
                Located::Here(here)
            }
            Some(_) | None => Located::There(arrival),
        }))
    }

    /// What the store has under `name`; `None` when that is `known`.
    async fn ask(&self, name: &Name, known: Option<&Version>) -> Result<Option<Arrival>, FetchError> {
        match self.remote.find(name, known).await {
            Ok(Found::Unchanged) => Ok(None),
            Ok(Found::Object(object)) => Ok(Some(arriving(name, What::Object(object)))),
            Ok(Found::Folder(folder)) => Ok(Some(arriving(name, What::Folder(folder)))),
            Err(error) => {
                if matches!(error, StoreError::NotFound { .. }) {
                    let (cache, url) = (Arc::clone(&self.cache), self.url_of(name));
                    blocking(move || {
                        cache.forget(&url);
                        Ok(())
                    })
                    .await?;
                }
                Err(error.into())
            }
        }
    }

    /// Memory that fetching `arrival` takes at most.
    pub fn memory(&self, arrival: &Arrival) -> u64 {
        const BUFFERS: u64 = 512 << 10;
        let bytes = match &arrival.what {
            What::Object(object) => object.bytes(),
            What::Folder(folder) => folder.bytes(),
        };
        // What has arrived and was not read yet, and what decompressing remembers.
        let arrived = bytes.min(PART_BYTES * PARTS as u64);
        arrived + bytes.min(archive::MAX_WINDOW_BYTES) + BUFFERS
    }

    /// Brings what was found to the disk. The folder of one that is given up is removed.
    pub async fn fetch(&self, mut arrival: Arrival) -> Result<Lease, FetchError> {
        let _turn = self.downloads.acquire().await.map_err(|_| FetchError::Stopping)?;
        let name = arrival.name.clone();
        for _ in 1..CHANGES {
            match self.attempt(arrival).await {
                Err(FetchError::Store(StoreError::Changed { .. })) => {}
                Err(FetchError::NoRoom(reason)) if self.cache.clear_idle() => {
                    tracing::info!(reason, "the disk is full; what is not in use there is removed");
                }
                fetched => return fetched,
            }
            arrival = match self.remote.find(&name, None).await? {
                Found::Object(object) => arriving(&name, What::Object(object)),
                Found::Folder(folder) => arriving(&name, What::Folder(folder)),
                Found::Unchanged => {
                    return Err(StoreError::Changed {
                        url: self.url_of(&name),
                    }
                    .into());
                }
            };
        }
        self.attempt(arrival).await
    }

    async fn attempt(&self, arrival: Arrival) -> Result<Lease, FetchError> {
        let (cache, bounds, url) = (Arc::clone(&self.cache), self.bounds, self.url_of(&arrival.name));
        let names_bind = self.names_bind;
        let Arrival { name, what } = arrival;
        let key = url.clone();
        let (version, unfinished, folder) = blocking(move || {
            let unfinished = cache.begin().map_err(cache_error)?;
            match what {
                What::Object(object) => {
                    let (version, bytes) = (object.version().clone(), object.bytes());
                    let source = Watched::new(object.into_reader(), &url, bytes);
                    archive::unpack(source, expected(&name, names_bind), unfinished.path(), &bounds)
                        .map_err(|error| unpack_error(&url, error))?;
                    Ok((version, unfinished, None))
                }
                What::Folder(folder) => {
                    folder::copy(&folder, &url, unfinished.path())?;
                    Ok((folder.version().clone(), unfinished, Some(folder)))
                }
            }
        })
        .await?;
        if let Some(folder) = folder {
            folder.confirm().await?;
        }
        let cache = Arc::clone(&self.cache);
        blocking(move || cache.keep(&key, &version, unfinished).map_err(cache_error)).await
    }

    async fn cached(&self, url: &str) -> Result<Option<Lease>, FetchError> {
        let (cache, url) = (Arc::clone(&self.cache), url.to_owned());
        blocking(move || Ok(cache.get(&url))).await
    }
}

fn arriving(name: &Name, what: What) -> Arrival {
    Arrival {
        name: name.clone(),
        what,
    }
}

/// Does `work`, which waits for a disk or a network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    task::spawn_blocking(work).await.map_err(|_| FetchError::Stopping)?
}

/// What the object of that name may be, and what the file is called when it is a model and no archive.
fn expected(name: &Name, names_bind: bool) -> Expected<'_> {
    match name.file_name() {
        model if model.ends_with(".onnx") || model.ends_with(".ort") => Expected::Anything(model),
        _ if !names_bind => Expected::Anything("model.onnx"),
        archive if archive.ends_with(".tar.gz") || archive.ends_with(".tgz") => Expected::TarGzip,
        _ => Expected::Archive,
    }
}

/// What failed: the store, the disk, or what was sent.
fn unpack_error(url: &str, error: UnpackError) -> FetchError {
    match error {
        UnpackError::Source(error) => match StoreError::of(&error) {
            Some(error) => error.clone().into(),
            None => FetchError::Disk(error.to_string()),
        },
        error @ UnpackError::Write { .. } => FetchError::Disk(error.to_string()),
        error @ UnpackError::NoRoom { .. } => FetchError::NoRoom(error.to_string()),
        source => FetchError::Archive {
            url: url.to_owned(),
            source,
        },
    }
}

fn cache_error(error: CacheError) -> FetchError {
    match &error {
        CacheError::Write { source, .. } if archive::is_full(source) => FetchError::NoRoom(error.to_string()),
        _ => FetchError::Disk(error.to_string()),
    }
}
