//! The Open Inference Protocol, version 2 (also KServe's and Triton's), in JSON.
//!
//! The caller declares types and shapes. They must be those of the model, and the data must fill
//! the shape. `data` may be nested instead of flat. Keys may have any order: data before its name
//! is skipped, and read once its type is known. The header of the binary form ([`triton_binary`])
//! is the same document; its tensors follow the JSON.

mod plan;

use bytes::Bytes;
use jiter::Peek;

pub(super) use self::plan::Envelope;
use self::plan::{parameters, size, text};
use crate::codec::alloc;
use crate::codec::column::{ColumnBuilder, MAX_DEPTH, column_builder};
use crate::codec::element::write_json_string;
use crate::codec::error::{BoxedDecodeError, DecodeError, EncodeError, InputError, excerpt};
use crate::codec::fit::{ShapeForm, fit, mismatch};
use crate::codec::json_reader::{JsonReader, too_deep};
use crate::codec::rows::{duplicate_input, is_binary_string, unknown_input};
use crate::codec::schema::NameTarget;
use crate::codec::triton_binary;
use crate::codec::values::{NamedOutput, write_key, write_tensor};
use crate::codec::{DecodedRequest, Schema};
use crate::tensor::{DataType, InputSpec, Inputs, Shape, Tensor, Value};

/// Limit on the bytes of brackets and field names per output in a response.
const FIELDS_BYTES: usize = 128;

/// The binary data after the JSON.
pub(super) enum BinaryTail {
    /// The tensor data that is not read yet.
    Bytes(Bytes),
    /// The request cannot have binary data. The text names the missing header or content type.
    Needs(&'static str),
}

impl BinaryTail {
    /// The tail of a body whose content type is JSON.
    pub const fn of_json() -> Self {
        Self::Needs("content type application/vnd.sagemaker-triton.binary+json")
    }
}

/// Whether the value of `inputs` belongs to this protocol: an array of objects that are not records
/// with the model's names.
pub(super) fn begins(reader: &JsonReader<'_>, schema: &Schema) -> Result<bool, BoxedDecodeError> {
    let mut ahead = reader.clone();
    if ahead.peek()? != Peek::Array {
        return Ok(false);
    }
    if ahead.enter_array()? != Some(Peek::Object) || is_binary_string(&ahead, schema)? {
        return Ok(false);
    }
    // An object with a name of the model is a record, not a tensor.
    let is_of_record = |name: &str| match schema.find(name) {
        Some(NameTarget::Input(_) | NameTarget::Column(_)) => true,
        Some(NameTarget::Optional(_)) => !["name", "shape", "datatype", "parameters", "data"].contains(&name),
        None => false,
    };
    Ok(ahead.enter_object()?.is_none_or(|name| !is_of_record(name)))
}

/// Reads a document of this protocol.
pub(super) fn decode<'a>(
    reader: &mut JsonReader<'a>,
    schema: &Schema,
    tail: &mut BinaryTail,
) -> Result<DecodedRequest, DecodeError> {
    if reader.peek()? != Peek::Object {
        return Err(reader.malformed("the JSON must be an object with \"inputs\"").into());
    }
    let mut envelope = Envelope::default();
    let mut given = None;
    let mut key = reader.enter_object()?;
    while let Some(name) = key {
        match name {
            "inputs" if given.is_some() => return Err(reader.malformed("it has \"inputs\" twice").into()),
            "inputs" => given = Some(inputs(reader, schema, tail, false)?),
            other => match envelope.slot(other) {
                Some(slot) => *slot = Some(reader.postpone()?),
                None => reader.skip()?,
            },
        }
        key = reader.next_key()?;
    }
    reader.finish()?;
    if let Some(inputs) = given {
        return Ok(DecodedRequest::new(inputs, envelope.plan(schema.signature())?));
    }
    // A response has the same form, with outputs instead of inputs.
    let Some(mut outputs) = envelope.take_outputs() else {
        return Err(reader.malformed("the JSON has no \"inputs\"").into());
    };
    let inputs = inputs(&mut outputs, schema, tail, true)?;
    Ok(DecodedRequest::new(inputs, envelope.plan(schema.signature())?))
}

