//! `application/json`: TF-Serving's row form and column form, and a bare array.
//!
//! | Request | Response |
//! |---|---|
//! | `{"instances": [row, ..]}`; a row is a value or an object by input name | `{"predictions": ..}` |
//! | `{"inputs": tensor}` or `{"inputs": {"name": tensor, ..}}` | `{"outputs": ..}` |
//! | `[..]`, like `instances`; an array that is not an array of rows is one row | `{"predictions": ..}` |
//! | `{"inputs": [{"name": .., "shape": .., "datatype": .., "data": ..}, ..]}` | [`open_inference`] |
//! | tables of pandas and MLflow, and one row by name (`json/frame.rs`) | `{"predictions": ..}` |
//! | `{"predictions": ..}` or `{"outputs": ..}`: a response as a request (`json/reply.rs`) | the same form |
//!
//! The decoder skips other keys of the document (`signature_name`, `configuration`), as the
//! protocols require. In row form, several outputs become one object per row. If they do not have
//! the same number of rows, the response has the column form instead: dropping or repeating values
//! would be worse. Non-finite floats are the bare tokens `NaN`, `Infinity` and `-Infinity`, which
//! is TF-Serving's documented form. Python's `json` reads it, and so does this module.

mod frame;
mod reply;

use bytes::Bytes;
use jiter::Peek;

use crate::codec::alloc;
use crate::codec::by_record::ByRecord;
use crate::codec::column::column_builder;
use crate::codec::error::{BoxedDecodeError, DecodeError, EncodeError, InputError, describe_inputs, excerpt};
use crate::codec::fit::ShapeForm;
use crate::codec::json_reader::JsonReader;
use crate::codec::open_inference::{self, BinaryTail, Envelope};
use crate::codec::rows::{InstanceRows, duplicate_input, is_binary_string, unknown_input};
use crate::codec::schema::{FEATURES, NameTarget};
use crate::codec::values::{NamedOutput, json_bytes, write_key, write_row, write_value};
use crate::codec::{DecodedRequest, Dialect, Documents, Format, ReplyPlan, Schema};
use crate::tensor::{Inputs, Records, Tensor};

const FORMS: &str = "it must be an array of instances, an object with \"instances\" or \"inputs\", or one of the other forms \
                     in docs/formats.md";

pub(super) fn decode(body: &Bytes, schema: &Schema, documents: Documents) -> Result<DecodedRequest, DecodeError> {
    let mut reader = JsonReader::new(Format::Json, body)?;
    let request = one(&mut reader, schema)?;
    if documents == Documents::Several && !reader.is_at_end() {
        return several(request, reader, schema);
    }
    reader.finish()?;
    Ok(request)
}

/// Reads the documents after the one of `first`. The response has one document for each.
fn several(first: DecodedRequest, mut reader: JsonReader<'_>, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let mut requests = vec![first];
    while !reader.is_at_end() {
        requests.push(one(&mut reader, schema)?);
    }
    let signature = schema.signature();
    let mut counts = Vec::with_capacity(requests.len());
    for request in &requests {
        match (&request.reply.dialect, signature.records(&request.inputs)) {
            (Dialect::Rows, Records::Separable(count)) => counts.push(count),
            (_, _) => {
                let problem =
                    "each of several documents must be an array of instances, or an object with \"instances\"";
                return Err(reader.malformed(problem).into());
            }
        }
    }
    let mut inputs = Vec::with_capacity(signature.inputs.len());
    for (index, spec) in signature.inputs.iter().enumerate() {
        let parts: Vec<&Tensor> = requests
            .iter()
            .filter_map(|request| request.inputs.get(index))
            .collect();
        let joined = match parts.as_slice() {
            [first, others @ ..] if !spec.has_record_axis() => {
                others.iter().all(|other| other == first).then(|| (*first).clone())
            }
            parts => Tensor::concatenate(parts),
        };
        inputs.push(joined.ok_or_else(|| InputError::Value {
            name: excerpt(&spec.name),
            at: String::new(),
            problem: "its shape differs between the documents of the body; send one document at a time".to_owned(),
        })?);
    }
    // Each document has its own values, but one run takes a single value for all documents.
    let [first, others @ ..] = requests.as_slice() else {
        return Err(reader.malformed("it has no document").into());
    };
    let optional = &first.optional;
    let is_shared = |(position, _): &(usize, Tensor)| !signature.optional[*position].has_record_axis();
    if !optional.iter().all(is_shared) || others.iter().any(|other| other.optional != *optional) {
        let problem = "several documents must give the same optional inputs; send one document at a time";
        return Err(reader.malformed(problem).into());
    }
    let inputs = Inputs {
        tensors: inputs,
        optional: optional.clone(),
    };
    Ok(DecodedRequest::new(
        inputs,
        ReplyPlan {
            dialect: Dialect::Documents(counts.clone()),
            ..ReplyPlan::counted(counts.iter().sum())
        },
    ))
}

