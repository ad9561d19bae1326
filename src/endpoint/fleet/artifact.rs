//! The model of a container in single-model mode, downloaded and unpacked before the container
//! starts (AR-1).
//!
//! A `ModelDataUrl` names one archive or folder, but a store holds many models. So the last
//! segment of the URL is the model's name, and the part before it is the source, which has a
//! store. Each deployment checks the source again, so that it deploys an archive that was
//! replaced.
//!
//! Invariant: a source uses threads and disk space only while one of its models is deployed.

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
    #[error("the URL names no object: expected scheme://bucket/key, or the path of a file or folder")]
    NoName,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("create a folder in {folder}: {source}")]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// An unpacked model. Its files exist as long as this value.
pub(super) struct Artifact {
    lease: Lease,
    _source: Arc<ModelSource>,
}

/// A store and its own folder. The folder is dropped after the store.
struct ModelSource {
    store: Store,
    _folder: TempDir,
}

impl Artifact {
    pub fn path(&self) -> &Path {
        self.lease.path()
    }
}

/// The models of containers in single-model mode.
pub(super) struct Artifacts {
    /// The settings of all stores, without the URL.
    settings: StoreConfig,
    folder: PathBuf,
    /// Maximum bytes on disk per source.
    bytes: u64,
    /// By URL. Shared among deployments, so that downloaded models are found again.
    sources: Mutex<HashMap<String, Weak<ModelSource>>>,
}

impl Artifacts {
    /// Keeps models below `folder`, up to `bytes` for each source.
    pub fn new(settings: StoreConfig, folder: PathBuf, bytes: u64) -> Self {
        Self {
            settings: StoreConfig {
                revalidate: Duration::ZERO,
                ..settings
            },
            folder,
            bytes,
            sources: Mutex::default(),
        }
    }

    pub async fn fetch(&self, url: &str) -> Result<Artifact, ArtifactError> {
        let (source, name) = split(url)?;
        let source = self.source(source)?;
        let lease = match source.store.find(&name).await? {
            Located::OnDisk(lease) => lease,
            Located::InStore(arrival) => source.store.fetch(arrival).await?,
        };
        Ok(Artifact { lease, _source: source })
    }

    fn source(&self, url: String) -> Result<Arc<ModelSource>, ArtifactError> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, source| source.strong_count() > 0);
        if let Some(source) = sources.get(&url).and_then(Weak::upgrade) {
            return Ok(source);
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
        let source = Arc::new(ModelSource {
            store: Store::open(settings, &Disk::open(folder.path(), self.bytes)?)?,
            _folder: folder,
        });
        sources.insert(url, Arc::downgrade(&source));
        Ok(source)
    }
}

/// Splits `url` into the source and the model's name.
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
    let (source, name) = match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((source, name)) => (source, name),
        None if scheme.is_some() => return Err(ArtifactError::NoName),
        None => (".", path),
    };
    let name = match scheme {
        // Only real URLs are percent-encoded; keys in buckets are literal.
        Some("http" | "https" | "file") => percent_decode_str(name).decode_utf8_lossy(),
        _ => name.into(),
    };
    let mut source = match scheme {
        Some(scheme) => format!("{scheme}://{source}"),
        None => source.to_owned(),
    };
    if let Some(query) = query {
        source.push('?');
        source.push_str(query);
    }
    Ok((source, Name::parse(&name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::UnpackLimits;
    use crate::store::Environment;

    #[test]
    fn the_last_segment_of_a_url_is_the_name() {
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
        for (url, source, name) in table {
            let (found, its_name) = split(url).unwrap();
            assert_eq!((found.as_str(), its_name.as_str()), (source, name), "{url}");
        }
    }

    #[tokio::test]
    async fn models_of_a_source_share_its_folder_which_goes_with_the_last_of_them() {
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
    fn a_url_of_a_whole_bucket_is_refused() {
        for url in ["s3://bucket", "s3://bucket/", "https://host/?a", "", "/", "a/.."] {
            assert!(split(url).is_err(), "{url}");
        }
    }
}
