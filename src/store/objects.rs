//! Reads and writes single objects by URL: the inputs and results of asynchronous invocations.
//!
//! A [`Store`](super::Store) is a prefix of many models; these objects each have a URL of their
//! own.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::path::Path;

use super::bucket::{Bucket, GetRequest};
use super::clouds;
use super::environment::Environment;
use super::error::{LocationError, StoreError};
use super::location::Location;
use super::thread::{self, run_on};
use super::tries::{AttemptFailure, Retries};
use crate::background::Background;

/// Reasons why an object was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{url} has more than {limit} bytes")]
    TooLarge { url: String, limit: usize },
    #[error("{url} cannot be written; give s3://bucket/key, gs://bucket/key, az://container/key or a path")]
    ReadOnly { url: String },
}

/// Reads and writes objects.
pub struct Objects {
    environment: Environment,
    timeout: Duration,
    retries: u32,
    /// Buckets by their URL without the key.
    buckets: Mutex<HashMap<String, Arc<Bucket>>>,
    thread: Background,
}

enum ObjectLocation {
    File(std::path::PathBuf),
    Object {
        bucket: Arc<Bucket>,
        key: Path,
        writable: bool,
    },
}

impl Objects {
    pub fn open(environment: Environment, timeout: Duration, retries: u32) -> Result<Self, LocationError> {
        Ok(Self {
            environment,
            timeout,
            retries,
            buckets: Mutex::default(),
            thread: thread::start()?,
        })
    }

    /// Whether `url` is a file of this machine.
    pub fn is_local(url: &str) -> bool {
        matches!(Location::parse(url), Ok(Location::Directory(_)))
    }

    /// Reads the object at `url`, at most `limit` bytes.
    pub async fn get(&self, url: &str, limit: usize) -> Result<Bytes, ObjectError> {
        let (bucket, key) = match self.locate(url)? {
            ObjectLocation::File(path) => {
                let url = url.to_owned();
                let shown = url.clone();
                return self.on_disk(shown, move || read(&path, &url, limit)).await;
            }
            ObjectLocation::Object { bucket, key, .. } => (bucket, key),
        };
        let shown = url.to_owned();
        let (url, retries) = (url.to_owned(), self.retries);
        let whole = async move {
            let mut tries = Retries::new(retries);
            loop {
                match whole(&bucket, &key, &url, limit).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(failure) => tries.next_attempt(failure).await?,
                }
            }
        };
        run_on(self.thread.runtime(), shown, whole).await?
    }

    /// Writes the object at `url`, whole or not at all.
    pub async fn put(&self, url: &str, bytes: Bytes, content_type: &str) -> Result<(), ObjectError> {
        let (bucket, key) = match self.locate(url)? {
            ObjectLocation::File(path) => {
                let url = url.to_owned();
                let shown = url.clone();
                return self.on_disk(shown, move || write(&path, &url, &bytes)).await;
            }
            ObjectLocation::Object { writable: false, .. } => {
                return Err(ObjectError::ReadOnly { url: url.to_owned() });
            }
            ObjectLocation::Object { bucket, key, .. } => (bucket, key),
        };
        let shown = url.to_owned();
        let (url, retries, content_type) = (url.to_owned(), self.retries, content_type.to_owned());
        let written = async move {
            let mut tries = Retries::new(retries);
            loop {
                match bucket.put(&key, &url, bytes.clone(), &content_type).await {
                    Ok(()) => return Ok(()),
                    Err(failure) => tries.next_attempt(failure).await?,
                }
            }
        };
        Ok(run_on(self.thread.runtime(), shown, written).await?)
    }

    fn locate(&self, url: &str) -> Result<ObjectLocation, ObjectError> {
        let location = Location::parse(url)?;
        let nothing = || StoreError::NotFound { url: location.shown() };
        let (base, key, writable) = match &location {
            Location::Directory(path) => return Ok(ObjectLocation::File(path.clone())),
            Location::Bucket { bucket, prefix, .. } => {
                let key = prefix.as_ref().ok_or_else(nothing)?.to_string();
                (bucket.clone(), key, true)
            }
            // The client's URL is the object itself.
            Location::Web(url) => (url.to_string(), String::new(), false),
        };
        let key = Path::parse(key).map_err(|_| nothing())?;
        // Code under the lock neither waits nor panics halfway.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get(&base) {
            let bucket = Arc::clone(bucket);
            return Ok(ObjectLocation::Object { bucket, key, writable });
        }
        let client = clouds::connect(&location, &self.environment, self.timeout)?;
        let bucket = Arc::new(Bucket::new(client, &location, self.timeout));
        if writable {
            buckets.insert(base, Arc::clone(&bucket));
        }
        Ok(ObjectLocation::Object { bucket, key, writable })
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        url: String,
        work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let task = self.thread.runtime().spawn_blocking(work);
        task.await.map_err(|_| StoreError::Stopped { url })?
    }
}

