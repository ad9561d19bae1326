//! Reads the wire format of Protocol Buffers: tags, numbers and texts.
//!
//! It is stricter than the format where the parser of ONNX Runtime would otherwise read something
//! else. Invariant: nothing is read or skipped beyond the end of the enclosing message.

use std::io::{self, BufReader, Read};

use super::ScanError;

/// Limit on the bytes of operator names and file names.
pub(super) const MAX_STRING: u64 = 4096;

/// A field's value, or the position of its end.
#[derive(Debug)]
pub(super) enum WireField {
    Number(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    /// Bytes from the current position to this one.
    Bytes(u64),
}

/// A file that is read once, from start to end.
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

    /// Reads the next field's number and value, or the end position of bytes. `None` at `end`.
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
                WireField::Bytes(field_end.ok_or_else(|| self.malformed("a field longer than its message"))?)
            }
            5 => WireField::Fixed32(self.fixed(end)?),
            _ => return Err(self.malformed("an unknown wire type")),
        };
        Ok(Some((number, field)))
    }

    /// Skips the rest of a field.
    pub(super) fn skip(&mut self, field: &WireField) -> Result<(), ScanError> {
        match field {
            WireField::Bytes(end) => self.skip_to(*end),
            WireField::Number(_) | WireField::Fixed32(_) | WireField::Fixed64(_) => Ok(()),
        }
    }

    fn fixed<const N: usize>(&mut self, end: u64) -> Result<[u8; N], ScanError> {
        if end - self.position < N as u64 {
            return Err(self.malformed("a field longer than its message"));
        }
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    /// Reads the bytes from the current position to `end`.
    pub(super) fn bytes(&mut self, end: u64) -> Result<Vec<u8>, ScanError> {
        let mut bytes = Vec::new();
        self.reader.by_ref().take(end - self.position).read_to_end(&mut bytes)?;
        self.position = end;
        Ok(bytes)
    }

    /// Reads the length of a text and returns the position of its end, which is at most `end`.
    pub(super) fn text_end(&mut self, end: u64) -> Result<u64, ScanError> {
        let length = self.varint(end)?;
        self.position
            .checked_add(length)
            .filter(|&text_end| text_end <= end)
            .ok_or_else(|| self.malformed("a text longer than its message"))
    }

    pub(super) fn tag(&mut self, end: u64) -> Result<(u64, u64), ScanError> {
        let tag = self.varint(end)?;
        if tag >> 3 == 0 {
            return Err(self.malformed("a field without a number"));
        }
        // The parser of Protocol Buffers drops the upper bits and uses the rest as the field's
        // number.
        if tag > u64::from(u32::MAX) {
            return Err(self.malformed("a field whose number is too large"));
        }
        Ok((tag >> 3, tag & 7))
    }

    pub(super) fn varint(&mut self, end: u64) -> Result<u64, ScanError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.position >= end {
                return Err(self.malformed("a truncated number"));
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
        let distance = i64::try_from(end - self.position).map_err(|_| self.malformed("a field that is too long"))?;
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
