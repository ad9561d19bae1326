//! Selects the files of a folder for an archive, and writes the archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

/// Modification time of all files, 2000-01-01: fixed, and recent enough that tools do not warn.
const TIME: u64 = 946_684_800;

/// gzip's "unknown" operating system.
const NO_SYSTEM: u8 = 255;

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the archive: {0}")]
    Write(#[source] io::Error),
    #[error("{} is a link to something that is not a file of the artifact; put the file itself there", path.display())]
    Link { path: PathBuf },
    #[error("{} is neither a file nor a directory; take it out of the artifact", path.display())]
    Special { path: PathBuf },
    #[error("the name of {} is not UTF-8; rename it", path.display())]
    Name { path: PathBuf },
    #[error("{} changed while it was packed; pack again when nothing writes to it", path.display())]
    Changed { path: PathBuf },
}

/// The content of a file in an archive.
#[derive(Debug, Clone)]
pub enum PackSource {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The files of a folder that go into an archive, by their path in it.
#[derive(Debug, Default)]
pub struct CollectedFiles {
    pub files: BTreeMap<String, PackSource>,
    pub left_out: Vec<LeftOut>,
}

/// A file or folder that does not go into an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub path: String,
    pub why: &'static str,
}

/// Collects the files below `root`. Names that start with a dot or belong to an operating system
/// are left out unless they are in `needed`. So is `output`, which is the archive itself. `root`,
/// `needed` and `output` are real paths.
pub fn collect(root: &Path, needed: &[PathBuf], output: &Path) -> Result<CollectedFiles, PackError> {
    let mut collector = Collector {
        root,
        needed,
        output,
        collected: CollectedFiles::default(),
    };
    collector.folder(root, false)?;
    collector.collected.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(collector.collected)
}

struct Collector<'a> {
    root: &'a Path,
    needed: &'a [PathBuf],
    output: &'a Path,
    collected: CollectedFiles,
}

impl Collector<'_> {
    /// Collects the contents of `folder`; of a hidden one, only the needed files.
    fn folder(&mut self, folder: &Path, is_hidden: bool) -> Result<(), PackError> {
        let failed = |source| PackError::Read {
            path: folder.to_owned(),
            source,
        };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            self.entry(&path, is_hidden)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, is_hidden: bool) -> Result<(), PackError> {
        let below = path.strip_prefix(self.root).unwrap_or(path);
        let name = below
            .to_str()
            .ok_or_else(|| PackError::Name { path: below.to_owned() })?;
        let failed = |source| PackError::Read {
            path: below.to_owned(),
            source,
        };
        let hidden = if is_hidden { Some("hidden") } else { why_hidden(path) };
        let kind = fs::symlink_metadata(path).map_err(failed)?.file_type();
        if kind.is_dir() {
            return match hidden {
                None => self.folder(path, false),
                Some(_) if self.needed.iter().any(|needed| needed.starts_with(path)) => self.folder(path, true),
                Some(why) => {
                    self.leave_out(format!("{name}/"), why);
                    Ok(())
                }
            };
        }
        let why = hidden.filter(|_| !self.needed.iter().any(|needed| needed == path));
        if let Some(why) = why.or((path == self.output).then_some("the archive itself")) {
            self.leave_out(name.to_owned(), why);
            return Ok(());
        }
        let source = if kind.is_symlink() {
            let target = path.canonicalize().ok().filter(|target| target.starts_with(self.root));
            target
                .filter(|target| target.is_file())
                .ok_or_else(|| PackError::Link { path: below.to_owned() })?
        } else if kind.is_file() {
            path.to_owned()
        } else {
            return Err(PackError::Special { path: below.to_owned() });
        };
        self.collected.files.insert(name.to_owned(), PackSource::File(source));
        Ok(())
    }

    fn leave_out(&mut self, path: String, why: &'static str) {
        self.collected.left_out.push(LeftOut { path, why });
    }
}

/// The reason why archives should leave out a name like this, if there is one.
fn why_hidden(path: &Path) -> Option<&'static str> {
    match path.file_name()?.to_str()? {
        "__MACOSX" | "lost+found" => Some("an operating system's own"),
        name if name.starts_with('.') => Some("hidden"),
        _ => None,
    }
}

