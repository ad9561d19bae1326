//! What the headers of an invocation say: those of the API, checked, and no others (IN-1).
//!
//! The three operations call the same things by different names: where one has `Accept`, the others have
//! `X-Amzn-SageMaker-Accept`. Values go to the containers byte for byte, so a name that is not ASCII arrives as it was sent.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use crate::endpoint::error::RuntimeError;
use crate::store::Name;
use crate::wire::{CUSTOM_ATTRIBUTES, INFERENCE_ID, MAX_CUSTOM_ATTRIBUTES, TARGET_MODEL};

/// Tells a container that its reply is passed on as it comes.
const FORWARDED_API: &str = "x-amzn-sagemaker-forwarded-api";
pub const SESSION_ID: &str = "x-amzn-sagemaker-session-id";

/// The operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Invoke,
    Stream,
    Async,
}

/// An invocation, without its body.
#[derive(Debug, Default)]
pub struct Request {
    /// For every container.
    pub headers: HeaderMap,
    pub content_type: Option<HeaderValue>,
    pub accept: Option<HeaderValue>,
    pub target_model: Option<Name>,
    pub target_variant: Option<String>,
    pub target_hostname: Option<String>,
    pub session: Option<String>,
    pub inference_id: Option<String>,
    pub asynchronous: AsyncOptions,
}

/// What only `InvokeEndpointAsync` has.
#[derive(Debug, Default)]
pub struct AsyncOptions {
    pub input: Option<String>,
    pub path_extension: Option<String>,
    pub filename: Option<String>,
    pub ttl: Option<Duration>,
    pub timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    ContentType,
    Accept,
    CustomAttributes,
    TargetModel,
    TargetVariant,
    TargetHostname,
    InferenceId,
    InferenceComponent,
    SessionId,
    Input,
    PathExtension,
    Filename,
    Ttl,
    Timeout,
}

/// A header of an operation: its name, the API's name for what it says, and how long it may be.
struct Known(&'static str, Field, &'static str, usize);

const CUSTOM: Known = Known(
    CUSTOM_ATTRIBUTES,
    Field::CustomAttributes,
    "customAttributes",
    MAX_CUSTOM_ATTRIBUTES,
);
const VARIANT: Known = Known(
    "x-amzn-sagemaker-target-variant",
    Field::TargetVariant,
    "targetVariant",
    63,
);
const HOSTNAME: Known = Known(
    "x-amzn-sagemaker-target-container-hostname",
    Field::TargetHostname,
    "targetContainerHostname",
    63,
);
const INFERENCE: Known = Known(INFERENCE_ID, Field::InferenceId, "inferenceId", 64);
const COMPONENT: Known = Known(
    "x-amzn-sagemaker-inference-component",
    Field::InferenceComponent,
    "inferenceComponentName",
    63,
);
const SESSION: Known = Known(SESSION_ID, Field::SessionId, "sessionId", 256);

const INVOKE: &[Known] = &[
    Known("content-type", Field::ContentType, "contentType", 1024),
    Known("accept", Field::Accept, "accept", 1024),
    Known(TARGET_MODEL, Field::TargetModel, "targetModel", 1024),
    CUSTOM,
    VARIANT,
    HOSTNAME,
    INFERENCE,
    COMPONENT,
    SESSION,
];

const STREAM: &[Known] = &[
    Known("content-type", Field::ContentType, "contentType", 1024),
    Known("x-amzn-sagemaker-accept", Field::Accept, "accept", 1024),
    CUSTOM,
    VARIANT,
    HOSTNAME,
    INFERENCE,
    COMPONENT,
    SESSION,
];

const ASYNC: &[Known] = &[
    Known("x-amzn-sagemaker-content-type", Field::ContentType, "contentType", 1024),
    Known("x-amzn-sagemaker-accept", Field::Accept, "accept", 1024),
    CUSTOM,
    INFERENCE,
    Known("x-amzn-sagemaker-inputlocation", Field::Input, "inputLocation", 1024),
    Known(
        "x-amzn-sagemaker-s3outputpathextension",
        Field::PathExtension,
        "s3OutputPathExtension",
        512,
    ),
    Known("x-amzn-sagemaker-filename", Field::Filename, "filename", 32),
    Known("x-amzn-sagemaker-requestttlseconds", Field::Ttl, "requestTTLSeconds", 5),
    Known(
        "x-amzn-sagemaker-invocationtimeoutseconds",
        Field::Timeout,
        "invocationTimeoutSeconds",
        4,
    ),
];

impl Api {
    fn known(self) -> &'static [Known] {
        match self {
            Self::Invoke => INVOKE,
            Self::Stream => STREAM,
            Self::Async => ASYNC,
        }
    }
}

