//! The container's protocol as data: the paths, headers and JSON bodies that `contract` serves and
//! its clients send.
//!
//! Field and header names are SageMaker's. The bodies of loads and unloads follow Multi Model
//! Server, the reference implementation, because tools and tests expect their shape. The platform
//! reads only the status.

pub mod v2;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// The header that the container echoes, because the platform does not (IN-3). Its value has at
/// most [`MAX_CUSTOM_ATTRIBUTES`] visible characters.
pub const CUSTOM_ATTRIBUTES: &str = "x-amzn-sagemaker-custom-attributes";
pub const MAX_CUSTOM_ATTRIBUTES: usize = 1024;

/// The client's name for the model, in addition to the opaque one in the path. For the log only
/// (MM-7).
pub const TARGET_MODEL: &str = "x-amzn-sagemaker-target-model";

/// The client's id of a request. For the log only; the response has it, too.
pub const INFERENCE_ID: &str = "x-amzn-sagemaker-inference-id";

/// The trace that a request belongs to, by W3C's Trace Context. SageMaker does not pass it on.
pub const TRACE_PARENT: &str = "traceparent";
pub const TRACE_STATE: &str = "tracestate";

/// The mark that some editors and .NET write before UTF-8 text. It is not part of the text.
pub const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Limit on the size of error bodies. The platform replaces larger ones with "could not load the
/// entire response body".
pub const MAX_ERROR_BYTES: usize = 1024;

/// Body of `POST /models` (MM-1). Other members are accepted and ignored (MM-12).
#[derive(Debug, Serialize, Deserialize)]
pub struct LoadRequest {
    pub model_name: String,
    pub url: String,
}

/// Body of the 200 response to a load or an unload.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusBody {
    pub status: String,
}

/// One loaded model (MM-2, MM-3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelDescription {
    pub model_name: String,
    /// The URL of the load request, byte for byte (MM-9).
    pub model_url: String,
    /// The number of stuck runs of the model, which make it refuse requests. Absent if there are
    /// none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stuck_runs: Option<usize>,
}

/// A page of the list of models (MM-10). The last page has no token.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelList {
    pub models: Vec<ModelDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Body of every error.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: u16,
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
}

impl ErrorBody {
    /// Writes the body as JSON of at most [`MAX_ERROR_BYTES`]. Cuts a longer message.
    pub fn to_json(&self) -> String {
        bounded_json(&self.message, |message| Self {
            code: self.code,
            kind: self.kind.clone(),
            message: message.to_owned(),
        })
    }
}

/// Writes an error as JSON of at most [`MAX_ERROR_BYTES`], with as much of `message` as fits.
fn bounded_json<'m, B: Serialize>(message: &'m str, body: impl Fn(&'m str) -> B) -> String {
    // The JSON is never shorter than the message. A message can have megabytes if a model's names
    // do.
    let mut message = &message[..message.floor_char_boundary(MAX_ERROR_BYTES)];
    loop {
        // Serialising strings and a number cannot fail.
        let json = serde_json::to_string(&body(message)).unwrap_or_default();
        if json.len() <= MAX_ERROR_BYTES {
            return json;
        }
        // Escapes make the JSON longer than the message, so the loop cuts the excess and measures
        // again.
        let excess = json.len() - MAX_ERROR_BYTES;
        let keep = message.len().saturating_sub(excess.max(8));
        message = &message[..message.floor_char_boundary(keep)];
    }
}

/// Response to `GET /execution-parameters` (BT-2).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecutionParameters {
    pub max_concurrent_transforms: usize,
    pub batch_strategy: String,
    #[serde(rename = "MaxPayloadInMB")]
    pub max_payload_in_mb: usize,
}

/// The resource of a path below `/models/`.
#[derive(Debug, PartialEq, Eq)]
pub enum ModelPath {
    Model(String),
    Invoke(String),
}

/// The characters that are not encoded in a path: the unreserved ones of RFC 3986.
const IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl ModelPath {
    /// Parses a raw (still percent-encoded) path. The name is opaque (MM-6): one segment of any
    /// characters, percent-decoded as a whole. `None` if the path is not that of a model, or is not
    /// UTF-8 once decoded.
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/models/")?;
        let (segment, invoke) = match rest.strip_suffix("/invoke") {
            Some(segment) => (segment, true),
            None => (rest, false),
        };
        if segment.is_empty() || segment.contains('/') {
            return None;
        }
        let name = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
        Some(if invoke { Self::Invoke(name) } else { Self::Model(name) })
    }

    /// Returns the encoded path of `name`.
    pub fn of(name: &str) -> String {
        format!("/models/{}", utf8_percent_encode(name, IN_A_SEGMENT))
    }
}

/// Encodes the last name of a page as the token of the next page. Unlike an index, a name stays
/// valid if models before it are unloaded in between.
pub fn page_token(last_name: &str) -> String {
    last_name.bytes().fold(String::from("after-"), |mut token, byte| {
        token.push_str(&format!("{byte:02x}"));
        token
    })
}

/// Decodes the name in a page token. `None` for a foreign token, which selects the first page
/// (MM-10).
pub fn parse_page_token(token: &str) -> Option<String> {
    let digits = token.strip_prefix("after-")?.as_bytes();
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> = digits
        .chunks_exact(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_models_path_is_one_decoded_segment() {
        let table = [
            ("/models/a", Some(ModelPath::Model("a".into()))),
            ("/models/a/invoke", Some(ModelPath::Invoke("a".into()))),
            ("/models/a%2Fb/invoke", Some(ModelPath::Invoke("a/b".into()))),
            ("/models/a%2Finvoke", Some(ModelPath::Model("a/invoke".into()))),
            ("/models/%E2%98%83.tar.gz", Some(ModelPath::Model("☃.tar.gz".into()))),
            ("/models/invoke", Some(ModelPath::Model("invoke".into()))),
            ("/models/100%", Some(ModelPath::Model("100%".into()))),
            ("/models/a/b", None),
            ("/models/a/b/invoke", None),
            ("/models//invoke", None),
            ("/models/", None),
            ("/models", None),
            ("/models/%FF", None),
        ];
        for (path, expected) in table {
            assert_eq!(ModelPath::parse(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_name_survives_its_path_and_its_token(name in "\\PC{1,40}|[a-z/%.]{1,40}") {
            prop_assert_eq!(ModelPath::parse(&ModelPath::of(&name)), Some(ModelPath::Model(name.clone())));
            prop_assert_eq!(
                ModelPath::parse(&format!("{}/invoke", ModelPath::of(&name))),
                Some(ModelPath::Invoke(name.clone()))
            );
            prop_assert_eq!(parse_page_token(&page_token(&name)), Some(name));
        }

        #[test]
        fn an_error_body_is_valid_json_of_bounded_size_for_any_message(message in "\\PC{0,3000}|[\\x00-\\x7f]{0,3000}") {
            let body = ErrorBody { code: 400, kind: "BadRequestException".into(), message };
            let json = body.to_json();
            prop_assert!(json.len() <= MAX_ERROR_BYTES);
            let read: ErrorBody = serde_json::from_str(&json).unwrap();
            prop_assert!(body.message.starts_with(&read.message));
        }
    }

    #[test]
    fn a_foreign_page_token_has_no_name() {
        for token in ["", "100", "-1", "after-", "after-zz", "after-6", "after-ff"] {
            assert_eq!(parse_page_token(token).filter(|name| !name.is_empty()), None, "{token}");
        }
    }
}
