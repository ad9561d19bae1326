//! A store that models come from: finds what a name means there, and reads it.
//!
//! What goes over the network does so on a runtime of one thread that belongs to the store, so that TLS and slow answers
//! hold up nobody else; its futures may be awaited anywhere. An object costs one request if it fits into a part, because
//! the answer that says that it is there is the one with its bytes, and one without bytes if it is known already.

use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use tokio::runtime::Handle;

use super::bucket::{Ask, Bucket, Opened};
use super::clouds;
use super::download::{Download, Plan};
use super::environment::Environment;
use super::error::{OpenError, StoreError};
use super::found::{Bytes, Folder, Found, Object, Reader};
use super::listing::{self, Listing, ListingLimits};
use super::local::{Directory, Entry};
use super::location::Location;
use super::name::Name;
use super::thread::{self, on};
use super::tries::Tries;
use super::version::Version;
use crate::background::Background;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct RemoteSettings {
    /// `s3://`, `gs://`, `az://`, `https://`, `http://`, `file://` or a path.
    pub url: String,
    /// Where the clouds' credentials and endpoints are.
    pub environment: Environment,
    /// Time in which the store has to send something.
    pub timeout: Duration,
    /// Further tries at each request that fails for a reason that may pass.
    pub retries: u32,
    /// What is asked for at once.
    pub part_bytes: u64,
    /// Parts that are asked for, or wait to be read, of one object at a time.
    pub parts: usize,
    /// What a folder of files may hold.
    pub max_files: u64,
    pub max_bytes: u64,
}

/// A store that is open.
pub struct Remote {
    shared: Arc<Shared>,
    thread: Background,
}

struct Shared {
    location: Location,
    place: Place,
    bounds: ListingLimits,
    plan: Plan,
}

enum Place {
    Directory(Directory),
    Network { bucket: Arc<Bucket>, prefix: Option<Name> },
}

/// Where something was found.
#[derive(Clone)]
pub(super) struct At {
    shared: Arc<Shared>,
    pub runtime: Handle,
    name: Name,
    pub url: String,
}

