//! Packs models into archives for a store: ordinary ones, and ones that no tool writes.
//!
//! The product's own writer would not do here, because it writes only valid archives.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

const IN_MEMORY: &str = "writing to memory does not fail";

/// The compression of the tar archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Gzip,
    Zstd,
    Plain,
}

impl Form {
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        match self {
            // The fastest level: most weights cannot be compressed, and the tests write many
            // archives.
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(tar).expect(IN_MEMORY);
                encoder.finish().expect(IN_MEMORY)
            }
            Self::Zstd => zstd::encode_all(tar, 1).expect(IN_MEMORY),
            Self::Plain => tar.to_vec(),
        }
    }
}

/// Packs `model.onnx` as `.tar.gz`.
pub fn archive_of(model: &[u8]) -> Vec<u8> {
    archive_as(Form::Gzip, &[("model.onnx", model)])
}

/// Packs these files.
pub fn archive_as(form: Form, files: &[(&str, &[u8])]) -> Vec<u8> {
    let entries = files
        .iter()
        .map(|(name, content)| Entry::new(EntryType::Regular, name, content));
    form.pack(&tar_of(entries))
}

/// An entry of a tar archive. It may be invalid.
#[derive(Debug, Clone)]
pub struct Entry {
    kind: EntryType,
    name: Vec<u8>,
    content: Vec<u8>,
    link: Vec<u8>,
    size: u64,
}

impl Entry {
    pub fn new(kind: EntryType, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        Self {
            kind,
            name: name.as_ref().to_owned(),
            content: content.to_owned(),
            link: Vec::new(),
            size: content.len() as u64,
        }
    }

    pub fn file(name: &str, content: &[u8]) -> Self {
        Self::new(EntryType::Regular, name, content)
    }

    /// A link of either kind to `target`.
    pub fn link(kind: EntryType, name: &str, target: &str) -> Self {
        Self {
            link: target.into(),
            ..Self::new(kind, name, &[])
        }
    }

    /// Sets the size in the header, whatever the size of the content.
    pub fn claiming(self, size: u64) -> Self {
        Self { size, ..self }
    }
}

/// Writes a tar archive of these entries. Names are written unchanged, so they have at most 100
/// bytes.
pub fn tar_of(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        // Bypasses the setters, which refuse paths out of the archive.
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(&entry.name);
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(&entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(0o644);
        header.set_size(entry.size);
        header.set_cksum();
        builder.append(&header, &entry.content[..]).expect(IN_MEMORY);
    }
    builder.into_inner().expect(IN_MEMORY)
}
