//! `entry.json`: the URL and version of an entry, and its size on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk_cache::CacheFolder;
use crate::store::version::Version;

/// URLs and versions are short.
const MAX_BYTES: u64 = 64 << 10;

/// The least that a file system allocates for a file, and the size of a directory.
const BLOCK: u64 = 4096;

/// Bytes of an entry in addition to its content: its folder, this file and `settled`.
pub(super) const OVERHEAD: u64 = 3 * BLOCK;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDescription {
    pub url: String,
    pub version: Version,
    /// Bytes on disk.
    pub bytes: u64,
    /// Nanoseconds since 1970.
    pub kept: u64,
    /// The boot of the machine during which the entry was kept.
    pub boot: Option<String>,
}

impl EntryDescription {
    pub fn write(&self, path: &Path) -> io::Result<()> {
        File::create_new(path)?.write_all(&serde_json::to_vec(self)?)
    }

    /// Reads a description; `None` when it is missing or incomplete.
    pub fn read(path: &Path) -> Option<Self> {
        let mut text = Vec::new();
        let file = File::open(path).ok()?;
        file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The entry's name. It depends on the whole description and on the folder's key: an entry that
    /// was created or changed without the key does not have its name.
    pub fn name(&self, folder: &CacheFolder) -> io::Result<String> {
        let hash = |purpose, text: &[u8]| folder.hash(purpose, text).to_hex();
        let url = hash("longshore 2026 url of an archive", self.url.as_bytes());
        let description = hash("longshore 2026 description of an archive", &serde_json::to_vec(self)?);
        Ok(format!("{}-{}", &url[..16], &description[..32]))
    }
}

/// The bytes that an entry with these files takes on disk, in whole blocks, so that small files
/// count with their real size.
pub fn weigh(content: &Path) -> io::Result<u64> {
    let mut bytes = OVERHEAD;
    let mut folders = vec![content.to_owned()];
    while let Some(folder) = folders.pop() {
        bytes += BLOCK;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += metadata.len().max(1).next_multiple_of(BLOCK);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_read_back_unless_it_is_incomplete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entry.json");
        let description = EntryDescription {
            url: "s3://bucket/a.tar.gz".to_owned(),
            version: Version::from("etag \"1\"".to_owned()),
            bytes: 5,
            kept: 7,
            boot: None,
        };
        description.write(&path).unwrap();
        assert_eq!(EntryDescription::read(&path), Some(description.clone()));
        let text = fs::read(&path).unwrap();
        for length in 0..text.len() {
            fs::write(&path, &text[..length]).unwrap();
            assert_eq!(EntryDescription::read(&path), None, "{length}");
        }
        assert_eq!(EntryDescription::read(folder.path()), None);
        let other = EntryDescription {
            version: "etag \"2\"".to_owned().into(),
            ..description.clone()
        };
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [ours, theirs] = [&ours, &theirs].map(|folder| CacheFolder::open(folder.path()).unwrap());
        let name = |description: &EntryDescription, folder: &CacheFolder| description.name(folder).unwrap();
        assert_ne!(name(&description, &ours), name(&other, &ours));
        assert_eq!(name(&description, &ours)[..17], name(&other, &ours)[..17]);
        assert_ne!(name(&description, &ours), name(&description, &theirs));
    }

    #[test]
    fn small_files_take_whole_blocks() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        for (name, bytes) in [("empty", 0), ("a/small", 1), ("a/block", 4096), ("large", 4097)] {
            fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(weigh(folder.path()).unwrap(), OVERHEAD + (2 + 1 + 1 + 1 + 2) * BLOCK);
    }
}
