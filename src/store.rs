//! The model store of standalone mode and of the local endpoint: finds models in object storage or
//! a folder, and keeps unpacked copies in a cache on disk.
//!
//! Finding and fetching are two steps, so that the caller can make room in between.
//!
//! Invariants: a model consists of one version, never of parts of two. A model in the cache is
//! complete. A cached copy is used without asking the store for the configured time, and beyond
//! that only when the request to the store fails.

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
mod inventory;
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

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Span;

use crate::archive::{self, ExpectedFormat, UnpackError, UnpackLimits};
use crate::background::Background;
use crate::disk_cache::FolderError;

pub use cache::{DiskCacheError, Lease, Usage};
pub use environment::Environment;
pub use error::{LocationError, StoreError};
pub use inventory::{ARCHIVES, InventoryError, ListedModel};
pub use name::{Name, NameError};
pub use objects::{ObjectError, Objects};
pub use version::Version;

use cache::DiskCache;
use found::{Folder, FoundModel, Object};
use progress::ProgressReader;
use remote::{Remote, RemoteSettings};

/// Size and number of the parts of a large object that are requested at once: 16 MiB in transit
/// hide a store's latency, and are little next to the model in such an object.
const PART_BYTES: u64 = 4 << 20;
const PARTS: usize = 4;

/// Attempts at a model that is replaced again and again while it is read.
const CHANGES: usize = 4;

/// The options of a store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The store's address, such as `s3://bucket/prefix` or a directory.
    pub url: String,
    /// Environment variables, for credentials and endpoints.
    pub environment: Environment,
    /// Longest time in which the store sends nothing.
    pub timeout: Duration,
    /// Retries of a request that failed or was cut short.
    pub retries: u32,
    /// Most models that are downloaded at once.
    pub downloads: usize,
    pub bounds: UnpackLimits,
    /// Whether names bind, as on SageMaker: a `.tar.gz` has to be tar and gzip, and a model that is
    /// not in an archive has to be named `.onnx` or `.ort`. Otherwise the content decides.
    pub names_bind: bool,
    /// Time for which a copy is used without asking the store.
    pub revalidate: Duration,
}

impl StoreConfig {
    /// The URL for messages, without a signature in its query.
    pub fn shown(&self) -> Result<String, LocationError> {
        Ok(location::Location::parse(&self.url)?.shown())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error("--cache-dir: {0}")]
    Cache(#[from] DiskCacheError),
}

/// Reasons why a model was not fetched.
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
    /// The disk is full although the cache is within its limit and holds only entries in use.
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

/// The current version of a model, and its location.
pub enum Located {
    /// On disk.
    OnDisk(Lease),
    /// In the store.
    InStore(Arrival),
}

impl Located {
    pub fn version(&self) -> &Version {
        match self {
            Self::OnDisk(lease) => lease.version(),
            Self::InStore(arrival) => arrival.version(),
        }
    }
}

/// A model to be fetched soon: its first bytes may be in transit.
pub struct Arrival {
    name: Name,
    source: ArrivalSource,
}

impl Arrival {
    fn version(&self) -> &Version {
        match &self.source {
            ArrivalSource::Object(object) => object.version(),
            ArrivalSource::Folder(folder) => folder.version(),
        }
    }
}

enum ArrivalSource {
    Object(Object),
    Folder(Folder),
}

/// A folder of unpacked models that this process has to itself, limited in size. Stores may share
/// it.
#[derive(Clone)]
pub struct Disk(Arc<DiskCache>);

impl Disk {
    /// Opens the cache below `folder`, limited to `bound` bytes.
    pub fn open(folder: &Path, bound: u64) -> Result<Self, OpenError> {
        Ok(Self(Arc::new(DiskCache::open(folder, bound)?)))
    }
}

impl StoreConfig {
    fn remote(&self) -> RemoteSettings {
        RemoteSettings {
            url: self.url.clone(),
            environment: self.environment.clone(),
            timeout: self.timeout,
            retries: self.retries,
            part_bytes: PART_BYTES,
            parts: PARTS,
            max_files: self.bounds.entries,
            max_bytes: self.bounds.bytes,
        }
    }

