//! A folder of files in a store: an artifact that is not packed.
//!
//! The store's keys are untrusted: each is checked as a [`Name`] before it becomes a path. Files
//! and bytes are counted against their limits while the listing arrives.

use std::collections::BTreeMap;

use object_store::ObjectMeta;
use object_store::list::PaginatedListResult;
use object_store::path::Path;

use super::bucket::Bucket;
use super::error::StoreError;
use super::inventory::ListedFile;
use super::name::Name;
use super::tries::Retries;
use super::version::Version;

/// Limits on the contents of a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListingLimits {
    pub files: u64,
    pub bytes: u64,
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// The name below the folder.
    pub name: Name,
    pub bytes: u64,
    pub(super) version: Version,
}

/// The files of a folder, in the order of their names.
pub(super) struct FolderListing(BTreeMap<Name, StoredFile>);

impl FolderListing {
    /// Collects `files`, and fails as soon as they exceed `bounds`.
    pub fn collect(
        url: &str,
        files: impl IntoIterator<Item = StoredFile>,
        bounds: ListingLimits,
    ) -> Result<Self, StoreError> {
        let mut listing = Self(BTreeMap::new());
        let mut bytes = 0u64;
        for file in files {
            listing.add(url, file, &mut bytes, bounds)?;
        }
        listing.without_markers(url)
    }

    fn add(&mut self, url: &str, file: StoredFile, bytes: &mut u64, bounds: ListingLimits) -> Result<(), StoreError> {
        let url = || url.to_owned();
        *bytes = bytes.saturating_add(file.bytes);
        if *bytes > bounds.bytes {
            return Err(StoreError::TooLarge {
                url: url(),
                limit: bounds.bytes,
            });
        }
        self.0.insert(file.name.clone(), file);
        if self.0.len() as u64 > bounds.files {
            return Err(StoreError::TooManyFiles {
                url: url(),
                limit: bounds.files,
            });
        }
        Ok(())
    }

    /// Removes folder markers. Consoles mark folders by empty objects with a name that ends in a
    /// slash, which object_store strips.
    fn without_markers(mut self, url: &str) -> Result<Self, StoreError> {
        let folders: Vec<Name> = self.0.keys().filter(|name| self.has_below(name)).cloned().collect();
        for name in folders {
            if self.0.remove(&name).is_some_and(|file| file.bytes > 0) {
                return Err(StoreError::FileAndFolder {
                    url: url.to_owned(),
                    name: name.to_string(),
                });
            }
        }
        Ok(self)
    }

    fn has_below(&self, name: &Name) -> bool {
        let folder = format!("{name}/");
        let mut after = self.0.range(name.clone()..).skip(1).map(|(name, _)| name.as_str());
        // Names such as `a b`, `a.b` and `a-b` sort between `a` and `a/b`.
        after
            .by_ref()
            .take_while(|other| other.starts_with(name.as_str()))
            .any(|other| other.starts_with(&folder))
    }

    pub fn version(&self) -> Version {
        let files = self.0.values();
        Version::of_files(files.map(|file| (file.name.as_str(), &file.version, file.bytes)))
    }

    pub fn into_files(self) -> Vec<StoredFile> {
        self.0.into_values().collect()
    }
}

/// Lists all files of a bucket below `prefix`. Leaves out keys that no request can name.
pub(super) async fn all(
    bucket: &Bucket,
    prefix: Option<&Name>,
    url: &str,
    retries: u32,
) -> Result<Vec<ListedFile>, StoreError> {
    let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
    let (mut files, mut page_token) = (Vec::new(), None);
    loop {
        let page = page(bucket, &prefix, url, page_token, retries).await?;
        for meta in page.result.objects {
            if let Ok(Some(file)) = stored(&meta, &prefix, url) {
                files.push(ListedFile {
                    name: file.name.to_string(),
                    bytes: file.bytes,
                    content: file.version.strong_tag().map(str::to_owned),
                });
            }
        }
        match page.page_token {
            Some(token) => page_token = Some(token),
            None => return Ok(files),
        }
    }
}

