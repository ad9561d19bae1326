//! `application/json`: TF-Serving's row form and column form, and a bare array.
//!
//! | Request | Reply |
//! |---|---|
//! | `{"instances": [row, ..]}`, a row being a value or an object by input name | `{"predictions": ..}` |
//! | `{"inputs": tensor}` or `{"inputs": {"name": tensor, ..}}` | `{"outputs": ..}` |
//! | `[..]`, as `instances`; without the array of rows it is one row | `{"predictions": ..}` |
//! | `{"inputs": [{"name": .., "shape": .., "datatype": .., "data": ..}, ..]}` | [`open_inference`] |
//!
//! Other keys of the document (`signature_name`, `configuration`) are passed over, as the protocols say. In row form
//! several outputs become one object per row; when they have no rows in common, the reply has the column form instead,
//! because dropping or repeating values would be worse. Floats that are no numbers are written as the bare tokens
//! `NaN`, `Infinity` and `-Infinity`: TF-Serving's documented form, read by Python's `json` and by this module.

use bytes::Bytes;
use jiter::Peek;

use crate::codec::by_record::ByRecord;
use crate::codec::column::column;
use crate::codec::error::{DecodeError, EncodeError, Fault, InputError, takes};
use crate::codec::fit::Form;
use crate::codec::json_reader::Reader;
use crate::codec::open_inference::{self, Envelope, Tail};
use crate::codec::room;
use crate::codec::rows::{Names, Rows, duplicate_input, is_binary_string, missing_input, unknown_input};
use crate::codec::values::{Output, json_bytes, write_key, write_row, write_value};
use crate::codec::{Dialect, Format, ReplyPlan, Request};
use crate::tensor::{Signature, Tensor};

const FORMS: &str = "it must be an array of instances or an object with \"instances\" or \"inputs\"";

pub(super) fn decode(body: &Bytes, signature: &Signature) -> Result<Request, DecodeError> {
    let mut reader = Reader::new(Format::Json, body)?;
    let first = reader.peek()?;
    let request = if first == Peek::Object && !is_binary_string(&reader, signature)? {
        document(&mut reader, signature)?
    } else {
        Request {
            inputs: instances(&mut reader, first, signature, Form::Whole)?.0,
            reply: ReplyPlan::new(Dialect::Rows),
        }
    };
    reader.finish()?;
    Ok(request)
}

fn document<'a>(reader: &mut Reader<'a>, signature: &Signature) -> Result<Request, DecodeError> {
    let mut envelope = Envelope::default();
    let mut given: Option<(Vec<Tensor>, Option<ReplyPlan>)> = None;
    let mut key = reader.enter_object()?;
    while let Some(name) = key {
        match name {
            "instances" => {
                if !reader.skip_null()? {
                    check_once(reader, given.is_some())?;
                    let first = reader.peek()?;
                    if first != Peek::Array {
                        return Err(reader.malformed("\"instances\" must be an array").into());
                    }
                    let (inputs, count) = instances(reader, first, signature, Form::Rows)?;
                    given = Some((inputs, Some(ReplyPlan::counted(count))));
                }
            }
            "inputs" => {
                if !reader.skip_null()? {
                    check_once(reader, given.is_some())?;
                    given = Some(if open_inference::begins(reader, signature)? {
                        (open_inference::inputs(reader, signature, &mut Tail::of_json())?, None)
                    } else {
                        (columns(reader, signature)?, Some(ReplyPlan::new(Dialect::Columns)))
                    });
                }
            }
            other => match envelope.slot(other) {
                Some(slot) => *slot = Some(reader.postpone()?),
                None => reader.skip()?,
            },
        }
        key = reader.next_key()?;
    }
    match given {
        None => Err(reader.malformed(FORMS).into()),
        Some((inputs, Some(reply))) => Ok(Request { inputs, reply }),
        Some((inputs, None)) => Ok(Request {
            inputs,
            reply: envelope.plan(signature)?,
        }),
    }
}

fn check_once(reader: &Reader<'_>, is_given: bool) -> Result<(), Fault> {
    match is_given {
        true => Err(reader.malformed("it must have either \"instances\" or \"inputs\", once")),
        false => Ok(()),
    }
}

