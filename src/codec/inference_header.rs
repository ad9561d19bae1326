//! Requests on the routes of the Open Inference Protocol.
//!
//! On these routes the body is always an [`open_inference`] document, whatever its Content-Type:
//! clients of the protocol send `application/octet-stream`, or `curl`'s default. If the header
//! `Inference-Header-Content-Length` is present, it gives the length of the JSON. The rest of the
//! body is binary data, as in [`triton_binary`].

use bytes::Bytes;

use crate::codec::error::DecodeError;
use crate::codec::json_reader::JsonReader;
use crate::codec::open_inference::{self, BinaryTail};
use crate::codec::triton_binary;
use crate::codec::{DecodedRequest, Schema};

/// The header of requests and responses with the length of the JSON, if binary data follows it.
pub const INFERENCE_HEADER_CONTENT_LENGTH: &str = "inference-header-content-length";

/// The header's name in messages.
const HEADER_NAME: &str = "Inference-Header-Content-Length";

/// The protocol's name in messages.
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
