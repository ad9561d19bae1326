//! Load, list, get and unload models (`MM` clauses).

use std::collections::HashMap;
use std::time::Instant;

use actix_web::http::Method;
use actix_web::{HttpRequest, HttpResponse, rt, web};
use tracing::Instrument;

use super::body::{self, BodyLimit};
use super::error::Error;
use super::failure;
use super::request_log;
use super::{AppState, invoke};
use crate::catalog::{CatalogError, Operation, model_span};
use crate::engine::LoadedMemory;
use crate::telemetry::metrics::{LoadOutcome, UnloadReason};
use crate::telemetry::times::{Step, as_milliseconds};
use crate::wire::{
    LoadRequest, ModelDescription, ModelList, ModelPath, StatusBody, TARGET_MODEL, page_token, parse_page_token,
};

/// Models on a page: the default and the maximum (MM-10).
const PAGE: usize = 100;

/// Limit on the body of a load request: two short strings; the catalog limits the name.
pub(super) const MAX_LOAD_BODY: BodyLimit = BodyLimit {
    bytes: 64 << 10,
    option: None,
};

/// `POST /models`: answers when the model can serve (MM-1, MM-13).
pub(super) async fn load(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    if !state.settings.loads {
        body::discard(&request, payload).await;
        return Err(Error::SingleModelMode);
    }
    let deadline = tokio::time::Instant::now() + state.settings.request_timeout;
    let body = body::read(&state.engine, &request, payload, MAX_LOAD_BODY, deadline).await?;
    let wanted: LoadRequest = body::json_object(&body.bytes).map_err(|error| Error::LoadRequest {
        detail: error.to_string(),
    })?;
    failure::note_model(&request, &wanted.model_name);
    let target_model = text_header(&request, TARGET_MODEL);
    // A separate task: the platform stops waiting after a minute, but the load continues, and the
    // platform's retry finds it done (MM-14).
    let span = model_span(Operation::Load, &wanted.model_name, target_model.as_deref());
    let load = async move {
        let started = Instant::now();
        let loaded = state
            .catalog
            .load(&wanted.model_name, &wanted.url, target_model.as_deref())
            .await;
        let took = started.elapsed();
        if state.settings.invocations.by_target {
            // `catalog::demand` counts and logs these loads.
            return loaded.map(|_| wanted.model_name);
        }
        state.metrics.load(outcome(&loaded), took);
        if let Ok(LoadedMemory { own, shared, .. }) = loaded {
            tracing::info!(
                memory_bytes = own,
                shared_bytes = shared,
                load_ms = as_milliseconds(took),
                "model loaded"
            );
        }
        loaded.map(|_| wanted.model_name)
    };
    let asked = Instant::now();
    let loaded = joined(rt::spawn(load.instrument(span))).await;
    // The model is in the record by `note_model`.
    if let Some(logged) = request_log::logged(&request) {
        logged.times.end(Step::Load, asked);
    }
    let name = loaded??;
    Ok(HttpResponse::Ok().json(StatusBody {
        status: format!("Model \"{name}\" registered"),
    }))
}

/// `GET /models` (MM-2, MM-10). Invalid parameters get their defaults, as in the reference server.
pub(super) async fn list(state: web::Data<AppState>, request: HttpRequest) -> HttpResponse {
    let query = web::Query::<HashMap<String, String>>::from_query(request.query_string())
        .map(web::Query::into_inner)
        .unwrap_or_default();
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(PAGE);
    let limit = if (1..=PAGE).contains(&limit) { limit } else { PAGE };
    let after = query.get("next_page_token").and_then(|token| parse_page_token(token));
    let (models, more) = state.catalog.page(after.as_deref(), limit);
    let next_page_token = models.last().filter(|_| more).map(|(name, _)| page_token(name));
    let models = models.into_iter().map(|(model_name, model_url)| ModelDescription {
        model_name,
        model_url,
        stuck_runs: None,
    });
    HttpResponse::Ok().json(ModelList {
        models: models.collect(),
        next_page_token,
    })
}

