//! Finds names in a store, and reads them.
//!
//! Network traffic runs on a runtime with one thread that belongs to the store, so that TLS and
//! slow responses hold up no other work. The futures may be awaited anywhere. An object that fits
//! into a part costs one request, because the response that confirms its existence has its bytes.
//! An object with the known version costs one response without bytes.

use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use tokio::runtime::Handle;

use super::bucket::{Bucket, GetRequest, OpenedObject};
use super::clouds;
use super::download::{Download, DownloadPlan};
use super::environment::Environment;
use super::error::{LocationError, StoreError};
use super::found::{Folder, FoundModel, Object, ReaderSource, StoreReader};
use super::inventory::{InventoryError, ListedFile};
use super::listing::{self, FolderListing, ListingLimits};
use super::local::{DirectoryStore, LocalEntry};
use super::location::Location;
use super::name::Name;
use super::thread::{self, run_on};
use super::tries::Retries;
use super::version::Version;
use crate::background::Background;

/// The options of an opened store.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// `s3://`, `gs://`, `az://`, `https://`, `http://`, `file://` or a path.
    pub url: String,
    /// Environment variables with the clouds' credentials and endpoints.
    pub environment: Environment,
    /// Longest time in which the store sends nothing.
    pub timeout: Duration,
    /// Further attempts at each request whose failure may pass.
    pub retries: u32,
    /// Bytes of each requested part.
    pub part_bytes: u64,
    /// Parts of one object that are requested or wait to be read at the same time.
    pub parts: usize,
    /// Most files of a folder, and most bytes of them.
    pub max_files: u64,
    pub max_bytes: u64,
}

/// An opened store.
pub struct Remote {
    shared: Arc<RemoteShared>,
    thread: Background,
}

struct RemoteShared {
    location: Location,
    backend: Backend,
    bounds: ListingLimits,
    plan: DownloadPlan,
}

enum Backend {
    Directory(DirectoryStore),
    Network { bucket: Arc<Bucket>, prefix: Option<Name> },
}

/// A name in a store.
#[derive(Clone)]
pub(super) struct RemoteName {
    shared: Arc<RemoteShared>,
    pub runtime: Handle,
    name: Name,
    pub url: String,
}

impl Remote {
    /// Opens a store without any request over the network: errors there show at the first search.
    pub fn open(settings: &RemoteSettings) -> Result<Self, LocationError> {
        let location = Location::parse(&settings.url)?;
        let backend = match &location {
            Location::Directory(path) => Backend::Directory(DirectoryStore::open(path)?),
            Location::Bucket { prefix, .. } => Backend::Network {
                bucket: bucket(&location, settings)?,
                prefix: prefix.clone(),
            },
            Location::Web(_) => Backend::Network {
                bucket: bucket(&location, settings)?,
                prefix: None,
            },
        };
        let shared = RemoteShared {
            location,
            backend,
            bounds: ListingLimits {
                files: settings.max_files,
                bytes: settings.max_bytes,
            },
            plan: DownloadPlan {
                part_bytes: settings.part_bytes.max(1),
                parts: settings.parts.max(1),
                retries: settings.retries,
            },
        };
        Ok(Self {
            shared: Arc::new(shared),
            thread: thread::start()?,
        })
    }

    /// The URL of `name` without credentials, for messages and as the key of the fetched files.
    pub fn url_of(&self, name: &Name) -> String {
        self.shared.location.url_of(name)
    }

    /// The URL of the store itself, for messages.
    pub fn url(&self) -> String {
        self.shared.location.shown()
    }

    /// Lists all files of the store.
    pub async fn files(&self) -> Result<Vec<ListedFile>, InventoryError> {
        let (shared, url) = (self.shared.clone(), self.url());
        let runtime = self.thread.runtime();
        match &self.shared.backend {
            Backend::Directory(_) => {
                let shown = url.clone();
                let listed = runtime.spawn_blocking(move || match &shared.backend {
                    Backend::Directory(directory) => directory.all(&url),
                    Backend::Network { .. } => Ok(Vec::new()),
                });
                let stopped = |_| StoreError::Stopped { url: shown };
                Ok(listed.await.map_err(stopped)??)
            }
            Backend::Network { bucket, .. } if !bucket.has_lists() => Err(InventoryError::NoList { url }),
            Backend::Network { .. } => {
                let shown = url.clone();
                let files = async move {
                    let Backend::Network { bucket, prefix } = &shared.backend else {
                        return Ok(Vec::new());
                    };
                    listing::all(bucket, prefix.as_ref(), &url, shared.plan.retries).await
                };
                Ok(run_on(runtime, shown, files).await?)
            }
        }
    }

    /// Looks for an object `name`, otherwise for a folder of files.
    ///
    /// # Cancel safety
    /// Requests in progress end with the future.
    pub async fn find(&self, name: &Name, known: Option<&Version>) -> Result<FoundModel, StoreError> {
        let at = RemoteName {
            shared: self.shared.clone(),
            runtime: self.thread.runtime().clone(),
            name: name.clone(),
            url: self.url_of(name),
        };
        let (runtime, url) = (at.runtime.clone(), at.url.clone());
        let known = known.cloned();
        run_on(&runtime, url, async move { at.find(known.as_ref()).await }).await
    }
}

