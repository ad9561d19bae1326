//! The model of a container in single-model mode: fetched and unpacked before the container starts (AR-1).
//!
//! A `ModelDataUrl` names one archive or one folder. The store knows places that hold many, so its last segment is the name
//! and what is before it the place. Each deployment looks anew: an archive that was replaced is what is deployed then.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::store::{FetchError, Lease, Located, Name, NameError, OpenError, Settings, Store};

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("it names no object: write scheme://bucket/key, or the path of a file or folder")]
    NoName,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// A model that lies unpacked, as long as this exists.
pub(super) struct Artifact {
    lease: Lease,
    _store: Arc<Store>,
}

impl Artifact {
    pub fn path(&self) -> &Path {
        self.lease.path()
    }
}

/// Where models come from.
pub(super) struct Artifacts {
    /// For stores of any URL.
    settings: Settings,
    folder: PathBuf,
    /// By place. Opened once, so that what was fetched is found again.
    stores: Mutex<HashMap<String, Arc<Store>>>,
}

impl Artifacts {
    /// Keeps models below `folder`.
    pub fn new(settings: Settings, folder: PathBuf) -> Self {
        Self {
            settings: Settings {
                revalidate: Duration::ZERO,
                ..settings
            },
            folder,
            stores: Mutex::default(),
        }
    }

    pub async fn fetch(&self, url: &str) -> Result<Artifact, ArtifactError> {
        let (place, name) = split(url)?;
        let store = self.store(place)?;
        let lease = match store.find(&name).await? {
            Located::Here(lease) => lease,
            Located::There(arrival) => store.fetch(arrival).await?,
        };
        Ok(Artifact { lease, _store: store })
    }

    fn store(&self, place: String) -> Result<Arc<Store>, OpenError> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&place) {
            return Ok(Arc::clone(store));
        }
        // A store has its folder for itself.
        let store = Arc::new(Store::open(Settings {
            url: place.clone(),
            folder: self.folder.join(stores.len().to_string()),
            ..self.settings.clone()
        })?);
        stores.insert(place, Arc::clone(&store));
        Ok(store)
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

    #[test]
    fn what_names_a_whole_bucket_names_no_model() {
        for url in ["s3://bucket", "s3://bucket/", "https://host/?a", "", "/", "a/.."] {
            assert!(split(url).is_err(), "{url}");
        }
    }
}
