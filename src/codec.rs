//! Wire formats: (content type, bytes) to named tensors and back.
//!
//! A request is read in one pass straight into the tensors that the model's signature asks for;
//! there is no tree of values in between, because for a batch of numbers that tree costs more than
//! everything else. What a reply has to look like follows from the request ([`ReplyPlan`]) and from
//! `Accept`, and is settled by [`negotiate()`] before the model runs: a caller who cannot be
//! answered should not cost a run.
//!
//! ```text
//! decode(content type, body, signature)  ->  inputs, plan
//! negotiate(accept, default, plan, signature)  ->  format
//!     .. the model runs ..
//! encode(format, plan, model, signature, outputs)  ->  content type, body
//! ```
//!
//! What always holds:
//! - Everything here is a pure function of its arguments: no I/O, no state, no ONNX Runtime.
//! - The inputs that [`decode`] returns are one per input of the signature, in its order, each of
//!   that input's element type and of a shape that it accepts.
//! - No body panics, recurses deeper than a constant, or makes more memory than a small multiple of
//!   its own size (for strings: of a fixed number of them); memory that is not there is an error
//!   (`room.rs`).
//! - A content type names the format that is really sent (CT-2), and an error says what the caller
//!   can change.

mod alloc;
mod bind;
mod by_record;
mod column;
mod csv;
mod decimal;
mod element;
mod error;
mod fit;
mod format;
mod inference_header;
mod json;
mod json_lines;
mod json_reader;
mod libsvm;
mod media_type;
mod negotiate;
mod npy;
mod npz;
mod numbers;
mod octets;
mod open_inference;
mod recordio;
mod reply_plan;
mod rows;
mod sample;
mod schema;
mod score;
mod sparse;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod triton_binary;
mod values;

use std::borrow::Cow;

use bytes::Bytes;

use self::by_record::{RecordDivision, divide};
use self::error::excerpt;
pub use self::error::{DecodeError, EncodeError, InputError, describe_inputs, describe_outputs};
pub use self::format::Format;
pub use self::inference_header::{INFERENCE_HEADER_CONTENT_LENGTH, decode as decode_open_inference};
use self::media_type::MediaType;
pub use self::negotiate::negotiate;
pub use self::open_inference::datatype_name;
pub use self::reply_plan::ReplyPlan;
use self::reply_plan::{Dialect, not_a_tensor_problem};
pub use self::sample::{Sample, samples};
pub use self::schema::{Column, CsvRules, InputDefault, InputRule, Schema, SchemaAdditions};
pub use self::table::assign_columns;
use self::values::NamedOutput;
use crate::tensor::{Inputs, OutputRows, OutputSpec, Records, Signature, Tensor, Value};

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedRequest {
    /// One per input of the signature, in its order.
    pub inputs: Vec<Tensor>,
    /// The optional inputs of the signature that are given, by their positions.
    pub optional: Vec<(usize, Tensor)>,
    pub reply: ReplyPlan,
}

impl DecodedRequest {
    fn new(inputs: impl Into<Inputs>, reply: ReplyPlan) -> Self {
        let Inputs { tensors, optional } = inputs.into();
        Self {
            inputs: tensors,
            optional,
            reply,
        }
    }
}

impl DecodedRequest {
    /// The request that prepared tensors make: each of them by the name of its input, for so many
    /// records. Defaults fill what is left.
    pub fn from_records(given: Vec<(&str, Tensor)>, records: usize, schema: &Schema) -> Result<Self, DecodeError> {
        let mut places = schema.empty_slots();
        for (name, tensor) in given {
            if let Some(place) = schema.find_slot(name).and_then(|index| places.get_mut(index)) {
                *place = Some(tensor);
            }
        }
        let request = Self::new(schema.complete(places, Some(records))?, ReplyPlan::counted(records));
        Ok(Self {
            reply: request.reply.for_inputs(schema.signature(), &request.inputs),
            ..request
        })
    }

    /// The request that the inputs of a model make, one for each, for so many records.
    pub fn from_inputs(inputs: Inputs, records: usize, schema: &Schema) -> Self {
        let reply = ReplyPlan::counted(records).for_inputs(schema.signature(), &inputs.tensors);
        Self::new(inputs, reply)
    }
}

/// A reply, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedResponse {
    pub content_type: Cow<'static, str>,
    /// Bytes of the JSON that the body begins with, where tensors follow it.
    pub json_bytes: Option<usize>,
    pub body: Bytes,
}

