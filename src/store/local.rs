//! A directory as a store, for models on this machine or on a shared file system.
//!
//! Files are read directly, because object_store would copy each byte through a channel for
//! nothing. Links are followed as long as they stay in the directory: Kubernetes mounts consist of
//! links.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::{LocationError, StoreError};
use super::inventory::ListedFile;
use super::listing::{FolderListing, ListingLimits, StoredFile};
use super::name::Name;
use super::version::Version;
use crate::disk_cache::FileStamp;

/// Largest sum of the files of equal sizes that a list of the whole directory reads, to find equal
/// ones: a few seconds.
const MOST_COMPARED: u64 = 4 << 30;

/// A store that is a directory.
#[derive(Debug)]
pub(super) struct DirectoryStore {
    /// Path without links.
    root: PathBuf,
}

/// The file or folder of a name.
pub(super) enum LocalEntry {
    File { version: Version, bytes: u64 },
    Folder(FolderListing),
}

impl DirectoryStore {
    pub fn open(path: &Path) -> Result<Self, LocationError> {
        let unreadable = |error: io::Error| LocationError::Directory {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let root = fs::canonicalize(path).map_err(unreadable)?;
        // Fails unless it is a readable directory.
        fs::read_dir(&root).map_err(unreadable)?;
        Ok(Self { root })
    }

    pub fn find(&self, name: &Name, url: &str, bounds: ListingLimits) -> Result<LocalEntry, StoreError> {
        let (path, about) = self.resolve(&self.root.join(name.as_str()), url)?;
        if about.is_file() {
            return Ok(LocalEntry::File {
                version: version(&about),
                bytes: about.len(),
            });
        }
        let files = self.files(&path, url, bounds)?;
        match files.is_empty() {
            true => Err(StoreError::NotFound { url: url.to_owned() }),
            false => FolderListing::collect(url, files, bounds).map(LocalEntry::Folder),
        }
    }

    /// Lists the files of the whole directory.
    pub fn all(&self, url: &str) -> Result<Vec<ListedFile>, StoreError> {
        const UNBOUNDED: ListingLimits = ListingLimits {
            files: u64::MAX,
            bytes: u64::MAX,
        };
        let files = self.files(&self.root, url, UNBOUNDED)?;
        let mut sizes: HashMap<u64, u64> = HashMap::new();
        for file in &files {
            *sizes.entry(file.bytes).or_default() += 1;
        }
        let may_be_equal = |bytes: u64| sizes.get(&bytes).is_some_and(|count| *count > 1);
        let compared = files.iter().map(|file| file.bytes).filter(|bytes| may_be_equal(*bytes));
        let is_little = compared.sum::<u64>() <= MOST_COMPARED;
        let listed = |file: StoredFile| ListedFile {
            content: match may_be_equal(file.bytes) {
                // No other file is equal to it.
                false => Some(file.name.to_string()),
                true if is_little => self.hash(&file.name),
                true => None,
            },
            name: file.name.to_string(),
            bytes: file.bytes,
        };
        Ok(files.into_iter().map(listed).collect())
    }

    /// Hashes a file; `None` if it cannot be read.
    fn hash(&self, name: &Name) -> Option<String> {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(File::open(self.root.join(name.as_str())).ok()?)
            .ok()?;
        Some(hasher.finalize().to_hex().to_string())
    }

    /// Opens the file at `name`, or `file` below it, unless it has changed since it was found.
    pub fn read(
        &self,
        name: &Name,
        file: Option<&Name>,
        url: &str,
        expected: &Version,
    ) -> Result<LocalFile, StoreError> {
        let path = self.root.join(name.as_str());
        let path = file.map_or(path.clone(), |file| path.join(file.as_str()));
        let changed = || StoreError::Changed { url: url.to_owned() };
        let (path, _) = self.resolve(&path, url).map_err(|error| match error {
            StoreError::NotFound { .. } => changed(),
            error => error,
        })?;
        let file = LocalFile {
            file: File::open(path).map_err(|error| wrong(&error, url))?,
            version: expected.clone(),
            url: url.to_owned(),
        };
        file.check()?;
        Ok(file)
    }

    /// Resolves `path` to a file or a directory in this one.
    fn resolve(&self, path: &Path, url: &str) -> Result<(PathBuf, Metadata), StoreError> {
        let path = fs::canonicalize(path).map_err(|error| wrong(&error, url))?;
        if !path.starts_with(&self.root) {
            return Err(StoreError::Outside { url: url.to_owned() });
        }
        let about = fs::metadata(&path).map_err(|error| wrong(&error, url))?;
        if !about.is_file() && !about.is_dir() {
            return Err(StoreError::Special { url: url.to_owned() });
        }
        Ok((path, about))
    }

    /// Lists all files below `folder`. Folders count as well, so that a cycle of links ends.
    fn files(&self, folder: &Path, url: &str, bounds: ListingLimits) -> Result<Vec<StoredFile>, StoreError> {
        let mut files = Vec::new();
        let mut folders = vec![(folder.to_owned(), String::new())];
        let mut count = 0u64;
        while let Some((folder, prefix)) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(|error| wrong(&error, url))? {
                let entry = entry.map_err(|error| wrong(&error, url))?;
                count += 1;
                if count > bounds.files {
                    return Err(StoreError::TooManyFiles {
                        url: url.to_owned(),
                        limit: bounds.files,
                    });
                }
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                let name = Name::parse(&name).map_err(|reason| StoreError::FileName {
                    url: url.to_owned(),
                    reason,
                })?;
                let (path, about) = self.resolve(&entry.path(), &format!("{url}/{name}"))?;
                if about.is_dir() {
                    folders.push((path, format!("{name}/")));
                } else {
                    files.push(StoredFile {
                        name,
                        bytes: about.len(),
                        version: version(&about),
                    });
                }
            }
        }
        Ok(files)
    }
}

/// A file that is being read.
pub(super) struct LocalFile {
    file: File,
    version: Version,
    url: String,
}

impl LocalFile {
    fn check(&self) -> Result<(), StoreError> {
        let about = self.file.metadata().map_err(|error| wrong(&error, &self.url))?;
        match version(&about) == self.version {
            true => Ok(()),
            false => Err(StoreError::Changed { url: self.url.clone() }),
        }
    }
}

/// Reports at the end of the file whether it was written to meanwhile. A file that replaces it does
/// not affect the open one.
impl Read for LocalFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.file.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(io::Error::other(wrong(&error, &self.url))),
            Ok(count) => count,
        };
        if count == 0 && !buffer.is_empty() {
            self.check().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

fn version(about: &Metadata) -> Version {
    Version::of(Some(&FileStamp::of(about).to_string()), None, about.len())
}

fn wrong(error: &io::Error, url: &str) -> StoreError {
    let url = url.to_owned();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => StoreError::NotFound { url },
        _ => StoreError::Local {
            url,
            reason: error.to_string(),
        },
    }
}