/// Lists the files below `folder`; `None` if there are none.
pub(super) async fn list(
    bucket: &Bucket,
    folder: &Path,
    url: &str,
    bounds: ListingLimits,
    retries: u32,
) -> Result<Option<FolderListing>, StoreError> {
    let prefix = format!("{folder}/");
    let mut listing = FolderListing(BTreeMap::new());
    let (mut bytes, mut page_token) = (0, None);
    loop {
        let page = page(bucket, &prefix, url, page_token, retries).await?;
        for meta in page.result.objects {
            if let Some(file) = stored(&meta, &prefix, url)? {
                listing.add(url, file, &mut bytes, bounds)?;
            }
        }
        match page.page_token {
            Some(token) => page_token = Some(token),
            None => break,
        }
    }
    match listing.0.is_empty() {
        true => Ok(None),
        false => listing.without_markers(url).map(Some),
    }
}

/// One page of the keys that start with `prefix`, after `token`.
async fn page(
    bucket: &Bucket,
    prefix: &str,
    url: &str,
    token: Option<String>,
    retries: u32,
) -> Result<PaginatedListResult, StoreError> {
    let mut tries = Retries::new(retries);
    loop {
        match bucket.list(prefix, url, token.clone()).await {
            Ok(page) => return Ok(page),
            Err(failure) => tries.next_attempt(failure).await?,
        }
    }
}

/// The file that `meta` describes; `None` for the marker of the folder itself.
fn stored(meta: &ObjectMeta, prefix: &str, url: &str) -> Result<Option<StoredFile>, StoreError> {
    let key = meta.location.as_ref();
    let Some(name) = key.strip_prefix(prefix) else {
        return match prefix.strip_suffix('/') {
            Some(folder) if folder == key => Ok(None),
            _ => Err(StoreError::InvalidResponse {
                url: url.to_owned(),
                reason: "it lists keys outside of the folder".to_owned(),
            }),
        };
    };
    let name = Name::parse(name).map_err(|reason| StoreError::FileName {
        url: url.to_owned(),
        reason,
    })?;
    // Azure's listings omit the quotes that the tag has in a header.
    let tag = meta.e_tag.as_deref().map(|tag| match tag.ends_with('"') {
        true => tag.to_owned(),
        false => format!("\"{tag}\""),
    });
    Ok(Some(StoredFile {
        name,
        bytes: meta.size,
        version: Version::of(tag.as_deref(), Some(meta.last_modified.timestamp()), meta.size),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: ListingLimits = ListingLimits { files: 4, bytes: 100 };

    fn file(name: &str, bytes: u64) -> StoredFile {
        StoredFile {
            name: Name::parse(name).unwrap(),
            bytes,
            version: Version::of(Some(name), None, bytes),
        }
    }

    fn collected(files: &[(&str, u64)]) -> Result<Vec<String>, StoreError> {
        let files = files.iter().map(|(name, bytes)| file(name, *bytes));
        let listing = FolderListing::collect("s3://a", files, BOUNDS)?;
        Ok(listing.into_files().iter().map(|file| file.name.to_string()).collect())
    }

    #[test]
    fn folder_markers_are_not_files() {
        let files = [("b", 0), ("b.c", 1), ("b/c", 1), ("a", 0)];
        assert_eq!(collected(&files).unwrap(), ["a", "b.c", "b/c"]);
    }

    #[test]
    fn a_name_is_either_a_file_or_a_folder() {
        let error = collected(&[("b", 1), ("b/c/d", 1)]).unwrap_err();
        assert!(matches!(error, StoreError::FileAndFolder { name, .. } if name == "b"));
    }

    #[test]
    fn folders_are_limited() {
        let error = collected(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 0)]).unwrap_err();
        assert!(matches!(error, StoreError::TooManyFiles { limit: 4, .. }));
        let error = collected(&[("a", 60), ("b", 41)]).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { limit: 100, .. }));
        assert_eq!(collected(&[("a", 60), ("b", 40)]).unwrap().len(), 2);
    }

    #[test]
    fn names_from_the_store_are_checked() {
        let meta = |key: &str| ObjectMeta {
            location: Path::parse(key).unwrap(),
            last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        let name = |key| stored(&meta(key), "p/m/", "s3://a").map(|file| file.map(|file| file.name.to_string()));
        assert_eq!(name("p/m/a b%/c"), Ok(Some("a b%/c".to_owned())));
        assert_eq!(name("p/m"), Ok(None));
        assert!(matches!(name("p/m/a\\b"), Err(StoreError::FileName { .. })));
        assert!(matches!(name("p/other"), Err(StoreError::InvalidResponse { .. })));
    }
}