/// Reads a request body. `content_type` is the header's value, or the caller's default when there
/// is none (CT-1).
pub fn decode(
    content_type: &str,
    body: Bytes,
    schema: &Schema,
    documents: Documents,
) -> Result<DecodedRequest, DecodeError> {
    let signature = schema.signature();
    let unsupported = || DecodeError::UnsupportedMediaType {
        given: excerpt(content_type),
    };
    let media_type = MediaType::parse(content_type).ok_or_else(unsupported)?;
    let format = Format::from_essence(&media_type.essence).ok_or_else(unsupported)?;
    let body = match media_type.parameter("charset") {
        Some(charset) if format.is_text() => utf8_from(charset, body)?,
        Some(_) | None => body,
    };
    if body.is_empty() {
        return Err(DecodeError::malformed(format, "the body is empty"));
    }
    let DecodedRequest {
        inputs,
        optional,
        reply,
    } = match format {
        Format::Json => json::decode(&body, schema, documents),
        Format::TritonBinary => triton_binary::decode(&media_type, &body, schema),
        Format::JsonLines => json_lines::decode(&body, schema),
        Format::Csv => {
            let told = csv::CsvParameters::parse(media_type.parameter("header"), media_type.parameter("delimiter"));
            let told = told.map_err(|problem| DecodeError::malformed(format, problem))?;
            csv::decode(&body, schema, told)
        }
        Format::Npy => npy::decode(&body, schema),
        Format::Npz => npz::decode(&body, schema),
        Format::RecordIo => recordio::decode(&body, schema),
        Format::LibSvm => libsvm::decode(&media_type, &body, schema),
        Format::Octets => octets::decode(&media_type, &body, schema),
    }?;
    Ok(DecodedRequest {
        reply: reply.for_inputs(signature, &inputs),
        inputs,
        optional,
    })
}

const LIBSVM_REQUESTS_ONLY: &str = "LIBSVM is read, not written; accept text/csv or application/json";

/// How many JSON documents a body may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    One,
    /// Any number, as the strategy `MultiRecord` of a batch transform joins them.
    Several,
}

/// A body in `charset` as UTF-8.
fn utf8_from(charset: &str, body: Bytes) -> Result<Bytes, DecodeError> {
    let is_one_of = |names: &[&str]| names.iter().any(|name| charset.eq_ignore_ascii_case(name));
    if is_one_of(&["utf-8", "utf8", "us-ascii", "ascii"]) {
        return Ok(body);
    }
    if !is_one_of(&["iso-8859-1", "latin-1", "latin1"]) {
        return Err(DecodeError::UnsupportedCharset {
            given: excerpt(charset),
        });
    }
    if body.is_ascii() {
        return Ok(body);
    }
    // A byte of Latin-1 is the character of that number, and takes two bytes at the most.
    let mut text: Vec<u8> = alloc::with_capacity(body.len().saturating_mul(2))?;
    for &byte in &body {
        text.extend_from_slice(char::from(byte).encode_utf8(&mut [0; 2]).as_bytes());
    }
    Ok(text.into())
}

/// Bytes that reading a body takes, as far as that is more than its own and it says so itself:
/// compressed arrays, sparse rows. What a body claims beyond what is ever made of one is for
/// [`decode`] to refuse.
pub fn decoded_bytes(content_type: &str, body: &Bytes, schema: &Schema) -> usize {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is = |format: Format| essence.eq_ignore_ascii_case(format.media_type());
    let weight = if is(Format::Npz) {
        npz::decoded_bytes(body, schema)
    } else if is(Format::RecordIo) {
        recordio::decoded_bytes(body, schema)
    } else if is(Format::LibSvm) || essence.eq_ignore_ascii_case("text/x-libsvm") {
        libsvm::decoded_bytes(body, schema)
    } else {
        None
    };
    weight
        .filter(|&weight| weight <= 2 * sparse::MAX_DENSE_BYTES)
        .map_or(body.len(), |weight| weight.max(body.len()))
}

/// How many records have to run one by one, because the reply answers record by record and the
/// model's outputs do not; `None` where one run for all of them does. `outputs` are those of such a
/// run, once there was one.
pub fn separate_runs(
    format: Format,
    plan: &ReplyPlan,
    signature: &Signature,
    outputs: Option<&[Value]>,
) -> Option<usize> {
    let Records::Separable(count) = plan.records else {
        return None;
    };
    if count == 1 || !plan.is_by_record(format) {
        return None;
    }
    let is_apart = match outputs {
        None => plan.specs(signature).any(|output| output.rows == OutputRows::Whole),
        Some(outputs) => !by_record::has_entries(outputs.iter(), count),
    };
    is_apart.then_some(count)
}

