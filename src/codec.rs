//! Wire formats: (content type, bytes) to named tensors and back.
//!
//! The codec reads a request in one pass, straight into the tensors of the model's signature. It
//! builds no tree of values in between: for a batch of numbers, that tree would cost more than
//! everything else. The request ([`ReplyPlan`]) and `Accept` decide the form of the response.
//! [`negotiate()`] settles it before the model runs, so that a request without a possible response
//! costs no run.
//!
//! ```text
//! decode(content type, body, signature)  ->  inputs, plan
//! negotiate(accept, default, plan, signature)  ->  format
//!     .. the model runs ..
//! encode(format, plan, model, signature, outputs)  ->  content type, body
//! ```
//!
//! Invariants:
//! - Everything here is a pure function of its arguments: no I/O, no state, no ONNX Runtime.
//! - [`decode`] returns one tensor per input of the signature, in its order. Each has the element
//!   type of its input and a shape that the input accepts.
//! - Whatever the body, decoding does not panic, and recurses no deeper than a constant. It
//!   allocates at most a small multiple of the body's size; the number of strings is bounded too. A
//!   failed allocation is an error (`alloc.rs`).
//! - The content type of a response names the format that is really sent (CT-2). An error says what
//!   the caller can change.

mod alloc;
mod bind;
mod by_record;
mod column;
mod csv;
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
pub use self::schema::{CsvRules, InputDefault, InputRule, Schema, SchemaAdditions, TableColumn};
pub use self::table::assign_columns;
use self::values::NamedOutput;
use crate::tensor::{Inputs, OutputRows, OutputSpec, Records, Signature, Tensor, Value};

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedRequest {
    /// One per input of the signature, in its order.
    pub inputs: Vec<Tensor>,
    /// The optional inputs that the request sets, each with its position in the signature.
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
    /// Builds a request of `records` records from tensors by input name. Defaults fill the other
    /// inputs.
    pub fn from_records(given: Vec<(&str, Tensor)>, records: usize, schema: &Schema) -> Result<Self, DecodeError> {
        let mut slots = schema.empty_slots();
        for (name, tensor) in given {
            if let Some(slot) = schema.find_slot(name).and_then(|index| slots.get_mut(index)) {
                *slot = Some(tensor);
            }
        }
        let request = Self::new(schema.complete(slots, Some(records))?, ReplyPlan::counted(records));
        Ok(Self {
            reply: request.reply.for_inputs(schema.signature(), &request.inputs),
            ..request
        })
    }

    /// Builds a request of `records` records from all inputs of a model.
    pub fn from_inputs(inputs: Inputs, records: usize, schema: &Schema) -> Self {
        let reply = ReplyPlan::counted(records).for_inputs(schema.signature(), &inputs.tensors);
        Self::new(inputs, reply)
    }
}

/// A response, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedResponse {
    pub content_type: Cow<'static, str>,
    /// Length of the JSON at the start of the body, if binary tensors follow it.
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
            let parameters =
                csv::CsvParameters::parse(media_type.parameter("header"), media_type.parameter("delimiter"));
            let parameters = parameters.map_err(|problem| DecodeError::malformed(format, problem))?;
            csv::decode(&body, schema, parameters)
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

const LIBSVM_REQUESTS_ONLY: &str = "LIBSVM is for requests only; accept text/csv or application/json";

/// The number of JSON documents that a body may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Documents {
    One,
    /// Any number: the strategy `MultiRecord` of a batch transform joins documents.
    Several,
}

/// Converts a body in `charset` to UTF-8.
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
    // A byte of Latin-1 is the code point of its character, which takes at most two bytes in UTF-8.
    let mut text: Vec<u8> = alloc::with_capacity(body.len().saturating_mul(2))?;
    for &byte in &body {
        text.extend_from_slice(char::from(byte).encode_utf8(&mut [0; 2]).as_bytes());
    }
    Ok(text.into())
}

/// Estimates the bytes that a body takes once decoded, for formats that expand: compressed arrays
/// and sparse rows. For others it is the size of the body. A body that claims more than the decoder
/// ever allocates also counts with its own size, because [`decode`] refuses it.
pub fn decoded_bytes(content_type: &str, body: &Bytes, schema: &Schema) -> usize {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is = |format: Format| essence.eq_ignore_ascii_case(format.media_type());
    let estimate = if is(Format::Npz) {
        npz::decoded_bytes(body, schema)
    } else if is(Format::RecordIo) {
        recordio::decoded_bytes(body, schema)
    } else if is(Format::LibSvm) || essence.eq_ignore_ascii_case("text/x-libsvm") {
        libsvm::decoded_bytes(body, schema)
    } else {
        None
    };
    estimate
        .filter(|&bytes| bytes <= 2 * sparse::MAX_DENSE_BYTES)
        .map_or(body.len(), |bytes| bytes.max(body.len()))
}

/// Returns the number of records if each needs a run of its own, because the response has a part
/// for each record but the model's outputs do not. `None` means that one run serves all records.
/// `outputs` are those of a run for all records, after it was made.
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
    let is_separate = match outputs {
        None => plan.specs(signature).any(|output| output.rows == OutputRows::Whole),
        Some(outputs) => !by_record::has_entries(outputs.iter(), count),
    };
    is_separate.then_some(count)
}

/// Writes a response in the format that [`negotiate()`] chose. `runs` holds the outputs of the plan
/// in its order, from one run for all records, or from one run per record if [`separate_runs`]
/// required it.
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

/// Writes the outputs in a format that holds only tensors.
fn encode_tensors(
    format: Format,
    dialect: &Dialect,
    model: &str,
    outputs: &[NamedOutput<'_>],
) -> Result<EncodedResponse, EncodeError> {
    // These formats have no maps, so a list of maps becomes an array.
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
            // Binary are the outputs that the request flags. If only `Accept` asks for this format,
            // all outputs are.
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
            problem: "an octet stream holds one array; accept application/x-npz or application/json".to_owned(),
        }),
        (Format::Npy, _) => Err(EncodeError::CannotCarry {
            format,
            problem: "an NPY file holds one array; accept application/json".to_owned(),
        }),
        (Format::Json | Format::JsonLines | Format::Csv | Format::RecordIo | Format::LibSvm, _) => {
            let data_bytes = values::json_bytes(outputs);
            let body = open_inference::encode(id, model, &tensors, |_| None, data_bytes)?;
            Ok(EncodedResponse::new(Format::Json, body))
        }
    }
}

/// The named outputs of the only run.
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
