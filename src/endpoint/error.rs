//! The one table from the cause of a failed invocation to the error that the AWS clients see.
//!
//! Every variant is spelled out, so that a new cause does not compile until it has a response.
//! The clients read the error's type from `x-amzn-ErrorType` and the rest from the JSON body. They
//! retry 500 and 503 on their own, in their retry mode `legacy` also 429, and no other status of
//! this table. Texts are SageMaker's own where they are known, because callers match on them.

#![warn(clippy::wildcard_enum_match_arm)]

use serde_json::{Map, Value, json};

use crate::endpoint::client::CallError;
use crate::store::NameError;

/// Maximum bytes of a container's message that are passed on.
pub const MAX_ORIGINAL_MESSAGE: usize = 2048;

/// The causes for which an invocation fails.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RuntimeError {
    #[error("the endpoint does not exist")]
    UnknownEndpoint {
        /// An existing endpoint whose name differs only in upper and lower case.
        spelled: Option<String>,
    },
    #[error("the endpoint has no variant {0:?}")]
    UnknownVariant(String),
    #[error("no variant takes requests: all weights, or all numbers of instances, are 0")]
    NoCapacity,
    #[error("the header X-Amzn-SageMaker-Target-Model is missing")]
    MissingTargetModel,
    #[error("the header X-Amzn-SageMaker-Target-Model is set, but this is not a multi-model endpoint")]
    TargetModelNotSupported,
    #[error("invalid header X-Amzn-SageMaker-Target-Model: {0}")]
    TargetModelName(NameError),
    #[error("the model was not downloaded: {reason}")]
    Download { url: String, reason: String },
    #[error("the header X-Amzn-SageMaker-Target-Container-Hostname is missing")]
    MissingHostname,
    #[error("the endpoint has no container {0:?}")]
    UnknownHostname(String),
    #[error("the header X-Amzn-SageMaker-Target-Container-Hostname is set, but the endpoint is not in direct mode")]
    HostnameNotSupported,
    #[error("the endpoint has no inference components")]
    InferenceComponent,
    #[error("{member} {constraint}")]
    Constraint { member: &'static str, constraint: String },
    #[error("the endpoint takes no asynchronous invocations")]
    NotAsynchronous,
    #[error("the endpoint takes asynchronous invocations only")]
    OnlyAsynchronous,
    #[error("neither a body nor the header X-Amzn-SageMaker-InputLocation was given")]
    MissingInput,
    #[error("both a body and the header X-Amzn-SageMaker-InputLocation were given")]
    TwoInputs,
    #[error("the body has more than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body of an asynchronous invocation has more than {limit} bytes")]
    AsyncBodyTooLarge { limit: usize },
    #[error("the request body is incomplete: {0}")]
    BodyBroken(String),
    #[error("the model {model:?} is still being loaded")]
    ModelNotReady { model: String },
    #[error("{0}")]
    Unavailable(String),
    #[error("{container} answered {status}: {message}")]
    Model {
        container: String,
        status: u16,
        message: String,
    },
    #[error("{container} did not answer in time")]
    TimedOut { container: String },
    #[error("{container} did not answer: {reason}")]
    NoAnswer { container: String, reason: String },
    #[error("{container} answered with more than {limit} bytes")]
    ReplyTooLarge {
        container: String,
        status: u16,
        limit: usize,
        /// The container that the reply was meant for.
        next: Option<String>,
    },
    #[error("{container} answered {status} with headers that SageMaker refuses: {reason}")]
    BadReply {
        container: String,
        status: u16,
        reason: String,
    },
    #[error("{0}")]
    Validation(String),
    #[error("{0}")]
    Dependency(String),
    #[error("{0}")]
    Internal(String),
}

/// The endpoint of a failed invocation, for error texts.
#[derive(Debug, Clone, Copy)]
pub struct ErrorContext<'a> {
    pub account: &'a str,
    pub region: &'a str,
    pub endpoint: &'a str,
}

/// An error response as the AWS clients receive it.
#[derive(Debug, Clone, PartialEq)]
pub struct AwsErrorResponse {
    pub status: u16,
    /// The value of `x-amzn-ErrorType`. Without it, clients use the status as the type.
    pub kind: Option<&'static str>,
    pub body: Value,
}