/// Writes `files` as a gzipped tar archive. Returns the total size of the files in bytes.
pub fn write(files: &BTreeMap<String, PackSource>, out: impl Write) -> Result<u64, PackError> {
    let out = GzBuilder::new()
        .mtime(0)
        .operating_system(NO_SYSTEM)
        .write(out, Compression::default());
    let mut archive = tar::Builder::new(out);
    let mut total = 0;
    for (path, source) in files {
        total += match source {
            PackSource::Bytes(bytes) => append(&mut archive, path, bytes.len() as u64, &bytes[..])?,
            PackSource::File(file) => {
                let failed = |source| PackError::Read {
                    path: file.clone(),
                    source,
                };
                let open = File::open(file).map_err(failed)?;
                let length = open.metadata().map_err(failed)?.len();
                append(&mut archive, path, length, open)?
            }
        };
    }
    let out = archive.into_inner().map_err(PackError::Write)?;
    out.finish().map_err(PackError::Write)?;
    Ok(total)
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    bytes: u64,
    content: impl Read,
) -> Result<u64, PackError> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    let mut content = content.take(bytes);
    archive
        .append_data(&mut header, path, &mut content)
        .map_err(PackError::Write)?;
    if content.limit() > 0 {
        return Err(PackError::Changed { path: path.into() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(paths: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, path.to_str().unwrap().len().to_string()).unwrap();
        }
        (folder, root)
    }

    fn names(collected: &CollectedFiles) -> Vec<&str> {
        collected.files.keys().map(String::as_str).collect()
    }

    #[test]
    fn hidden_files_are_left_out_and_listed_unless_they_are_needed() {
        let (_folder, root) = folder(&[
            "model.onnx",
            "weights/w.bin",
            "code/inference.py",
            ".DS_Store",
            ".git/config",
            "__MACOSX/._model.onnx",
            ".hidden/needed.bin",
            ".hidden/other.bin",
            "out.tar.gz",
        ]);
        symlink("w.bin", root.join("weights/link.bin")).unwrap();
        let needed = [root.join("model.onnx"), root.join(".hidden/needed.bin")];
        let collected = collect(&root, &needed, &root.join("out.tar.gz")).unwrap();
        assert_eq!(
            names(&collected),
            [
                ".hidden/needed.bin",
                "code/inference.py",
                "model.onnx",
                "weights/link.bin",
                "weights/w.bin"
            ]
        );
        let left_out: Vec<&str> = collected.left_out.iter().map(|left| left.path.as_str()).collect();
        assert_eq!(
            left_out,
            [".DS_Store", ".git/", ".hidden/other.bin", "__MACOSX/", "out.tar.gz"]
        );
    }

    #[test]
    fn a_link_to_anything_but_a_file_of_the_artifact_is_refused_by_name() {
        for target in ["/etc/passwd", "../secret", "gone", "folder"] {
            let (_folder, root) = folder(&["model.onnx", "folder/x"]);
            symlink(target, root.join("link")).unwrap();
            let error = collect(&root, &[], Path::new("")).unwrap_err();
            assert!(
                matches!(&error, PackError::Link { path } if path == Path::new("link")),
                "{target}: {error}"
            );
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let archive = |names: &[&str]| {
            let (_folder, root) = folder(names);
            for (index, name) in names.iter().enumerate() {
                fs::write(root.join(name), "x").unwrap();
                let time = std::time::SystemTime::now() + std::time::Duration::from_secs(index as u64);
                File::options()
                    .write(true)
                    .open(root.join(name))
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
            }
            let mut out = Vec::new();
            let collected = collect(&root, &[], Path::new("")).unwrap();
            assert_eq!(write(&collected.files, &mut out).unwrap(), names.len() as u64);
            out
        };
        let long = "n".repeat(150);
        assert_eq!(
            archive(&["b.onnx", "a/model.onnx", &long]),
            archive(&[&long, "a/model.onnx", "b.onnx"])
        );
    }
}