/// Rows, one after the other, and how many there are. Those of a single input that are no objects are one nested array,
/// read in one go.
fn instances(
    reader: &mut Reader<'_>,
    first: Peek,
    signature: &Signature,
    form: Form,
) -> Result<(Vec<Tensor>, usize), DecodeError> {
    if let [input] = signature.inputs.as_slice()
        && !starts_with_object(reader, first, signature)?
    {
        let mut only = column(input, reader.remaining());
        only.read(reader, first, 0)?;
        let tensor = only.finish(form)?;
        let count = tensor.shape().first().copied().unwrap_or(1);
        return Ok((vec![tensor], count));
    }
    if first != Peek::Array {
        return Err(reader.malformed(FORMS).into());
    }
    let mut rows = Rows::new(signature, reader.remaining());
    let mut next = reader.enter_array()?;
    while let Some(first) = next {
        rows.read(reader, first)?;
        next = reader.next_value()?;
    }
    rows.finish()
}

/// Whether an array's first element is an object by input name.
fn starts_with_object(reader: &Reader<'_>, first: Peek, signature: &Signature) -> Result<bool, Fault> {
    if first != Peek::Array {
        return Ok(false);
    }
    let mut ahead = reader.clone();
    Ok(ahead.enter_array()? == Some(Peek::Object) && !is_binary_string(&ahead, signature)?)
}

fn columns(reader: &mut Reader<'_>, signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
    let first = reader.peek()?;
    if first == Peek::Object && !is_binary_string(reader, signature)? {
        return named_columns(reader, signature);
    }
    let [input] = signature.inputs.as_slice() else {
        return Err(InputError::Unnamed {
            what: "\"inputs\" without names",
            takes: takes(signature),
            instead: "give an object by input name",
        }
        .into());
    };
    let mut only = column(input, reader.remaining());
    only.read(reader, first, 0)?;
    Ok(vec![only.finish(Form::Whole)?])
}

fn named_columns(reader: &mut Reader<'_>, signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
    let mut names = Names::new(signature);
    let mut tensors: Vec<Option<Tensor>> = vec![None; signature.inputs.len()];
    let mut key = reader.enter_object()?;
    while let Some(name) = key {
        let Some(index) = names.find(name) else {
            let name = name.to_owned();
            return Err(unknown_input(signature, &name, String::new()).into());
        };
        if tensors[index].is_some() {
            return Err(duplicate_input(signature, index, String::new()).into());
        }
        let first = reader.peek()?;
        let mut column = column(&signature.inputs[index], reader.remaining());
        column.read(reader, first, 0)?;
        tensors[index] = Some(column.finish(Form::Whole)?);
        key = reader.next_key()?;
    }
    all_given(tensors, signature)
}

/// The inputs in the model's order, when none is missing.
pub(super) fn all_given(tensors: Vec<Option<Tensor>>, signature: &Signature) -> Result<Vec<Tensor>, DecodeError> {
    let given = tensors.into_iter().enumerate();
    given
        .map(|(i, tensor)| tensor.ok_or_else(|| missing_input(signature, i, String::new()).into()))
        .collect()
}

/// `{"predictions": [..]}`, an element for each record.
pub(super) fn encode_records(records: &ByRecord<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = room::for_all(records.json_bytes().saturating_add(32))?;
    out.extend_from_slice(b"{\"predictions\":");
    match records.only_value() {
        Some(value) => write_value(value, &mut out),
        None => {
            out.push(b'[');
            for record in 0..records.count() {
                if record > 0 {
                    out.push(b',');
                }
                records.write_json(record, &mut out);
            }
            out.push(b']');
        }
    }
    out.push(b'}');
    Ok(out)
}

/// Whole outputs: the only one under `key`, several as columns.
pub(super) fn encode_whole(key: &str, outputs: &[Output<'_>]) -> Result<Vec<u8>, EncodeError> {
    let mut out = room::for_all(json_bytes(outputs).saturating_add(32))?;
    match outputs {
        [only] => {
            out.push(b'{');
            write_key(key, &mut out);
            write_value(only.value, &mut out);
            out.push(b'}');
        }
        _ => write_columns_of("outputs", outputs, &mut out),
    }
    Ok(out)
}

/// Row `row` of several outputs: an object by output name. `keys` are the names as JSON.
pub(super) fn write_row_object(outputs: &[Output<'_>], keys: &[Vec<u8>], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, (output, key)) in outputs.iter().zip(keys).enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        write_row(output.value, row, out);
    }
    out.push(b'}');
}

/// An object of columns under the key `side`.
pub(super) fn write_columns_of(side: &str, outputs: &[Output<'_>], out: &mut Vec<u8>) {
    out.push(b'{');
    write_key(side, out);
    out.push(b'{');
    for (i, output) in outputs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_key(output.name, out);
        write_value(output.value, out);
    }
    out.extend_from_slice(b"}}");
}

#[cfg(test)]
mod tests;