impl Request {
    /// Reads the headers that `api` has; `header` gives a header's value.
    pub fn read<'a>(api: Api, header: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, RuntimeError> {
        let mut request = Self::default();
        for Known(name, field, member, max) in api.known() {
            if let Some(value) = header(name) {
                request.set(*field, member, *max, value)?;
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

    fn set(&mut self, field: Field, member: &'static str, max: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let constraint = |constraint: String| RuntimeError::Constraint { member, constraint };
        if bytes.len() > max {
            let message = format!("Member must have length less than or equal to {max}");
            return Err(constraint(message));
        }
        let value = HeaderValue::from_bytes(bytes);
        let value = value.map_err(|_| constraint("Member must have no control characters".to_owned()))?;
        let text = || {
            let text = std::str::from_utf8(bytes).map(str::to_owned);
            text.map_err(|_| constraint("Member must be UTF-8".to_owned()))
        };
        let ascii = || match bytes.is_ascii() {
            true => Ok(value.clone()),
            false => Err(constraint(
                "Member must satisfy regular expression pattern: \\p{ASCII}*".to_owned(),
            )),
        };
        let name = || {
            let text = text()?;
            match is_name(&text) {
                true => Ok(text),
                false => Err(constraint(format!(
                    "Member must satisfy regular expression pattern: {NAME_PATTERN}"
                ))),
            }
        };
        let seconds = |least: u64, most: u64| match text()?.parse::<u64>() {
            Ok(seconds) if (least..=most).contains(&seconds) => Ok(Duration::from_secs(seconds)),
            _ => Err(constraint(format!("Member must be between {least} and {most}"))),
        };
        match field {
            Field::ContentType => self.content_type = Some(ascii()?),
            Field::Accept => self.accept = Some(ascii()?),
            Field::CustomAttributes => {
                let value = ascii()?;
                self.pass(CUSTOM_ATTRIBUTES, value);
            }
            Field::TargetModel => {
                let name = Name::parse(&text()?).map_err(RuntimeError::TargetModelName)?;
                self.target_model = Some(name);
            }
            Field::TargetVariant => self.target_variant = Some(name()?),
            Field::TargetHostname => self.target_hostname = Some(name()?),
            Field::InferenceId => {
                let value = ascii()?;
                self.inference_id = Some(text()?);
                self.pass(INFERENCE_ID, value);
            }
            Field::InferenceComponent => return Err(RuntimeError::InferenceComponent),
            Field::SessionId => {
                let value = ascii()?;
                self.session = Some(text()?);
                self.pass(SESSION_ID, value);
            }
            Field::Input => self.asynchronous.input = Some(text()?),
            Field::PathExtension => self.asynchronous.path_extension = Some(text()?),
            Field::Filename => self.asynchronous.filename = Some(text()?),
            Field::Ttl => self.asynchronous.ttl = Some(seconds(60, 21600)?),
            Field::Timeout => self.asynchronous.timeout = Some(seconds(1, 3600)?),
        }
        Ok(())
    }

    fn pass(&mut self, name: &'static str, value: HeaderValue) {
        self.headers.insert(HeaderName::from_static(name), value);
    }
}

const NAME_PATTERN: &str = "[a-zA-Z0-9](-*[a-zA-Z0-9])*";

/// Whether a text can be the name of an endpoint, a variant or a container.
pub fn is_name(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(api: Api, headers: &[(&str, &[u8])]) -> Result<Request, RuntimeError> {
        let find = |name: &str| {
            let found = headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| *value)
        };
        Request::read(api, find)
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
    fn each_operation_has_its_own_name_for_what_is_accepted() {
        let headers: [(&str, &[u8]); 2] = [("Accept", b"a/a"), ("X-Amzn-SageMaker-Accept", b"b/b")];
        for (api, expected) in [(Api::Invoke, "a/a"), (Api::Stream, "b/b"), (Api::Async, "b/b")] {
            assert_eq!(read(api, &headers).unwrap().accept.unwrap(), expected, "{api:?}");
        }
        let streamed = read(Api::Stream, &[(TARGET_MODEL, b"a")]).unwrap();
        assert_eq!(streamed.target_model, None);
        assert!(streamed.headers.contains_key(FORWARDED_API));
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
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
    fn a_models_name_is_taken_as_the_bytes_that_boto_sends() {
        let request = read(Api::Invoke, &[(TARGET_MODEL, "mod\u{e8}les/a b+c.tar.gz".as_bytes())]).unwrap();
        assert_eq!(request.target_model.unwrap().as_str(), "mod\u{e8}les/a b+c.tar.gz");
    }
}
