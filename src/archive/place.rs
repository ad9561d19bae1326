//! Where entries go: files and folders below one folder, which was empty.
//!
//! What always holds: nothing is made but regular files and folders, no file is opened that was there before, and no
//! link is ever in the way, since none is made and the folder is nobody else's. So a path that has no `..` cannot lead
//! out, and the file system itself knows what was there already, however much it is.
//!
//! Neither owners, permissions nor times are taken from an archive: a file may be read by all and written by its
//! owner, so far as the process's umask lets it, and a folder entered; nothing can be executed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::error::{UnpackError, brief};
use super::unpack::Bounds;

/// What file systems take for one part of a path.
pub(super) const MAX_COMPONENT_BYTES: usize = 255;

/// Paths may have 4096 bytes, of which the folder above needs some.
pub(super) const MAX_NAME_BYTES: usize = 2048;

/// Deeper than what anyone packs, and no trouble to whoever walks it.
pub(super) const MAX_DEPTH: usize = 64;

pub struct Place<'a> {
    folder: &'a Path,
    bounds: &'a Bounds,
    /// Counted together with the folders that are made on the way to an entry.
    pub(super) entries: u64,
    bytes: u64,
    pub(super) files: u64,
    pub(super) written: u64,
    /// The folder that was made last: most entries lie where the one before them does.
    last: PathBuf,
}

impl<'a> Place<'a> {
    pub fn new(folder: &'a Path, bounds: &'a Bounds) -> Self {
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

    /// Counts bytes of contents, before they are there.
    pub fn bytes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bounds.bytes {
            return Err(UnpackError::TooLarge(self.bounds.bytes));
        }
        Ok(())
    }

    /// Makes a folder, which may be there already.
    pub fn folder(&mut self, name: &str) -> Result<(), UnpackError> {
        // Python's tarfile writes the root that it packs under the name "" as "/".
        if name.bytes().all(|byte| byte == b'/') {
            return Ok(());
        }
        let path = below(name)?;
        self.folders(&path, name, false)
    }

    /// Makes a file, which must not be there.
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

    /// Makes the folders down to `path`, for the sake of `name`. Those that have no entry of their own count as one.
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

/// The path that `name` stands for, which is below where it starts.
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
    fn names_stand_for_paths_below() {
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
        fn a_name_stays_below_or_is_refused(name in "[a./\\x00é]{0,12}") {
            if let Ok(path) = below(&name) {
                prop_assert!(path.components().all(|component| matches!(component, Component::Normal(_))));
            }
        }
    }
}
