//! The headers of an invocation: reads and checks those of the API, and drops all others (IN-1).
//!
//! The three operations use different names for the same headers, such as `Accept` and
//! `X-Amzn-SageMaker-Accept`. Values reach the containers byte for byte, so a name that is not
//! ASCII arrives as it was sent.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::endpoint::error::RuntimeError;
use crate::endpoint::pattern::{self, Pattern};
use crate::store::Name;
use crate::wire::{CUSTOM_ATTRIBUTES, INFERENCE_ID, MAX_CUSTOM_ATTRIBUTES, TARGET_MODEL};

/// Tells a container that its response is streamed to the client.
const FORWARDED_API: &str = "x-amzn-sagemaker-forwarded-api";
pub const SESSION_ID: &str = "x-amzn-sagemaker-session-id";

/// The operations of the runtime API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Invoke,
    Stream,
    Async,
}

/// An invocation, without its body.
#[derive(Debug, Default)]
pub struct InvocationRequest {
    /// The headers for all containers.
    pub headers: HeaderMap,
    pub content_type: Option<HeaderValue>,
    pub accept: Option<HeaderValue>,
    pub target_model: Option<Name>,
    pub target_variant: Option<String>,
    pub target_hostname: Option<String>,
    pub session: Option<String>,
    pub prefix_id: Option<String>,
    pub inference_id: Option<String>,
    pub asynchronous: AsyncOptions,
}

/// The options that only `InvokeEndpointAsync` has.
#[derive(Debug, Default)]
pub struct AsyncOptions {
    pub input: Option<String>,
    pub path_extension: Option<String>,
    pub filename: Option<String>,
    pub ttl: Option<Duration>,
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeaderField {
    ContentType,
    Accept,
    CustomAttributes,
    TargetModel,
    TargetVariant,
    TargetHostname,
    InferenceId,
    InferenceComponent,
    SessionId,
    OpenSessionId,
    PrefixId,
    Input,
    PathExtension,
    Filename,
    Ttl,
    Timeout,
}

/// A header of an operation: its name, the API's name for it, and the limits of its length.
struct KnownHeader {
    header: &'static str,
    field: HeaderField,
    member: &'static str,
    min: usize,
    max: usize,
}

const fn known(header: &'static str, field: HeaderField, member: &'static str, min: usize, max: usize) -> KnownHeader {
    KnownHeader {
        header,
        field,
        member,
        min,
        max,
    }
}

/// Adds the prefix that nearly all headers below have in common.
macro_rules! amzn {
    ($name:literal) => {
        concat!("x-amzn-sagemaker-", $name)
    };
}

const CUSTOM: KnownHeader = known(
    CUSTOM_ATTRIBUTES,
    HeaderField::CustomAttributes,
    "customAttributes",
    0,
    MAX_CUSTOM_ATTRIBUTES,
);
const VARIANT: KnownHeader = known(
    amzn!("target-variant"),
    HeaderField::TargetVariant,
    "targetVariant",
    0,
    63,
);
const HOSTNAME: KnownHeader = known(
    amzn!("target-container-hostname"),
    HeaderField::TargetHostname,
    "targetContainerHostname",
    0,
    63,
);
const INFERENCE: KnownHeader = known(INFERENCE_ID, HeaderField::InferenceId, "inferenceId", 1, 64);
const COMPONENT: KnownHeader = known(
    amzn!("inference-component"),
    HeaderField::InferenceComponent,
    "inferenceComponentName",
    0,
    63,
);
const PREFIX: KnownHeader = known(amzn!("prefix-aware-id"), HeaderField::PrefixId, "prefixAwareId", 1, 64);
const CONTENT_TYPE: KnownHeader = known("content-type", HeaderField::ContentType, "contentType", 0, 1024);
const ACCEPT: KnownHeader = known(amzn!("accept"), HeaderField::Accept, "accept", 0, 1024);

#[rustfmt::skip]
const INVOKE: &[KnownHeader] = &[
    CONTENT_TYPE,
    known("accept", HeaderField::Accept, "accept", 0, 1024),
    known(TARGET_MODEL, HeaderField::TargetModel, "targetModel", 0, 1024),
    CUSTOM, VARIANT, HOSTNAME, INFERENCE, COMPONENT, PREFIX,
    known(SESSION_ID, HeaderField::SessionId, "sessionId", 0, 256),
];

#[rustfmt::skip]
const STREAM: &[KnownHeader] = &[
    CONTENT_TYPE, ACCEPT, CUSTOM, VARIANT, HOSTNAME, INFERENCE, COMPONENT, PREFIX,
    known(SESSION_ID, HeaderField::OpenSessionId, "sessionId", 0, 256),
];

#[rustfmt::skip]
const ASYNC: &[KnownHeader] = &[
    known(amzn!("content-type"), HeaderField::ContentType, "contentType", 0, 1024),
    ACCEPT, CUSTOM, INFERENCE,
    known(amzn!("inputlocation"), HeaderField::Input, "inputLocation", 1, 1024),
    known(amzn!("s3outputpathextension"), HeaderField::PathExtension, "s3OutputPathExtension", 1, 512),
    known(amzn!("filename"), HeaderField::Filename, "filename", 1, 32),
    known(amzn!("requestttlseconds"), HeaderField::Ttl, "requestTTLSeconds", 1, 5),
    known(amzn!("invocationtimeoutseconds"), HeaderField::Timeout, "invocationTimeoutSeconds", 1, 4),
];

impl Api {
    fn known(self) -> &'static [KnownHeader] {
        match self {
            Self::Invoke => INVOKE,
            Self::Stream => STREAM,
            Self::Async => ASYNC,
        }
    }

