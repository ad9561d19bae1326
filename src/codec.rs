//! Wire formats: (content type, bytes) to named tensors and back.
//!
//! A request is read in one pass straight into the tensors that the model's signature asks for; there is no tree of
//! values in between, because for a batch of numbers that tree costs more than everything else. What a reply has to look
//! like follows from the request ([`ReplyPlan`]) and from `Accept`, and is settled by [`negotiate()`] before the model
//! runs: a caller who cannot be answered should not cost a run.
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
//! - The inputs that [`decode`] returns are one per input of the signature, in its order, each of that input's element
//!   type and of a shape that it accepts.
//! - No body panics, recurses deeper than a constant, or makes more memory than a small multiple of its own size (for
//!   strings: of a fixed number of them); memory that is not there is an error (`room.rs`).
//! - A content type names the format that is really sent (CT-2), and an error says what the caller can change.

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
mod media_type;
mod negotiate;
mod npy;
mod numbers;
mod open_inference;
mod reply_plan;
mod room;
mod rows;
mod sample;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod triton_binary;
mod values;

use std::borrow::Cow;

use bytes::Bytes;

use self::error::excerpt;
pub use self::error::{DecodeError, EncodeError, InputError};
pub use self::format::Format;
pub use self::inference_header::{INFERENCE_HEADER_CONTENT_LENGTH, decode as decode_open_inference};
use self::media_type::MediaType;
pub use self::negotiate::negotiate;
pub use self::open_inference::datatype_name;
pub use self::reply_plan::ReplyPlan;
use self::reply_plan::{Dialect, not_a_tensor_problem};
pub use self::sample::{Sample, samples};
use self::values::Output;
use crate::tensor::{Signature, Tensor, Value};

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// One per input of the signature, in its order.
    pub inputs: Vec<Tensor>,
    pub reply: ReplyPlan,
}

/// A reply, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub content_type: Cow<'static, str>,
    /// Bytes of the JSON that the body begins with, where tensors follow it.
    pub json_bytes: Option<usize>,
    pub body: Bytes,
}

/// Reads a request body. `content_type` is the header's value, or the caller's default when there is none (CT-1).
pub fn decode(content_type: &str, body: Bytes, signature: &Signature) -> Result<Request, DecodeError> {
    let unsupported = || DecodeError::UnsupportedMediaType {
        given: excerpt(content_type),
    };
    let media_type = MediaType::parse(content_type).ok_or_else(unsupported)?;
    let format = Format::from_essence(&media_type.essence).ok_or_else(unsupported)?;
    if format.is_text()
        && let Some(charset) = media_type.parameter("charset")
        && !["utf-8", "utf8", "us-ascii", "ascii"]
            .iter()
            .any(|known| charset.eq_ignore_ascii_case(known))
    {
        return Err(DecodeError::UnsupportedCharset {
            given: excerpt(charset),
        });
    }
    if body.is_empty() {
        return Err(DecodeError::malformed(format, "the body is empty"));
    }
    if format == Format::Csv && media_type.parameter("header").is_some_and(|header| header != "absent") {
        return Err(DecodeError::malformed(
            format,
            "header rows are not read; send the rows alone",
        ));
    }
    match format {
        Format::Json => json::decode(&body, signature),
        Format::TritonBinary => triton_binary::decode(&media_type, &body, signature),
        Format::JsonLines => json_lines::decode(&body, signature),
        Format::Csv => csv::decode(&body, signature),
        Format::Npy => npy::decode(&body, signature),
    }
}

/// Writes a reply in the format that [`negotiate()`] chose. `outputs` are those of the plan, in its order.
pub fn encode(
    format: Format,
    plan: &ReplyPlan,
    model: &str,
    signature: &Signature,
    outputs: &[Value],
) -> Result<Encoded, EncodeError> {
    let selected = plan.selected(signature);
    if selected.len() != outputs.len() {
        return Err(EncodeError::OutputCount {
            expected: selected.len(),
            given: outputs.len(),
        });
    }
    let outputs: Vec<Output<'_>> = selected
        .iter()
        .zip(outputs)
        .map(|(spec, value)| Output {
            name: &spec.name,
            value,
        })
        .collect();
    if format.is_text()
        && let Some(output) = outputs.iter().find(|output| values::is_disproportionate(output.value))
    {
        return Err(EncodeError::CannotCarry {
            format,
            problem: format!("output {} is empty but claims a very large shape", excerpt(output.name)),
        });
    }
    let tensors = || {
        open_inference::tensors(&outputs).map_err(|name| EncodeError::CannotCarry {
            format,
            problem: not_a_tensor_problem(name),
        })
    };
    let body = match (format, &plan.dialect) {
        (Format::Json, Dialect::OpenInference { id, .. }) => {
            let room = values::json_bytes(&outputs);
            open_inference::encode(id.as_deref(), model, &tensors()?, |_| None, room)?
        }
        (Format::Json, dialect) => json::encode(dialect, &outputs)?,
        (Format::TritonBinary, dialect) => {
            let (id, binary) = match dialect {
                // Asked for by the request: as it says for each output.
                Dialect::OpenInference { id, binary } if binary.contains(&true) => (id.as_deref(), binary.as_slice()),
                // Asked for by `Accept` alone: all of them.
                Dialect::OpenInference { id, .. } => (id.as_deref(), &[][..]),
                Dialect::Rows | Dialect::Columns => (None, &[][..]),
            };
            return triton_binary::encode(id, model, &tensors()?, binary);
        }
        (Format::JsonLines, _) => json_lines::encode(&outputs)?,
        (Format::Csv, _) => csv::encode(&outputs)?,
        (Format::Npy, _) => match tensors()?.as_slice() {
            [only] => npy::encode(only.name, only.tensor)?,
            _ => {
                return Err(EncodeError::CannotCarry {
                    format,
                    problem: "an NPY file holds one array; accept application/json".to_owned(),
                });
            }
        },
    };
    Ok(Encoded {
        content_type: format.media_type().into(),
        json_bytes: None,
        body: body.into(),
    })
}
