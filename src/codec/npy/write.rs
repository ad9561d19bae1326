//! Writes a tensor as an NPY file, version 1.0.

use std::fmt::Write;

use bytes::Bytes;
use half::bf16;

use super::{CHARACTER_BYTES, MAGIC};
use crate::codec::Format;
use crate::codec::alloc::{self, NoMemory};
use crate::codec::element::ElementKind;
use crate::codec::error::{EncodeError, excerpt};
use crate::tensor::{DataType, Tensor};

/// NumPy aligns the data in a file to this number of bytes.
const ALIGNMENT: usize = 64;
/// Limit on the bytes of strings after padding them to the longest.
const MAX_PADDED_BYTES: usize = 64 << 20;

pub(in crate::codec) fn encode(name: &str, tensor: &Tensor) -> Result<Vec<u8>, EncodeError> {
    let cannot = |problem: String| EncodeError::CannotCarry {
        format: Format::Npy,
        problem,
    };
    let fixed =
        |descr: &str, bytes: &[u8]| file(descr, tensor.shape(), bytes.len(), |out| out.extend_from_slice(bytes));
    let bytes = tensor.as_bytes().map(Bytes::as_ref).unwrap_or_default();
    let written = match tensor.data_type() {
        DataType::F16 => fixed("<f2", bytes)?,
        DataType::Bf16 => {
            let items = <bf16 as ElementKind>::items(tensor);
            file("<f4", tensor.shape(), items.len() * 4, |out| {
                items
                    .iter()
                    .for_each(|item| out.extend_from_slice(&item.to_f32().to_le_bytes()));
            })?
        }
        DataType::F32 => fixed("<f4", bytes)?,
        DataType::F64 => fixed("<f8", bytes)?,
        DataType::I8 => fixed("|i1", bytes)?,
        DataType::I16 => fixed("<i2", bytes)?,
        DataType::I32 => fixed("<i4", bytes)?,
        DataType::I64 => fixed("<i8", bytes)?,
        DataType::U8 => fixed("|u1", bytes)?,
        DataType::U16 => fixed("<u2", bytes)?,
        DataType::U32 => fixed("<u4", bytes)?,
        DataType::U64 => fixed("<u8", bytes)?,
        DataType::Bool => fixed("|b1", bytes)?,
        DataType::String => {
            return strings(tensor)?.ok_or_else(|| {
                let name = excerpt(name);
                cannot(format!(
                    "the strings of output {name} are too uneven in length; accept application/json"
                ))
            });
        }
    };
    written.ok_or_else(|| {
        cannot(format!(
            "output {} has too many axes; accept application/json",
            excerpt(name)
        ))
    })
}

/// Writes a file. `None` if the header is too long for version 1.0.
fn file(
    descr: &str,
    shape: &[usize],
    data_bytes: usize,
    data: impl FnOnce(&mut Vec<u8>),
) -> Result<Option<Vec<u8>>, NoMemory> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (");
    for (i, dim) in shape.iter().enumerate() {
        let _ = write!(header, "{}{dim}", if i > 0 { ", " } else { "" });
    }
    header.push_str(if shape.len() == 1 { ",), }" } else { "), }" });
    let prefix = MAGIC.len() + 2 + 2;
    let total = (prefix + header.len() + 1).next_multiple_of(ALIGNMENT);
    let Ok(length) = u16::try_from(total - prefix) else {
        return Ok(None);
    };
    let mut out = alloc::with_capacity(data_bytes.saturating_add(total))?;
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.resize(total - 1, b' ');
    out.push(b'\n');
    data(&mut out);
    Ok(Some(out))
}

/// Writes strings, padded to the longest: as characters, or as bytes if one is not UTF-8. `None` if
/// the padding exceeds the limit.
fn strings(tensor: &Tensor) -> Result<Option<Vec<u8>>, NoMemory> {
    let items = <String as ElementKind>::items(tensor);
    let texts: Option<Vec<&str>> = items.iter().map(|item| std::str::from_utf8(item).ok()).collect();
    let (letter, length, unit) = match &texts {
        Some(texts) => (
            'U',
            texts.iter().map(|text| text.chars().count()).max(),
            CHARACTER_BYTES,
        ),
        None => ('S', items.iter().map(Bytes::len).max(), 1),
    };
    // NumPy has no strings of length 0.
    let length = length.unwrap_or(1).max(1);
    let width = length.saturating_mul(unit);
    let total = width.saturating_mul(items.len());
    if total > MAX_PADDED_BYTES {
        return Ok(None);
    }
    let order = if unit == 1 { '|' } else { '<' };
    file(&format!("{order}{letter}{length}"), tensor.shape(), total, |out| {
        let mut end = out.len();
        let mut pad = |out: &mut Vec<u8>| {
            end += width;
            out.resize(end, 0);
        };
        match &texts {
            Some(texts) => {
                for text in texts {
                    text.chars()
                        .for_each(|c| out.extend_from_slice(&u32::from(c).to_le_bytes()));
                    pad(out);
                }
            }
            None => {
                for item in items {
                    out.extend_from_slice(item);
                    pad(out);
                }
            }
        }
    })
}