type Whole = Result<Result<Bytes, ObjectError>, AttemptFailure>;

async fn whole(bucket: &Bucket, key: &Path, url: &str, limit: usize) -> Whole {
    let request = GetRequest {
        key,
        url,
        range: None,
        matching: None,
        unless: None,
    };
    let gone = || AttemptFailure::permanent(StoreError::NotFound { url: url.to_owned() });
    let mut opened = bucket.get(&request).await?.ok_or_else(gone)?;
    let too_large = || ObjectError::TooLarge {
        url: url.to_owned(),
        limit,
    };
    if opened.bytes > limit as u64 {
        return Ok(Err(too_large()));
    }
    let mut read = BytesMut::new();
    while let Some(chunk) = opened.body.next().await {
        match chunk {
            Ok(chunk) => read.extend_from_slice(&chunk),
            Err(error) => return Err(bucket.broken(url, &error, read.len() as u64, opened.bytes)),
        }
        if read.len() > limit {
            return Ok(Err(too_large()));
        }
    }
    Ok(Ok(read.freeze()))
}

fn read(path: &FilePath, url: &str, limit: usize) -> Result<Bytes, ObjectError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| on_file(url, &error))?;
    match bytes.len() > limit {
        true => Err(ObjectError::TooLarge {
            url: url.to_owned(),
            limit,
        }),
        false => Ok(bytes.into()),
    }
}

/// Writes a temporary file and renames it, so that no reader sees half of a file.
fn write(path: &FilePath, url: &str, bytes: &[u8]) -> Result<(), ObjectError> {
    let folder = path.parent().unwrap_or(FilePath::new("."));
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| on_file(url, &error))
}

fn on_file(url: &str, error: &io::Error) -> ObjectError {
    let url = url.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound { url }.into(),
        _ => {
            let reason = error.to_string();
            StoreError::Local { url, reason }.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{Reply, Server, Stored, wait};

    fn objects(server: &Server) -> Objects {
        let environment = Environment::from_iter(server.environment());
        Objects::open(environment, Duration::from_secs(600), 1).unwrap()
    }

    #[test]
    fn an_object_is_read_by_its_url_up_to_a_limit() {
        let stored = Stored::new(5000);
        let expected = stored.bytes.clone();
        let server = Server::start(move |request| match request.path().as_str() {
            "/bucket/a b/c.csv" => stored.answer(request),
            _ => Reply::error(404, "NoSuchKey"),
        });
        let objects = objects(&server);
        let read = wait(objects.get("s3://bucket/a b/c.csv", 5000));
        assert_eq!(read.unwrap(), expected);
        let error = wait(objects.get("s3://bucket/a b/c.csv", 4999)).unwrap_err();
        assert!(matches!(error, ObjectError::TooLarge { limit: 4999, .. }), "{error}");
        let error = wait(objects.get("s3://bucket/none", 1)).unwrap_err();
        assert!(
            matches!(error, ObjectError::Store(StoreError::NotFound { .. })),
            "{error}"
        );
        let error = wait(objects.get("s3://bucket", 1)).unwrap_err();
        assert!(
            matches!(error, ObjectError::Store(StoreError::NotFound { .. })),
            "{error}"
        );
    }

    #[test]
    fn a_failed_write_is_retried_and_keeps_its_content_type() {
        let tries = std::sync::atomic::AtomicU32::new(0);
        let server = Server::start(
            move |_| match tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => Reply::error(503, "SlowDown"),
                _ => Reply::new(200, "").with("etag", "\"one\""),
            },
        );
        let objects = objects(&server);
        wait(objects.put("s3://bucket/out/x.out", Bytes::from_static(b"result"), "text/csv")).unwrap();
        let requests = server.requests();
        let seen: Vec<_> = requests
            .iter()
            .map(|request| (request.path(), request.header("content-type")))
            .collect();
        assert_eq!(seen, vec![("/bucket/out/x.out".to_owned(), Some("text/csv")); 2]);
        let refused = wait(objects.put("http://host/x", Bytes::new(), "text/csv")).unwrap_err();
        assert!(matches!(refused, ObjectError::ReadOnly { .. }), "{refused}");
    }
}
