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
use crate::wire::v2::{
    EXTENSIONS, LiveBody, ModelPart, ModelReady, ReadyBody, ServerMetadata, V2ModelPath, V2Path, VERSION,
};

pub(super) use error::V2Error;

/// Whether a raw path belongs to the protocol.
pub(super) fn is_below(path: &str) -> bool {
    V2Path::is_below(path)
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
    let allowed = match V2Path::parse(raw) {
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

fn allowed(path: &V2Path) -> Method {
    match path {
        V2Path::Server | V2Path::Live | V2Path::Ready => Method::GET,
        V2Path::Model(V2ModelPath { part, .. }) => match part {
            ModelPart::Metadata | ModelPart::Ready => Method::GET,
            ModelPart::Infer => Method::POST,
        },
        V2Path::Index | V2Path::Load(_) | V2Path::Unload(_) => Method::POST,
    }
}

async fn route(
    state: web::Data<AppState>,
    request: &HttpRequest,
    payload: web::Payload,
    path: V2Path,
) -> Result<HttpResponse, Error> {
    match path {
        V2Path::Server => Ok(HttpResponse::Ok().json(ServerMetadata {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            extensions: &EXTENSIONS,
        })),
        V2Path::Live => Ok(HttpResponse::Ok().json(LiveBody { live: true })),
        V2Path::Ready => {
            state.health.ping().await?;
            Ok(HttpResponse::Ok().json(ReadyBody { ready: true }))
        }
        V2Path::Model(model) => match model.part {
            ModelPart::Metadata => metadata::model(&state, &model).await,
            ModelPart::Ready => ready(&state, &model).await,
            ModelPart::Infer => infer::infer(&state, &model, request, payload).await,
        },
        V2Path::Index => repository::index(&state, request, payload).await,
        V2Path::Load(name) => repository::load(state, name, request, payload).await,
        V2Path::Unload(name) => repository::unload(state, name, request, payload).await,
    }
}

/// Answers whether the model would accept a request now, without being loaded first.
async fn ready(state: &AppState, model: &V2ModelPath) -> Result<HttpResponse, Error> {
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
async fn check(state: &AppState, model: &V2ModelPath, deadline: Instant) -> Result<(), Error> {
    check_version(model)?;
    if is_default(state, model) {
        state.health.admit()?;
        state.health.started_by(deadline).await?;
    }
    Ok(())
}

fn check_version(model: &V2ModelPath) -> Result<(), Error> {
    if let Some(version) = model.version.as_deref().filter(|&version| version != VERSION) {
        return Err(Error::NoVersion {
            name: model.name.clone(),
            version: version.to_owned(),
        });
    }
    Ok(())
}

fn is_default(state: &AppState, model: &V2ModelPath) -> bool {
    state.settings.invocations.default.as_ref() == Some(&model.name)
}
