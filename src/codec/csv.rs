//! `text/csv`: rows without a header, as SageMaker's own algorithms take and give them (BT-6, BT-9).
//!
//! The columns are dealt to the inputs in the model's order, to each as many as one row of it has; one input of unknown
//! width may take what the others leave. Numbers may stand between spaces, and an empty cell is a missing value: NaN
//! for floats, the empty string for strings. In the reply each row is a line with a line feed at its end, the last
//! one too (BT-9), the columns of several outputs side by side; values without rows (a scalar, a single map) are one
//! line. Floats that are no numbers are `nan`, `inf` and `-inf`, as NumPy's text files have them; the values of a map
//! are in the order of their keys; strings are the bytes that they are.

mod records;

use std::borrow::Cow;

use bytes::Bytes;

use self::records::Records;
use crate::codec::column::{Column, column};
use crate::codec::error::{DecodeError, EncodeError, InputError, excerpt, takes};
use crate::codec::fit::Form;
use crate::codec::json_reader::utf8;
use crate::codec::numbers::Problem;
use crate::codec::room;
use crate::codec::values::{Output, json_bytes, row_count, write_cells};
use crate::codec::{Dialect, Format, ReplyPlan, Request};
use crate::tensor::{Dim, InputSpec, Signature, ValueType};

pub(super) fn decode(body: &Bytes, signature: &Signature) -> Result<Request, DecodeError> {
    let text = utf8(Format::Csv, body)?;
    // Excel writes a byte order mark before UTF-8.
    let mut records = Records::new(text.strip_prefix('\u{feff}').unwrap_or(text));
    let malformed = |problem| DecodeError::malformed(Format::Csv, problem);
    let mut cells = Vec::new();
    if !records.read(&mut cells).map_err(malformed)? {
        return Err(malformed("it has no rows".to_owned()));
    }
    let mut rows = Rows::new(signature, cells.len(), body.len())?;
    loop {
        rows.push(&cells)?;
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
                        problem.push_str("; CSV is read without a header row");
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
            reply: ReplyPlan::new(Dialect::Rows),
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

/// The number of rows that an output of this type has for certain. What has no rows is one line.
fn certain_rows(value_type: &ValueType) -> Option<usize> {
    match value_type {
        ValueType::Tensor { dims: Some(dims), .. } => match dims.first() {
            Some(Dim::Fixed(rows)) => Some(*rows),
            Some(Dim::Dynamic(_)) => None,
            None => Some(1),
        },
        ValueType::Map { .. } => Some(1),
        ValueType::Tensor { dims: None, .. } | ValueType::Sequence(_) => None,
    }
}

/// Whether outputs of these types can have rows in common.
pub(super) fn can_carry<'a>(mut types: impl Iterator<Item = &'a ValueType>) -> Result<(), String> {
    let mut first = None;
    let differs = types.any(|value_type| match (certain_rows(value_type), first) {
        (Some(rows), Some(other)) => rows != other,
        (rows, None) => {
            first = rows;
            false
        }
        (None, Some(_)) => false,
    });
    if differs { Err(UNEVEN.to_owned()) } else { Ok(()) }
}

const UNEVEN: &str = "they have different numbers of rows; accept application/json";

pub(super) fn encode(outputs: &[Output<'_>]) -> Result<Vec<u8>, EncodeError> {
    let mut counts = outputs.iter().map(|output| row_count(output.value).unwrap_or(1));
    let rows = counts.next().unwrap_or(0);
    if counts.any(|count| count != rows) {
        return Err(EncodeError::CannotCarry {
            format: Format::Csv,
            problem: UNEVEN.to_owned(),
        });
    }
    let mut out = room::for_all(json_bytes(outputs))?;
    for row in 0..rows {
        let mut first = true;
        for output in outputs {
            write_cells(output.value, row, &mut first, &mut out);
        }
        out.push(b'\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
