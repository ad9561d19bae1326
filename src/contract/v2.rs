//! The Open Inference Protocol, version 2, for clients of KServe and Triton: the same models,
//! engine and limits as elsewhere, under other paths.
//!
//! With a model store, a request loads its model, as `/invocations` does, and the repository
//! routes load and unload models explicitly. If the platform loads the models, the repository
//! routes only list them: a load by another route than `/models` would make the platform's view
//! wrong (MM-19).
//!
//! Invariant: an error is `{"error": ".."}` with the same status that its cause has on other
//! routes.

mod error;
mod infer;
mod metadata;
mod repository;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::time::Instant;

use super::error::Error;
use super::{AppState, body};
use crate::wire::v2::{EXTENSIONS, Live, ModelPath, ModelReady, Part, Path, Ready, ServerMetadata, VERSION};

pub(super) use error::V2Error;

/// Whether a raw path belongs to the protocol.
pub(super) fn is_below(path: &str) -> bool {
    Path::is_below(path)
}

/// Whether a path is an inference, for the metrics.
pub(super) fn is_inference(path: &str) -> bool {
    path.ends_with("/infer")
}

/// Answers all requests below `/v2`.
pub(super) async fn answer(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, V2Error> {
    let raw = request.uri().path();
    let allowed = match Path::parse(raw) {
        Some(path) if request.method() == allowed(&path) => {
            return route(state, &request, payload, path).await.map_err(V2Error);
        }
        path => path.as_ref().map(allowed),
    };
    body::discard(&request, payload).await;
    Err(V2Error(match allowed {
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
    state: web::Data<AppState>,
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

/// Answers whether the model would accept a request now, without being loaded first.
async fn ready(state: &AppState, model: &ModelPath) -> Result<HttpResponse, Error> {
    check_version(model)?;
    if is_default(state, model) {
        state.health.ping().await?;
    }
    state.catalog.describe(&model.name).await?.check()?;
    let (name, ready) = (model.name.as_str(), true);
    Ok(HttpResponse::Ok().json(ModelReady { name, ready }))
}

/// Refuses unknown versions. Also refuses the model of single-model mode while it is loading;
/// after a restart, waits for it until `deadline` instead.
async fn check(state: &AppState, model: &ModelPath, deadline: Instant) -> Result<(), Error> {
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

fn is_default(state: &AppState, model: &ModelPath) -> bool {
    state.settings.invocations.default.as_ref() == Some(&model.name)
}