const MODEL_ERROR: (u16, &str) = (424, "ModelError");
const VALIDATION: (u16, &str) = (400, "ValidationError");
const NOT_READY: (u16, &str) = (429, "ModelNotReadyException");
const UNAVAILABLE: (u16, &str) = (503, "ServiceUnavailable");
const INTERNAL: (u16, &str) = (500, "InternalFailure");
const DEPENDENCY: (u16, &str) = (530, "InternalDependencyException");

impl RuntimeError {
    /// Converts a failed call to `container`.
    pub fn from_call(container: &str, error: CallError) -> Self {
        let container = container.to_owned();
        match error {
            CallError::Down => {
                Self::Unavailable(format!("container {container} is not running; it is being restarted"))
            }
            CallError::TimedOut => Self::TimedOut { container },
            CallError::NotConnected(_) | CallError::Broken(_) => Self::NoAnswer {
                container,
                reason: error.to_string(),
            },
            CallError::TooLarge { status, limit } => Self::ReplyTooLarge {
                container,
                status,
                limit,
                next: None,
            },
        }
    }

    /// The response that the AWS clients receive.
    pub fn answer(&self, at: ErrorContext<'_>) -> AwsErrorResponse {
        let endpoint = at.endpoint;
        match self {
            Self::UnknownEndpoint { spelled } => {
                let mut message = format!("Endpoint {endpoint} of account {} not found.", at.account);
                if let Some(spelled) = spelled {
                    message.push_str(&format!(
                        " Invocations must match the case of an endpoint's name, and there is an endpoint {spelled}."
                    ));
                }
                plain(VALIDATION, message)
            }
            Self::UnknownVariant(variant) => plain(
                VALIDATION,
                format!(
                    "Variant {variant} not found for endpoint {endpoint} of account {}.",
                    at.account
                ),
            ),
            Self::MissingTargetModel => coded(
                "TARGET_MODEL_HEADER_MISSING",
                format!("Endpoint {endpoint} is a multi-model endpoint and is missing a target model header."),
            ),
            Self::TargetModelNotSupported => coded(
                "TARGET_MODEL_HEADER_NOT_SUPPORTED",
                format!("Endpoint {endpoint} is not a multi-model endpoint and does not support target model header."),
            ),
            Self::TargetModelName(error) => plain(VALIDATION, format!("Invalid target model header: {error}.")),
            Self::Download { url, reason } => plain(
                VALIDATION,
                format!(
                    "Failed to download model data ({url}). Please ensure that there is an object located at the URL and \
                     that the role passed to CreateModel has permissions to download the model. ({reason})"
                ),
            ),
            Self::MissingHostname => coded(
                "TARGET_CONTAINER_HOSTNAME_HEADER_MISSING",
                format!(
                    "Endpoint {endpoint} is a multi-container endpoint in direct mode and is missing a target container \
                     hostname header."
                ),
            ),
            Self::UnknownHostname(hostname) => plain(
                VALIDATION,
                format!(
                    "Container {hostname} not found for endpoint {endpoint} of account {}.",
                    at.account
                ),
            ),
            Self::HostnameNotSupported => coded(
                "TARGET_CONTAINER_HOSTNAME_HEADER_NOT_SUPPORTED",
                format!(
                    "Endpoint {endpoint} is not a multi-container endpoint in direct mode and does not support target \
                     container hostname header."
                ),
            ),
            Self::InferenceComponent => plain(
                VALIDATION,
                format!("Endpoint {endpoint} has no inference components; remove the inference component name header."),
            ),
            Self::Constraint { member, constraint } => plain(
                VALIDATION,
                format!("1 validation error detected: Value at '{member}' failed to satisfy constraint: {constraint}"),
            ),
            Self::NotAsynchronous => plain(
                VALIDATION,
                format!("Endpoint {endpoint} is not configured for asynchronous invocations (AsyncInferenceConfig)."),
            ),
            Self::OnlyAsynchronous => plain(
                VALIDATION,
                format!(
                    "Endpoint {endpoint} is configured for asynchronous invocations (AsyncInferenceConfig), and takes \
                     InvokeEndpointAsync only."
                ),
            ),
            Self::MissingInput => plain(
                VALIDATION,
                "Either a body or the InputLocation header is required.".to_owned(),
            ),
            Self::TwoInputs => plain(
                VALIDATION,
                "Body and InputLocation are mutually exclusive. Provide exactly one of them.".to_owned(),
            ),
            Self::AsyncBodyTooLarge { limit } => plain(
                VALIDATION,
                format!(
                    "1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length \
                     less than or equal to {limit}. Put a larger body into an object, and give that as InputLocation."
                ),
            ),
            Self::BodyTooLarge { limit } => AwsErrorResponse {
                status: 413,
                kind: None,
                body: json!({"Message": format!("HTTP content length exceeded {limit} bytes.")}),
            },
            Self::BodyBroken(_) | Self::Validation(_) => plain(VALIDATION, self.to_string()),
            Self::ModelNotReady { model } => plain(
                NOT_READY,
                format!("Model {model} for endpoint {endpoint} is not ready for inference yet. Try again later."),
            ),
            Self::NoCapacity | Self::Unavailable(_) => plain(UNAVAILABLE, self.to_string()),
            Self::Internal(_) => plain(INTERNAL, self.to_string()),
            Self::Dependency(_) => plain(DEPENDENCY, self.to_string()),
            Self::Model {
                container,
                status,
                message,
            } => model_error(at, container, *status, message),
            Self::TimedOut { container } => model_error(
                at,
                container,
                0,
                &format!(
                    "Your invocation timed out while waiting for a response from container {container}. Review the latency \
                     metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
                ),
            ),
            Self::NoAnswer { container, reason } => model_error(
                at,
                container,
                0,
                &format!(
                    "Amazon SageMaker could not get a response from the {endpoint} endpoint. This can occur when CPU or \
                     memory utilization is high. ({reason})"
                ),
            ),
            Self::BadReply {
                container,
                status,
                reason,
            } => model_error(at, container, *status, reason),
            Self::ReplyTooLarge {
                container,
                status,
                limit,
                next,
            } => {
                let what = match next {
                    Some(next) => format!(
                        "The response of container {container} exceeds the {limit} bytes that can be passed to container \
                         {next}."
                    ),
                    None => format!("The response of container {container} exceeds {limit} bytes."),
                };
                model_error(at, container, *status, &what)
            }
        }
    }
}

