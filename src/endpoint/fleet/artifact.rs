//! The model of a container in single-model mode: fetched and unpacked before the container starts (AR-1).
//!
//! A `ModelDataUrl` names one archive or one folder. The store knows places that hold many, so its last segment is the name
//! and what is before it the place. Each deployment looks anew: an archive that was replaced is what is deployed then.
//!
//! What always holds: a place takes threads and room on disk only as long as one of its models is deployed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tempfile::TempDir;

use crate::store::{Disk, FetchError, Lease, Located, Name, NameError, OpenError, Store, StoreConfig};

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("it names no object: write scheme://bucket/key, or the path of a file or folder")]
    NoName,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("make a folder in {folder}: {source}")]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// A model that lies unpacked, as long as this exists.
pub(super) struct Artifact {
    lease: Lease,
    _place: Arc<Place>,
}

/// A store, and the folder that it has for itself, which goes after it.
struct Place {
    store: Store,
    _folder: TempDir,
}

impl Artifact {
    pub fn path(&self) -> &Path {
        self.lease.path()
    }
}

/// Where models come from.
pub(super) struct Artifacts {
    /// For stores of any URL.
    settings: StoreConfig,
    folder: PathBuf,
    /// For each place.
    bytes: u64,
    /// By URL. Shared by all who use one, so that what was fetched is found again.
    places: Mutex<HashMap<String, Weak<Place>>>,
}

impl Artifacts {
    /// Keeps models below `folder`, of each place up to so many bytes.
    pub fn new(settings: StoreConfig, folder: PathBuf, bytes: u64) -> Self {
        Self {
            settings: StoreConfig {
                revalidate: Duration::ZERO,
                ..settings
            },
            folder,
            bytes,
            places: Mutex::default(),
        }
    }

    pub async fn fetch(&self, url: &str) -> Result<Artifact, ArtifactError> {
        let (place, name) = split(url)?;
        let place = self.place(place)?;
        let lease = match place.store.find(&name).await? {
            Located::OnDisk(lease) => lease,
            Located::InStore(arrival) => place.store.fetch(arrival).await?,
        };
        Ok(Artifact { lease, _place: place })
    }

    fn place(&self, url: String) -> Result<Arc<Place>, ArtifactError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, place| place.strong_count() > 0);
        if let Some(place) = places.get(&url).and_then(Weak::upgrade) {
            return Ok(place);
        }
        let made = fs::create_dir_all(&self.folder).and_then(|()| TempDir::new_in(&self.folder));
        let folder = made.map_err(|source| ArtifactError::Folder {
            folder: self.folder.clone(),
            source,
        })?;
        let settings = StoreConfig {
            url: url.clone(),
            ..self.settings.clone()
        };
        let place = Arc::new(Place {
            store: Store::open(settings, &Disk::open(folder.path(), self.bytes)?)?,
            _folder: folder,
        });
        places.insert(url, Arc::downgrade(&place));
        Ok(place)
    }
}

/// The place and the name of what `url` names.
fn split(url: &str) -> Result<(String, Name), ArtifactError> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, url),
    };
    let is_web = matches!(scheme, Some("http" | "https"));
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) if is_web => (path, Some(query)),
        _ => (rest, None),
    };
    let (place, name) = match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((place, name)) => (place, name),
        None if scheme.is_some() => return Err(ArtifactError::NoName),
        None => (".", path),
    };
    let name = match scheme {
        // In URLs proper; keys in buckets are taken to the letter.
        Some("http" | "https" | "file") => percent_decode_str(name).decode_utf8_lossy(),
        _ => name.into(),
    };
    let mut place = match scheme {
        Some(scheme) => format!("{scheme}://{place}"),
        None => place.to_owned(),
    };
    if let Some(query) = query {
        place.push('?');
        place.push_str(query);
    }
    Ok((place, Name::parse(&name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::UnpackLimits;
    use crate::store::Environment;

    #[test]
    fn the_last_segment_is_the_name() {
        let table = [
            ("s3://bucket/model.tar.gz", "s3://bucket", "model.tar.gz"),
            ("s3://bucket/a/b%20c?/", "s3://bucket/a", "b%20c?"),
            ("https://host/a/m.tar.gz?key=1/2", "https://host/a?key=1/2", "m.tar.gz"),
            ("https://host/a%20b", "https://host", "a b"),
            ("file:///models/a%20b", "file:///models", "a b"),
            ("file:///m", "file:///", "m"),
            ("/models/mlp/", "/models", "mlp"),
            ("/mlp", "/", "mlp"),
            ("models/mlp", "models", "mlp"),
            ("mlp", ".", "mlp"),
        ];
        for (url, place, name) in table {
            let (found, its_name) = split(url).unwrap();
            assert_eq!((found.as_str(), its_name.as_str()), (place, name), "{url}");
        }
    }

    #[tokio::test]
    async fn what_is_deployed_shares_its_place_and_the_last_of_it_leaves_nothing_behind() {
        let models = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(models.path().join(format!("{name}.onnx")), name).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreConfig {
            url: String::new(),
            environment: Environment::default(),
            timeout: Duration::from_secs(600),
            retries: 0,
            downloads: 1,
            bounds: UnpackLimits {
                bytes: 1 << 20,
                entries: 10,
                ratio: 100,
            },
            names_bind: true,
            revalidate: Duration::ZERO,
        };
        let artifacts = Artifacts::new(settings, folder.path().join("archives"), 1 << 20);
        let left = || fs::read_dir(folder.path().join("archives")).unwrap().count();
        let fetch = async |name: &str| {
            let url = models.path().join(name).display().to_string();
            artifacts.fetch(&url).await.unwrap()
        };
        let (first, second) = (fetch("a.onnx").await, fetch("b.onnx").await);
        assert_eq!(left(), 1);
        assert_eq!(fs::read(first.path().join("a.onnx")).unwrap(), b"a");
        drop(first);
        assert_eq!(fs::read(second.path().join("b.onnx")).unwrap(), b"b");
        drop(second);
        assert_eq!(left(), 0);
        fetch("a.onnx").await;
        assert_eq!(left(), 0);
    }

    #[test]
    fn what_names_a_whole_bucket_names_no_model() {
        for url in ["s3://bucket", "s3://bucket/", "https://host/?a", "", "/", "a/.."] {
            assert!(split(url).is_err(), "{url}");
        }
    }
}