/// Reads the array of inputs. Inputs with binary data take it from the front of `tail`, in order.
pub(super) fn inputs(
    reader: &mut JsonReader<'_>,
    schema: &Schema,
    tail: &mut BinaryTail,
    is_reply: bool,
) -> Result<Inputs, DecodeError> {
    let signature = schema.signature();
    let mut tensors = schema.empty_slots();
    if reader.peek()? != Peek::Array {
        return Err(reader
            .malformed("\"inputs\" must be an array of objects with name, shape, datatype and data")
            .into());
    }
    let mut position = 0;
    let is_single = {
        let mut ahead = reader.clone();
        let mut count = usize::from(ahead.enter_array()?.is_some());
        while count == 1 {
            ahead.skip()?;
            if ahead.next_value()?.is_none() {
                break;
            }
            count += 1;
        }
        count == 1
    };
    // A single output in a response becomes the only input, whatever its name.
    let stand_in = schema.only_input().filter(|_| is_reply && is_single);
    let mut next = reader.enter_array()?;
    while next.is_some() {
        let entry = DeclaredInput::read(reader, schema, stand_in, is_reply, position)?;
        let Some(index) = entry.input else {
            entry.skip_binary(tail)?;
            position += 1;
            next = reader.next_value()?;
            continue;
        };
        let tensor = entry.tensor(schema.input_at(index), tail)?;
        if tensors[index].replace(tensor).is_some() {
            return Err(duplicate_input(signature, index, String::new()).into());
        }
        position += 1;
        next = reader.next_value()?;
    }
    if let BinaryTail::Bytes(rest) = tail
        && !rest.is_empty()
    {
        let problem = format!("{} bytes follow the binary data that the inputs declare", rest.len());
        return Err(reader.malformed(problem).into());
    }
    schema.complete(tensors, None)
}

/// One element of `inputs`.
struct DeclaredInput<'a, 's> {
    /// Its slot in the schema. `None` for an output in a response that is not an input of the
    /// model.
    input: Option<usize>,
    declared: DeclaredType,
    shape: Vec<usize>,
    data: DeclaredData<'a, 's>,
}

