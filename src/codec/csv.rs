//! `text/csv`: one line per record, as in SageMaker's own algorithms (BT-6, BT-9).
//!
//! Requests: the columns are assigned to the inputs by position, or by name if there is a header
//! (`table.rs`, `header.rs`). The delimiter is a comma, or `;`, a tab or `|` if the request, the
//! manifest or the first line selects it. Spaces around numbers are ignored. An empty cell is a
//! missing value: NaN for floats, the empty string for strings.
//!
//! Responses: each record is one line that ends in a line feed, including the last one (BT-9). The
//! columns of several outputs are side by side. An output that cannot be split by record goes into
//! the line of a record that ran alone, if the output is flat. A line without cells is `[]`.
//! Non-finite floats are `nan`, `inf` and `-inf`, as in NumPy's text files. The values of a map are
//! in the order of their keys. Strings are written byte for byte.

mod header;
mod records;

use bytes::Bytes;

use self::header::{FirstLine, first_line};
use self::records::CsvRecords;
use crate::codec::alloc;
use crate::codec::by_record::{ByRecord, RecordPart};
use crate::codec::error::{DecodeError, EncodeError, excerpt};
use crate::codec::json_reader::utf8;
use crate::codec::table::{TableLayout, TableRows};
use crate::codec::values::{write_all_cells, write_cells};
use crate::codec::{DecodedRequest, Format, ReplyPlan, Schema};
use crate::tensor::{Dim, OutputRows, OutputSpec, Value, ValueType};

pub(super) fn decode(body: &Bytes, schema: &Schema, parameters: CsvParameters) -> Result<DecodedRequest, DecodeError> {
    let text = utf8(Format::Csv, body)?;
    // Excel writes a byte order mark before UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let malformed = |problem| DecodeError::malformed(Format::Csv, problem);
    let header = parameters.header.or(schema.csv().has_header);
    let delimiter = match parameters.delimiter.or(schema.csv().delimiter) {
        Some(delimiter) => delimiter,
        None => delimiter_of(text, schema, header),
    };
    let mut records = CsvRecords::new(text, delimiter, schema.most_cells());
    let mut cells = Vec::new();
    let no_rows = || Err(malformed("it has no rows".to_owned()));
    if !records.read(&mut cells).map_err(malformed)? {
        return no_rows();
    }
    let layout = match first_line(schema, &cells, header)? {
        FirstLine::Record => None,
        FirstLine::Header(layout) => {
            if !records.read(&mut cells).map_err(malformed)? {
                return no_rows();
            }
            layout
        }
    };
    let layout = match layout {
        Some(layout) => layout,
        None => TableLayout::by_position(schema, records.width).map_err(|problem| schema.layout_error(problem))?,
    };
    let mut rows = TableRows::new(schema, layout, body.len());
    loop {
        rows.check_width(records.width)?;
        rows.push_text(&cells)?;
        if !records.read(&mut cells).map_err(malformed)? {
            break;
        }
    }
    let (inputs, count) = rows.finish()?;
    Ok(DecodedRequest::new(
        schema.complete(inputs, Some(count))?,
        ReplyPlan::counted(count),
    ))
}

/// The parameters of a CSV media type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CsvParameters {
    /// Whether the first line is a header.
    pub header: Option<bool>,
    pub delimiter: Option<u8>,
}

impl CsvParameters {
    /// Parses the parameters `header` and `delimiter`. The error is a message for the caller.
    pub fn parse(header: Option<&str>, delimiter: Option<&str>) -> Result<Self, &'static str> {
        let header = match header {
            None => None,
            Some(value) if value.eq_ignore_ascii_case("present") => Some(true),
            Some(value) if value.eq_ignore_ascii_case("absent") => Some(false),
            Some(_) => return Err("its parameter header must be \"present\" or \"absent\""),
        };
        let delimiter = match delimiter {
            None => None,
            Some("tab" | "\\t") => Some(b'\t'),
            Some(value) => match value.as_bytes() {
                [byte] if DELIMITERS.contains(byte) => Some(*byte),
                _ => return Err("its parameter delimiter must be \",\", \";\", \"|\" or \"tab\""),
            },
        };
        Ok(Self { header, delimiter })
    }
}

/// The supported delimiters. The first one is the default.
pub(super) const DELIMITERS: [u8; 4] = *b",;\t|";

