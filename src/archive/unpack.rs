//! Unpacks an untrusted archive into a folder, in one pass.
//!
//! The crate `tar` defines the headers, but its iterator over entries is not used: it accepts
//! archives that two readers may understand differently, such as an extended size that contradicts
//! the header's, or a folder with content.
//!
//! Invariants: the source is read to its end before anything counts as valid, since checksums come
//! last. Declared sizes are counted before data are written, and the written bytes stay within the
//! limits. A failure leaves files behind; the caller removes the folder.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::decoded::DecodedArchive;
use super::error::{UnpackError, brief};
use super::extension::{Extension, ExtensionScope, MAX_EXTENSION_BYTES};
use super::kind::FileFormat;
use super::place::EntryWriter;
use super::sparse::{self, MapReader, SparseMap};
use super::{BLOCK, header};

/// Bytes copied at a time.
const BUFFER_BYTES: usize = 128 << 10;

/// Zeros that may follow an archive uncounted: tools pad it to whole records, of which this is a
/// large one.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Limits on the contents of an archive.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Most files, folders and extended headers.
    pub entries: u64,
    /// Most bytes of all entries together.
    pub bytes: u64,
    /// Most bytes that one compressed byte may become, beyond the first few MiB.
    pub ratio: u64,
}

/// The formats that a caller accepts. The content decides which one a source has.
#[derive(Debug, Clone, Copy)]
pub enum ExpectedFormat<'a> {
    /// tar, uncompressed or compressed with gzip or zstd. Any other content is a model, a file of
    /// this name.
    Anything(&'a str),
    /// tar, uncompressed or compressed with gzip or zstd.
    Archive,
    /// tar compressed with gzip, the only format that SageMaker takes.
    TarGzip,
}

/// Totals of an unpacked archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, folders and extended headers.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Unpacks `source` into `folder`, which is empty and used by nothing else.
pub fn unpack(
    source: impl Read,
    expected: ExpectedFormat<'_>,
    folder: &Path,
    bounds: &UnpackLimits,
) -> Result<Unpacked, UnpackError> {
    let (kind, from) = DecodedArchive::open(source, bounds)?;
    let mut unpacking = Unpacking {
        from,
        writer: EntryWriter::new(folder, bounds),
        buffer: vec![0; BUFFER_BYTES],
        last: String::new(),
    };
    match (kind, expected) {
        (FileFormat::Bare, ExpectedFormat::Anything(name)) => unpacking.bare(name)?,
        (FileFormat::Bare, _) => return Err(UnpackError::NotArchive),
        (FileFormat::Zstd | FileFormat::Tar, ExpectedFormat::TarGzip) => return Err(UnpackError::NotGzip),
        (FileFormat::Gzip | FileFormat::Zstd | FileFormat::Tar, _) => unpacking.entries(kind)?,
    }
    match unpacking.writer {
        EntryWriter { files: 0, .. } => Err(UnpackError::NoFile),
        EntryWriter { entries, written, .. } => Ok(Unpacked {
            entries,
            bytes: written,
        }),
    }
}

struct Unpacking<'a, R: Read> {
    from: DecodedArchive<R>,
    writer: EntryWriter<'a>,
    buffer: Vec<u8>,
    /// Name of the previous entry, which error messages use as a position.
    last: String,
}