enum DeclaredData<'a, 's> {
    Read(Box<dyn ColumnBuilder + 's>),
    /// Data before the name or the datatype, or of another datatype than the model's.
    Later(JsonReader<'a>),
    Binary(usize),
}

/// A datatype in the protocol's spelling.
struct DeclaredType {
    known: Option<DataType>,
    text: String,
}

impl<'a, 's> DeclaredInput<'a, 's> {
    fn read(
        reader: &mut JsonReader<'a>,
        schema: &'s Schema,
        stand_in: Option<usize>,
        is_reply: bool,
        position: usize,
    ) -> Result<Self, DecodeError> {
        let signature = schema.signature();
        let (mut is_named, mut input, mut declared, mut shape, mut data, mut binary) =
            (false, None, None, None, None, None);
        if reader.peek()? != Peek::Object {
            return Err(reader.malformed(format!("inputs[{position}] is not an object")).into());
        }
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            match name {
                "name" if is_named => {
                    return Err(reader
                        .malformed(format!("inputs[{position}] has \"name\" twice"))
                        .into());
                }
                "name" => {
                    let name = text(reader, "the name of an input")?;
                    is_named = true;
                    // A response sets only the inputs that a request must set.
                    let slot = if is_reply {
                        schema.find_input(&name)
                    } else {
                        schema.find_slot(&name)
                    };
                    input = slot.or(stand_in);
                    if input.is_none() && !is_reply && !schema.ignores_unknown() {
                        return Err(unknown_input(signature, &name, String::new()).into());
                    }
                }
                "datatype" => declared = Some(DeclaredType::new(text(reader, "the datatype of an input")?)),
                "shape" => shape = Some(read_shape(reader)?),
                "data" if data.is_some() => {
                    return Err(reader
                        .malformed(format!("inputs[{position}] has \"data\" twice"))
                        .into());
                }
                "data" => {
                    // Some clients write null if they send binary data instead.
                    if reader.skip_null()? {
                        key = reader.next_key()?;
                        continue;
                    }
                    let spec = input.map(|index: usize| schema.input_at(index));
                    let declared = declared.as_ref().and_then(|declared: &DeclaredType| declared.known);
                    data = Some(match spec.filter(|spec| declared == Some(spec.data_type)) {
                        Some(spec) => DeclaredData::Read(read_data(reader, spec)?),
                        None => DeclaredData::Later(reader.postpone()?),
                    });
                }
                "parameters" => binary = parameters(reader)?.binary_data_size,
                _ => reader.skip()?,
            }
            key = reader.next_key()?;
        }
        let lacks = |what| -> DecodeError { reader.malformed(format!("inputs[{position}] has no {what}")).into() };
        let data = match (data, binary) {
            (Some(_), Some(_)) => {
                let problem = format!("inputs[{position}] has both \"data\" and \"binary_data_size\"");
                return Err(reader.malformed(problem).into());
            }
            (Some(data), None) => data,
            (None, Some(size)) => DeclaredData::Binary(size),
            (None, None) => return Err(lacks("\"data\"")),
        };
        Ok(Self {
            input: if is_named { input } else { return Err(lacks("\"name\"")) },
            declared: declared.ok_or_else(|| lacks("\"datatype\""))?,
            shape: shape.ok_or_else(|| lacks("\"shape\""))?,
            data,
        })
    }

    /// Skips the binary data of an output that is not an input of the model.
    fn skip_binary(self, tail: &mut BinaryTail) -> Result<(), DecodeError> {
        if let (DeclaredData::Binary(size), BinaryTail::Bytes(bytes)) = (self.data, tail) {
            if size > bytes.len() {
                let problem = format!("binary_data_size is {size}, but {} bytes are left", bytes.len());
                return Err(DecodeError::malformed("Open Inference Protocol", problem));
            }
            drop(bytes.split_to(size));
        }
        Ok(())
    }

    fn tensor(self, spec: &'s InputSpec, tail: &mut BinaryTail) -> Result<Tensor, DecodeError> {
        let given = format!("{}{}", self.declared.text, Shape(&self.shape));
        if self.declared.known != Some(spec.data_type) {
            return Err(mismatch(spec, given).into());
        }
        let shape = fit(spec, self.shape, ShapeForm::Declared).map_err(|_| mismatch(spec, given))?;
        match self.data {
            DeclaredData::Read(column) => column.finish_shaped(shape, ShapeForm::Declared),
            DeclaredData::Later(mut reader) => read_data(&mut reader, spec)?.finish_shaped(shape, ShapeForm::Declared),
            DeclaredData::Binary(size) => {
                let bytes = match tail {
                    BinaryTail::Bytes(bytes) if size <= bytes.len() => bytes.split_to(size),
                    BinaryTail::Bytes(bytes) => {
                        let problem = format!("binary_data_size is {size}, but {} bytes are left", bytes.len());
                        return Err(unusable(spec, problem));
                    }
                    BinaryTail::Needs(what) => return Err(unusable(spec, format!("binary_data_size needs {what}"))),
                };
                triton_binary::tensor(spec, shape, bytes)
            }
        }
    }
}

impl DeclaredType {
    fn new(name: String) -> Self {
        let known = DataType::ALL
            .into_iter()
            .find(|&data_type| datatype_name(data_type) == name);
        Self {
            known,
            text: known.map_or_else(|| excerpt(&name), |data_type| data_type.to_string()),
        }
    }
}

/// The Open Inference Protocol's name of an element type.
pub const fn datatype_name(data_type: DataType) -> &'static str {
    match data_type {
        DataType::F16 => "FP16",
        DataType::Bf16 => "BF16",
        DataType::F32 => "FP32",
        DataType::F64 => "FP64",
        DataType::I8 => "INT8",
        DataType::I16 => "INT16",
        DataType::I32 => "INT32",
        DataType::I64 => "INT64",
        DataType::U8 => "UINT8",
        DataType::U16 => "UINT16",
        DataType::U32 => "UINT32",
        DataType::U64 => "UINT64",
        DataType::Bool => "BOOL",
        DataType::String => "BYTES",
    }
}

