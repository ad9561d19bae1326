//! Reading: an archive by a stranger becomes files below a folder.
//!
//! The entries are read raw: the names that extensions carry in entries of their own would otherwise be taken into memory
//! however long they are.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{EntryType, PaxExtensions};

use super::GZIP;

/// Longest name or extension of an entry.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub entries: u64,
    /// Of all entries together.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("it is damaged or no tar archive ({0}); pack it again")]
    Malformed(#[source] io::Error),
    #[error("{name:?} in it is {kind}; pack regular files and directories only")]
    Kind { name: String, kind: &'static str },
    #[error("{name:?} in it leads out of the archive; pack files by relative paths without \"..\"")]
    Path { name: String },
    #[error("{name:?} in it has a name that is not UTF-8; rename the file")]
    Name { name: String },
    #[error("{name:?} is in it twice; pack it once")]
    Duplicate { name: String },
    #[error("{name:?} in it is damaged: it is cut short; pack it again")]
    Short { name: String },
    #[error("a name in it is longer than {MAX_EXTENSION_BYTES} bytes")]
    LongName,
    #[error("it has more than {0} entries (--max-entries)")]
    TooManyEntries(u64),
    #[error("it unpacks to more than {0} bytes (--max-unpacked)")]
    TooLarge(u64),
    #[error("write {name:?}: {source}")]
    Write {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Unpacks the archive at `path`, gzipped or not, into `folder`, which is empty.
pub fn unpack(path: &Path, folder: &Path, bounds: &Bounds) -> Result<(), UnpackError> {
    let mut file = File::open(path).map_err(UnpackError::Malformed)?;
    let mut head = [0; GZIP.len()];
    let is_gzip = file.read_exact(&mut head).is_ok() && head == GZIP;
    let file = File::open(path).map_err(UnpackError::Malformed)?;
    if is_gzip {
        entries(MultiGzDecoder::new(BufReader::new(file)), folder, bounds)
    } else {
        entries(BufReader::new(file), folder, bounds)
    }
}

/// What extensions say of the next entry.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

fn entries(archive: impl Read, folder: &Path, bounds: &Bounds) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(archive);
    let (mut count, mut bytes) = (0, 0u64);
    let mut extension = Extension::default();
    for entry in archive.entries().map_err(UnpackError::Malformed)?.raw(true) {
        let mut entry = entry.map_err(UnpackError::Malformed)?;
        count += 1;
        bytes = bytes.saturating_add(entry.size());
        if count > bounds.entries {
            return Err(UnpackError::TooManyEntries(bounds.entries));
        }
        if bytes > bounds.bytes {
            return Err(UnpackError::TooLarge(bounds.bytes));
        }
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => extension.name = Some(text(&mut entry)?),
            EntryType::XHeader => extended(&text(&mut entry)?, &mut extension)?,
            // Comments on the archive, such as git's.
            EntryType::XGlobalHeader => {}
            _ => {
                let extension = std::mem::take(&mut extension);
                let name = extension
                    .name
                    .unwrap_or_else(|| entry.header().path_bytes().into_owned());
                place(&mut entry, kind, name, extension.size, folder)?;
            }
        }
    }
    Ok(())
}

/// The content of an extension.
fn text(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    if entry.size() > MAX_EXTENSION_BYTES {
        return Err(UnpackError::LongName);
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(UnpackError::Malformed)?;
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn extended(text: &[u8], extension: &mut Extension) -> Result<(), UnpackError> {
    for record in PaxExtensions::new(text) {
        let record = record.map_err(UnpackError::Malformed)?;
        match record.key_bytes() {
            b"path" => extension.name = Some(record.value_bytes().to_owned()),
            b"size" => extension.size = record.value().ok().and_then(|size| size.parse().ok()),
            _ => {}
        }
    }
    Ok(())
}

fn place(
    entry: &mut tar::Entry<'_, impl Read>,
    kind: EntryType,
    name: Vec<u8>,
    size: Option<u64>,
    folder: &Path,
) -> Result<(), UnpackError> {
    let name = String::from_utf8(name).map_err(|error| UnpackError::Name {
        name: brief(&String::from_utf8_lossy(error.as_bytes())),
    })?;
    let shown = || brief(&name);
    let refused = |kind| UnpackError::Kind { name: shown(), kind };
    let is_folder = match kind {
        // Archives from before there were types say by the name's last character that it is a directory.
        EntryType::Regular => name.ends_with('/'),
        EntryType::Directory => true,
        EntryType::Symlink | EntryType::Link | EntryType::GNULongLink => return Err(refused("a link")),
        EntryType::Block | EntryType::Char => return Err(refused("a device")),
        EntryType::Fifo => return Err(refused("a pipe")),
        EntryType::GNUSparse => return Err(refused("a sparse file")),
        _ => return Err(refused("of a kind that is not known")),
    };
    if size.is_some_and(|size| size != entry.size()) {
        return Err(refused("of two sizes"));
    }
    let path = below(&name).ok_or_else(|| UnpackError::Path { name: shown() })?;
    let target = folder.join(&path);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => UnpackError::Duplicate { name: shown() },
        _ => UnpackError::Write { name: shown(), source },
    };
    if is_folder {
        return fs::create_dir_all(target).map_err(failed);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut file = File::create_new(target).map_err(failed)?;
    let expected = entry.size();
    let mut buffer = vec![0; 64 << 10];
    let mut written = 0;
    loop {
        let read = entry.read(&mut buffer).map_err(UnpackError::Malformed)?;
        if read == 0 {
            break;
        }
        io::Write::write_all(&mut file, &buffer[..read]).map_err(failed)?;
        written += read as u64;
    }
    if written == expected {
        Ok(())
    } else {
        Err(UnpackError::Short { name: shown() })
    }
}

/// The path that `name` stands for, when it stays below where it starts.
fn below(name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    let is_text = !name.is_empty() && !name.contains('\0');
    is_text.then_some(path)
}

/// The beginning of a name, for a message.
fn brief(name: &str) -> String {
    const MOST: usize = 200;
    name.chars().take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use tar::Header;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        entries: 20,
        bytes: 10_000,
    };

    /// An entry as it lies in an archive. The name is not checked, as the builder would.
    fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn file(name: &str, content: &str) -> Vec<u8> {
        entry(name.as_bytes(), EntryType::Regular, content.as_bytes())
    }

    /// Unpacks an archive, and what then is in the folder.
    fn unpacked(archive: &[u8]) -> Result<Vec<String>, UnpackError> {
        let folder = tempfile::tempdir().unwrap();
        let (path, into) = (folder.path().join("archive"), folder.path().join("into"));
        fs::write(&path, archive).unwrap();
        fs::create_dir(&into).unwrap();
        let result = unpack(&path, &into, &BOUNDS);
        let outside: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(outside.len(), 2, "{outside:?}");
        result.map(|()| listed(&into, &into))
    }

    fn listed(folder: &Path, root: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                names.extend(listed(&path, root));
            } else {
                names.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
        names.sort();
        names
    }

    #[test]
    fn files_are_unpacked_however_they_are_named() {
        let long = "l".repeat(180);
        let extended = |record: &str| {
            let length = record.len() + 4;
            format!("{length} {record}\n")
        };
        let archive = [
            entry(b"folder/", EntryType::Directory, b""),
            file("./folder/a", "1"),
            entry(b"././@LongLink", EntryType::GNULongName, format!("{long}\0").as_bytes()),
            file("cut", "2"),
            entry(b"pax", EntryType::XGlobalHeader, extended("comment=none").as_bytes()),
            entry(b"pax", EntryType::XHeader, extended("path=b/é").as_bytes()),
            file("b", "3"),
            vec![0; 1024],
        ]
        .concat();
        let expected = ["b/é".to_owned(), "folder/a".to_owned(), long];
        assert_eq!(unpacked(&archive).unwrap(), expected);
        let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
        zipped.write_all(&archive).unwrap();
        assert_eq!(unpacked(&zipped.finish().unwrap()).unwrap(), expected);
    }

    #[test]
    fn what_is_no_plain_file_inside_is_refused_by_name() {
        let table = [
            (file("../out", "x"), "\"../out\" in it leads out"),
            (file("/tmp/out", "x"), "\"/tmp/out\" in it leads out"),
            (file("a/../../out", "x"), "leads out"),
            (entry(b"l", EntryType::Symlink, b""), "\"l\" in it is a link"),
            (entry(b"l", EntryType::Link, b""), "is a link"),
            (entry(b"d", EntryType::Char, b""), "is a device"),
            (entry(b"f", EntryType::Fifo, b""), "is a pipe"),
            (entry(b"s", EntryType::GNUSparse, b""), "is a sparse file"),
            (entry(b"n\xff", EntryType::Regular, b"x"), "not UTF-8"),
            ([file("a", "1"), file("./a", "2")].concat(), "\"./a\" is in it twice"),
            (file("a", "1").repeat(2), "is in it twice"),
            (
                (0..21).flat_map(|at| file(&format!("{at}"), "")).collect(),
                "more than 20 entries",
            ),
            (file("a", &"x".repeat(10_001)), "more than 10000 bytes"),
            (
                entry(b"L", EntryType::GNULongName, &[b'x'; 9_999]).repeat(2),
                "more than 10000 bytes",
            ),
            (file("a", "12345")[..514].to_vec(), "damaged"),
            (b"\x1f\x8bnothing of the kind".to_vec(), "damaged"),
            (vec![b'x'; 600], "damaged"),
        ];
        for (archive, expected) in table {
            let error = unpacked(&archive).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_name_stays_below_or_is_refused(name in "[a./\\x00é]{0,12}") {
            if let Some(path) = below(&name) {
                prop_assert!(path.components().all(|component| matches!(component, Component::Normal(_))));
            }
        }

        #[test]
        fn a_damaged_archive_is_refused_or_read(at in 0usize..1536, byte: u8) {
            let mut archive = [file("a", "1"), entry(b"x", EntryType::XHeader, b"9 size=1\n"), file("b", "2")].concat();
            archive[at] = byte;
            let _ = unpacked(&archive);
        }
    }
}
