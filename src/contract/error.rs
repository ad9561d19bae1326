//! The one table from causes to HTTP statuses.
//!
//! Spelled out to the last variant, so that a new cause does not compile until somebody has decided
//! what the caller should see. The distinctions that the platform acts on: 409 is "loaded already",
//! 404 "not loaded", 507 "unload something and retry", and any other refusal of a load means that
//! the model is broken (MM-18). Causes that the caller can change are 4xx: CloudWatch counts 5xx as
//! faults of the model.

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
use crate::store::{FetchError, StoreError};
use crate::task::TaskError;
use crate::text::TextError;
use crate::text::request::RequestError;
use crate::vision::VisionError;
use crate::wire::{CUSTOM_ATTRIBUTES, ErrorBody, MAX_CUSTOM_ATTRIBUTES};

/// Everything that a request can be refused for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("there is nothing at {path}{}", slashes(.path))]
    NoRoute { path: String },
    #[error("{method} is not possible here; possible are {allowed}")]
    MethodNotAllowed { method: Method, allowed: &'static str },
    #[error("the headers have {bytes} bytes; at most {limit} are read (--max-headers)")]
    HeadersTooLarge { bytes: usize, limit: usize },
    #[error(
        "{CUSTOM_ATTRIBUTES} must have at most {MAX_CUSTOM_ATTRIBUTES} characters, all of them visible ASCII or blanks"
    )]
    CustomAttributes,
    #[error("the body is larger than {limit} bytes{}", knob.map(|knob| format!(" ({knob})")).unwrap_or_default())]
    BodyTooLarge {
        limit: usize,
        /// The flag that sets the limit, when one does.
        knob: Option<&'static str>,
    },
    #[error("there is no memory left for the body; try again later, unload a model, or raise --memory-reserve")]
    NoMemoryForBody,
    #[error("bodies in the content encoding {encoding} are not understood; send gzip or zstd, or the body as it is")]
    ContentEncoding { encoding: String },
    #[error("the body is not valid {encoding}, as its Content-Encoding says: {detail}")]
    BodyEncoding { encoding: &'static str, detail: String },
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("the body is broken: {detail}")]
    BodyBroken { detail: String },
    #[error("a load's body must be JSON like {{\"model_name\": \"...\", \"url\": \"...\"}}: {detail}")]
    LoadRequest { detail: String },
    #[error("a repository request's body must be empty or JSON: {detail}")]
    RepositoryRequest { detail: String },
    #[error("a model is loaded as it is in the store; the parameter \"{parameter}\" is not understood")]
    LoadParameter { parameter: String },
    #[error("model \"{name}\" has no version \"{version}\"; the one that it has is \"1\"")]
    NoVersion { name: String, version: String },
    #[error(
        "the platform loads and unloads the models of this container, by POST /models and DELETE /models/<name>; a \
         server that was started with --model-store does it by these routes"
    )]
    PlatformLoads,
    #[error(
        "this server serves one model; one that was started with --model-store loads and unloads models by these routes"
    )]
    NoStore,
    #[error("this container serves one model; with SAGEMAKER_MULTI_MODEL=true it loads and unloads models")]
    SingleModelMode,
    #[error("this container serves many models (SAGEMAKER_MULTI_MODEL=true): choose one by POST /models/<name>/invoke")]
    NoModelChosen,
    #[error(
        "the server serves the models of a store: choose one by the header X-Amzn-SageMaker-Target-Model: team/a.tar.gz"
    )]
    NoTargetModel,
    #[error("the model is still being loaded")]
    Starting,
    #[error("the container is stopping")]
    Draining,
    #[error("the server is stopping, and the request did not end within --drain-timeout")]
    Cut,
    #[error(
        "all connections are taken by requests; only health checks are answered. Try again later, or raise --max-connections \
         and the limit of open files (ulimit -n)"
    )]
    Crowded,
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

