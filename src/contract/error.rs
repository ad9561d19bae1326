//! The only table from error causes to HTTP statuses.
//!
//! The table lists every variant, so that a new cause does not compile until it has a status, and a
//! [`Cause`] by which the statistics count it. The platform acts on these: 409 means "already
//! loaded", 404 "not loaded", 507 "unload something and retry", and any other refusal of a load
//! means that the model is broken (MM-18). Errors that the caller can correct are 4xx, because
//! CloudWatch counts 5xx as faults of the model.

#![warn(clippy::wildcard_enum_match_arm)]

use actix_web::http::header::{ALLOW, ContentType};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpResponse, ResponseError};

use crate::audio::AudioError;
use crate::catalog::CatalogError;
use crate::codec::{DecodeError, EncodeError};
use crate::connections::pages::PageRefusal;
use crate::engine::{ArtifactError, InferenceError, LoadError, PoolError, PrepareError, RunError, SessionError};
use crate::handler::{InvocationError, MediaError, RehearsalError};
use crate::page::feed::TooManyWatchers;
use crate::store::{FetchError, StoreError};
use crate::task::TaskError;
use crate::telemetry::cause::Cause;
use crate::text::TextError;
use crate::text::request::RequestError;
use crate::vision::VisionError;
use crate::wire::{CUSTOM_ATTRIBUTES, ErrorBody, MAX_CUSTOM_ATTRIBUTES};

/// Cause of a refused request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no route for {path}{}", slashes(.path))]
    NoRoute { path: String },
    #[error("method {method} not allowed; use {allowed}")]
    MethodNotAllowed { method: Method, allowed: &'static str },
    #[error("the headers have {bytes} bytes; the limit is {limit} bytes (--max-headers)")]
    HeadersTooLarge { bytes: usize, limit: usize },
    #[error(
        "{CUSTOM_ATTRIBUTES} must have at most {MAX_CUSTOM_ATTRIBUTES} characters, all of them visible ASCII or spaces"
    )]
    CustomAttributes,
    #[error("the body is larger than {limit} bytes{}", option.map(|option| format!(" ({option})")).unwrap_or_default())]
    BodyTooLarge {
        limit: usize,
        /// The flag that sets the limit, if there is one.
        option: Option<&'static str>,
    },
    #[error("not enough memory for the body; try again later, unload a model, or raise --memory-reserve")]
    NoMemoryForBody,
    #[error("content encoding {encoding} is not supported; use gzip or zstd, or send the body uncompressed")]
    ContentEncoding { encoding: String },
    #[error("the body is not valid {encoding}, which its Content-Encoding header names: {detail}")]
    BodyEncoding { encoding: &'static str, detail: String },
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body could not be read: {detail}")]
    BodyBroken { detail: String },
    #[error("the body of a load must be JSON like {{\"model_name\": \"...\", \"url\": \"...\"}}: {detail}")]
    LoadRequest { detail: String },
    #[error("the body of a repository request must be empty or JSON: {detail}")]
    RepositoryRequest { detail: String },
    #[error(
        "load parameter \"{parameter}\" is not supported; a model is loaded as it is in the store, without parameters"
    )]
    LoadParameter { parameter: String },
    #[error("model \"{name}\" has no version \"{version}\"; its only version is \"1\"")]
    NoVersion { name: String, version: String },
    #[error(
        "the platform loads and unloads the models of this container, by POST /models and DELETE /models/<name>; start \
         the server with --model-store to use the repository routes"
    )]
    PlatformLoads,
    #[error(
        "this server serves one model; start it with --model-store to load and unload models by the repository routes"
    )]
    NoStore,
    #[error("this container serves one model; set SAGEMAKER_MULTI_MODEL=true to load and unload models")]
    SingleModelMode,
    #[error(
        "this container serves many models (SAGEMAKER_MULTI_MODEL=true); choose one with POST /models/<name>/invoke"
    )]
    NoModelChosen,
    #[error(
        "this server serves the models of a store; choose one with a header such as X-Amzn-SageMaker-Target-Model: \
         team/a.tar.gz"
    )]
    NoTargetModel,
    #[error("this server has no metrics; start it with --metrics on")]
    MetricsOff,
    #[error("this server makes no profiles of models; start it with --profiles")]
    ProfilesOff,
    #[error("the level of the log cannot be changed by requests; start the server with --log-control")]
    LogControlOff,
    #[error("the level of the log is not changed: {reason}")]
    LogLevel { reason: String },
    #[error("another profile is being made; try again when it has ended")]
    ProfileRunning,
    #[error("the model is still loading")]
    Starting,
    #[error("the container is stopping")]
    Draining,
    #[error("the server is stopping, and the request did not end within --drain-timeout")]
    Cut,
    /// [`Self::Cut`] behind a load balancer, which must not repeat the request.
    #[error("the server is stopping, and the request did not end within --drain-timeout")]
    CutWhileBegun,
    #[error(
        "all connections are busy with requests, so only health checks are answered; try again later, or raise \
         --max-connections and the limit of open files (ulimit -n)"
    )]
    Crowded,
    #[error(transparent)]
    Watchers(TooManyWatchers),
    #[error(transparent)]
    Page(#[from] PageRefusal),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Inference(#[from] InferenceError),
    #[error("{0}")]
    Internal(String),
}