fn plain((status, kind): (u16, &'static str), message: String) -> AwsErrorResponse {
    AwsErrorResponse {
        status,
        kind: Some(kind),
        body: json!({"Message": message}),
    }
}

fn coded(code: &str, message: String) -> AwsErrorResponse {
    AwsErrorResponse {
        body: json!({"ErrorCode": code, "Message": message}),
        ..plain(VALIDATION, String::new())
    }
}

/// A container's failure. `original` is its status, or 0 if it did not respond.
fn model_error(at: ErrorContext<'_>, container: &str, original: u16, message: &str) -> AwsErrorResponse {
    let ErrorContext {
        account,
        region,
        endpoint,
    } = at;
    let message = &message[..message.floor_char_boundary(MAX_ORIGINAL_MESSAGE)];
    let (whose, code) = match original {
        400..500 => ("client", "CLIENT_ERROR_FROM_MODEL"),
        _ => ("server", "INTERNAL_FAILURE_FROM_MODEL"),
    };
    let mut body = Map::new();
    body.insert("ErrorCode".to_owned(), code.into());
    body.insert(
        "LogStreamArn".to_owned(),
        format!("arn:aws:logs:{region}:{account}:log-group:/aws/sagemaker/Endpoints/{endpoint}").into(),
    );
    body.insert(
        "Message".to_owned(),
        format!(
            "Received {whose} error ({original}) from {container} with message \"{message}\". See the log of endpoint \
             {endpoint}, container {container}, for more information."
        )
        .into(),
    );
    body.insert("OriginalMessage".to_owned(), message.into());
    body.insert("OriginalStatusCode".to_owned(), original.into());
    AwsErrorResponse {
        status: MODEL_ERROR.0,
        kind: Some(MODEL_ERROR.1),
        body: Value::Object(body),
    }
}

#[cfg(test)]
mod tests;