/// Routes paths below `/models/`, and refuses unknown paths.
pub(super) async fn below(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let path = request.uri().path();
    let path = ModelPath::parse(path).ok_or_else(|| Error::NoRoute { path: path.to_owned() })?;
    match (path, request.method()) {
        (ModelPath::Model(name), &Method::GET) => get(&state, &name).await,
        (ModelPath::Model(name), &Method::DELETE) => unload(state, &request, name).await,
        (ModelPath::Model(_), method) => Err(Error::MethodNotAllowed {
            method: method.clone(),
            allowed: "GET, DELETE",
        }),
        (ModelPath::Invoke(name), &Method::POST) => invoke::model(&state, &name, &request, payload).await,
        (ModelPath::Invoke(_), method) => Err(Error::MethodNotAllowed {
            method: method.clone(),
            allowed: "POST",
        }),
    }
}

/// `GET /models/{name}` (MM-3). Reports stuck runs while the model refuses requests (MM-11).
async fn get(state: &AppState, name: &str) -> Result<HttpResponse, Error> {
    let about = state.catalog.describe(name).await?;
    Ok(HttpResponse::Ok().json(ModelDescription {
        model_name: name.to_owned(),
        model_url: about.url,
        stuck_runs: (about.stuck_runs > 0).then_some(about.stuck_runs),
    }))
}

/// `DELETE /models/{name}`: answers when the memory is free (MM-4).
async fn unload(state: web::Data<AppState>, request: &HttpRequest, name: String) -> Result<HttpResponse, Error> {
    if !state.settings.loads {
        return Err(Error::SingleModelMode);
    }
    let name = unload_reported(state, request, name).await?;
    Ok(HttpResponse::Ok().json(StatusBody {
        status: format!("Model \"{name}\" unregistered"),
    }))
}

/// Unloads `name` and returns it. Counts and logs the unload.
pub(super) async fn unload_reported(
    state: web::Data<AppState>,
    request: &HttpRequest,
    name: String,
) -> Result<String, Error> {
    let target_model = state.catalog.listed(&name).await.and_then(|listed| listed.target_model);
    // Before the unload, after which the client's name for the model is unknown.
    if let Some(logged) = request_log::logged(request) {
        logged.found_model(&name, target_model.as_deref(), false);
    }
    // A separate task, so that the unload continues if the client hangs up.
    let span = model_span(Operation::Unload, &name, target_model.as_deref());
    let unload = async move {
        let started = Instant::now();
        let unloaded = state.catalog.unload(&name).await;
        let took = started.elapsed();
        if let Ok(freed_bytes) = unloaded {
            state.metrics.unload(UnloadReason::Request, Some(took));
            tracing::info!(freed_bytes, unload_ms = as_milliseconds(took), "model unloaded");
        }
        unloaded.map(|_| name)
    };
    Ok(joined(rt::spawn(unload.instrument(span))).await??)
}

pub(super) async fn joined<T>(task: rt::task::JoinHandle<T>) -> Result<T, Error> {
    task.await.map_err(|error| Error::Internal(error.to_string()))
}

fn outcome<T>(loaded: &Result<T, CatalogError>) -> LoadOutcome {
    match loaded {
        Ok(_) => LoadOutcome::Ok,
        Err(CatalogError::AlreadyLoaded { .. }) => LoadOutcome::AlreadyLoaded,
        Err(
            CatalogError::Name
            | CatalogError::OutsideRoots { .. }
            | CatalogError::MissingUrl { .. }
            | CatalogError::StoreName(_)
            | CatalogError::OtherUrl { .. },
        ) => LoadOutcome::Refused,
        Err(error) if error.is_no_memory() => LoadOutcome::NoMemory,
        Err(
            CatalogError::NotLoaded { .. }
            | CatalogError::Load { .. }
            | CatalogError::Manifest { .. }
            | CatalogError::Tokenizer { .. }
            | CatalogError::TokenizerGone { .. }
            | CatalogError::Rehearsal { .. }
            | CatalogError::Refused { .. }
            | CatalogError::Fetch { .. }
            | CatalogError::PendingLoad(_)
            | CatalogError::OnDemand { .. }
            | CatalogError::StillBusy { .. }
            | CatalogError::StillHeld { .. },
        ) => LoadOutcome::Failed,
    }
}

/// Returns a header as text. Values are raw bytes, because clients send names in unencoded UTF-8.
pub(super) fn text_header(request: &HttpRequest, name: &str) -> Option<String> {
    let value = request.headers().get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}
