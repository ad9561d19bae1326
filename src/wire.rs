//! The container's protocol as data: paths, headers and JSON bodies, as `contract` answers and any caller sends them.
//!
//! Field and header names are SageMaker's. Load and unload bodies follow Multi Model Server, the reference
//! implementation, because tools and tests expect its shapes; the platform reads the status only.

pub mod v2;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Echoed by the container: the platform does not do it (IN-3). At most [`MAX_CUSTOM_ATTRIBUTES`] visible characters.
pub const CUSTOM_ATTRIBUTES: &str = "x-amzn-sagemaker-custom-attributes";
pub const MAX_CUSTOM_ATTRIBUTES: usize = 1024;

/// The client's name for the model, beside the opaque one in the path. For the log only (MM-7).
pub const TARGET_MODEL: &str = "x-amzn-sagemaker-target-model";

/// The client's id of a request. For the log only.
pub const INFERENCE_ID: &str = "x-amzn-sagemaker-inference-id";

/// Some editors and .NET write it before text in UTF-8. It is no part of the text.
pub const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Error bodies stay below this: the platform shows larger ones as "could not load the entire response body".
pub const MAX_ERROR_BYTES: usize = 1024;

/// Body of `POST /models` (MM-1). Other members are accepted and ignored (MM-12).
#[derive(Debug, Serialize, Deserialize)]
pub struct LoadRequest {
    pub model_name: String,
    pub url: String,
}

/// Body of a load's or an unload's 200.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatusBody {
    pub status: String,
}

/// One loaded model (MM-2, MM-3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelDescription {
    pub model_name: String,
    /// As given at the load, byte for byte (MM-9).
    pub model_url: String,
    /// Runs of it that cannot be ended, for which it takes no requests; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stuck_runs: Option<usize>,
}

/// A page of the list (MM-10). The token is absent on the last page.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelList {
    pub models: Vec<ModelDescription>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Every error's body.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    pub code: u16,
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
}

impl ErrorBody {
    /// The body's JSON, in [`MAX_ERROR_BYTES`] at most: a longer message is cut.
    pub fn to_json(&self) -> String {
        bounded_json(&self.message, |message| Self {
            code: self.code,
            kind: self.kind.clone(),
            message: message.to_owned(),
        })
    }
}

/// An error's JSON with as much of `message` as leaves it within [`MAX_ERROR_BYTES`].
fn bounded_json<'m, B: Serialize>(message: &'m str, body: impl Fn(&'m str) -> B) -> String {
    // JSON is never shorter than what it holds. A message may be megabytes long, when a model's names are.
    let mut message = &message[..message.floor_char_boundary(MAX_ERROR_BYTES)];
    loop {
        // Strings and a number always serialise.
        let json = serde_json::to_string(&body(message)).unwrap_or_default();
        if json.len() <= MAX_ERROR_BYTES {
            return json;
        }
        // Escapes make the JSON longer than the message, so cut by what is too much and look again.
        let excess = json.len() - MAX_ERROR_BYTES;
        let keep = message.len().saturating_sub(excess.max(8));
        message = &message[..message.floor_char_boundary(keep)];
    }
}

/// Reply to `GET /execution-parameters` (BT-2).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecutionParameters {
    pub max_concurrent_transforms: usize,
    pub batch_strategy: String,
    #[serde(rename = "MaxPayloadInMB")]
    pub max_payload_in_mb: usize,
}

/// What a path below `/models/` names.
#[derive(Debug, PartialEq, Eq)]
pub enum ModelPath {
    Model(String),
    Invoke(String),
}

/// Characters that a name may keep in a path: the unreserved ones of RFC 3986.
const IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl ModelPath {
    /// Reads a raw (still percent-encoded) path. The name is opaque (MM-6): one segment, percent-decoded as a whole,
    /// any characters. `None` for what is no model's path, or is not UTF-8 once decoded.
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

    /// The path of `name`, encoded.
    pub fn of(name: &str) -> String {
        format!("/models/{}", utf8_percent_encode(name, IN_A_SEGMENT))
    }
}

/// Encodes the last name of a page as the token of the next: a name stays valid when models before it are unloaded in
/// between, an index does not.
pub fn page_token(last_name: &str) -> String {
    last_name.bytes().fold(String::from("after-"), |mut token, byte| {
        token.push_str(&format!("{byte:02x}"));
        token
    })
}

/// The name in a page token, or `None` for what is none of ours, which means the first page (MM-10).
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
        fn an_error_body_is_bounded_valid_json_whatever_the_message(message in "\\PC{0,3000}|[\\x00-\\x7f]{0,3000}") {
            let body = ErrorBody { code: 400, kind: "BadRequestException".into(), message };
            let json = body.to_json();
            prop_assert!(json.len() <= MAX_ERROR_BYTES);
            let read: ErrorBody = serde_json::from_str(&json).unwrap();
            prop_assert!(body.message.starts_with(&read.message));
        }
    }

    #[test]
    fn a_foreign_page_token_is_none_of_ours() {
        for token in ["", "100", "-1", "after-", "after-zz", "after-6", "after-ff"] {
            assert_eq!(parse_page_token(token).filter(|name| !name.is_empty()), None, "{token}");
        }
    }
}
