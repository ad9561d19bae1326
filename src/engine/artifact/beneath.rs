//! A folder that stays the one that was opened, and the files below it.
//!
//! A path names whatever is there when it is used: between a check and a use an uploader can put another folder, or a link
//! to anywhere, in its place. So links are resolved once, the real path is judged, and from then on everything is opened
//! relative to a descriptor along that real path, which has no links: a link that has appeared there since is refused.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A folder that is held by a descriptor.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    descriptor: Arc<OwnedFd>,
}

impl Folder {
    /// Opens the folder at `path`, a real path that is trusted up to its end.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Self {
            descriptor: Arc::new(rustix::fs::openat(CWD, path, flags, Mode::empty())?),
            path: path.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the folder at `path`, a real path below this one.
    pub fn folder(&self, path: &Path) -> io::Result<Self> {
        Ok(Self {
            descriptor: Arc::new(self.open_below(path, OFlags::DIRECTORY)?),
            path: path.to_owned(),
        })
    }

    /// Opens the regular file at `path`, a real path below this folder.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        // A pipe would be waited for without end.
        let file = File::from(self.open_below(path, OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(file)
    }

    /// The names in this folder that are UTF-8; another name is none that is looked for.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    fn open_below(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let below = path.strip_prefix(&self.path).map_err(|_| Errno::XDEV)?;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if below.as_os_str().is_empty() {
            return Ok(rustix::fs::openat(&self.descriptor, ".", flags, Mode::empty())?);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.descriptor, below, flags, Mode::empty(), resolve) {
            // An old kernel, or a filter of system calls that does not know it.
            Err(Errno::NOSYS | Errno::PERM) => step_by_step(&self.descriptor, below, flags),
            opened => Ok(opened?),
        }
    }
}

/// As `openat2` without links: opens one folder after the other.
fn step_by_step(folder: &OwnedFd, below: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let mut names = below.components().map(|component| match component {
        Component::Normal(name) => Ok(name),
        Component::CurDir | Component::ParentDir | Component::RootDir | Component::Prefix(_) => Err(Errno::XDEV),
    });
    let mut name = names.next().ok_or(Errno::XDEV)??;
    let mut held: Option<OwnedFd> = None;
    for next in names {
        let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let inner = rustix::fs::openat(held.as_ref().unwrap_or(folder), name, folder_flags, Mode::empty())?;
        held = Some(inner);
        name = next?;
    }
    let opened = rustix::fs::openat(held.as_ref().unwrap_or(folder), name, flags, Mode::empty())?;
    Ok(opened)
}

/// Whether opening failed because a link or another kind of file is where the real path had a folder or a file: what is
/// there has been exchanged since the path was resolved.
pub fn was_exchanged(error: &io::Error) -> bool {
    let exchanged = [Errno::LOOP, Errno::NOTDIR, Errno::XDEV].map(|errno| Some(errno.raw_os_error()));
    exchanged.contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(file: File) -> String {
        let mut text = String::new();
        io::BufReader::new(file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn files_are_opened_below_the_folder_along_paths_without_links_only() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        let artifact = real.join("artifact");
        fs::create_dir_all(artifact.join("sub")).unwrap();
        fs::write(artifact.join("sub/file"), "inside").unwrap();
        fs::write(real.join("secret"), "outside").unwrap();
        symlink(real.join("secret"), artifact.join("link")).unwrap();
        symlink(&real, artifact.join("up")).unwrap();
        symlink("sub", artifact.join("down")).unwrap();
        let folder = Folder::open(&artifact).unwrap();
        assert_eq!(text(folder.file(&artifact.join("sub/file")).unwrap()), "inside");
        let below =
            |path: &str, flags: OFlags| step_by_step(&folder.descriptor, Path::new(path), flags | OFlags::NOFOLLOW);
        assert_eq!(text(below("sub/file", OFlags::RDONLY).unwrap().into()), "inside");
        for path in ["link", "up/secret", "down/file", "sub/file/x"] {
            let error = folder.file(&artifact.join(path)).unwrap_err();
            assert!(was_exchanged(&error), "{path} {error}");
            let error = below(path, OFlags::RDONLY).unwrap_err();
            assert!(was_exchanged(&error), "{path} {error}");
        }
        for path in ["../secret", "sub/../../secret"] {
            assert!(folder.file(&artifact.join(path)).is_err(), "{path}");
            assert!(below(path, OFlags::RDONLY).is_err(), "{path}");
        }
        assert!(folder.file(&real.join("secret")).is_err());
        assert!(folder.file(&artifact.join("sub")).is_err(), "no regular file");
        assert!(folder.file(&artifact.join("gone")).is_err());
    }

    #[test]
    fn a_folder_that_is_exchanged_for_a_link_stays_the_one_that_was_opened() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        for (name, content) in [("ours", "inside"), ("other", "outside")] {
            fs::create_dir(real.join(name)).unwrap();
            fs::write(real.join(name).join("file"), content).unwrap();
        }
        let ours = real.join("ours");
        let (root, folder) = (Folder::open(&real).unwrap(), Folder::open(&ours).unwrap());
        fs::rename(&ours, real.join("moved")).unwrap();
        symlink(real.join("other"), &ours).unwrap();
        assert_eq!(text(folder.file(&ours.join("file")).unwrap()), "inside");
        assert_eq!(folder.names().unwrap(), ["file"]);
        assert!(was_exchanged(&root.file(&ours.join("file")).unwrap_err()));
        assert!(was_exchanged(&root.folder(&ours).unwrap_err()));
        assert!(Folder::open(&ours).is_err());
    }

    #[test]
    fn a_pipe_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        rustix::fs::mkfifoat(CWD, real.join("pipe"), Mode::RUSR).unwrap();
        let error = Folder::open(&real).unwrap().file(&real.join("pipe")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