    /// Lists the models of the store, whatever its size.
    pub async fn inventory(&self) -> Result<Vec<ListedModel>, InventoryError> {
        inventory::inventory(&self.remote()).await
    }
}

/// A model store and its cache on disk.
pub struct Store {
    remote: Remote,
    cache: Arc<DiskCache>,
    /// Threads that work on files.
    files: Background,
    downloads: Arc<Semaphore>,
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
    pub fn open(settings: StoreConfig, disk: &Disk) -> Result<Self, OpenError> {
        let remote = Remote::open(&settings.remote())?;
        Ok(Self {
            remote,
            cache: Arc::clone(&disk.0),
            files: thread::start_files(settings.downloads)?,
            downloads: Arc::new(Semaphore::new(settings.downloads)),
            bounds: settings.bounds,
            names_bind: settings.names_bind,
            revalidate: settings.revalidate,
        })
    }

    /// The store's URL without credentials, for messages.
    pub fn url(&self) -> String {
        self.remote.url()
    }

    /// The URL of the model `name` without credentials, for messages and for the list of models.
    pub fn url_of(&self, name: &Name) -> String {
        self.remote.url_of(name)
    }

    /// Usage of the disk by all stores that share it.
    pub fn usage(&self) -> Usage {
        self.cache.usage()
    }

    /// Looks for `name`: on disk while the copy there is fresh, otherwise in the store.
    pub async fn find(&self, name: &Name) -> Result<Located, FetchError> {
        let url = self.url_of(name);
        let Some(here) = self.cached(&url).await? else {
            return match self.ask(name, None).await? {
                Some(arrival) => Ok(Located::InStore(arrival)),
                None => Err(StoreError::Changed { url }.into()),
            };
        };
        if here
            .checked()
            .is_some_and(|checked| checked.elapsed() < self.revalidate)
        {
            return Ok(Located::OnDisk(here));
        }
        match self.ask(name, Some(here.version())).await {
            Ok(Some(arrival)) => Ok(Located::InStore(arrival)),
            Ok(None) => {
                here.set_checked();
                Ok(Located::OnDisk(here))
            }
            Err(error) if error.is_not_found() => Err(error),
            Err(error) => {
                tracing::warn!(
                    url,
                    "the store could not be checked; the copy on disk is used, which may be out of date: {error}"
                );
                Ok(Located::OnDisk(here))
            }
        }
    }

    /// Makes the next [`find`](Self::find) of `name` ask the store.
    pub async fn expire(&self, name: &Name) -> Result<(), FetchError> {
        if let Some(here) = self.cached(&self.url_of(name)).await? {
            here.set_unchecked();
        }
        Ok(())
    }

    /// Looks for a version of `name` in the store other than `known`; `None` when there is not any.
    pub async fn newer(&self, name: &Name, known: &Version) -> Result<Option<Located>, FetchError> {
        let Some(arrival) = self.ask(name, Some(known)).await? else {
            return Ok(None);
        };
        let here = self.cached(&self.url_of(name)).await?;
        Ok(Some(match here {
            Some(here) if here.version() == arrival.version() => {
                here.set_checked();
                Located::OnDisk(here)
            }
            Some(_) | None => Located::InStore(arrival),
        }))
    }

    /// Looks for `name` in the store; `None` when it is the version `known`.
    async fn ask(&self, name: &Name, known: Option<&Version>) -> Result<Option<Arrival>, FetchError> {
        match self.remote.find(name, known).await {
            Ok(FoundModel::Unchanged) => Ok(None),
            Ok(FoundModel::Object(object)) => Ok(Some(arriving(name, ArrivalSource::Object(object)))),
            Ok(FoundModel::Folder(folder)) => Ok(Some(arriving(name, ArrivalSource::Folder(folder)))),
            Err(error) => {
                if matches!(error, StoreError::NotFound { .. }) {
                    let (cache, url) = (Arc::clone(&self.cache), self.url_of(name));
                    let forgotten = self.blocking(move || {
                        cache.forget(&url);
                        Ok(())
                    });
                    forgotten.await?;
                }
                Err(error.into())
            }
        }
    }

    /// Most memory that fetching `arrival` takes.
    pub fn memory(&self, arrival: &Arrival) -> u64 {
        const BUFFERS: u64 = 512 << 10;
        let bytes = match &arrival.source {
            ArrivalSource::Object(object) => object.bytes(),
            ArrivalSource::Folder(folder) => folder.bytes(),
        };
        // Parts that arrived and were not read yet, and the decompressor's window.
        let arrived = bytes.min(PART_BYTES * PARTS as u64);
        arrived + bytes.min(archive::MAX_WINDOW_BYTES) + BUFFERS
    }

