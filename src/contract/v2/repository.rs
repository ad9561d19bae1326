//! `POST /v2/repository/..`: Triton's extension to list, load and unload models.
//!
//! The repository is the model store. A load brings the newest version of a model into memory. An
//! unload frees that memory; a later request loads the model again. The index lists only models
//! that are loaded, loading or recently failed: a store may hold any number of models and may not
//! permit listing.

use actix_web::{HttpRequest, HttpResponse, rt, web};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::catalog::ModelStatus;
use crate::contract::error::Error;
use crate::contract::models::{MAX_LOAD_BODY, joined, unload_reported};
use crate::contract::{AppState, body};
use crate::wire::v2::{IndexEntry, IndexRequest, RepositoryRequest, VERSION};

pub(super) async fn index(
    state: &AppState,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let ready = read::<IndexRequest>(state, request, payload)
        .await?
        .ready
        .unwrap_or(false);
    let models = state.catalog.statuses().into_iter();
    let entries: Vec<IndexEntry> = models
        .map(|(name, status)| entry(name, &status))
        .filter(|entry| !ready || entry.state == READY)
        .collect();
    Ok(HttpResponse::Ok().json(entries))
}

const READY: &str = "READY";

fn entry(name: String, status: &ModelStatus) -> IndexEntry {
    let (state, reason) = match status {
        ModelStatus::Loaded => (READY, String::new()),
        ModelStatus::Stuck(error) => ("UNAVAILABLE", error.to_string()),
        ModelStatus::Restored => ("LOADING", "it was loaded before the server was restarted".to_owned()),
        ModelStatus::Loading => ("LOADING", String::new()),
        ModelStatus::Failed(error, _) => ("UNAVAILABLE", error.to_string()),
    };
    IndexEntry {
        name,
        version: VERSION,
        state,
        reason,
    }
}

pub(super) async fn load(
    state: web::Data<AppState>,
    name: String,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    if let Err(error) = from_store(&state) {
        body::discard(request, payload).await;
        return Err(error);
    }
    let RepositoryRequest { parameters } = read(&state, request, payload).await?;
    let mut parameters = parameters.into_iter().flatten();
    if let Some((parameter, _)) = parameters.find(|(_, value)| !value.is_null()) {
        return Err(Error::LoadParameter { parameter });
    }
    // A separate task, so that the load continues if the client hangs up.
    let task = rt::spawn(async move { state.catalog.load_newest(&name).await });
    joined(task).await??;
    Ok(HttpResponse::Ok().finish())
}

/// Unloads a model. Ignores the parameters: they name dependent models to unload, which do not
/// exist here.
pub(super) async fn unload(
    state: web::Data<AppState>,
    name: String,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    body::discard(request, payload).await;
    from_store(&state)?;
    let name = name.strip_suffix('/').map(ToOwned::to_owned).unwrap_or(name);
    unload_reported(state, request, name).await?;
    Ok(HttpResponse::Ok().finish())
}

/// Checks that the server has a store from which it can load a model by its name.
fn from_store(state: &AppState) -> Result<(), Error> {
    match (state.settings.loads, state.settings.invocations.by_target) {
        (true, true) => Ok(()),
        (true, false) => Err(Error::PlatformLoads),
        (false, _) => Err(Error::NoStore),
    }
}

/// Reads a JSON body; an empty one means the defaults.
async fn read<T: Default + DeserializeOwned>(
    state: &AppState,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<T, Error> {
    let deadline = Instant::now() + state.settings.request_timeout;
    let body = body::read(&state.engine, request, payload, MAX_LOAD_BODY, deadline).await?;
    if body.bytes.is_empty() {
        return Ok(T::default());
    }
    body::json_object(&body.bytes).map_err(|error| Error::RepositoryRequest {
        detail: error.to_string(),
    })
}
