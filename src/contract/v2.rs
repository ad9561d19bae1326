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
use crate::wire::v2::{
    EXTENSIONS, LiveBody, ModelPart, ModelReady, ReadyBody, ServerMetadata, V2ModelPath, V2Path, VERSION,
};

pub(super) use refusal::Refusal;

/// Whether a raw path is the protocol's.
pub(super) fn is_below(path: &str) -> bool {
    V2Path::is_below(path)
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
    let allowed = match V2Path::parse(raw) {
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
    state: web::Data<State>,
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

/// Whether a request to the model would be answered without loading it first, rather than refused.
async fn ready(state: &State, model: &V2ModelPath) -> Result<HttpResponse, Error> {
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
async fn check(state: &State, model: &V2ModelPath, deadline: Instant) -> Result<(), Error> {
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

fn is_default(state: &State, model: &V2ModelPath) -> bool {
    state.settings.invocations.default.as_ref() == Some(&model.name)
}
