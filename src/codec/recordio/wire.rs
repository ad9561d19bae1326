//! Reads and writes the fields of Protocol Buffers messages.
//!
//! The reader walks a message in the body and builds no tree, so a message of a megabyte costs no
//! extra memory. Invariants: a read never crosses the end of the enclosing message, and the depth
//! of nesting is that of the calls in `recordio.rs`.

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum ProtoField<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    /// A string, a message, or packed numbers.
    Bytes(&'a [u8]),
}

impl<'a> ProtoField<'a> {
    pub fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed32(_) | Self::Fixed64(_) => {
                Err("a field does not have the wire type of its number".to_owned())
            }
        }
    }
}

/// The fields of a message that are not read yet.
pub(super) struct ProtoFields<'a> {
    rest: &'a [u8],
}

impl<'a> ProtoFields<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value.
    pub fn next(&mut self) -> Result<Option<(u32, ProtoField<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).ok().filter(|&number| number != 0);
        let number = number.ok_or("a field has no number")?;
        let field = match tag & 7 {
            0 => ProtoField::Varint(varint(&mut self.rest)?),
            1 => ProtoField::Fixed64(self.fixed()?),
            2 => {
                let length = varint(&mut self.rest)?;
                let length = usize::try_from(length).ok().filter(|&length| length <= self.rest.len());
                let (bytes, rest) = self.rest.split_at(length.ok_or_else(cut)?);
                self.rest = rest;
                ProtoField::Bytes(bytes)
            }
            5 => ProtoField::Fixed32(self.fixed()?),
            other => return Err(format!("a field has the unknown wire type {other}")),
        };
        Ok(Some((number, field)))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or_else(cut)?;
        self.rest = rest;
        Ok(*bytes)
    }
}

fn cut() -> String {
    "a field is longer than its message".to_owned()
}

/// Passes the numbers of a repeated field, packed or not, to `take`.
pub(super) fn varints(field: ProtoField<'_>, mut take: impl FnMut(u64)) -> Result<(), String> {
    match field {
        ProtoField::Varint(value) => take(value),
        ProtoField::Bytes(mut packed) => {
            while !packed.is_empty() {
                take(varint(&mut packed)?);
            }
        }
        ProtoField::Fixed32(_) | ProtoField::Fixed64(_) => {
            return Err("a field does not have the wire type of its number".to_owned());
        }
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or_else(cut)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number has more than ten bytes".to_owned())
}

/// Appends a field of bytes.
pub(super) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
