//! `application/jsonlines`: one instance per line in, one line per row out (BT-6, BT-7).
//!
//! A line is an instance of the row form: a value for a model with one input, or an object by input name. Lines may end
//! in `\n` or `\r\n`, the last one in nothing, and blank lines are passed over. The reply is exactly one line per row,
//! in order: the row itself for one output, an object by output name for several. Outputs without common rows cannot
//! be told apart by line and become one line, the document of the column form (`{"outputs": {..}}`); a single value
//! without rows is one line. `application/x-ndjson` and `application/jsonl` are the same thing under other names; the
//! reply is always called `application/jsonlines`.

use bytes::Bytes;

use crate::codec::error::{DecodeError, EncodeError};
use crate::codec::json::{write_columns, write_row_object};
use crate::codec::json_reader::{Reader, utf8};
use crate::codec::room;
use crate::codec::rows::Rows;
use crate::codec::values::{Output, common_rows, json_bytes, write_row, write_value};
use crate::codec::{Dialect, Format, ReplyPlan, Request};
use crate::tensor::Signature;

pub(super) fn decode(body: &Bytes, signature: &Signature) -> Result<Request, DecodeError> {
    let text = utf8(Format::JsonLines, body)?;
    let mut rows = Rows::new(signature, text.len());
    let mut start = if text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let mut empty = true;
    for (index, line) in text[start..].split_inclusive('\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            empty = false;
            let instance = line.trim_end_matches(['\n', '\r']);
            let mut reader = Reader::line(Format::JsonLines, body, start, instance, index + 1);
            let first = reader.peek()?;
            rows.read(&mut reader, first)?;
            reader.finish()?;
        }
        start += line.len();
    }
    if empty {
        return Err(DecodeError::malformed(Format::JsonLines, "it has no lines"));
    }
    Ok(Request {
        inputs: rows.finish()?,
        reply: ReplyPlan::new(Dialect::Rows),
    })
}

pub(super) fn encode(outputs: &[Output<'_>]) -> Result<Vec<u8>, EncodeError> {
    let mut out = room::for_all(json_bytes(outputs).saturating_add(32))?;
    match (outputs, common_rows(outputs)) {
        ([only], Some(rows)) => {
            for row in 0..rows {
                write_row(only.value, row, &mut out);
                out.push(b'\n');
            }
        }
        ([only], None) => {
            write_value(only.value, &mut out);
            out.push(b'\n');
        }
        (_, Some(rows)) => {
            let keys: Vec<Vec<u8>> = outputs.iter().map(Output::json_key).collect();
            for row in 0..rows {
                write_row_object(outputs, &keys, row, &mut out);
                out.push(b'\n');
            }
        }
        (_, None) => {
            write_columns(outputs, &mut out);
            out.push(b'\n');
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