impl<R: Read> Unpacking<'_, R> {
    /// Writes the whole source as one file.
    fn bare(&mut self, name: &str) -> Result<(), UnpackError> {
        self.writer.entry()?;
        let mut file = self.writer.file(name)?;
        loop {
            let read = self.from.read(&mut self.buffer).map_err(UnpackError::read)?;
            if read == 0 {
                return Ok(());
            }
            self.writer.bytes(read as u64)?;
            self.writer.written += read as u64;
            file.write_all(&self.buffer[..read])
                .map_err(|error| UnpackError::write(name, error))?;
        }
    }

    fn entries(&mut self, kind: FileFormat) -> Result<(), UnpackError> {
        let mut extension = Extension::default();
        let mut block = [0; BLOCK];
        let mut is_first = true;
        loop {
            match self.fill(&mut block)? {
                0 if is_first => return Err(UnpackError::Empty),
                BLOCK => {}
                _ if is_first && kind != FileFormat::Tar => return Err(UnpackError::NotTar),
                _ => return Err(UnpackError::NoEnd),
            }
            if header::is_zero(&block) {
                break;
            }
            let header = Header::from_byte_slice(&block);
            if !header::is_intact(header) {
                return Err(if is_first && kind != FileFormat::Tar {
                    UnpackError::NotTar
                } else {
                    self.no_header()
                });
            }
            self.writer.entry()?;
            self.header(header, &mut extension)?;
            is_first = false;
        }
        if extension.is_empty() {
            self.rest()
        } else {
            Err(UnpackError::Extension {
                after: self.after(),
                what: "has no entry that it describes",
            })
        }
    }

    /// Handles an entry, or an extended header of the next one.
    fn header(&mut self, header: &Header, extension: &mut Extension) -> Result<(), UnpackError> {
        let size = header::size(header).ok_or_else(|| self.no_header())?;
        match header.entry_type() {
            EntryType::GNULongName => {
                let text = self.text(size)?;
                extension.long_name(&text, &self.after())
            }
            EntryType::XHeader => {
                let text = self.text(size)?;
                extension.records(&text, ExtensionScope::Next, &self.after())
            }
            // Comments on the archive, such as git's.
            EntryType::XGlobalHeader => {
                let text = self.text(size)?;
                Extension::default().records(&text, ExtensionScope::All, &self.after())
            }
            // Target of the next link, which is refused by its own name.
            EntryType::GNULongLink => self.text(size).map(drop),
            _ => self.entry(header, size, std::mem::take(extension)),
        }
    }

    fn entry(&mut self, header: &Header, size: u64, mut extension: Extension) -> Result<(), UnpackError> {
        let name = extension.name(|| header.path_bytes().into_owned());
        let name = String::from_utf8(name).map_err(|error| UnpackError::NotText {
            name: brief(&String::from_utf8_lossy(error.as_bytes())),
        })?;
        let is_folder = is_folder(header.entry_type(), &name, extension.is_star_sparse()).map_err(|kind| {
            let name = brief(&name);
            UnpackError::Kind { name, kind }
        })?;
        let records = extension.sparse();
        let size = extension.size(size).map_err(|extension| UnpackError::Sizes {
            name: brief(&name),
            header: size,
            extension,
        })?;
        if !is_folder && header.entry_type() == EntryType::GNUSparse {
            self.old_sparse(&name, header, size)?;
        } else if !is_folder && let Some(records) = records {
            self.pax_sparse(&name, records, size)?;
        } else if !is_folder {
            self.content(&name, size)?;
        } else if size == 0 {
            self.writer.folder(&name)?;
        } else {
            // Readers disagree on whether the content is skipped.
            return Err(UnpackError::Folder { name: brief(&name) });
        }
        self.last = name;
        Ok(())
    }

    fn content(&mut self, name: &str, size: u64) -> Result<(), UnpackError> {
        self.writer.bytes(size)?;
        let mut file = self.writer.file(name)?;
        self.copy(name, &mut file, size)?;
        self.writer.written += size;
        self.end_of_content(name, size)
    }

    /// Copies the next `size` bytes to the current position of `file`.
    fn copy(&mut self, name: &str, file: &mut File, size: u64) -> Result<(), UnpackError> {
        let mut left = size;
        while left > 0 {
            let most = left.min(BUFFER_BYTES as u64) as usize;
            match self.from.read(&mut self.buffer[..most]).map_err(UnpackError::read)? {
                0 => return Err(UnpackError::Short { name: brief(name) }),
                read => {
                    file.write_all(&self.buffer[..read])
                        .map_err(|error| UnpackError::write(name, error))?;
                    left -= read as u64;
                }
            }
        }
        Ok(())
    }

    /// Skips the padding of a content of `size` bytes.
    fn end_of_content(&mut self, name: &str, size: u64) -> Result<(), UnpackError> {
        if self.padding(size)? {
            Ok(())
        } else {
            Err(UnpackError::Short { name: brief(name) })
        }
    }

    /// Unpacks a sparse file whose map is in its header and in the blocks after it.
    fn old_sparse(&mut self, name: &str, header: &Header, stored: u64) -> Result<(), UnpackError> {
        let wrong = |what| UnpackError::Sparse {
            name: brief(name),
            what,
        };
        let unclear = || wrong("cannot be understood");
        let header = header.as_gnu().ok_or_else(unclear)?;
        let (mut pieces, size, mut has_more) = sparse::in_header(header).ok_or_else(unclear)?;
        while has_more {
            let mut block = GnuExtSparseHeader::new();
            self.writer.bytes(BLOCK as u64)?;
            if self.fill(block.as_mut_bytes())? < BLOCK {
                return Err(UnpackError::Short { name: brief(name) });
            }
            let (more, more_follows) = sparse::in_block(&block).ok_or_else(unclear)?;
            pieces.extend(more);
            if pieces.len() > sparse::MAX_PIECES {
                return Err(wrong("has too many pieces"));
            }
            has_more = more_follows;
        }
        self.sparse(name, &SparseMap::new(pieces, size, stored).map_err(wrong)?)
    }

    /// Unpacks a sparse file whose map is in PAX records, or before its data.
    fn pax_sparse(&mut self, name: &str, records: sparse::SparseRecords, stored: u64) -> Result<(), UnpackError> {
        let wrong = |what| UnpackError::Sparse {
            name: brief(name),
            what,
        };
        let (pieces, size, map_bytes) = match records.location().map_err(wrong)? {
            sparse::MapLocation::Records(pieces, size) => (pieces, size, 0),
            sparse::MapLocation::Data(size) => {
                let mut reader = MapReader::default();
                let mut map_bytes = 0;
                loop {
                    let mut block = [0; BLOCK];
                    map_bytes += BLOCK as u64;
                    if map_bytes > stored {
                        return Err(wrong("does not fit the data that follow"));
                    }
                    self.writer.bytes(BLOCK as u64)?;
                    if self.fill(&mut block)? < BLOCK {
                        return Err(UnpackError::Short { name: brief(name) });
                    }
                    if let Some(pieces) = reader.block(&block).map_err(wrong)? {
                        break (pieces, size, map_bytes);
                    }
                }
            }
        };
        let map = SparseMap::new(pieces, size, stored - map_bytes).map_err(wrong)?;
        self.sparse(name, &map)
    }

    /// Writes a sparse file: its pieces at their offsets, with holes between them.
    fn sparse(&mut self, name: &str, map: &SparseMap) -> Result<(), UnpackError> {
        let failed = |error| UnpackError::write(name, error);
        self.writer.bytes(map.size)?;
        self.from.count_holes(map.holes())?;
        let mut file = self.writer.file(name)?;
        for piece in &map.pieces {
            file.seek(SeekFrom::Start(piece.offset)).map_err(failed)?;
            self.copy(name, &mut file, piece.length)?;
        }
        file.set_len(map.size).map_err(failed)?;
        self.writer.written += map.size;
        self.end_of_content(name, map.size - map.holes())
    }

    /// Reads the content of an extended header.
    fn text(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(UnpackError::LongExtension { after: self.after() });
        }
        self.writer.bytes(size)?;
        let mut text = vec![0; size as usize];
        let is_whole = self.fill(&mut text)? == text.len() && self.padding(size)?;
        is_whole.then_some(text).ok_or(UnpackError::NoEnd)
    }

    /// Skips the padding of a content of `size` bytes. Returns whether it is complete.
    fn padding(&mut self, size: u64) -> Result<bool, UnpackError> {
        let mut block = [0; BLOCK];
        let padding = &mut block[..header::padding(size) as usize];
        Ok(self.fill(padding)? == padding.len())
    }

    /// Reads to the end, and refuses anything other than zeros.
    fn rest(&mut self) -> Result<(), UnpackError> {
        let mut total = 0;
        loop {
            let read = self.from.read(&mut self.buffer).map_err(UnpackError::read)?;
            if read == 0 {
                return Ok(());
            }
            if !header::is_zero(&self.buffer[..read]) {
                return Err(UnpackError::Trailing);
            }
            total += read as u64;
            if total > MAX_RECORD_BYTES {
                self.writer.bytes(read as u64)?;
            }
        }
    }

    /// Fills `buffer` unless the source ends before. Returns the number of bytes read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.from.read(&mut buffer[filled..]).map_err(UnpackError::read)? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// The current position, for an error message.
    fn after(&self) -> String {
        if self.last.is_empty() {
            "its beginning".to_owned()
        } else {
            format!("{:?}", brief(&self.last))
        }
    }

    fn no_header(&self) -> UnpackError {
        UnpackError::Header { after: self.after() }
    }
}

/// Whether an entry is a folder rather than a file. `Err` names any other type.
fn is_folder(kind: EntryType, name: &str, is_star_sparse: bool) -> Result<bool, &'static str> {
    match kind {
        EntryType::Regular if is_star_sparse => Err("a sparse file in star's format"),
        // Archives older than entry types mark a folder by a slash at the end of its name.
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Ok(name.ends_with('/')),
        EntryType::Directory => Ok(true),
        EntryType::Symlink => Err("a symbolic link"),
        EntryType::Link => Err("a hard link"),
        EntryType::Block | EntryType::Char => Err("a device"),
        EntryType::Fifo => Err("a pipe"),
        _ => Err("of an unknown type"),
    }
}
