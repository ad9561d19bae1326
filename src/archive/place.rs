//! Creates the files and folders of an archive's entries below one folder, which starts empty.
//!
//! Invariants: only regular files and folders are created, and no existing file is opened. Links
//! cannot be in the way, since none are created and nothing else writes to the folder. So a path
//! without `..` cannot lead out, and the file system itself detects duplicates, however many
//! entries there are.
//!
//! Owners, permissions and times of the archive are ignored. Files are readable by all and writable
//! by their owner, folders can be entered, both as far as the process's umask allows. Nothing is
//! executable.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::error::{UnpackError, brief};
use super::unpack::UnpackLimits;

/// The longest part of a path that file systems accept.
pub(super) const MAX_COMPONENT_BYTES: usize = 255;

/// Paths may have 4096 bytes, of which the folder above needs some.
pub(super) const MAX_NAME_BYTES: usize = 2048;

/// Deeper than real artifacts, and shallow enough to walk safely.
pub(super) const MAX_DEPTH: usize = 64;

pub struct EntryWriter<'a> {
    folder: &'a Path,
    bounds: &'a UnpackLimits,
    /// Entries so far, including the folders created on the way to them.
    pub(super) entries: u64,
    bytes: u64,
    pub(super) files: u64,
    pub(super) written: u64,
    /// The folder that was created last: most entries lie in the same folder as the one before.
    last: PathBuf,
}

impl<'a> EntryWriter<'a> {
    pub fn new(folder: &'a Path, bounds: &'a UnpackLimits) -> Self {
        Self {
            folder,
            bounds,
            entries: 0,
            bytes: 0,
            files: 0,
            written: 0,
            last: PathBuf::new(),
        }
    }

    /// Counts an entry.
    pub fn entry(&mut self) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.bounds.entries {
            return Err(UnpackError::TooManyEntries(self.bounds.entries));
        }
        Ok(())
    }

    /// Counts bytes of contents before they are written.
    pub fn bytes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bounds.bytes {
            return Err(UnpackError::TooLarge(self.bounds.bytes));
        }
        Ok(())
    }

    /// Creates a folder, which may exist.
    pub fn folder(&mut self, name: &str) -> Result<(), UnpackError> {
        // Python's tarfile writes "/" for a root that it packs under the name "".
        if name.bytes().all(|byte| byte == b'/') {
            return Ok(());
        }
        let path = below(name)?;
        self.folders(&path, name, false)
    }

    /// Creates a file, which must not exist.
    pub fn file(&mut self, name: &str) -> Result<File, UnpackError> {
        let path = below(name)?;
        let parent = path
            .parent()
            .ok_or_else(|| UnpackError::Nameless { name: brief(name) })?;
        self.folders(parent, name, true)?;
        let path = self.folder.join(&path);
        let file = File::options().write(true).create_new(true).mode(0o644).open(&path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if path.is_dir() => UnpackError::Clash { name: brief(name) },
            io::ErrorKind::AlreadyExists => UnpackError::Duplicate { name: brief(name) },
            _ => UnpackError::write(name, error),
        })?;
        self.files += 1;
        Ok(file)
    }

    /// Creates the folders down to `path` for the entry `name`. A folder without an entry of its
    /// own counts as an entry.
    fn folders(&mut self, path: &Path, name: &str, all_count: bool) -> Result<(), UnpackError> {
        if path == self.last {
            return Ok(());
        }
        let mut target = self.folder.to_owned();
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            target.push(part);
            match DirBuilder::new().mode(0o755).create(&target) {
                Ok(()) if all_count || parts.peek().is_some() => self.entry()?,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let metadata = fs::symlink_metadata(&target).map_err(|error| UnpackError::write(name, error))?;
                    if !metadata.is_dir() {
                        return Err(UnpackError::Clash { name: brief(name) });
                    }
                }
                Err(error) => return Err(UnpackError::write(name, error)),
            }
        }
        path.clone_into(&mut self.last);
        Ok(())
    }
}

/// Turns an entry's name into a path below the folder.
fn below(name: &str) -> Result<PathBuf, UnpackError> {
    let shown = || brief(name);
    if name.contains('\0') {
        return Err(UnpackError::Nul { name: shown() });
    }
    if name.is_empty() {
        return Err(UnpackError::Nameless { name: shown() });
    }
    let mut path = PathBuf::new();
    for (depth, component) in Path::new(name).components().enumerate() {
        match component {
            Component::Normal(part) if part.len() > MAX_COMPONENT_BYTES => {
                return Err(UnpackError::LongName { name: shown() });
            }
            Component::Normal(_) if depth > MAX_DEPTH => return Err(UnpackError::Deep { name: shown() }),
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => {
                return Err(UnpackError::Path { name: shown() });
            }
        }
    }
    if path.as_os_str().len() > MAX_NAME_BYTES {
        return Err(UnpackError::LongName { name: shown() });
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_paths_below_the_folder() {
        let table = [
            ("a", "a"),
            ("./a", "a"),
            ("a/./b//c/", "a/b/c"),
            ("./", ""),
            ("a\\..\\b", "a\\..\\b"),
            ("...", "..."),
        ];
        for (name, expected) in table {
            assert_eq!(below(name).unwrap(), Path::new(expected), "{name}");
        }
        let long = "n".repeat(MAX_COMPONENT_BYTES);
        assert_eq!(below(&long).unwrap(), Path::new(&long));
        let deep = "d/".repeat(MAX_DEPTH) + "f";
        assert_eq!(below(&deep).unwrap(), Path::new(&deep));
        let wide = [long.as_str(); 8].join("/");
        assert!(matches!(below(&wide), Ok(path) if path == Path::new(&wide)));
        assert!(matches!(below(&format!("{wide}/n")), Err(UnpackError::LongName { .. })));
    }

    proptest! {
        #[test]
        fn a_name_stays_below_the_folder_or_is_refused(name in "[a./\\x00é]{0,12}") {
            if let Ok(path) = below(&name) {
                prop_assert!(path.components().all(|component| matches!(component, Component::Normal(_))));
            }
        }
    }
}
