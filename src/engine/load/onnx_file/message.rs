//! Reads and writes messages of Protocol Buffers in memory, field by field.
//!
//! `wire.rs` reads a file that is too large for memory, and reads each byte once. Here, a field can
//! be copied as it is, so that a message is rewritten without knowing all of its fields.

use super::ScanError;

/// A field of a message in memory.
pub(super) struct SliceField<'a> {
    pub(super) number: u64,
    pub(super) value: FieldValue<'a>,
    /// The field with its tag.
    pub(super) encoded: &'a [u8],
}

#[derive(Clone, Copy)]
pub(super) enum FieldValue<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> SliceField<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8], ScanError> {
        match self.value {
            FieldValue::Bytes(bytes) => Ok(bytes),
            FieldValue::Number(_) | FieldValue::Fixed => Err(malformed("a number in the place of a message")),
        }
    }
}

/// The fields of a message, in order. Ends after the first error.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = Result<SliceField<'_>, ScanError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<SliceField<'a>, ScanError> {
    let start = *rest;
    let tag = varint(rest)?;
    // As in `wire.rs`: the parser of Protocol Buffers reads other tags differently.
    if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
        return Err(malformed("a field without a number, or whose number is too large"));
    }
    let value = match tag & 7 {
        0 => FieldValue::Number(varint(rest)?),
        1 => taken(rest, 8).map(|_| FieldValue::Fixed)?,
        2 => {
            let length = varint(rest)?;
            FieldValue::Bytes(taken(rest, length)?)
        }
        5 => taken(rest, 4).map(|_| FieldValue::Fixed)?,
        _ => return Err(malformed("an unknown wire type")),
    };
    Ok(SliceField {
        number: tag >> 3,
        value,
        encoded: &start[..start.len() - rest.len()],
    })
}

fn taken<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], ScanError> {
    let split = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    let (taken, after) = split.ok_or_else(|| malformed("a field longer than its message"))?;
    *rest = after;
    Ok(taken)
}

pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, ScanError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = *taken(rest, 1)? else { break };
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed("a number of more than ten bytes"))
}

/// Appends a field of bytes.
pub fn append(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    append_varint(message, number << 3 | 2);
    append_varint(message, content.len() as u64);
    message.extend(content);
}

/// Appends a field of a number.
pub(super) fn append_number(message: &mut Vec<u8>, number: u64, value: u64) {
    append_varint(message, number << 3);
    append_varint(message, value);
}

fn append_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, ScanError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a text that is not UTF-8"))
}

pub(super) fn owned_text(bytes: &[u8]) -> Result<String, ScanError> {
    text(bytes).map(str::to_owned)
}

pub(super) fn malformed(what: &'static str) -> ScanError {
    ScanError::Malformed { what, offset: 0 }
}

/// Returns `message` with the content of the fields of this number replaced.
pub(super) fn rewritten(
    message: &[u8],
    number: u64,
    replace: impl Fn(&[u8]) -> Result<Vec<u8>, ScanError>,
) -> Result<Vec<u8>, ScanError> {
    let mut bytes = Vec::with_capacity(message.len());
    for field in fields(message) {
        let field = field?;
        if field.number == number {
            append(&mut bytes, number, &replace(field.bytes()?)?);
        } else {
            bytes.extend(field.encoded);
        }
    }
    Ok(bytes)
}
