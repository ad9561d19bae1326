//! `text/csv`: a line for each record, as SageMaker's own algorithms take and give them (BT-6, BT-9).
//!
//! The columns are dealt to the inputs in the model's order, to each as many as one row of it has; one input of unknown
//! width may take what the others leave. A first line with the names of the inputs is a header (`header.rs`). Numbers may
//! stand between spaces, and an empty cell is a missing value: NaN for floats, the empty string for strings. In the reply
//! each record is a line with a line feed at its end, the last one too (BT-9), the columns of several outputs side by
//! side. An output that cannot be told apart by record is the line of a record that ran alone where it is flat; a line
//! without any cell is `[]`. Floats that are no numbers are `nan`, `inf` and `-inf`, as NumPy's text files have them; the
//! values of a map are in the order of their keys; strings are the bytes that they are.

mod header;
mod records;

use std::borrow::Cow;

use bytes::Bytes;

pub(super) use self::header::Said;
use self::header::{FirstLine, first_line};
use self::records::Records;
use crate::codec::by_record::{ByRecord, Part};
use crate::codec::column::{Column, column};
use crate::codec::error::{DecodeError, EncodeError, InputError, excerpt, takes};
use crate::codec::fit::Form;
use crate::codec::json_reader::utf8;
use crate::codec::numbers::Problem;
use crate::codec::room;
use crate::codec::values::{write_all_cells, write_cells};
use crate::codec::{Format, ReplyPlan, Request};
use crate::tensor::{Dim, InputSpec, OutputRows, OutputSpec, Signature, Value, ValueType};

pub(super) fn decode(body: &Bytes, signature: &Signature, header: Said) -> Result<Request, DecodeError> {
    let text = utf8(Format::Csv, body)?;
    // Excel writes a byte order mark before UTF-8.
    let mut records = Records::new(text.strip_prefix('\u{feff}').unwrap_or(text));
    let malformed = |problem| DecodeError::malformed(Format::Csv, problem);
    let mut cells = Vec::new();
    let no_rows = || Err(malformed("it has no rows".to_owned()));
    if !records.read(&mut cells).map_err(malformed)? {
        return no_rows();
    }
    let order = match first_line(signature, &cells, header).map_err(malformed)? {
        FirstLine::Record => None,
        FirstLine::Header(order) => {
            if !records.read(&mut cells).map_err(malformed)? {
                return no_rows();
            }
            order
        }
    };
    let mut rows = Rows::new(signature, cells.len(), body.len())?;
    loop {
        match &order {
            Some(order) if order.len() == cells.len() => {
                let ordered: Vec<Cow<'_, str>> = order.iter().map(|&column| cells[column].clone()).collect();
                rows.push(&ordered)?;
            }
            Some(_) | None => rows.push(&cells)?,
        }
        if !records.read(&mut cells).map_err(malformed)? {
            return rows.finish();
        }
    }
}

/// How many of a row's cells belong to an input.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Share {
    width: usize,
    /// The sizes of the axes after the first; `None` for a model's input without axes.
    row: Option<Vec<usize>>,
}

/// What one row of an input is.
enum Width {
    Known(Share),
    /// One axis, at this position among those after the first, takes any multiple of the product of the others.
    Open {
        row: Vec<usize>,
        axis: usize,
    },
}

struct Rows<'s> {
    signature: &'s Signature,
    shares: Vec<Share>,
    columns: Vec<Box<dyn Column + 's>>,
    count: usize,
}

impl<'s> Rows<'s> {
    /// Deals the columns of the first row, which says how many there are.
    fn new(signature: &'s Signature, width: usize, body_len: usize) -> Result<Self, DecodeError> {
        let shares = deal(signature, width)?;
        let most = body_len / signature.inputs.len().max(1);
        Ok(Self {
            signature,
            shares,
            columns: signature.inputs.iter().map(|input| column(input, most)).collect(),
            count: 0,
        })
    }