/// Status and `type` of a reply.
type Reply = (StatusCode, &'static str);

const BAD_REQUEST: Reply = (StatusCode::BAD_REQUEST, "BadRequestException");
const INVALID_MODEL: Reply = (StatusCode::BAD_REQUEST, "InvalidModelException");
const NOT_LOADED: Reply = (StatusCode::NOT_FOUND, "ModelNotFoundException");
const UNAVAILABLE: Reply = (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableException");
const FORBIDDEN: Reply = (StatusCode::FORBIDDEN, "AccessDeniedException");
const DEADLINE: Reply = (StatusCode::GATEWAY_TIMEOUT, "DeadlineExceededException");
const NO_MEMORY: Reply = (StatusCode::INSUFFICIENT_STORAGE, "InsufficientMemoryException");
const MODEL_REFUSED: Reply = (StatusCode::INTERNAL_SERVER_ERROR, "ModelRefusedException");
const INTERNAL: Reply = (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerException");

/// What to do about a path that would be a model's if its slashes were a name's.
fn slashes(path: &str) -> &'static str {
    if path.strip_prefix("/models/").is_some_and(|name| name.contains('/')) {
        "; a slash in a model's name is %2F"
    } else {
        ""
    }
}

impl Error {
    /// The reply with this JSON as its body.
    pub(super) fn response(&self, json: String) -> HttpResponse {
        let mut response = HttpResponse::build(self.reply().0);
        if let Self::MethodNotAllowed { allowed, .. } = self {
            response.insert_header((ALLOW, *allowed));
        }
        if matches!(self, Self::Cut | Self::Crowded) {
            response.force_close();
        }
        response.content_type(ContentType::json()).body(json)
    }

    fn reply(&self) -> Reply {
        match self {
            Self::NoRoute { .. } => (StatusCode::NOT_FOUND, "ResourceNotFoundException"),
            Self::NoVersion { .. } => NOT_LOADED,
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowedException"),
            Self::HeadersTooLarge { .. } => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "RequestHeaderFieldsTooLargeException",
            ),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException"),
            Self::NoMemoryForBody => NO_MEMORY,
            Self::ContentEncoding { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaTypeException"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException"),
            Self::CustomAttributes
            | Self::BodyBroken { .. }
            | Self::BodyEncoding { .. }
            | Self::LoadRequest { .. }
            | Self::RepositoryRequest { .. }
            | Self::LoadParameter { .. }
            | Self::PlatformLoads
            | Self::NoStore
            | Self::SingleModelMode
            | Self::NoModelChosen
            | Self::NoTargetModel => BAD_REQUEST,
            Self::Starting | Self::Draining | Self::Cut | Self::Crowded => UNAVAILABLE,
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
        DecodeError::UnsupportedMediaType { .. } | DecodeError::UnsupportedCharset { .. } => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaTypeException")
        }
        DecodeError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException"),
        DecodeError::OutOfMemory => NO_MEMORY,
        DecodeError::Malformed { .. } | DecodeError::Input(_) | DecodeError::RequestedOutput { .. } => BAD_REQUEST,
    }
}

const TOO_LARGE: Reply = (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLargeException");

fn media(error: &MediaError) -> Reply {
    match error {
        MediaError::Body(_) | MediaError::Request(_) | MediaError::DifferentShapes => BAD_REQUEST,
        MediaError::NotUnderstood { .. } => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaTypeException"),
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
            TaskError::CannotCarry { .. } => (StatusCode::NOT_ACCEPTABLE, "NotAcceptableException"),
            TaskError::OutOfMemory => NO_MEMORY,
            TaskError::Outputs { .. } | TaskError::Context { .. } => INTERNAL,
        },
    }
}

fn encode(error: &EncodeError) -> Reply {
    match error {
        EncodeError::NotAcceptable { .. } | EncodeError::CannotCarry { .. } => {
            (StatusCode::NOT_ACCEPTABLE, "NotAcceptableException")
        }
        EncodeError::OutOfMemory => NO_MEMORY,
        EncodeError::OutputCount { .. } => INTERNAL,
    }
}

fn catalog(error: &CatalogError) -> Reply {
    match error {
        CatalogError::AlreadyLoaded { .. } => (StatusCode::CONFLICT, "ConflictStatusException"),
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
        CatalogError::StillBusy { .. } | CatalogError::StillHeld { .. } => UNAVAILABLE,
        CatalogError::Refused { .. } => MODEL_REFUSED,
        CatalogError::Rehearsal { source, .. } => rehearsal(source),
        CatalogError::Fetch { source, .. } => fetch(source),
        CatalogError::PendingLoad(error) => catalog(error),
        CatalogError::OnDemand { source, .. } => match catalog(source) {
            // The caller has sent nothing wrong, and can do nothing about it.
            INVALID_MODEL | MODEL_REFUSED | INTERNAL => UNAVAILABLE,
            reply => reply,
        },
        CatalogError::Load { source, .. } => match &**source {
            LoadError::Artifact(error) => artifact(error),
            LoadError::Session(SessionError::Rejected(_) | SessionError::Unsupported(_))
            | LoadError::Quarantined(_) => INVALID_MODEL,
            LoadError::Session(SessionError::NoDescriptors) => UNAVAILABLE,
            LoadError::Session(SessionError::OutOfMemory) | LoadError::NoRoom(_) => NO_MEMORY,
            LoadError::Session(SessionError::Device(_)) => INTERNAL,
            LoadError::Prepare(error) => prepare(error),
            LoadError::Pool(error) => pool(*error),
        },
    }
}

/// The status for a request that came with the artifact: what would be the caller's fault is the
/// artifact's.
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
                NO_MEMORY | UNAVAILABLE | DEADLINE => reply,
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
        InferenceError::Stuck { .. } => UNAVAILABLE,
    }
}