#[cold]
pub(super) fn unusable(spec: &InputSpec, problem: String) -> DecodeError {
    InputError::Value {
        name: excerpt(&spec.name),
        at: String::new(),
        problem,
    }
    .into()
}

fn read_data<'s>(
    reader: &mut JsonReader<'_>,
    spec: &'s InputSpec,
) -> Result<Box<dyn ColumnBuilder + 's>, BoxedDecodeError> {
    let first = reader.peek()?;
    let mut data = column_builder(spec, reader.remaining());
    data.read(reader, first, 0)?;
    Ok(data)
}

fn read_shape(reader: &mut JsonReader<'_>) -> Result<Vec<usize>, BoxedDecodeError> {
    const WHAT: &str = "each dimension of a shape";
    if reader.peek()? != Peek::Array {
        return Err(reader.malformed("\"shape\" must be an array"));
    }
    let mut shape = Vec::new();
    let mut next = reader.enter_array()?;
    while let Some(peek) = next {
        if shape.len() == MAX_DEPTH {
            return Err(reader.malformed(too_deep()));
        }
        shape.push(size(reader, peek, WHAT)?);
        next = reader.next_value()?;
    }
    Ok(shape)
}

/// An output of the protocol. It is always a tensor; the plan has checked that.
pub(super) struct TensorOutput<'a> {
    pub name: &'a str,
    pub tensor: &'a Tensor,
}

/// The outputs as tensors. The error is the name of the first output that is not a tensor.
pub(super) fn tensors<'a>(outputs: &[NamedOutput<'a>]) -> Result<Vec<TensorOutput<'a>>, &'a str> {
    let tensor = |output: &NamedOutput<'a>| match output.value {
        Value::Tensor(tensor) => Ok(TensorOutput {
            name: output.name,
            tensor,
        }),
        Value::Sequence(_) | Value::Map { .. } => Err(output.name),
    };
    outputs.iter().map(tensor).collect()
}

/// Writes the response document. If `binary_size` returns a size for an output, its data is not in
/// the JSON.
pub(super) fn encode(
    id: Option<&str>,
    model: &str,
    outputs: &[TensorOutput<'_>],
    binary_size: impl Fn(usize) -> Option<usize>,
    data_bytes: usize,
) -> Result<Vec<u8>, EncodeError> {
    let fields = FIELDS_BYTES * (outputs.len() + 1) + model.len();
    let mut out = alloc::with_capacity(data_bytes.saturating_add(fields))?;
    out.extend_from_slice(b"{\"model_name\":");
    write_json_string(model, &mut out);
    // A model has one version: the content of its artifact.
    out.extend_from_slice(b",\"model_version\":\"1\"");
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        write_json_string(id, &mut out);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (i, TensorOutput { name, tensor }) in outputs.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_declaration(name, tensor, &mut out);
        match binary_size(i) {
            Some(size) => {
                out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
                out.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
                out.push(b'}');
            }
            None => {
                out.extend_from_slice(b",\"data\":");
                write_tensor(tensor, &[tensor.len()], 0..tensor.len(), &mut out);
            }
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// Writes the start of a tensor's object: everything but its data.
pub(super) fn write_declaration(name: &str, tensor: &Tensor, out: &mut Vec<u8>) {
    out.push(b'{');
    write_key("name", out);
    write_json_string(name, out);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(datatype_name(tensor.data_type()).as_bytes());
    out.extend_from_slice(b"\",\"shape\":");
    write_sizes(tensor.shape(), out);
}

fn write_sizes(sizes: &[usize], out: &mut Vec<u8>) {
    out.push(b'[');
    for (i, size) in sizes.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(itoa::Buffer::new().format(*size).as_bytes());
    }
    out.push(b']');
}

#[cfg(test)]
mod tests;