/// Reads one document.
fn one<'a>(reader: &mut JsonReader<'a>, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let first = reader.peek()?;
    Ok(if first == Peek::Object && !is_binary_string(reader, schema)? {
        document(reader, schema)?
    } else {
        let (inputs, _) = instances(reader, first, schema, ShapeForm::Whole)?;
        DecodedRequest::new(inputs, ReplyPlan::new(Dialect::Rows))
    })
}

/// The members of a document other than `instances` and `inputs`, for documents with neither.
#[derive(Default)]
struct OtherMembers<'a> {
    named: Vec<(String, JsonReader<'a>)>,
}

impl<'a> OtherMembers<'a> {
    fn take(&mut self, name: &str) -> Option<JsonReader<'a>> {
        let position = self.named.iter().position(|(own, _)| own == name)?;
        Some(self.named.swap_remove(position).1)
    }
}

fn document<'a>(reader: &mut JsonReader<'a>, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let start = reader.clone();
    let mut envelope = Envelope::default();
    let mut members = OtherMembers::default();
    let mut given: Option<(Inputs, Option<ReplyPlan>)> = None;
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
                    let (inputs, count) = instances(reader, first, schema, ShapeForm::Rows)?;
                    given = Some((inputs, Some(ReplyPlan::counted(count))));
                }
            }
            "inputs" => {
                if !reader.skip_null()? {
                    check_once(reader, given.is_some())?;
                    given = Some(if open_inference::begins(reader, schema)? {
                        (
                            open_inference::inputs(reader, schema, &mut BinaryTail::of_json(), false)?,
                            None,
                        )
                    } else {
                        (columns(reader, schema, false)?, Some(ReplyPlan::new(Dialect::Columns)))
                    });
                }
            }
            other => {
                let other = other.to_owned();
                let value = reader.postpone()?;
                match envelope.slot(&other) {
                    Some(slot) => *slot = Some(value),
                    None if members.named.len() < MAX_MEMBERS => members.named.push((other, value)),
                    None => {
                        return Err(reader
                            .malformed(format!("it has more than {MAX_MEMBERS} members"))
                            .into());
                    }
                }
            }
        }
        key = reader.next_key()?;
    }
    match given {
        None => other_forms(start, members, envelope, schema),
        Some((inputs, Some(reply))) => Ok(DecodedRequest::new(inputs, reply)),
        Some((inputs, None)) => Ok(DecodedRequest::new(inputs, envelope.plan(schema.signature())?)),
    }
}

/// Limit on the members of a document. No model has more inputs and columns.
const MAX_MEMBERS: usize = 1 << 16;

fn check_once(reader: &JsonReader<'_>, is_given: bool) -> Result<(), BoxedDecodeError> {
    match is_given {
        true => Err(reader.malformed("it must have either \"instances\" or \"inputs\", once")),
        false => Ok(()),
    }
}

