//! Protocol Buffers on the wire: tags, numbers, texts, and where each ends.
//!
//! Stricter than the format allows, where the library's parser and this one would otherwise read differently. What always
//! holds: nothing is read or skipped beyond the end of what holds it.

use std::io::{self, BufReader, Read};

use super::ScanError;

/// Longer strings than this are neither operators' names nor file names.
pub(super) const MAX_STRING: u64 = 4096;

/// A field's value, or where it ends.
#[derive(Debug)]
pub(super) enum WireField {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    /// Bytes from here to there.
    Bytes(u64),
}

/// A file that is read once, from its beginning on.
pub(super) struct Wire<R> {
    reader: BufReader<R>,
    pub(super) position: u64,
}

impl<R: Read + io::Seek> Wire<R> {
    pub(super) fn new(file: R) -> Self {
        Self {
            reader: BufReader::new(file),
            position: 0,
        }
    }

    /// Reads the next field's number and value; of bytes, their length. `None` at `end`.
    pub(super) fn field(&mut self, end: u64) -> Result<Option<(u64, WireField)>, ScanError> {
        if self.position >= end {
            return Ok(None);
        }
        let (number, wire_type) = self.tag(end)?;
        let field = match wire_type {
            0 => WireField::Number(self.varint(end)?),
            1 => WireField::Fixed64(self.fixed(end)?),
            2 => {
                let length = self.varint(end)?;
                let field_end = self.position.checked_add(length);
                let field_end = field_end.filter(|&field_end| field_end <= end);
                WireField::Bytes(field_end.ok_or_else(|| self.malformed("a field longer than what holds it"))?)
            }
            5 => WireField::Fixed32(self.fixed(end)?),
            _ => return Err(self.malformed("an unknown wire type")),
        };
        Ok(Some((number, field)))
    }

    /// Skips what of a field has not been read.
    pub(super) fn skip(&mut self, field: &WireField) -> Result<(), ScanError> {
        match field {
            WireField::Bytes(end) => self.skip_to(*end),
            WireField::Number(_) | WireField::Fixed32(_) | WireField::Fixed64(_) => Ok(()),
        }
    }

    fn fixed<const N: usize>(&mut self, end: u64) -> Result<[u8; N], ScanError> {
        if end - self.position < N as u64 {
            return Err(self.malformed("a field longer than what holds it"));
        }
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    /// Reads the bytes from here to `end`.
    pub(super) fn bytes(&mut self, end: u64) -> Result<Vec<u8>, ScanError> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(end - self.position).read_to_end(&mut bytes)?;
        self.position = end;
        Ok(bytes)
    }

    /// Reads the length of a text and returns where it ends, which is not after `end`.
    pub(super) fn text_end(&mut self, end: u64) -> Result<u64, ScanError> {
        let length = self.varint(end)?;
        self.position
            .checked_add(length)
            .filter(|&text_end| text_end <= end)
            .ok_or_else(|| self.malformed("a text longer than what holds it"))
    }

    pub(super) fn tag(&mut self, end: u64) -> Result<(u64, u64), ScanError> {
        let tag = self.varint(end)?;
        if tag >> 3 == 0 {
            return Err(self.malformed("a field without a number"));
        }
        // Protocol Buffers' own parser drops the bits above and takes what is left for the field's number.
        if tag > u64::from(u32::MAX) {
            return Err(self.malformed("a field whose number is too large"));
        }
        Ok((tag >> 3, tag & 7))
    }

    pub(super) fn varint(&mut self, end: u64) -> Result<u64, ScanError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.position >= end {
                return Err(self.malformed("a number cut off"));
            }
            let mut byte = [0];
            self.reader.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than ten bytes"))
    }

    pub(super) fn string(&mut self, end: u64) -> Result<String, ScanError> {
        let length = end - self.position;
        if length > MAX_STRING {
            return Err(ScanError::LongName);
        }
        Ok(String::from_utf8_lossy(&self.bytes(end)?).into_owned())
    }

    pub(super) fn skip_to(&mut self, end: u64) -> Result<(), ScanError> {
        let distance = i64::try_from(end - self.position).map_err(|_| self.malformed("a field too long"))?;
        self.reader.seek_relative(distance)?;
        self.position = end;
        Ok(())
    }

    pub(super) fn malformed(&self, what: &'static str) -> ScanError {
        ScanError::Malformed {
            what,
            offset: self.position,
        }
    }
}