    /// Downloads a located model to disk. An abandoned attempt removes its folder.
    pub async fn fetch(&self, mut arrival: Arrival) -> Result<Lease, FetchError> {
        let turn = Arc::clone(&self.downloads).acquire_owned().await;
        let turn = Arc::new(turn.map_err(|_| FetchError::Stopping)?);
        let name = arrival.name.clone();
        for _ in 1..CHANGES {
            match self.attempt(arrival, &turn).await {
                Err(FetchError::Store(StoreError::Changed { .. })) => {}
                Err(FetchError::NoRoom(reason)) if self.cache.clear_idle() => {
                    tracing::info!(
                        reason,
                        "the disk is full; fetched models that are not in use are removed"
                    );
                }
                fetched => return fetched,
            }
            arrival = match self.remote.find(&name, None).await? {
                FoundModel::Object(object) => arriving(&name, ArrivalSource::Object(object)),
                FoundModel::Folder(folder) => arriving(&name, ArrivalSource::Folder(folder)),
                FoundModel::Unchanged => {
                    return Err(StoreError::Changed {
                        url: self.url_of(&name),
                    }
                    .into());
                }
            };
        }
        self.attempt(arrival, &turn).await
    }

    /// Downloads a model. Its `turn` lasts until the thread is free, also for an abandoned attempt.
    async fn attempt(&self, arrival: Arrival, turn: &Arc<OwnedSemaphorePermit>) -> Result<Lease, FetchError> {
        let (cache, bounds, url) = (Arc::clone(&self.cache), self.bounds, self.url_of(&arrival.name));
        let names_bind = self.names_bind;
        let Arrival { name, source } = arrival;
        let (key, turn) = (url.clone(), Arc::clone(turn));
        let downloaded = self.blocking(move || {
            let _turn = turn;
            let unfinished = cache.begin().map_err(cache_error)?;
            match source {
                ArrivalSource::Object(object) => {
                    let (version, bytes) = (object.version().clone(), object.bytes());
                    let source = ProgressReader::new(object.into_reader(), &url, bytes);
                    archive::unpack(source, expected(&name, names_bind), unfinished.path(), &bounds)
                        .map_err(|error| unpack_error(&url, error))?;
                    Ok((version, unfinished, None))
                }
                ArrivalSource::Folder(folder) => {
                    folder::copy(&folder, &url, unfinished.path())?;
                    Ok((folder.version().clone(), unfinished, Some(folder)))
                }
            }
        });
        let (version, unfinished, folder) = downloaded.await?;
        if let Some(folder) = folder {
            folder.confirm().await?;
        }
        let cache = Arc::clone(&self.cache);
        self.blocking(move || cache.keep(&key, &version, unfinished).map_err(cache_error))
            .await
    }

    async fn cached(&self, url: &str) -> Result<Option<Lease>, FetchError> {
        let (cache, url) = (Arc::clone(&self.cache), url.to_owned());
        self.blocking(move || Ok(cache.get(&url))).await
    }

    /// Runs `work`, which waits for a disk or a network, on a thread for files.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
    ) -> Result<T, FetchError> {
        let span = Span::current();
        let done = self.files.runtime().spawn_blocking(move || span.in_scope(work));
        done.await.map_err(|_| FetchError::Stopping)?
    }
}

fn arriving(name: &Name, source: ArrivalSource) -> Arrival {
    Arrival {
        name: name.clone(),
        source,
    }
}

/// The formats that an object of this name may have, and the file name of a model outside an
/// archive.
fn expected(name: &Name, names_bind: bool) -> ExpectedFormat<'_> {
    match name.file_name() {
        model if model.ends_with(".onnx") || model.ends_with(".ort") => ExpectedFormat::Anything(model),
        _ if !names_bind => ExpectedFormat::Anything("model.onnx"),
        archive if archive.ends_with(".tar.gz") || archive.ends_with(".tgz") => ExpectedFormat::TarGzip,
        _ => ExpectedFormat::Archive,
    }
}

/// Attributes the failure to the store, the disk, or the archive.
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

fn cache_error(error: DiskCacheError) -> FetchError {
    match &error {
        DiskCacheError::Write { source, .. } | DiskCacheError::Folder(FolderError::Unusable { source, .. })
            if archive::is_full(source) =>
        {
            FetchError::NoRoom(error.to_string())
        }
        _ => FetchError::Disk(error.to_string()),
    }
}
