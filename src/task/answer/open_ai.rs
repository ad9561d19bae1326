//! Writes embeddings in the format of OpenAI's clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::json::string;
use super::numbers::{FLOAT_BYTES, JSON, Number, write_list};
use super::{Answer, Body, allocate};
use crate::task::TaskError;

/// The encoding of an embedding: OpenAI's `encoding_format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodingFormat {
    #[default]
    Float,
    /// The bytes of the numbers as little-endian `float32`.
    Base64,
}

impl Answer {
    /// Writes the embeddings as the response to `POST /v1/embeddings`; `tokens` is the number of
    /// tokens in the request.
    pub fn to_open_ai(&self, model: &str, tokens: usize, format: EncodingFormat) -> Result<Vec<u8>, TaskError> {
        let Body::Embeddings(embeddings) = &self.body else {
            return Err(self.cannot_carry("embeddings of OpenAI", "the answer is not a list of embeddings"));
        };
        let mut out = allocate(embeddings.tensor().len().saturating_mul(FLOAT_BYTES))?;
        out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
        for (index, row) in embeddings.rows().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"object\":\"embedding\",\"index\":");
            index.write(&JSON, &mut out);
            out.extend_from_slice(b",\"embedding\":");
            match format {
                EncodingFormat::Float => {
                    out.push(b'[');
                    write_list(row, &JSON, &mut out);
                    out.push(b']');
                }
                EncodingFormat::Base64 => {
                    out.push(b'"');
                    let bytes: &[u8] = bytemuck::cast_slice(row);
                    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                    out.push(b'"');
                }
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"model\":");
        string(model, &mut out);
        out.extend_from_slice(b",\"usage\":{\"prompt_tokens\":");
        tokens.write(&JSON, &mut out);
        out.extend_from_slice(b",\"total_tokens\":");
        tokens.write(&JSON, &mut out);
        out.extend_from_slice(b"}}");
        Ok(out)
    }
}