/// Writes a reply in the format that [`negotiate()`] chose. `runs` holds the outputs of the plan,
/// in its order: of one run for all records, or of one for each where [`apart`] wanted that.
pub fn encode(
    format: Format,
    plan: &ReplyPlan,
    model: &str,
    signature: &Signature,
    runs: &[Vec<Value>],
) -> Result<EncodedResponse, EncodeError> {
    let selected = plan.selected(signature);
    if let Some(run) = runs.iter().find(|run| run.len() != selected.len()) {
        return Err(EncodeError::OutputCount {
            expected: selected.len(),
            given: run.len(),
        });
    }
    let mut named = runs.iter().flat_map(|run| selected.iter().zip(run));
    if format.is_text()
        && let Some((output, _)) = named.find(|(_, value)| values::is_disproportionate(value))
    {
        return Err(EncodeError::CannotCarry {
            format,
            problem: format!(
                "output {} is empty but claims a very large shape",
                excerpt(&output.name)
            ),
        });
    }
    let body = match (format, &plan.dialect) {
        (Format::Json | Format::JsonLines, _) if plan.has_scores => {
            score::encode(format, &plan.lines(format, &selected, runs)?)?
        }
        (Format::RecordIo, _) => recordio::encode(&plan.lines(format, &selected, runs)?)?,
        (Format::LibSvm, _) => {
            return Err(EncodeError::CannotCarry {
                format,
                problem: LIBSVM_REQUESTS_ONLY.to_owned(),
            });
        }
        (Format::JsonLines, _) => json_lines::encode(&plan.lines(format, &selected, runs)?)?,
        (Format::Csv, _) => csv::encode(&plan.lines(format, &selected, runs)?)?,
        (Format::Json, Dialect::Documents(counts)) => {
            json::encode_documents(&plan.lines(format, &selected, runs)?, counts)?
        }
        (Format::Json, Dialect::Rows) => match divide(&selected, plan.records, runs) {
            RecordDivision::ByRecord(by_record) => json::encode_records(&by_record)?,
            RecordDivision::Whole { .. } => json::encode_whole("predictions", &whole(&selected, runs)?)?,
        },
        (Format::Json, Dialect::Columns) => json::encode_whole("outputs", &whole(&selected, runs)?)?,
        (Format::Json | Format::TritonBinary | Format::Npy | Format::Npz | Format::Octets, dialect) => {
            return encode_tensors(format, dialect, model, &whole(&selected, runs)?);
        }
    };
    Ok(EncodedResponse::new(format, body))
}

/// Writes the outputs in a format that knows tensors only.
fn encode_tensors(
    format: Format,
    dialect: &Dialect,
    model: &str,
    outputs: &[NamedOutput<'_>],
) -> Result<EncodedResponse, EncodeError> {
    // A list of maps is an array where the format has no better word for it.
    let mut arrays = Vec::new();
    if matches!(format, Format::Npy | Format::Npz | Format::Octets) {
        for output in outputs {
            arrays.push(Value::Tensor(values::as_array(output.value).map_err(|problem| {
                EncodeError::CannotCarry {
                    format,
                    problem: format!("output {} {problem}; accept application/json", excerpt(output.name)),
                }
            })?));
        }
    }
    let as_arrays: Vec<NamedOutput<'_>> = outputs
        .iter()
        .zip(&arrays)
        .map(|(output, value)| NamedOutput {
            name: output.name,
            value,
        })
        .collect();
    let chosen = if as_arrays.is_empty() {
        outputs
    } else {
        as_arrays.as_slice()
    };
    let tensors = open_inference::tensors(chosen).map_err(|name| EncodeError::CannotCarry {
        format,
        problem: not_a_tensor_problem(name),
    })?;
    let (id, binary) = match dialect {
        Dialect::OpenInference { id, binary } => (id.as_deref(), binary.as_slice()),
        Dialect::Rows | Dialect::Documents(_) | Dialect::Columns => (None, &[][..]),
    };
    match (format, tensors.as_slice()) {
        (Format::TritonBinary, _) => {
            // Those that the request wants so; where only `Accept` asks for this format, all of
            // them.
            let binary = if binary.contains(&true) { binary } else { &[] };
            triton_binary::encode(id, model, &tensors, binary)
        }
        (Format::Npy, [only]) => Ok(EncodedResponse::new(format, npy::encode(only.name, only.tensor)?)),
        (Format::Npz, _) => Ok(EncodedResponse::new(format, npz::encode(&tensors)?)),
        (Format::Octets, [only]) => Ok(EncodedResponse {
            content_type: format.media_type().into(),
            json_bytes: None,
            body: octets::encode(only.name, only.tensor)?,
        }),
        (Format::Octets, _) => Err(EncodeError::CannotCarry {
            format,
            problem: "a run of bytes holds one array; accept application/x-npz or application/json".to_owned(),
        }),
        (Format::Npy, _) => Err(EncodeError::CannotCarry {
            format,
            problem: "an NPY file holds one array; accept application/json".to_owned(),
        }),
        (Format::Json | Format::JsonLines | Format::Csv | Format::RecordIo | Format::LibSvm, _) => {
            let room = values::json_bytes(outputs);
            let body = open_inference::encode(id, model, &tensors, |_| None, room)?;
            Ok(EncodedResponse::new(Format::Json, body))
        }
    }
}

/// The outputs of the run that answers all records, by name.
fn whole<'a>(selected: &[&'a OutputSpec], runs: &'a [Vec<Value>]) -> Result<Vec<NamedOutput<'a>>, EncodeError> {
    let [run] = runs else {
        return Err(EncodeError::OutputCount {
            expected: selected.len(),
            given: runs.iter().map(Vec::len).sum(),
        });
    };
    let output = |(spec, value): (&&'a OutputSpec, &'a Value)| NamedOutput {
        name: &spec.name,
        value,
    };
    Ok(selected.iter().zip(run).map(output).collect())
}

impl EncodedResponse {
    fn new(format: Format, body: Vec<u8>) -> Self {
        Self {
            content_type: format.media_type().into(),
            json_bytes: None,
            body: body.into(),
        }
    }
}
