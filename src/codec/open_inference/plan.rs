//! The outputs that a document requests, and the parameters of the protocol.

use jiter::Peek;

use crate::codec::error::{BoxedDecodeError, DecodeError, describe_outputs, excerpt};
use crate::codec::json_reader::JsonReader;
use crate::codec::numbers::Numeric;
use crate::codec::{Dialect, ReplyPlan};
use crate::tensor::Signature;

/// The keys of the document that select the response. They may come before `inputs`, which shows
/// whether the document belongs to this protocol, so they are read at the end.
#[derive(Default)]
pub(in crate::codec) struct Envelope<'a> {
    id: Option<JsonReader<'a>>,
    outputs: Option<JsonReader<'a>>,
    parameters: Option<JsonReader<'a>>,
}

impl<'a> Envelope<'a> {
    /// The slot for the value of a key.
    pub fn slot(&mut self, key: &str) -> Option<&mut Option<JsonReader<'a>>> {
        match key {
            "id" => Some(&mut self.id),
            "outputs" => Some(&mut self.outputs),
            "parameters" => Some(&mut self.parameters),
            _ => None,
        }
    }

    /// Takes the value of `outputs`, for a document that is a response.
    pub fn take_outputs(&mut self) -> Option<JsonReader<'a>> {
        self.outputs.take()
    }

    /// Reads the plan of the response.
    pub fn plan(self, signature: &Signature) -> Result<ReplyPlan, DecodeError> {
        let id = match set(self.id)? {
            Some(mut reader) => Some(text(&mut reader, "\"id\"")?),
            None => None,
        };
        let all_binary = match set(self.parameters)? {
            Some(mut reader) => parameters(&mut reader)?.binary_data_output,
            None => None,
        };
        let requested = match set(self.outputs)? {
            Some(mut reader) => requested_outputs(&mut reader, signature)?,
            None => Vec::new(),
        };
        // As in Triton, an empty list requests all outputs.
        let flags = match requested.as_slice() {
            [] => vec![None; signature.outputs.len()],
            requested => requested.iter().map(|(_, binary)| *binary).collect(),
        };
        let binary = flags
            .into_iter()
            .map(|flag| flag.or(all_binary).unwrap_or(false))
            .collect();
        Ok(ReplyPlan {
            outputs: (!requested.is_empty()).then(|| requested.into_iter().map(|(index, _)| index).collect()),
            ..ReplyPlan::new(Dialect::OpenInference { id, binary })
        })
    }
}

/// The value of a member. Null counts as absent: clients write it for members that they do not set.
fn set(member: Option<JsonReader<'_>>) -> Result<Option<JsonReader<'_>>, BoxedDecodeError> {
    let Some(mut reader) = member else { return Ok(None) };
    Ok((reader.peek()? != Peek::Null).then_some(reader))
}

/// The supported parameters. The decoder ignores unknown ones, except those that redirect or
/// transform an output: a client that sends them would misread the response, so they are refused.
#[derive(Default)]
pub(super) struct TensorParameters {
    pub binary_data_size: Option<usize>,
    pub binary_data: Option<bool>,
    pub binary_data_output: Option<bool>,
}

pub(super) fn parameters(reader: &mut JsonReader<'_>) -> Result<TensorParameters, BoxedDecodeError> {
    let mut parameters = TensorParameters::default();
    if reader.skip_null()? {
        return Ok(parameters);
    }
    if reader.peek()? != Peek::Object {
        return Err(reader.malformed("\"parameters\" must be an object"));
    }
    let mut key = reader.enter_object()?;
    while let Some(name) = key {
        match name {
            "binary_data_size" => {
                let peek = reader.peek()?;
                if !reader.skip_null()? {
                    parameters.binary_data_size = Some(size(reader, peek, "binary_data_size")?);
                }
            }
            "binary_data" => parameters.binary_data = flag(reader, "binary_data")?,
            "binary_data_output" => parameters.binary_data_output = flag(reader, "binary_data_output")?,
            "shared_memory_region" => refuse_extension(reader, "shared_memory_region")?,
            "classification" => refuse_extension(reader, "classification")?,
            _ => reader.skip()?,
        }
        key = reader.next_key()?;
    }
    Ok(parameters)
}

/// Reads a boolean. `None` for null.
fn flag(reader: &mut JsonReader<'_>, what: &str) -> Result<Option<bool>, BoxedDecodeError> {
    match reader.peek()? {
        peek @ (Peek::True | Peek::False) => reader.boolean(peek).map(Some),
        Peek::Null => reader.null().map(|()| None),
        _ => Err(reader.malformed(format!("{what} must be true or false"))),
    }
}

fn refuse_extension(reader: &mut JsonReader<'_>, name: &str) -> Result<(), BoxedDecodeError> {
    if reader.skip_null()? {
        return Ok(());
    }
    Err(reader.malformed(format!(
        "the parameter {name} belongs to an extension that is not supported"
    )))
}

/// Reads the requested outputs, each with its flag for binary data if the request sets one.
fn requested_outputs(
    reader: &mut JsonReader<'_>,
    signature: &Signature,
) -> Result<Vec<(usize, Option<bool>)>, DecodeError> {
    if reader.peek()? != Peek::Array {
        return Err(reader
            .malformed("\"outputs\" must be an array of objects with a name")
            .into());
    }
    let mut requested: Vec<(usize, Option<bool>)> = Vec::new();
    let mut next = reader.enter_array()?;
    while let Some(first) = next {
        if first != Peek::Object {
            return Err(reader
                .malformed("\"outputs\" must be an array of objects with a name")
                .into());
        }
        let (mut output, mut binary) = (None, None);
        let mut key = reader.enter_object()?;
        while let Some(name) = key {
            match name {
                "name" => {
                    let name = text(reader, "the name of an output")?;
                    let found = signature.outputs.iter().position(|output| output.name == name);
                    let refuse = |problem| DecodeError::RequestedOutput {
                        name: excerpt(&name),
                        problem,
                        gives: describe_outputs(signature),
                    };
                    let index = found.ok_or_else(|| refuse("there is no such output"))?;
                    if requested.iter().any(|(other, _)| *other == index) {
                        return Err(refuse("it is requested twice"));
                    }
                    output = Some(index);
                }
                "parameters" => binary = parameters(reader)?.binary_data,
                _ => reader.skip()?,
            }
            key = reader.next_key()?;
        }
        let Some(index) = output else {
            return Err(reader.malformed("an element of \"outputs\" has no \"name\"").into());
        };
        requested.push((index, binary));
        next = reader.next_value()?;
    }
    Ok(requested)
}

pub(super) fn text(reader: &mut JsonReader<'_>, what: &str) -> Result<String, BoxedDecodeError> {
    if reader.peek()? != Peek::String {
        return Err(reader.malformed(format!("{what} must be a string")));
    }
    Ok(reader.string()?.as_str().to_owned())
}

pub(super) fn size(reader: &mut JsonReader<'_>, peek: Peek, what: &str) -> Result<usize, BoxedDecodeError> {
    let number = if peek.is_num() { reader.number(peek)? } else { "" };
    let size = u64::parse(number).ok().and_then(|size| usize::try_from(size).ok());
    size.ok_or_else(|| reader.malformed(format!("{what} must be a whole number, not negative")))
}