impl RemoteName {
    async fn find(self, known: Option<&Version>) -> Result<FoundModel, StoreError> {
        if let Backend::Network { bucket, prefix } = &self.shared.backend {
            let key = key(prefix.as_ref(), &self.name, &self.url)?;
            match self.object(bucket, &key, known).await {
                Ok(None) => return Ok(FoundModel::Unchanged),
                Ok(Some(opened)) => {
                    return Ok(FoundModel::Object(Object {
                        version: opened.version.clone(),
                        bytes: opened.bytes,
                        opened: Some(opened),
                        found: self,
                    }));
                }
                Err(StoreError::NotFound { .. }) if bucket.has_lists() => {}
                Err(error) => return Err(error),
            }
            let listing = self.listing().await?;
            return Ok(self.folder(listing, known));
        }
        match self.local().await? {
            LocalEntry::File { version, .. } if known == Some(&version) => Ok(FoundModel::Unchanged),
            LocalEntry::File { version, bytes } => Ok(FoundModel::Object(Object {
                found: self,
                version,
                bytes,
                opened: None,
            })),
            LocalEntry::Folder(listing) => Ok(self.folder(listing, known)),
        }
    }

    fn folder(self, listing: FolderListing, known: Option<&Version>) -> FoundModel {
        let version = listing.version();
        match known {
            Some(known) if *known == version => FoundModel::Unchanged,
            _ => FoundModel::Folder(Folder {
                found: self,
                version,
                files: listing.into_files(),
            }),
        }
    }

    /// Requests the beginning of the object, or all of it where its parts could not be matched to
    /// one version.
    async fn object(
        &self,
        bucket: &Bucket,
        key: &Path,
        known: Option<&Version>,
    ) -> Result<Option<OpenedObject>, StoreError> {
        let plan = self.shared.plan;
        let mut request = GetRequest {
            key,
            url: &self.url,
            range: Some(0..plan.part_bytes),
            matching: None,
            unless: known,
        };
        let mut tries = Retries::new(plan.retries);
        loop {
            match bucket.get(&request).await {
                Ok(Some(opened)) if !opened.is_whole() && opened.version.is_unknown() => request.range = None,
                Ok(opened) => return Ok(opened),
                Err(failure) => tries.next_attempt(failure).await?,
            }
        }
    }

    /// Lists the folder's current files.
    pub async fn listing(&self) -> Result<FolderListing, StoreError> {
        let gone = || StoreError::NotFound { url: self.url.clone() };
        match &self.shared.backend {
            Backend::Directory(_) => match self.local().await? {
                LocalEntry::Folder(listing) => Ok(listing),
                LocalEntry::File { .. } => Err(gone()),
            },
            Backend::Network { bucket, prefix } => {
                let key = key(prefix.as_ref(), &self.name, &self.url)?;
                let RemoteShared { bounds, plan, .. } = &*self.shared;
                match listing::list(bucket, &key, &self.url, *bounds, plan.retries).await {
                    Ok(Some(listing)) => Ok(listing),
                    // Without the right to list, the earlier "no such object" may still be true.
                    Ok(None) | Err(StoreError::Denied { .. }) => Err(gone()),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn local(&self) -> Result<LocalEntry, StoreError> {
        let at = self.clone();
        let task = self.runtime.spawn_blocking(move || match &at.shared.backend {
            Backend::Directory(directory) => directory.find(&at.name, &at.url, at.shared.bounds),
            Backend::Network { .. } => Err(StoreError::NotFound { url: at.url }),
        });
        let stopped = |_| StoreError::Stopped { url: self.url.clone() };
        task.await.map_err(stopped)?
    }

    /// Reads the object that was found, or a file of the folder.
    pub fn read(
        &self,
        file: Option<&Name>,
        version: &Version,
        bytes: u64,
        opened: Option<OpenedObject>,
    ) -> StoreReader {
        let url = match file {
            Some(file) => format!("{}/{file}", self.url),
            None => self.url.clone(),
        };
        let (bucket, prefix) = match &self.shared.backend {
            Backend::Directory(directory) => {
                return match directory.read(&self.name, file, &url, version) {
                    Ok(file) => StoreReader(ReaderSource::Local(file)),
                    Err(error) => StoreReader(ReaderSource::Failed(error)),
                };
            }
            Backend::Network { bucket, prefix } => (bucket.clone(), prefix.as_ref()),
        };
        let name = file.map_or_else(|| self.name.to_string(), |file| format!("{}/{file}", self.name));
        let key = match joined(prefix, &name, &url) {
            Ok(key) => key,
            Err(error) => return StoreReader(ReaderSource::Failed(error)),
        };
        let download = Download {
            bucket,
            key,
            url,
            version: version.clone(),
            bytes,
            plan: self.shared.plan,
        };
        StoreReader(ReaderSource::Incoming(download.start(opened, &self.runtime)))
    }
}

fn bucket(location: &Location, settings: &RemoteSettings) -> Result<Arc<Bucket>, LocationError> {
    let client = clouds::connect(location, &settings.environment, settings.timeout)?;
    Ok(Arc::new(Bucket::new(client, location, settings.timeout)))
}

fn key(prefix: Option<&Name>, name: &Name, url: &str) -> Result<Path, StoreError> {
    joined(prefix, name.as_str(), url)
}

/// The key of `name`. Parsed, so that it is taken literally: object_store would percent-encode it.
fn joined(prefix: Option<&Name>, name: &str, url: &str) -> Result<Path, StoreError> {
    let key = prefix.map_or_else(|| name.to_owned(), |prefix| format!("{prefix}/{name}"));
    Path::parse(key).map_err(|error| StoreError::InvalidResponse {
        url: url.to_owned(),
        reason: error.to_string(),
    })
}
