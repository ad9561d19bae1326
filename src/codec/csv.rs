//! `text/csv`: a line for each record, as SageMaker's own algorithms take and give them (BT-6,
//! BT-9).
//!
//! The columns are dealt to the inputs by position or, under a header, by name (`table.rs`,
//! `header.rs`). Cells are separated by commas, or by `;`, a tab or `|` where the request, the
//! manifest or the first line says so. Numbers may stand between spaces, and an empty cell is a
//! missing value: NaN for floats, the empty string for strings. In the reply each record is a line
//! with a line feed at its end, the last one too (BT-9), the columns of several outputs side by
//! side. An output that cannot be told apart by record is the line of a record that ran alone where
//! it is flat; a line without any cell is `[]`. Floats that are no numbers are `nan`, `inf` and
//! `-inf`, as NumPy's text files have them; the values of a map are in the order of their keys;
//! strings are the bytes that they are.

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

pub(super) fn decode(body: &Bytes, schema: &Schema, told: CsvParameters) -> Result<DecodedRequest, DecodeError> {
    let text = utf8(Format::Csv, body)?;
    // Excel writes a byte order mark before UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let malformed = |problem| DecodeError::malformed(Format::Csv, problem);
    let header = told.header.or(schema.csv().has_header);
    let delimiter = match told.delimiter.or(schema.csv().delimiter) {
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
    /// Reads the parameters `header` and `delimiter`. The error is a sentence for the caller.
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

/// The delimiters that are understood; the first one is assumed where nothing tells another.
pub(super) const DELIMITERS: [u8; 4] = *b",;\t|";

/// The delimiter that the first line shows: the comma, unless the line can be read with one other
/// delimiter only.
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

/// Whether a line of cells can say outputs of these types, as far as that is known before the run.
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

const SEVERAL_LISTS: &str = "several outputs are lists of any length, which cannot be told apart in a line; accept \
                             application/jsonlines or application/json";

fn nested(name: &str) -> String {
    format!(
        "output {} is a nested list for each record, which a line cannot say; accept application/jsonlines or \
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
        // A blank line would be no record (BT-7).
        out.extend_from_slice(b"[]");
    }
    out.push(b'\n');
    Ok(())
}

/// Whether cells one after the other say all of a value.
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