/// Detects the delimiter from the first line: the comma, unless exactly one other delimiter makes
/// the line readable.
fn delimiter_of(text: &str, schema: &Schema, header: Option<bool>) -> u8 {
    let reads = |delimiter: u8| {
        let mut cells = Vec::new();
        if !matches!(
            CsvRecords::new(text, delimiter, schema.most_cells()).read(&mut cells),
            Ok(true)
        ) {
            return false;
        }
        let is_plain = cells.len() > 1 || delimiter == DELIMITERS[0];
        is_plain
            && match first_line(schema, &cells, header) {
                Ok(FirstLine::Header(Some(_))) => true,
                Ok(FirstLine::Header(None)) => TableLayout::by_position(schema, cells.len()).is_ok(),
                Ok(FirstLine::Record) => {
                    TableLayout::by_position(schema, cells.len()).is_ok_and(|layout| layout.reads(schema, &cells))
                }
                Err(_) => false,
            }
    };
    let line = text.trim_start_matches(['\n', '\r']).lines().next().unwrap_or_default();
    let mut present = DELIMITERS[1..]
        .iter()
        .copied()
        .filter(|delimiter| line.as_bytes().contains(delimiter))
        .peekable();
    if present.peek().is_none() || reads(DELIMITERS[0]) {
        return DELIMITERS[0];
    }
    let mut readable = present.filter(|delimiter| reads(*delimiter));
    match (readable.next(), readable.next()) {
        (Some(only), None) => only,
        (_, _) => DELIMITERS[0],
    }
}

/// Checks whether a line of cells can hold outputs of these types, as far as the types tell.
pub(super) fn can_carry(outputs: &[&OutputSpec]) -> Result<(), String> {
    let mut open = 0;
    for output in outputs.iter().filter(|output| output.rows == OutputRows::Whole) {
        if let ValueType::Tensor { dims: Some(dims), .. } = &output.value_type {
            match dims.as_slice() {
                [] | [Dim::Fixed(_)] => {}
                [Dim::Dynamic(_)] => open += 1,
                [_, _, ..] => return Err(nested(&output.name)),
            }
        }
    }
    if open > 1 {
        Err(SEVERAL_LISTS.to_owned())
    } else {
        Ok(())
    }
}

const SEVERAL_LISTS: &str = "several outputs are lists of any length, which a CSV line cannot separate; accept \
                             application/jsonlines or application/json";

fn nested(name: &str) -> String {
    format!(
        "output {} is a nested list for each record, which a CSV line cannot hold; accept application/jsonlines or \
         application/json",
        excerpt(name)
    )
}

pub(super) fn encode(records: &ByRecord<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = alloc::with_capacity(records.json_bytes())?;
    for record in 0..records.count() {
        write_line(records, record, &mut out).map_err(|problem| EncodeError::CannotCarry {
            format: Format::Csv,
            problem,
        })?;
    }
    Ok(out)
}

fn write_line(records: &ByRecord<'_>, record: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let (mut is_empty, mut open) = (true, 0);
    for (spec, part) in records.parts(record) {
        match part {
            RecordPart::Entry(value, entry) => write_cells(value, entry, &mut is_empty, out),
            RecordPart::Whole(value) => {
                if !is_flat(value) {
                    return Err(nested(&spec.name));
                }
                open += usize::from(value.entries().is_some() && !has_fixed_length(&spec.value_type));
                write_all_cells(value, &mut is_empty, out);
            }
        }
    }
    if open > 1 {
        return Err(SEVERAL_LISTS.to_owned());
    }
    if is_empty {
        // A blank line would not count as a record (BT-7).
        out.extend_from_slice(b"[]");
    }
    out.push(b'\n');
    Ok(())
}

/// Whether a flat list of cells represents the whole value.
fn is_flat(value: &Value) -> bool {
    match value {
        Value::Tensor(tensor) => tensor.shape().len() <= 1,
        Value::Sequence(values) => {
            let is_scalar = |value: &Value| matches!(value, Value::Tensor(tensor) if tensor.shape().is_empty());
            values.iter().all(is_scalar)
        }
        Value::Map { .. } => true,
    }
}

fn has_fixed_length(value_type: &ValueType) -> bool {
    matches!(value_type, ValueType::Tensor { dims: Some(dims), .. } if matches!(dims.as_slice(), [Dim::Fixed(_)]))
}

#[cfg(test)]
mod tests;
