//! Wire formats: (content type, bytes) to named tensors and back.
//!
//! A request is read in one pass straight into the tensors that the model's signature asks for; there is no tree of
//! values in between, because for a batch of numbers that tree costs more than everything else. What a reply has to look
//! like follows from the request ([`ReplyPlan`]) and from `Accept`, and is settled by [`negotiate`] before the model
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
mod inference_header;
mod json;
mod json_lines;
mod json_reader;
mod media_type;
mod npy;
mod numbers;
mod open_inference;
mod room;
mod rows;
mod sample;
#[cfg(test)]
mod testing;
mod triton_binary;
mod values;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::error::{DecodeError, EncodeError, InputError};
use self::error::{excerpt, gives};
pub use self::inference_header::{INFERENCE_HEADER_CONTENT_LENGTH, decode as decode_open_inference};
use self::media_type::{MediaType, Range, accept_ranges};
pub use self::open_inference::datatype_name;
pub use self::sample::{Sample, samples};
use self::values::Output;
use crate::tensor::{OutputSpec, Signature, Tensor, Value, ValueType};

/// A format that requests and replies can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// TF-Serving's row and column forms, a bare array, or the Open Inference Protocol: `codec/json.rs`.
    Json,
    /// The Open Inference Protocol with tensors behind the JSON: `codec/triton_binary.rs`.
    TritonBinary,
    /// One instance per line: `codec/json_lines.rs`.
    JsonLines,
    /// Rows without a header: `codec/csv.rs`.
    Csv,
    /// One array as NumPy saves it: `codec/npy.rs`.
    Npy,
}

impl Format {
    /// In the order in which a wildcard of `Accept` prefers them.
    pub const ALL: [Format; 5] = [Self::Json, Self::JsonLines, Self::Csv, Self::Npy, Self::TritonBinary];

    /// The type and subtype that the format goes by.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::TritonBinary => triton_binary::MEDIA_TYPE,
            Self::JsonLines => "application/jsonlines",
            Self::Csv => "text/csv",
            Self::Npy => "application/x-npy",
        }
    }

    /// The format of a media type as headers give it: in any case, with parameters, by any of its names.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        Self::from_essence(&MediaType::parse(media_type)?.essence)
    }

    /// The format that a type and subtype in lower case stand for.
    fn from_essence(essence: &str) -> Option<Self> {
        match essence {
            "application/x-ndjson" | "application/jsonl" => Some(Self::JsonLines),
            _ => Self::ALL.into_iter().find(|format| format.media_type() == essence),
        }
    }

    /// Whether a character set means anything for it.
    const fn is_text(self) -> bool {
        match self {
            Self::Json | Self::TritonBinary | Self::JsonLines | Self::Csv => true,
            Self::Npy => false,
        }
    }
}

/// As messages call it.
impl From<Format> for &'static str {
    fn from(format: Format) -> Self {
        format.media_type()
    }
}

/// A decoded request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// One per input of the signature, in its order.
    pub inputs: Vec<Tensor>,
    pub reply: ReplyPlan,
}

/// What the request says about its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyPlan {
    dialect: Dialect,
    /// Indices of outputs of the signature, each at most once.
    outputs: Option<Vec<usize>>,
}

/// The protocol that the reply belongs to, as far as the format leaves a choice.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Dialect {
    /// TF-Serving's `predictions`.
    Rows,
    /// TF-Serving's `outputs`.
    Columns,
    OpenInference {
        id: Option<String>,
        /// For each requested output, whether it is wanted as binary data.
        binary: Vec<bool>,
    },
}

impl ReplyPlan {
    const fn new(dialect: Dialect) -> Self {
        Self { dialect, outputs: None }
    }

    /// The outputs to run for, as indices into the signature's; `None` for all of them.
    pub fn outputs(&self) -> Option<&[usize]> {
        self.outputs.as_deref()
    }