fn fetch(error: &FetchError) -> Reply {
    match error {
        FetchError::Store(StoreError::NotFound { .. }) => NOT_LOADED,
        FetchError::Archive { .. } => INVALID_MODEL,
        FetchError::Store(_) | FetchError::Disk(_) | FetchError::NoRoom(_) | FetchError::Stopping => UNAVAILABLE,
    }
}

fn prepare(error: &PrepareError) -> Reply {
    match error {
        PrepareError::Session(SessionError::OutOfMemory) | PrepareError::Killed => NO_MEMORY,
        PrepareError::Session(SessionError::NoDescriptors) => UNAVAILABLE,
        PrepareError::Session(SessionError::Rejected(_) | SessionError::Unsupported(_))
        | PrepareError::Crashed { .. }
        | PrepareError::TimedOut(_)
        | PrepareError::MemoryBomb(_) => INVALID_MODEL,
        PrepareError::NoChild(_) | PrepareError::Session(SessionError::Device(_)) => INTERNAL,
        PrepareError::Stopping => UNAVAILABLE,
    }
}

fn artifact(error: &ArtifactError) -> Reply {
    match error {
        ArtifactError::Missing { .. }
        | ArtifactError::Unreadable { .. }
        | ArtifactError::NoModel { .. }
        | ArtifactError::Ambiguous { .. }
        | ArtifactError::SeveralGraphs { .. }
        | ArtifactError::Manifest { .. }
        | ArtifactError::NotAModel { .. }
        | ArtifactError::Foreign { .. }
        | ArtifactError::NotOrtFormat { .. }
        | ArtifactError::ExternalData { .. }
        | ArtifactError::ShortExternalData { .. }
        | ArtifactError::Escapes { .. } => INVALID_MODEL,
        // Unloading models frees none, so not 507.
        ArtifactError::NoDescriptors { .. } | ArtifactError::NoCopy { .. } | ArtifactError::Changed { .. } => {
            UNAVAILABLE
        }
    }
}

fn run(error: &RunError) -> Reply {
    match error {
        RunError::Data(_) | RunError::Division => BAD_REQUEST,
        RunError::OutOfMemory => NO_MEMORY,
        RunError::Cancelled => DEADLINE,
        RunError::Disturbed => UNAVAILABLE,
        RunError::Runtime(_) => INTERNAL,
    }
}

fn pool(error: PoolError) -> Reply {
    match error {
        PoolError::QueueFull { .. } | PoolError::Stopping => UNAVAILABLE,
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
        let (status, kind) = self.reply();
        let body = ErrorBody {
            code: status.as_u16(),
            kind: kind.to_owned(),
            message: self.to_string(),
        };
        self.response(body.to_json())
    }
}
