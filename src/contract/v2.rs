//! The Open Inference Protocol, version 2, for the clients of KServe and Triton: the same models,
//! engine and limits under other paths.
//!
//! Which models there are is the mode's business, not the protocol's. With a model store a model is
//! brought when it is asked for, as by `/invocations`, and the repository routes bring and unload
//! it. Where the platform loads models they only list: what is loaded otherwise than through
//! `/models` would make the platform's view wrong (MM-19).
//!
//! What always holds: an error is `{"error": ".."}` with the status that the same cause has
//! elsewhere.

mod infer;
mod metadata;
mod refusal;
mod repository;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::Instant;

use super::error::Error;
use super::{State, body};
use crate::wire::v2::{EXTENSIONS, Live, ModelPath, ModelReady, Part, Path, Ready, ServerMetadata, VERSION};

pub(super) use refusal::Refusal;

/// Whether a raw path is the protocol's.
pub(super) fn is_below(path: &str) -> bool {
    Path::is_below(path)
}

/// Whether it asks a model, for the metrics.
pub(super) fn is_inference(path: &str) -> bool {
    path.ends_with("/infer")
}

/// All that is below `/v2`.
pub(super) async fn answer(
    state: web::Data<State>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Refusal> {
    let raw = request.uri().path();
    let allowed = match Path::parse(raw) {
        Some(path) if request.method() == allowed(&path) => {
            return route(state, &request, payload, path).await.map_err(Refusal);
        }
        path => path.as_ref().map(allowed),
    };
    body::discard(&request, payload).await;
    Err(Refusal(match allowed {
        Some(allowed) => Error::MethodNotAllowed {
            method: request.method().clone(),
            allowed: if allowed == Method::GET { "GET" } else { "POST" },
        },
        None => Error::NoRoute { path: raw.to_owned() },
    }))
}

fn allowed(path: &Path) -> Method {
    match path {
        Path::Server | Path::Live | Path::Ready => Method::GET,
        Path::Model(ModelPath { part, .. }) => match part {
            Part::Metadata | Part::Ready => Method::GET,
            Part::Infer => Method::POST,
        },
        Path::Index | Path::Load(_) | Path::Unload(_) => Method::POST,
    }
}

async fn route(
    state: web::Data<State>,
    request: &HttpRequest,
    payload: web::Payload,
    path: Path,
) -> Result<HttpResponse, Error> {
    match path {
        Path::Server => Ok(HttpResponse::Ok().json(ServerMetadata {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            extensions: &EXTENSIONS,
        })),
        Path::Live => Ok(HttpResponse::Ok().json(Live { live: true })),
        Path::Ready => {
            state.health.ping().await?;
            Ok(HttpResponse::Ok().json(Ready { ready: true }))
        }
        Path::Model(model) => match model.part {
            Part::Metadata => metadata::model(&state, &model).await,
            Part::Ready => ready(&state, &model).await,
            Part::Infer => infer::infer(&state, &model, request, payload).await,
        },
        Path::Index => repository::index(&state, request, payload).await,
        Path::Load(name) => repository::load(state, name, request, payload).await,
        Path::Unload(name) => repository::unload(state, name, request, payload).await,
    }
}

/// Whether a request to the model would be answered without loading it first, rather than refused.
async fn ready(state: &State, model: &ModelPath) -> Result<HttpResponse, Error> {
    check_version(model)?;
    if is_default(state, model) {
        state.health.ping().await?;
    }
    state.catalog.describe(&model.name).await?.check()?;
    let (name, ready) = (model.name.as_str(), true);
    Ok(HttpResponse::Ok().json(ModelReady { name, ready }))
}

/// Refuses versions that there are not, and the one model of single-model mode while it is loaded;
/// after a restart, waits for that one until `deadline`.
async fn check(state: &State, model: &ModelPath, deadline: Instant) -> Result<(), Error> {
    check_version(model)?;
    if is_default(state, model) {
        state.health.admit()?;
        state.health.started_by(deadline).await?;
    }
    Ok(())
}

fn check_version(model: &ModelPath) -> Result<(), Error> {
    if let Some(version) = model.version.as_deref().filter(|&version| version != VERSION) {
        return Err(Error::NoVersion {
            name: model.name.clone(),
            version: version.to_owned(),
        });
    }
    Ok(())
}

fn is_default(state: &State, model: &ModelPath) -> bool {
    state.settings.invocations.default.as_ref() == Some(&model.name)
}