impl Remote {
    /// Asks nothing of a store on the network: what is wrong there shows when something is to be found.
    pub fn open(settings: &RemoteSettings) -> Result<Self, OpenError> {
        let location = Location::parse(&settings.url)?;
        let place = match &location {
            Location::Directory(path) => Place::Directory(Directory::open(path)?),
            Location::Bucket { prefix, .. } => Place::Network {
                bucket: bucket(&location, settings)?,
                prefix: prefix.clone(),
            },
            Location::Web(_) => Place::Network {
                bucket: bucket(&location, settings)?,
                prefix: None,
            },
        };
        let shared = Shared {
            location,
            place,
            bounds: ListingLimits {
                files: settings.max_files,
                bytes: settings.max_bytes,
            },
            plan: Plan {
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

    /// Where `name` is, without credentials: for people, and as a key for what was fetched from there.
    pub fn url_of(&self, name: &Name) -> String {
        self.shared.location.url_of(name)
    }

    /// The store itself, for people.
    pub fn url(&self) -> String {
        self.shared.location.shown()
    }

    /// Looks for an object `name`, else for a folder of files.
    ///
    /// # Cancel safety
    /// Requests under way end with the future.
    pub async fn find(&self, name: &Name, known: Option<&Version>) -> Result<Found, StoreError> {
        let at = At {
            shared: self.shared.clone(),
            runtime: self.thread.runtime().clone(),
            name: name.clone(),
            url: self.url_of(name),
        };
        let (runtime, url) = (at.runtime.clone(), at.url.clone());
        let known = known.cloned();
        on(&runtime, url, async move { at.find(known.as_ref()).await }).await
    }
}

impl At {
    async fn find(self, known: Option<&Version>) -> Result<Found, StoreError> {
        if let Place::Network { bucket, prefix } = &self.shared.place {
            let key = key(prefix.as_ref(), &self.name, &self.url)?;
            match self.object(bucket, &key, known).await {
                Ok(None) => return Ok(Found::Unchanged),
                Ok(Some(opened)) => {
                    return Ok(Found::Object(Object {
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
            Entry::File { version, .. } if known == Some(&version) => Ok(Found::Unchanged),
            Entry::File { version, bytes } => Ok(Found::Object(Object {
                found: self,
                version,
                bytes,
                opened: None,
            })),
            Entry::Folder(listing) => Ok(self.folder(listing, known)),
        }
    }

    fn folder(self, listing: Listing, known: Option<&Version>) -> Found {
        let version = listing.version();
        match known {
            Some(known) if *known == version => Found::Unchanged,
            _ => Found::Folder(Folder {
                found: self,
                version,
                files: listing.into_files(),
            }),
        }
    }

    /// The beginning of the object, or of all of it where its parts could be of different versions.
    async fn object(&self, bucket: &Bucket, key: &Path, known: Option<&Version>) -> Result<Option<Opened>, StoreError> {
        let plan = self.shared.plan;
        let mut asked = Ask {
            key,
            url: &self.url,
            range: Some(0..plan.part_bytes),
            matching: None,
            unless: known,
        };
        let mut tries = Tries::new(plan.retries);
        loop {
            match bucket.get(&asked).await {
                Ok(Some(opened)) if !opened.is_whole() && opened.version.is_unknown() => asked.range = None,
                Ok(opened) => return Ok(opened),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    /// What is in the folder now.
    pub async fn listing(&self) -> Result<Listing, StoreError> {
        let gone = || StoreError::NotFound { url: self.url.clone() };
        match &self.shared.place {
            Place::Directory(_) => match self.local().await? {
                Entry::Folder(listing) => Ok(listing),
                Entry::File { .. } => Err(gone()),
            },
            Place::Network { bucket, prefix } => {
                let key = key(prefix.as_ref(), &self.name, &self.url)?;
                let Shared { bounds, plan, .. } = &*self.shared;
                match listing::list(bucket, &key, &self.url, *bounds, plan.retries).await {
                    Ok(Some(listing)) => Ok(listing),
                    // Who may not list may still have been right that there is no object.
                    Ok(None) | Err(StoreError::Denied { .. }) => Err(gone()),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn local(&self) -> Result<Entry, StoreError> {
        let at = self.clone();
        let task = self.runtime.spawn_blocking(move || match &at.shared.place {
            Place::Directory(directory) => directory.find(&at.name, &at.url, at.shared.bounds),
            Place::Network { .. } => Err(StoreError::NotFound { url: at.url }),
        });
        let stopped = |_| StoreError::Stopped { url: self.url.clone() };
        task.await.map_err(stopped)?
    }

    /// Reads the object, or a file of the folder, that was found here.
    pub fn read(&self, file: Option<&Name>, version: &Version, bytes: u64, opened: Option<Opened>) -> Reader {
        let url = match file {
            Some(file) => format!("{}/{file}", self.url),
            None => self.url.clone(),
        };
        let (bucket, prefix) = match &self.shared.place {
            Place::Directory(directory) => {
                return match directory.read(&self.name, file, &url, version) {
                    Ok(file) => Reader(Bytes::Local(file)),
                    Err(error) => Reader(Bytes::Failed(error)),
                };
            }
            Place::Network { bucket, prefix } => (bucket.clone(), prefix.as_ref()),
        };
        let name = file.map_or_else(|| self.name.to_string(), |file| format!("{}/{file}", self.name));
        let key = match joined(prefix, &name, &url) {
            Ok(key) => key,
            Err(error) => return Reader(Bytes::Failed(error)),
        };
        let download = Download {
            bucket,
            key,
            url,
            version: version.clone(),
            bytes,
            plan: self.shared.plan,
        };
        Reader(Bytes::Incoming(download.start(opened, &self.runtime)))
    }
}

fn bucket(location: &Location, settings: &RemoteSettings) -> Result<Arc<Bucket>, OpenError> {
    let client = clouds::connect(location, &settings.environment, settings.timeout)?;
    Ok(Arc::new(Bucket::new(client, location, settings.timeout)))
}

fn key(prefix: Option<&Name>, name: &Name, url: &str) -> Result<Path, StoreError> {
    joined(prefix, name.as_str(), url)
}

/// The key of `name`. Parsed, so that it is taken as it is: object_store would percent-encode what it does not like.
fn joined(prefix: Option<&Name>, name: &str, url: &str) -> Result<Path, StoreError> {
    let key = prefix.map_or_else(|| name.to_owned(), |prefix| format!("{prefix}/{name}"));
    Path::parse(key).map_err(|error| StoreError::Answer {
        url: url.to_owned(),
        reason: error.to_string(),
    })
}