/// Reads a document with neither `instances` nor `inputs`: an object by the model's names, a table
/// of pandas or MLflow, or a response of a server like this one. `start` is before the document.
fn other_forms<'a>(
    mut start: JsonReader<'a>,
    mut members: OtherMembers<'a>,
    mut envelope: Envelope<'a>,
    schema: &Schema,
) -> Result<DecodedRequest, DecodeError> {
    let rows = |(inputs, count): (Inputs, usize)| DecodedRequest::new(inputs, ReplyPlan::counted(count));
    if let Some(mut split) = members.take("dataframe_split") {
        return frame::split(&mut split, schema).map(rows);
    }
    if let Some(mut records) = members.take("dataframe_records") {
        let first = records.peek()?;
        return instances(&mut records, first, schema, ShapeForm::Rows).map(rows);
    }
    if members.named.iter().any(|(name, _)| schema.find(name).is_some()) {
        return frame::by_name(start, &members.named, schema).map(rows);
    }
    let is_table = members.named.iter().any(|(name, _)| name == "columns");
    if is_table && members.named.iter().any(|(name, _)| name == "data") {
        return frame::split(&mut start, schema).map(rows);
    }
    if let Some(mut data) = members.take("data") {
        let first = data.peek()?;
        if first == Peek::Object {
            let mut instance = InstanceRows::new(schema, start.remaining());
            instance.read(&mut start, Peek::Object)?;
            return finish(instance, schema).map(rows);
        }
        let keys = match members.take("schema") {
            Some(mut table) => frame::primary_key(&mut table)?,
            None => Vec::new(),
        };
        if keys.is_empty() {
            return instances(&mut data, first, schema, ShapeForm::Rows).map(rows);
        }
        return frame::records_without(&mut data, &keys, schema).map(rows);
    }
    if members.named.iter().any(|(name, _)| name == FEATURES) {
        let mut instance = InstanceRows::new(schema, start.remaining());
        instance.read(&mut start, Peek::Object)?;
        return finish(instance, schema).map(rows);
    }
    if let Some(mut predictions) = members.take("predictions") {
        return reply::predictions(&mut predictions, schema).map(rows);
    }
    if let Some(mut outputs) = envelope.take_outputs() {
        let inputs = if open_inference::begins(&outputs, schema)? {
            open_inference::inputs(&mut outputs, schema, &mut BinaryTail::of_json(), true)?
        } else {
            columns(&mut outputs, schema, true)?
        };
        return Ok(DecodedRequest::new(inputs, ReplyPlan::new(Dialect::Columns)));
    }
    if let Some(records) = frame::by_index(&members.named, schema)? {
        return Ok(rows(records));
    }
    Err(start.malformed(FORMS).into())
}

/// Reads rows, one after the other, and counts them. Rows of a single input that are not objects
/// are one nested array, which is read at once.
pub(super) fn instances(
    reader: &mut JsonReader<'_>,
    first: Peek,
    schema: &Schema,
    form: ShapeForm,
) -> Result<(Inputs, usize), DecodeError> {
    if let Some(index) = schema.only_input()
        && !starts_with_object(reader, first, schema)?
    {
        let spec = &schema.signature().inputs[index];
        let mut only = column_builder(spec, reader.remaining());
        only.read(reader, first, 0)?;
        let tensor = only.finish(form)?;
        let count = tensor.shape().first().copied().unwrap_or(1);
        let mut inputs = vec![None; schema.signature().inputs.len()];
        inputs[index] = Some(tensor);
        return Ok((schema.complete(inputs, Some(count))?, count));
    }
    if first != Peek::Array {
        return Err(reader.malformed(FORMS).into());
    }
    let mut rows = InstanceRows::new(schema, reader.remaining());
    let mut ahead = reader.clone();
    let is_one_row = form == ShapeForm::Whole
        && schema.only_input().is_none()
        && !matches!(ahead.enter_array()?, None | Some(Peek::Array | Peek::Object));
    if is_one_row {
        rows.read(reader, first)?;
        return finish(rows, schema);
    }
    let mut next = reader.enter_array()?;
    while let Some(first) = next {
        rows.read(reader, first)?;
        next = reader.next_value()?;
    }
    finish(rows, schema)
}

/// The inputs of all rows, and the number of rows.
fn finish(rows: InstanceRows<'_>, schema: &Schema) -> Result<(Inputs, usize), DecodeError> {
    let (inputs, count) = rows.finish()?;
    Ok((schema.complete(inputs, Some(count))?, count))
}

/// Whether the first element of the array is an object by input name.
fn starts_with_object(reader: &JsonReader<'_>, first: Peek, schema: &Schema) -> Result<bool, BoxedDecodeError> {
    if first != Peek::Array {
        return Ok(false);
    }
    let mut ahead = reader.clone();
    Ok(ahead.enter_array()? == Some(Peek::Object) && !is_binary_string(&ahead, schema)?)
}

