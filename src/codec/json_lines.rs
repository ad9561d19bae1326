//! `application/jsonlines`: one line per record, in requests and in responses (BT-6, BT-7).
//!
//! A line of a request is an instance of the row form: a value for a model with one input, or an
//! object by input name. Lines end in `\n` or `\r\n`; the last line needs no ending. Blank lines
//! are skipped.
//!
//! The response has exactly one line per record, in order: the value of a single output, or an
//! object by output name. An output that cannot be split by record is written whole in the line of
//! a record that ran alone; an empty one is `[]`. `application/x-ndjson` and `application/jsonl`
//! are aliases; the content type of the response is always `application/jsonlines`.

use bytes::Bytes;

use crate::codec::alloc;
use crate::codec::by_record::ByRecord;
use crate::codec::error::{DecodeError, EncodeError};
use crate::codec::json_reader::{JsonReader, utf8};
use crate::codec::rows::InstanceRows;
use crate::codec::{DecodedRequest, Format, ReplyPlan, Schema};

pub(super) fn decode(body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let text = utf8(Format::JsonLines, body)?;
    let mut rows = InstanceRows::new(schema, text.len());
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
            let mut reader = JsonReader::line(Format::JsonLines, body, start, instance, index + 1);
            let first = reader.peek()?;
            rows.read(&mut reader, first)?;
            reader.finish()?;
        }
        start += line.len();
    }
    if empty {
        return Err(DecodeError::malformed(Format::JsonLines, "it has no lines"));
    }
    let (inputs, count) = rows.finish()?;
    Ok(DecodedRequest::new(
        schema.complete(inputs, Some(count))?,
        ReplyPlan::counted(count),
    ))
}

pub(super) fn encode(records: &ByRecord<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = alloc::with_capacity(records.json_bytes().saturating_add(32))?;
    for record in 0..records.count() {
        records.write_json(record, &mut out);
        out.push(b'\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
