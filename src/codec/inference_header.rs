//! The Open Inference Protocol on routes of its own, where nothing else can be meant.
//!
//! The body is an [`open_inference`] document whatever its Content-Type says: clients of the
//! protocol send `application/octet-stream`, or `curl`'s default. The header
//! `Inference-Header-Content-Length`, where there is one, says how much of the body is JSON; the
//! rest is binary data, as in [`triton_binary`].

use bytes::Bytes;

use crate::codec::error::DecodeError;
use crate::codec::json_reader::JsonReader;
use crate::codec::open_inference::{self, BinaryTail};
use crate::codec::triton_binary;
use crate::codec::{DecodedRequest, Schema};

/// Of requests and replies: the bytes of the JSON, where binary data follows it.
pub const INFERENCE_HEADER_CONTENT_LENGTH: &str = "inference-header-content-length";

/// The header as people write it.
const HEADER_NAME: &str = "Inference-Header-Content-Length";

/// What a body is taken for, in messages.
const PROTOCOL: &str = "Open Inference Protocol";

/// Reads a request body. `json_bytes` is the header's value.
pub fn decode(json_bytes: Option<&str>, body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::malformed(PROTOCOL, "the body is empty"));
    }
    let (json, mut tail) = match json_bytes {
        None => (
            body.clone(),
            BinaryTail::Needs("the header Inference-Header-Content-Length"),
        ),
        Some(given) => {
            let size = triton_binary::json_size(HEADER_NAME, given, body)
                .map_err(|problem| DecodeError::malformed(PROTOCOL, problem))?;
            (body.slice(..size), BinaryTail::Bytes(body.slice(size..)))
        }
    };
    open_inference::decode(&mut JsonReader::new(PROTOCOL, &json)?, schema, &mut tail)
}

#[cfg(test)]
mod tests;