/// Reads whole inputs by name, or the value of the only input. Skips the outputs of a response that
/// are not inputs of the model.
fn columns(reader: &mut JsonReader<'_>, schema: &Schema, is_reply: bool) -> Result<Inputs, DecodeError> {
    let first = reader.peek()?;
    let mut tensors = schema.empty_slots();
    if starts_with_object(reader, first, schema)? {
        return Ok(instances(reader, first, schema, ShapeForm::Rows)?.0);
    }
    if first == Peek::Object && !is_binary_string(reader, schema)? {
        let start = reader.clone();
        let mut members = Vec::new();
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            let name = name.to_owned();
            if let Some(NameTarget::Column(_)) = schema.find(&name) {
                *reader = start;
                return frame::columns_of_inputs(reader, schema);
            }
            // A response sets only the inputs that a request must set.
            let slot = if is_reply {
                schema.find_input(&name)
            } else {
                schema.find_slot(&name)
            };
            match slot {
                Some(index) => read_column(reader, schema, index, &mut tensors)?,
                None if is_reply || schema.ignores_unknown() => members.push(reader.postpone()?),
                None => return Err(unknown_input(schema.signature(), &name, String::new()).into()),
            }
            key = reader.next_key()?;
        }
        if let ([only], Some(index)) = (members.as_mut_slice(), schema.only_input())
            && is_reply
            && tensors[index].is_none()
        {
            read_column(only, schema, index, &mut tensors)?;
        }
        return schema.complete(tensors, None);
    }
    let Some(index) = schema.only_input() else {
        if first == Peek::Array {
            return Ok(instances(reader, first, schema, ShapeForm::Whole)?.0);
        }
        return Err(InputError::Unnamed {
            what: "\"inputs\" without names",
            takes: describe_inputs(schema.signature()),
            instead: "give an object by input name",
        }
        .into());
    };
    read_column(reader, schema, index, &mut tensors)?;
    schema.complete(tensors, None)
}

fn read_column(
    reader: &mut JsonReader<'_>,
    schema: &Schema,
    index: usize,
    tensors: &mut [Option<Tensor>],
) -> Result<(), DecodeError> {
    if tensors[index].is_some() {
        return Err(duplicate_input(schema.signature(), index, String::new()).into());
    }
    let first = reader.peek()?;
    let mut column = column_builder(schema.input_at(index), reader.remaining());
    column.read(reader, first, 0)?;
    tensors[index] = Some(column.finish(ShapeForm::Whole)?);
    Ok(())
}

/// Writes `{"predictions": [..]}` with an element for each record.
pub(super) fn encode_records(records: &ByRecord<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = alloc::with_capacity(records.json_bytes().saturating_add(32))?;
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

/// Writes `{"predictions": [..]}` and a line feed for each of several documents. `counts` are their
/// numbers of records.
pub(super) fn encode_documents(records: &ByRecord<'_>, counts: &[usize]) -> Result<Vec<u8>, EncodeError> {
    let overhead = counts.len().saturating_mul(32);
    let mut out = alloc::with_capacity(records.json_bytes().saturating_add(overhead))?;
    let mut next = 0;
    for &count in counts {
        out.extend_from_slice(b"{\"predictions\":[");
        for record in next..next + count {
            if record > next {
                out.push(b',');
            }
            records.write_json(record, &mut out);
        }
        next += count;
        out.extend_from_slice(b"]}\n");
    }
    Ok(out)
}

/// Writes whole outputs: a single one under `key`, several as columns.
pub(super) fn encode_whole(key: &str, outputs: &[NamedOutput<'_>]) -> Result<Vec<u8>, EncodeError> {
    let mut out = alloc::with_capacity(json_bytes(outputs).saturating_add(32))?;
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

/// Writes row `row` of several outputs as an object by output name. `keys` are the names as JSON.
pub(super) fn write_row_object(outputs: &[NamedOutput<'_>], keys: &[Vec<u8>], row: usize, out: &mut Vec<u8>) {
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

/// Writes an object of columns under the key `side`.
pub(super) fn write_columns_of(side: &str, outputs: &[NamedOutput<'_>], out: &mut Vec<u8>) {
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