    fn push(&mut self, cells: &[Cow<'_, str>]) -> Result<(), DecodeError> {
        self.count += 1;
        let expected: usize = self.shares.iter().map(|share| share.width).sum();
        if cells.len() != expected {
            return Err(layout(
                self.signature,
                format!(
                    "row {} has {} columns where {expected} are expected",
                    self.count,
                    cells.len()
                ),
            ));
        }
        let mut cells = cells.iter().enumerate();
        for (input, (share, column)) in self.shares.iter().zip(&mut self.columns).enumerate() {
            for (at, cell) in cells.by_ref().take(share.width) {
                if let Err(problem) = column.push_cell(cell) {
                    if problem == Problem::NoMemory {
                        return Err(DecodeError::OutOfMemory);
                    }
                    let spec = &self.signature.inputs[input];
                    let given = if cell.is_empty() {
                        "an empty cell".to_owned()
                    } else {
                        excerpt(cell)
                    };
                    let mut problem = problem.describe(&given, spec.data_type);
                    if self.count == 1 {
                        problem.push_str("; a first line is a header only where it holds the names of the inputs");
                    }
                    return Err(InputError::Value {
                        name: excerpt(&spec.name),
                        at: format!(" at row {} column {}", self.count, at + 1),
                        problem,
                    }
                    .into());
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Request, DecodeError> {
        let count = self.count;
        let tensor = |(share, column): (Share, Box<dyn Column + 's>)| match share.row {
            Some(row) => column.finish_shaped(std::iter::once(count).chain(row).collect(), Form::Whole),
            None if count == 1 => column.finish_shaped(Vec::new(), Form::Whole),
            None => column.finish_shaped(vec![count], Form::Whole),
        };
        let inputs = self
            .shares
            .into_iter()
            .zip(self.columns)
            .map(tensor)
            .collect::<Result<_, _>>()?;
        Ok(Request {
            inputs,
            reply: ReplyPlan::counted(count),
        })
    }
}

#[cold]
fn layout(signature: &Signature, problem: String) -> DecodeError {
    InputError::Layout {
        problem,
        takes: takes(signature),
    }
    .into()
}

/// Deals `width` columns to the inputs.
fn deal(signature: &Signature, width: usize) -> Result<Vec<Share>, DecodeError> {
    let widths = signature
        .inputs
        .iter()
        .map(width_of)
        .collect::<Option<Vec<Width>>>()
        .ok_or_else(|| {
            layout(
                signature,
                "columns cannot be dealt to an input with several axes of unknown size; send JSON or NPY".to_owned(),
            )
        })?;
    let known = |width: &Width| match width {
        Width::Known(share) => share.width,
        Width::Open { .. } => 0,
    };
    let taken = widths.iter().map(known).fold(0, usize::saturating_add);
    let open = widths
        .iter()
        .filter(|width| matches!(width, Width::Open { .. }))
        .count();
    if open > 1 {
        let problem = "columns cannot be dealt to several inputs of unknown width; send JSON".to_owned();
        return Err(layout(signature, problem));
    }
    if width < taken || (open == 0 && width != taken) {
        let least = if open == 0 { "" } else { "at least " };
        return Err(layout(
            signature,
            format!("row 1 has {width} columns where {least}{taken} are expected"),
        ));
    }
    let share = |width_of: Width| match width_of {
        Width::Known(share) => Ok(share),
        Width::Open { mut row, axis } => {
            let rest = width - taken;
            let others = row.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, dim)| *dim);
            let unit = others.fold(1, usize::saturating_mul);
            if rest == 0 || unit == 0 || !rest.is_multiple_of(unit) {
                return Err(layout(
                    signature,
                    format!(
                        "row 1 has {rest} columns for the input of unknown width where a multiple of {unit} is expected"
                    ),
                ));
            }
            row[axis] = rest / unit;
            Ok(Share {
                width: rest,
                row: Some(row),
            })
        }
    };
    widths.into_iter().map(share).collect()
}

/// `None` when several axes are unknown, so that the columns of a row could be shaped in several ways.
fn width_of(spec: &InputSpec) -> Option<Width> {
    let Some(dims) = &spec.dims else {
        return Some(Width::Open { row: vec![0], axis: 0 });
    };
    let Some((_, dims)) = dims.split_first() else {
        return Some(Width::Known(Share { width: 1, row: None }));
    };
    let mut open = None;
    let mut row = Vec::with_capacity(dims.len());
    for (axis, dim) in dims.iter().enumerate() {
        match dim {
            Dim::Fixed(size) => row.push(*size),
            Dim::Dynamic(_) => {
                row.push(0);
                if open.replace(axis).is_some() {
                    return None;
                }
            }
        }
    }
    Some(match open {
        Some(axis) => Width::Open { row, axis },
        None => Width::Known(Share {
            width: row.iter().copied().fold(1, usize::saturating_mul),
            row: Some(row),
        }),
    })
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
    let mut out = room::for_all(records.json_bytes())?;
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
            Part::Entry(value, entry) => write_cells(value, entry, &mut is_empty, out),
            Part::Whole(value) => {
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
