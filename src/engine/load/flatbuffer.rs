//! Reads flatbuffers: tables with optional fields, vectors and texts, found by offsets that are
//! checked.
//!
//! A file is read in blocks on demand, because most of it is weights.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

const BLOCK: u64 = 16 << 10;

/// Limit on the cached blocks.
const MAX_BLOCKS: usize = 256;

/// Limit on the bytes of a text.
const MAX_TEXT: usize = 4096;

/// Reason why a flatbuffer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FlatbufferError {
    /// An offset or a length leads out of it.
    #[error("it is damaged")]
    Malformed,
    #[error("it has a text of more than {MAX_TEXT} bytes")]
    LongText,
    #[error("read the file")]
    Io(#[from] io::Error),
}

type Result<T> = std::result::Result<T, FlatbufferError>;

pub struct Flatbuffer {
    source: Source,
    length: u64,
}

enum Source {
    File { file: File, blocks: HashMap<u64, Vec<u8>> },
    Memory(Bytes),
}

/// The position of a table, and that of the list of its fields.
#[derive(Debug, Clone, Copy)]
pub struct FlatTable {
    place: u64,
    fields: u64,
    /// Size of the list of fields, in bytes.
    size: u64,
}

impl Flatbuffer {
    pub fn of_file(file: File) -> Result<Self> {
        Ok(Self {
            length: file.metadata()?.len(),
            source: Source::File {
                file,
                blocks: HashMap::new(),
            },
        })
    }

    pub fn of_bytes(bytes: Bytes) -> Self {
        Self {
            length: bytes.len() as u64,
            source: Source::Memory(bytes),
        }
    }

    /// The root table, if the flatbuffer has this identifier.
    pub fn root(&mut self, identifier: &[u8; 4]) -> Result<FlatTable> {
        if &self.bytes::<4>(4)? != identifier {
            return Err(FlatbufferError::Malformed);
        }
        let place = self.follow(0)?;
        self.table(place)
    }

    pub fn table(&mut self, place: u64) -> Result<FlatTable> {
        let back = i64::from(i32::from_le_bytes(self.bytes(place)?));
        let fields = place.checked_add_signed(-back).ok_or(FlatbufferError::Malformed)?;
        let size = u64::from(u16::from_le_bytes(self.bytes(fields)?));
        Ok(FlatTable { place, fields, size })
    }

    /// The position of a field's value; `None` if the table does not have it.
    fn field(&mut self, table: FlatTable, field: usize) -> Result<Option<u64>> {
        let entry = 4 + 2 * field as u64;
        if entry + 2 > table.size {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(self.bytes(table.fields + entry)?);
        Ok((offset != 0).then(|| table.place + u64::from(offset)))
    }

    /// The position that a field refers to.
    pub fn offset(&mut self, table: FlatTable, field: usize) -> Result<Option<u64>> {
        match self.field(table, field)? {
            Some(place) => self.follow(place).map(Some),
            None => Ok(None),
        }
    }

    /// The position that the offset at `place` leads to.
    pub fn follow(&mut self, place: u64) -> Result<u64> {
        let offset = u32::from_le_bytes(self.bytes(place)?);
        Ok(place + u64::from(offset))
    }

    pub fn u8(&mut self, table: FlatTable, field: usize) -> Result<u8> {
        match self.field(table, field)? {
            Some(place) => Ok(self.bytes::<1>(place)?[0]),
            None => Ok(0),
        }
    }

    pub fn i32(&mut self, table: FlatTable, field: usize) -> Result<i32> {
        match self.field(table, field)? {
            Some(place) => Ok(i32::from_le_bytes(self.bytes(place)?)),
            None => Ok(0),
        }
    }

    pub fn i64(&mut self, table: FlatTable, field: usize) -> Result<i64> {
        match self.field(table, field)? {
            Some(place) => Ok(i64::from_le_bytes(self.bytes(place)?)),
            None => Ok(0),
        }
    }

    /// The position of the first element of a vector, and the number of elements.
    pub fn vector(&mut self, table: FlatTable, field: usize) -> Result<Option<(u64, usize)>> {
        let Some(place) = self.offset(table, field)? else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(self.bytes(place)?);
        Ok(Some((place + 4, length as usize)))
    }

    /// The bytes of a vector of at most `most` elements of `size` bytes. `None` for a longer one.
    pub fn short_vector(
        &mut self,
        table: FlatTable,
        field: usize,
        size: usize,
        most: usize,
    ) -> Result<Option<Vec<u8>>> {
        match self.vector(table, field)? {
            None => Ok(Some(Vec::new())),
            Some((_, length)) if length > most => Ok(None),
            Some((start, length)) => self.read(start, length * size).map(Some),
        }
    }

    pub fn text(&mut self, place: u64) -> Result<String> {
        let length = u32::from_le_bytes(self.bytes(place)?) as usize;
        if length > MAX_TEXT {
            return Err(FlatbufferError::LongText);
        }
        let bytes = self.read(place + 4, length)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes<const N: usize>(&mut self, place: u64) -> Result<[u8; N]> {
        let bytes = self.read(place, N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| FlatbufferError::Malformed)
    }

    fn read(&mut self, place: u64, length: usize) -> Result<Vec<u8>> {
        let end = place.checked_add(length as u64).filter(|&end| end <= self.length);
        let end = end.ok_or(FlatbufferError::Malformed)?;
        match &mut self.source {
            Source::Memory(bytes) => {
                // Both are at most the length of the slice.
                let part = bytes.get(place as usize..end as usize);
                Ok(part.ok_or(FlatbufferError::Malformed)?.to_vec())
            }
            Source::File { file, blocks } => {
                let mut bytes = Vec::with_capacity(length);
                let mut at = place;
                while at < end {
                    let block = block(file, self.length, blocks, at / BLOCK)?;
                    let part = block.get((at % BLOCK) as usize..).ok_or(FlatbufferError::Malformed)?;
                    let part = &part[..part.len().min((end - at) as usize)];
                    if part.is_empty() {
                        return Err(FlatbufferError::Malformed);
                    }
                    bytes.extend_from_slice(part);
                    at += part.len() as u64;
                }
                Ok(bytes)
            }
        }
    }
}

/// The block with this number of a file of `length` bytes.
fn block<'a>(file: &File, length: u64, blocks: &'a mut HashMap<u64, Vec<u8>>, number: u64) -> Result<&'a Vec<u8>> {
    if !blocks.contains_key(&number) {
        if blocks.len() >= MAX_BLOCKS {
            blocks.clear();
        }
        let start = number * BLOCK;
        let mut block = vec![0; BLOCK.min(length.saturating_sub(start)) as usize];
        file.read_exact_at(&mut block, start)?;
        blocks.insert(number, block);
    }
    blocks.get(&number).ok_or(FlatbufferError::Malformed)
}