/// Status and `type` of an error response, and the cause by which it is counted.
type Reply = (StatusCode, &'static str, Cause);

const BAD_REQUEST: Reply = (StatusCode::BAD_REQUEST, "BadRequestException", Cause::BadRequest);
const INVALID_MODEL: Reply = (StatusCode::BAD_REQUEST, "InvalidModelException", Cause::InvalidModel);
const NO_ROUTE: Reply = (StatusCode::NOT_FOUND, "ResourceNotFoundException", Cause::NotFound);
const NOT_LOADED: Reply = (StatusCode::NOT_FOUND, "ModelNotFoundException", Cause::NotFound);
const WRONG_METHOD: Reply = (
    StatusCode::METHOD_NOT_ALLOWED,
    "MethodNotAllowedException",
    Cause::Unsupported,
);
const NOT_ACCEPTABLE: Reply = (StatusCode::NOT_ACCEPTABLE, "NotAcceptableException", Cause::Unsupported);
const MEDIA_TYPE: Reply = (
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "UnsupportedMediaTypeException",
    Cause::Unsupported,
);
const TOO_LARGE: Reply = (
    StatusCode::PAYLOAD_TOO_LARGE,
    "RequestEntityTooLargeException",
    Cause::TooLarge,
);
const HEADERS_TOO_LARGE: Reply = (
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "RequestHeaderFieldsTooLargeException",
    Cause::TooLarge,
);
const SLOW_BODY: Reply = (StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", Cause::SlowBody);
const CONFLICT: Reply = (StatusCode::CONFLICT, "ConflictStatusException", Cause::Conflict);
const UNREADY: Reply = unavailable(Cause::Unready);
const QUEUE_FULL: Reply = unavailable(Cause::QueueFull);
const STUCK: Reply = unavailable(Cause::Stuck);
const STORE: Reply = unavailable(Cause::Store);
const EXHAUSTED: Reply = unavailable(Cause::Exhausted);
const FORBIDDEN: Reply = (StatusCode::FORBIDDEN, "AccessDeniedException", Cause::Forbidden);
const DEADLINE: Reply = (
    StatusCode::GATEWAY_TIMEOUT,
    "DeadlineExceededException",
    Cause::Deadline,
);
const NO_MEMORY: Reply = (
    StatusCode::INSUFFICIENT_STORAGE,
    "InsufficientMemoryException",
    Cause::Memory,
);
const MODEL_REFUSED: Reply = (
    StatusCode::INTERNAL_SERVER_ERROR,
    "ModelRefusedException",
    Cause::Quarantined,
);
const INTERNAL: Reply = (
    StatusCode::INTERNAL_SERVER_ERROR,
    "InternalServerException",
    Cause::Internal,
);

const fn unavailable(cause: Cause) -> Reply {
    (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException", cause)
}

/// Advice for a path below `/models/` that has unencoded slashes in the model name.
fn slashes(path: &str) -> &'static str {
    if path.strip_prefix("/models/").is_some_and(|name| name.contains('/')) {
        "; write a slash in a model name as %2F"
    } else {
        ""
    }
}

impl Error {
    /// Builds the response with `json` as its body.
    pub(super) fn response(&self, json: String) -> HttpResponse {
        let mut response = HttpResponse::build(self.reply().0);
        if let Self::MethodNotAllowed { allowed, .. } = self {
            response.insert_header((ALLOW, *allowed));
        }
        if matches!(self, Self::Cut | Self::CutWhileBegun | Self::Crowded) {
            response.force_close();
        }
        response.content_type(ContentType::json()).body(json)
    }

    /// The body of a response with `status`.
    pub(super) fn json(&self, status: StatusCode) -> String {
        let body = ErrorBody {
            code: status.as_u16(),
            kind: self.reply().1.to_owned(),
            message: self.to_string(),
        };
        body.to_json()
    }

    /// The cause by which the error is counted.
    pub(super) fn cause(&self) -> Cause {
        self.reply().2
    }

    /// Whether the message may quote the client's data.
    pub(super) fn quotes_data(&self) -> bool {
        match self {
            Self::Decode(_)
            | Self::Media(_)
            | Self::Encode(_)
            | Self::BodyBroken { .. }
            | Self::BodyEncoding { .. }
            | Self::ContentEncoding { .. }
            | Self::Page(_)
            | Self::LoadRequest { .. }
            | Self::RepositoryRequest { .. }
            | Self::LoadParameter { .. }
            | Self::LogLevel { .. } => true,
            Self::Inference(error) => matches!(error, InferenceError::Run(_)),
            Self::NoRoute { .. }
            | Self::MethodNotAllowed { .. }
            | Self::HeadersTooLarge { .. }
            | Self::CustomAttributes
            | Self::BodyTooLarge { .. }
            | Self::NoMemoryForBody
            | Self::BodyTimeout
            | Self::NoVersion { .. }
            | Self::PlatformLoads
            | Self::NoStore
            | Self::SingleModelMode
            | Self::NoModelChosen
            | Self::NoTargetModel
            | Self::MetricsOff
            | Self::ProfilesOff
            | Self::LogControlOff
            | Self::ProfileRunning
            | Self::Starting
            | Self::Draining
            | Self::Cut
            | Self::CutWhileBegun
            | Self::Crowded
            | Self::Watchers(_)
            | Self::Catalog(_)
            | Self::Internal(_) => false,
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Self::NoRoute { .. } | Self::MetricsOff | Self::ProfilesOff | Self::LogControlOff => NO_ROUTE,
            Self::ProfileRunning => QUEUE_FULL,
            Self::NoVersion { .. } => NOT_LOADED,
            Self::MethodNotAllowed { .. } => WRONG_METHOD,
            Self::HeadersTooLarge { .. } => HEADERS_TOO_LARGE,
            Self::BodyTooLarge { .. } => TOO_LARGE,
            Self::NoMemoryForBody => NO_MEMORY,
            Self::ContentEncoding { .. } => MEDIA_TYPE,
            Self::BodyTimeout => SLOW_BODY,
            Self::CustomAttributes
            | Self::BodyBroken { .. }
            | Self::BodyEncoding { .. }
            | Self::LoadRequest { .. }
            | Self::RepositoryRequest { .. }
            | Self::LoadParameter { .. }
            | Self::LogLevel { .. }
            | Self::PlatformLoads
            | Self::NoStore
            | Self::SingleModelMode
            | Self::NoModelChosen
            | Self::NoTargetModel => BAD_REQUEST,
            Self::Starting | Self::Draining | Self::Cut => UNREADY,
            Self::CutWhileBegun => (DEADLINE.0, DEADLINE.1, Cause::Unready),
            Self::Crowded | Self::Watchers(_) => EXHAUSTED,
            Self::Page(_) => FORBIDDEN,
            Self::Decode(error) => decode(error),
            Self::Media(error) => media(error),
            Self::Encode(error) => encode(error),
            Self::Catalog(error) => catalog(error),
            Self::Inference(error) => inference(error),
            Self::Internal(_) => INTERNAL,
        }
    }
}

fn decode(error: &DecodeError) -> Reply {
    match error {
        DecodeError::UnsupportedMediaType { .. } | DecodeError::UnsupportedCharset { .. } => MEDIA_TYPE,
        DecodeError::TooLarge { .. } => TOO_LARGE,
        DecodeError::OutOfMemory => NO_MEMORY,
        DecodeError::Malformed { .. } | DecodeError::Input(_) | DecodeError::RequestedOutput { .. } => BAD_REQUEST,
    }
}

fn media(error: &MediaError) -> Reply {
    match error {
        MediaError::Body(_) | MediaError::Request(_) | MediaError::DifferentShapes => BAD_REQUEST,
        MediaError::NotUnderstood { .. } => MEDIA_TYPE,
        MediaError::Inputs(error) => decode(error),
        MediaError::NoRoom(_) => NO_MEMORY,
        MediaError::Picture { source, .. } => match source {
            VisionError::TooManyBytes { .. } | VisionError::TooManyPixels { .. } => TOO_LARGE,
            VisionError::OutOfMemory => NO_MEMORY,
            VisionError::NotAPicture { .. }
            | VisionError::Malformed { .. }
            | VisionError::Unsupported { .. }
            | VisionError::Shape { .. } => BAD_REQUEST,
        },
        MediaError::TextRequest(error) => match error {
            RequestError::TooLarge { .. } => TOO_LARGE,
            RequestError::Json { .. } | RequestError::Utf8 { .. } | RequestError::Item { .. } | RequestError::Empty => {
                BAD_REQUEST
            }
        },
        MediaError::Text(error) => match error {
            TextError::TooLarge { .. } => TOO_LARGE,
            TextError::OutOfMemory => NO_MEMORY,
            TextError::Deadline => DEADLINE,
            TextError::File { .. }
            | TextError::FileTooLarge { .. }
            | TextError::Pattern { .. }
            | TextError::PatternBound { .. }
            | TextError::TooLong { .. }
            | TextError::Options(_)
            | TextError::NoPadToken
            | TextError::Refused { .. }
            | TextError::Inputs { .. }
            | TextError::InputType { .. } => BAD_REQUEST,
        },
        MediaError::Sound { source, .. } => match source {
            AudioError::TooLarge { .. } => TOO_LARGE,
            AudioError::OutOfMemory => NO_MEMORY,
            AudioError::Unsupported(_)
            | AudioError::Malformed(_)
            | AudioError::Empty
            | AudioError::NotFinite { .. } => BAD_REQUEST,
        },
        MediaError::Task(error) => match error {
            TaskError::UnknownTask { .. }
            | TaskError::UnknownSetting { .. }
            | TaskError::Setting(_)
            | TaskError::Input(_)
            | TaskError::Unsupported(_) => BAD_REQUEST,
            TaskError::CannotCarry { .. } => NOT_ACCEPTABLE,
            TaskError::OutOfMemory => NO_MEMORY,
            TaskError::Outputs { .. } | TaskError::Context { .. } => INTERNAL,
        },
    }
}

fn encode(error: &EncodeError) -> Reply {
    match error {
        EncodeError::NotAcceptable { .. } | EncodeError::CannotCarry { .. } => NOT_ACCEPTABLE,
        EncodeError::OutOfMemory => NO_MEMORY,
        EncodeError::OutputCount { .. } => INTERNAL,
    }
}

fn catalog(error: &CatalogError) -> Reply {
    match error {
        CatalogError::AlreadyLoaded { .. } => CONFLICT,
        CatalogError::NotLoaded { .. } => NOT_LOADED,
        CatalogError::Name
        | CatalogError::OutsideRoots { .. }
        | CatalogError::StoreName(_)
        | CatalogError::OtherUrl { .. } => BAD_REQUEST,
        CatalogError::MissingUrl { .. }
        | CatalogError::Manifest { .. }
        | CatalogError::Tokenizer { .. }
        | CatalogError::TokenizerGone { .. } => INVALID_MODEL,
        // Not 200: the memory is not free (MM-4).
        CatalogError::StillBusy { .. } | CatalogError::StillHeld { .. } => STUCK,
        CatalogError::Refused { .. } => MODEL_REFUSED,
        CatalogError::Rehearsal { source, .. } => rehearsal(source),
        CatalogError::Fetch { source, .. } => fetch(source),
        CatalogError::PendingLoad(error) => catalog(error),
        CatalogError::OnDemand { source, .. } => match catalog(source) {
            // The request is valid, and its caller cannot repair the model.
            INVALID_MODEL | MODEL_REFUSED | INTERNAL => unavailable(catalog(source).2),
            reply => reply,
        },
        CatalogError::Load { source, .. } => match &**source {
            LoadError::Artifact(error) => artifact(error),
            LoadError::Session(SessionError::Rejected(_) | SessionError::Unsupported(_))
            | LoadError::Adapter { .. }
            | LoadError::Quarantined(_) => INVALID_MODEL,
            LoadError::Session(SessionError::NoDescriptors) => EXHAUSTED,
            LoadError::Session(SessionError::OutOfMemory) | LoadError::NoRoom(_) => NO_MEMORY,
            LoadError::Session(SessionError::Device(_)) => INTERNAL,
            LoadError::Prepare(error) => prepare(error),
            LoadError::Pool(error) => pool(*error),
        },
    }
}

/// Status of a failed rehearsal: its requests come from the artifact, so an error that would be
/// the caller's is the artifact's.
fn rehearsal(error: &RehearsalError) -> Reply {
    match error {
        RehearsalError::Differs { .. } => INVALID_MODEL,
        RehearsalError::Failed { source, .. } => {
            let reply = match source {
                InvocationError::Decode(error) => decode(error),
                InvocationError::Encode(error) => encode(error),
                InvocationError::Media(error) => media(error),
                InvocationError::Inference(error) => inference(error),
            };
            match reply {
                (
                    StatusCode::INSUFFICIENT_STORAGE | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
                    ..,
                ) => reply,
                _ => INVALID_MODEL,
            }
        }
    }
}

fn inference(error: &InferenceError) -> Reply {
    match error {
        InferenceError::NoRoom(_) => NO_MEMORY,
        InferenceError::Run(error) => run(error),
        InferenceError::Pool(error) => pool(*error),
        InferenceError::Stuck { .. } => STUCK,
    }
}

fn fetch(error: &FetchError) -> Reply {
    match error {
        FetchError::Store(StoreError::NotFound { .. }) => NOT_LOADED,
        FetchError::Archive { .. } => INVALID_MODEL,
        FetchError::Store(_) | FetchError::Disk(_) | FetchError::NoRoom(_) => STORE,
        FetchError::Stopping => UNREADY,
    }
}

fn prepare(error: &PrepareError) -> Reply {
    match error {
        PrepareError::Session(SessionError::OutOfMemory) | PrepareError::Killed => NO_MEMORY,
        PrepareError::Session(SessionError::NoDescriptors) => EXHAUSTED,
        PrepareError::Session(SessionError::Rejected(_) | SessionError::Unsupported(_))
        | PrepareError::Crashed { .. }
        | PrepareError::TimedOut(_)
        | PrepareError::MemoryBomb(_) => INVALID_MODEL,
        PrepareError::NoChild(_) | PrepareError::Session(SessionError::Device(_)) => INTERNAL,
        PrepareError::Stopping => UNREADY,
    }
}

fn artifact(error: &ArtifactError) -> Reply {
    match error {
        ArtifactError::Missing { .. }
        | ArtifactError::Unreadable { .. }
        | ArtifactError::NoModel { .. }
        | ArtifactError::Ambiguous { .. }
        | ArtifactError::SeveralGraphs { .. }
        | ArtifactError::SeveralAdapters { .. }
        | ArtifactError::Manifest { .. }
        | ArtifactError::NotAModel { .. }
        | ArtifactError::Foreign { .. }
        | ArtifactError::NotOrtFormat { .. }
        | ArtifactError::ExternalData { .. }
        | ArtifactError::ShortExternalData { .. }
        | ArtifactError::Escapes { .. } => INVALID_MODEL,
        // Not 507: unloading models does not free these resources.
        ArtifactError::NoDescriptors { .. } | ArtifactError::NoCopy { .. } | ArtifactError::Changed { .. } => EXHAUSTED,
    }
}

fn run(error: &RunError) -> Reply {
    match error {
        RunError::Data(_) | RunError::Division => BAD_REQUEST,
        RunError::OutOfMemory => NO_MEMORY,
        RunError::Cancelled => DEADLINE,
        RunError::Disturbed => unavailable(Cause::Internal),
        RunError::Runtime(_) => INTERNAL,
    }
}

fn pool(error: PoolError) -> Reply {
    match error {
        PoolError::QueueFull { .. } => QUEUE_FULL,
        PoolError::Stopping => UNREADY,
        PoolError::Deadline => DEADLINE,
        PoolError::Panicked => INTERNAL,
    }
}

impl From<InvocationError> for Error {
    fn from(error: InvocationError) -> Self {
        match error {
            InvocationError::Decode(error) => Self::Decode(error),
            InvocationError::Encode(error) => Self::Encode(error),
            InvocationError::Media(error) => Self::Media(error),
            InvocationError::Inference(error) => Self::Inference(error),
        }
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        self.reply().0
    }

    fn error_response(&self) -> HttpResponse {
        self.response(self.json(self.status_code()))
    }
}