    /// The outputs that the reply holds, in its order.
    fn selected<'s>(&self, signature: &'s Signature) -> Vec<&'s OutputSpec> {
        match &self.outputs {
            None => signature.outputs.iter().collect(),
            Some(indices) => indices
                .iter()
                .filter_map(|&index| signature.outputs.get(index))
                .collect(),
        }
    }

    /// The format of a reply to a client that leaves it to us. A client of the Open Inference Protocol expects its
    /// protocol, whatever the default for others is.
    fn implied_format(&self, default: Format) -> Format {
        match &self.dialect {
            Dialect::Rows | Dialect::Columns => default,
            Dialect::OpenInference { binary, .. } if binary.contains(&true) => Format::TritonBinary,
            Dialect::OpenInference { .. } => Format::Json,
        }
    }

    /// Whether outputs of these types can be given in a format; if not, why.
    fn fits(&self, format: Format, signature: &Signature) -> Result<(), EncodeError> {
        let selected = self.selected(signature);
        let not_a_tensor = || {
            selected
                .iter()
                .find(|output| !matches!(output.value_type, ValueType::Tensor { .. }))
        };
        let tensors_only = || match not_a_tensor() {
            None => Ok(()),
            Some(output) => Err(not_a_tensor_problem(&output.name)),
        };
        let problem = match (format, &self.dialect) {
            (Format::Json, Dialect::Rows | Dialect::Columns) | (Format::JsonLines, _) => Ok(()),
            (Format::Json, Dialect::OpenInference { .. }) | (Format::TritonBinary, _) => tensors_only(),
            (Format::Csv, _) => csv::can_carry(selected.iter().map(|output| &output.value_type)),
            (Format::Npy, _) if selected.len() != 1 => Err(format!(
                "an NPY file holds one array, the model gives {}; accept application/json",
                gives(signature)
            )),
            (Format::Npy, _) => tensors_only(),
        };
        problem.map_err(|problem| EncodeError::CannotCarry { format, problem })
    }
}

fn not_a_tensor_problem(name: &str) -> String {
    format!(
        "output {} is not a tensor; application/jsonlines, text/csv and the \"instances\" and \"inputs\" forms of \
         application/json carry it",
        excerpt(name)
    )
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

/// Chooses the format of the reply (CT-2): the most wanted type of `Accept` that exists and that can carry the outputs.
///
/// Without `Accept`, and for `*/*`, it is `default`, except that a request of the Open Inference Protocol is answered
/// in that protocol. `type/*` is the default too when that is of this type, else the first format that is. Where a
/// wildcard leaves the choice and the default cannot carry the outputs, JSON does. A type that exists but cannot carry
/// the outputs is only an error when nothing else in `Accept` does better; so is having nothing in common (406).
pub fn negotiate(
    accept: Option<&str>,
    default: Format,
    plan: &ReplyPlan,
    signature: &Signature,
) -> Result<Format, EncodeError> {
    let implied = plan.implied_format(default);
    let accept = match accept.map(str::trim) {
        None | Some("") => "*/*",
        Some(accept) => accept,
    };
    let ranges = accept_ranges(accept);
    let mut refusal = None;
    for range in ranges.iter().filter(|range| range.quality > 0) {
        for format in candidates(range, implied).filter(|format| !is_excluded(*format, &ranges)) {
            match plan.fits(format, signature) {
                Ok(()) => return Ok(format),
                Err(error) => {
                    refusal.get_or_insert(error);
                }
            }
        }
    }
    Err(refusal.unwrap_or_else(|| EncodeError::NotAcceptable {
        accept: excerpt(accept),
    }))
}

/// The formats that an element of `Accept` asks for, the best first.
fn candidates(range: &Range, implied: Format) -> impl Iterator<Item = Format> {
    let wildcard: &[Format] = match (range.main.as_str(), range.sub.as_str()) {
        ("*", _) => &[Format::Json],
        (_, "*") => &Format::ALL,
        _ => &[],
    };
    let named = Format::from_essence(&format!("{}/{}", range.main, range.sub));
    let chosen = (!wildcard.is_empty()).then_some(implied);
    let offered = chosen
        .into_iter()
        .chain(wildcard.iter().copied())
        .filter(|format| range.matches(format.media_type()));
    named.into_iter().chain(offered)
}

/// Whether `Accept` says "not this": the most specific element about the format has `q=0`.
fn is_excluded(format: Format, ranges: &[Range]) -> bool {
    let about = ranges.iter().filter(|range| range.matches(format.media_type()));
    about
        .max_by_key(|range| range.specificity())
        .is_some_and(|range| range.quality == 0)
}

/// Writes a reply in the format that [`negotiate`] chose. `outputs` are those of the plan, in its order.
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

#[cfg(test)]
mod tests;