    /// The error for a body of more than `limit` bytes.
    pub fn too_large(self, limit: usize) -> RuntimeError {
        match self {
            Self::Invoke | Self::Stream => RuntimeError::BodyTooLarge { limit },
            Self::Async => RuntimeError::AsyncBodyTooLarge { limit },
        }
    }
}

impl InvocationRequest {
    /// Reads the headers of `api`. `header` returns a header's value.
    pub fn read<'a>(api: Api, header: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, RuntimeError> {
        let mut request = Self::default();
        for known in api.known() {
            if let Some(value) = header(known.header) {
                request.set(known, value)?;
            }
        }
        if api == Api::Stream {
            request.pass(
                FORWARDED_API,
                HeaderValue::from_static("InvokeEndpointWithResponseStream"),
            );
        }
        Ok(request)
    }

    fn set(&mut self, known: &'static KnownHeader, bytes: &[u8]) -> Result<(), RuntimeError> {
        let constraint = |constraint: String| RuntimeError::Constraint {
            member: known.member,
            constraint,
        };
        if bytes.len() < known.min {
            let message = format!("Member must have length greater than or equal to {}", known.min);
            return Err(constraint(message));
        }
        if bytes.len() > known.max {
            let message = format!("Member must have length less than or equal to {}", known.max);
            return Err(constraint(message));
        }
        let value = HeaderValue::from_bytes(bytes);
        let value = value.map_err(|_| constraint("Member must have no control characters".to_owned()))?;
        let text = || {
            let text = std::str::from_utf8(bytes).map(str::to_owned);
            text.map_err(|_| constraint("Member must be UTF-8".to_owned()))
        };
        let of = |pattern: &Pattern| match std::str::from_utf8(bytes) {
            Ok(text) if (pattern.matches)(text) => Ok(text.to_owned()),
            _ => Err(constraint(format!(
                "Member must satisfy regular expression pattern: {}",
                pattern.text
            ))),
        };
        let seconds = |least: u64, most: u64| match text()?.parse::<u64>() {
            Ok(seconds) if (least..=most).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => Err(constraint(format!("Member must be between {least} and {most}"))),
        };
        match known.field {
            HeaderField::ContentType => {
                of(&pattern::ASCII)?;
                self.content_type = Some(value);
            }
            HeaderField::Accept => {
                of(&pattern::ASCII)?;
                self.accept = Some(value);
            }
            HeaderField::CustomAttributes => {
                of(&pattern::ASCII)?;
                self.pass(CUSTOM_ATTRIBUTES, value);
            }
            HeaderField::TargetModel => {
                let name = Name::parse(&text()?).map_err(RuntimeError::TargetModelName)?;
                self.target_model = Some(name);
            }
            HeaderField::TargetVariant => self.target_variant = Some(of(&pattern::NAME)?),
            HeaderField::TargetHostname => self.target_hostname = Some(of(&pattern::NAME)?),
            HeaderField::InferenceId => {
                self.inference_id = Some(of(&pattern::PRINTABLE)?);
                self.pass(INFERENCE_ID, value);
            }
            HeaderField::InferenceComponent => return Err(RuntimeError::InferenceComponent),
            HeaderField::SessionId => {
                self.session = Some(of(&pattern::SESSION)?);
                self.pass(SESSION_ID, value);
            }
            HeaderField::OpenSessionId => {
                self.session = Some(of(&pattern::OPEN_SESSION)?);
                self.pass(SESSION_ID, value);
            }
            HeaderField::PrefixId => self.prefix_id = Some(of(&pattern::PRINTABLE)?),
            HeaderField::Input => self.asynchronous.input = Some(of(&pattern::LOCATION)?),
            HeaderField::PathExtension => self.asynchronous.path_extension = Some(of(&pattern::PATH_EXTENSION)?),
            HeaderField::Filename => self.asynchronous.filename = Some(of(&pattern::FILENAME)?),
            HeaderField::Ttl => self.asynchronous.ttl = Some(seconds(60, 21600)?),
            HeaderField::Timeout => self.asynchronous.timeout = Some(seconds(1, 3600)?),
        }
        Ok(())
    }

    fn pass(&mut self, name: &'static str, value: HeaderValue) {
        self.headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, headers: &[(&str, &[u8])]) -> Result<InvocationRequest, RuntimeError> {
        let find = |name: &str| {
            let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| *value)
        };
        InvocationRequest::read(api, find)
    }

    #[test]
    fn only_the_headers_of_an_operation_reach_the_containers() {
        let request = read(
            Api::Invoke,
            &[
                ("X-Amzn-SageMaker-Custom-Attributes", b"k=v"),
                ("X-Amzn-SageMaker-Inference-Id", b"i"),
                ("X-Amzn-SageMaker-Session-Id", b"NEW_SESSION"),
                ("X-Amzn-SageMaker-Enable-Explanations", b"`true`"),
                ("X-Amzn-SageMaker-Prefix-Aware-Id", b"p"),
                ("Authorization", b"AWS4-HMAC-SHA256"),
                ("User-Agent", b"Boto3"),
                ("X-Own", b"1"),
                ("Content-Type", b"text/csv"),
            ],
        );
        let request = request.unwrap();
        let mut names: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, [CUSTOM_ATTRIBUTES, INFERENCE_ID, SESSION_ID]);
        assert_eq!(request.content_type.unwrap(), "text/csv");
        assert_eq!((request.accept, request.target_model), (None, None));
    }

    #[test]
    fn each_operation_has_its_own_name_for_the_accept_header() {
        let headers: [(&str, &[u8]); 2] = [("Accept", b"a/a"), ("X-Amzn-SageMaker-Accept", b"b/b")];
        for (api, expected) in [(Api::Invoke, "a/a"), (Api::Stream, "b/b"), (Api::Async, "b/b")] {
            assert_eq!(read(api, &headers).unwrap().accept.unwrap(), expected, "{api:?}");
        }
        let streamed = read(Api::Stream, &[(TARGET_MODEL, b"a")]).unwrap();
        assert_eq!(streamed.target_model, None);
        assert!(streamed.headers.contains_key(FORWARDED_API));
    }

    #[test]
    fn an_invalid_value_is_refused_with_the_name_of_its_member() {
        let long = [b'a'; 1025];
        let table: &[(Api, &str, &[u8], &str)] = &[
            (Api::Invoke, "Content-Type", &long, "contentType"),
            (Api::Invoke, CUSTOM_ATTRIBUTES, &long, "customAttributes"),
            (Api::Invoke, CUSTOM_ATTRIBUTES, "\u{e9}".as_bytes(), "customAttributes"),
            (Api::Invoke, "X-Amzn-SageMaker-Target-Variant", b"-a", "targetVariant"),
            (
                Api::Invoke,
                "X-Amzn-SageMaker-Target-Variant",
                &long[..64],
                "targetVariant",
            ),
            (
                Api::Invoke,
                "X-Amzn-SageMaker-Target-Container-Hostname",
                b"a_b",
                "targetContainerHostname",
            ),
            (Api::Invoke, INFERENCE_ID, &long[..65], "inferenceId"),
            (Api::Invoke, SESSION_ID, &long[..257], "sessionId"),
            (
                Api::Async,
                "X-Amzn-SageMaker-RequestTTLSeconds",
                b"59",
                "requestTTLSeconds",
            ),
            (
                Api::Async,
                "X-Amzn-SageMaker-RequestTTLSeconds",
                b"x",
                "requestTTLSeconds",
            ),
            (
                Api::Async,
                "X-Amzn-SageMaker-InvocationTimeoutSeconds",
                b"3601",
                "invocationTimeoutSeconds",
            ),
            (Api::Async, "X-Amzn-SageMaker-Filename", &long[..33], "filename"),
            (Api::Async, "X-Amzn-SageMaker-Filename", b"..", "filename"),
            (Api::Async, "X-Amzn-SageMaker-Filename", b"", "filename"),
            (
                Api::Async,
                "X-Amzn-SageMaker-S3OutputPathExtension",
                b"s3://b",
                "s3OutputPathExtension",
            ),
            (
                Api::Async,
                "X-Amzn-SageMaker-InputLocation",
                b"in.json",
                "inputLocation",
            ),
            (Api::Async, INFERENCE_ID, b"", "inferenceId"),
            (Api::Invoke, INFERENCE_ID, b" a", "inferenceId"),
            (Api::Invoke, SESSION_ID, b"a_b", "sessionId"),
            (Api::Stream, SESSION_ID, b"NEW_SESSION", "sessionId"),
            (
                Api::Invoke,
                "X-Amzn-SageMaker-Prefix-Aware-Id",
                &long[..65],
                "prefixAwareId",
            ),
        ];
        for (api, name, value, member) in table {
            let error = read(*api, &[(name, value)]).unwrap_err();
            assert!(
                matches!(&error, RuntimeError::Constraint { member: named, .. } if named == member),
                "{error:?}"
            );
        }
        assert_eq!(
            read(Api::Invoke, &[("X-Amzn-SageMaker-Inference-Component", b"c")]).unwrap_err(),
            RuntimeError::InferenceComponent
        );
        let outside = read(Api::Invoke, &[(TARGET_MODEL, b"../a")]).unwrap_err();
        assert!(matches!(outside, RuntimeError::TargetModelName(_)));
    }

    #[test]
    fn a_models_name_is_read_as_the_bytes_that_boto_sends() {
        let request = read(Api::Invoke, &[(TARGET_MODEL, "mod\u{e8}les/a b+c.tar.gz".as_bytes())]).unwrap();
        assert_eq!(request.target_model.unwrap().as_str(), "mod\u{e8}les/a b+c.tar.gz");
    }
}
