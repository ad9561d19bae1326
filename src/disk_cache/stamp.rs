//! Identity of a file and a state of its content, without reading it.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file and a state of its content. Every write changes the stamp, except a second one within
/// the tick of a coarse clock, and one through a mapping that the system has not written to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileStamp {
    device: u64,
    inode: u64,
    pub bytes: u64,
    /// Seconds and nanoseconds since 1970, as is `changed`.
    modified: (i64, i64),
    /// No program can set this time. Renames, links and changes of permissions update it, too.
    pub changed: (i64, i64),
}

impl FileStamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether only the time of change differs, as after a rename.
    pub fn has_same_content(&self, other: &Self) -> bool {
        let changed = other.changed;
        Self { changed, ..*self } == *other
    }
}

/// The stamp as text, without the time of change: a file with other permissions is the same one.
impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = self.modified;
        let Self {
            device, inode, bytes, ..
        } = self;
        write!(f, "{device}-{inode}-{bytes}-{seconds}.{nanoseconds:09}")
    }
}

/// Whether `path` leads to this very `file`, rather than to another one of the same name.
pub fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}
