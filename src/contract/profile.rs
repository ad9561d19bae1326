//! `POST /debug/profile/{model}`: ONNX Runtime's own profile of one request to a model.
//!
//! Off unless `--profiles` allows it, because a profile names the operators of a tenant's model.
//! One profile at a time, each of one run within the deadline of a request.

use std::fmt;
use std::sync::Arc;

use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::invoke::{body_limit, invocation, read_body};
use super::resource::PROFILE;
use super::{AppState, body, coding, failure};
use crate::engine::{InferenceError, PoolError};

/// Runs a request to the model that the path names, and answers with the profile.
pub(super) async fn answer(
    state: web::Data<AppState>,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let (name, turn) = match admit(&state, request) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            body::discard(request, payload).await;
            return Err(refusal);
        }
    };
    failure::note_model(request, &name);
    let arrived = Instant::now();
    let deadline = arrived + state.settings.request_timeout;
    let body = read_body(&state, request, payload, (arrived, deadline)).await?;
    let body = coding::decompressed(&state, request, body, body_limit(&state)).await?;
    state.wait_for_default(&name, deadline).await?;
    let handle = state.catalog.get(&name, deadline).await?;
    let (size, work) = invocation(&state, &name, &handle, request, body);
    let (engine, profiled) = (Arc::clone(&state.engine), handle.clone());
    let profiler = state.engine.with_files(move || engine.profiler(profiled.as_ref()));
    let profiler = profiler.await.map_err(InferenceError::from)?.map_err(internal)?;
    let started = profiler.start(handle, size, deadline, work, turn);
    let (profile, _interest) = started.map_err(internal)?;
    let Ok(profile) = timeout_at(deadline, profile).await else {
        return Err(InferenceError::from(PoolError::Deadline).into());
    };
    let profile = profile.map_err(internal)??.map_err(internal)?;
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(profile))
}

/// The name in the path, and the turn of this profile.
fn admit(state: &AppState, request: &HttpRequest) -> Result<(String, OwnedSemaphorePermit), Error> {
    if !state.settings.profiles {
        return Err(Error::ProfilesOff);
    }
    let path = request.uri().path();
    let name = path.strip_prefix(PROFILE).filter(|name| !name.contains('/'));
    let name = name.and_then(|name| percent_decode_str(name).decode_utf8().ok());
    let name = name.filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::NoRoute { path: path.to_owned() })?;
    let turn = Arc::clone(&state.profiles).try_acquire_owned();
    Ok((name.into_owned(), turn.map_err(|_| Error::ProfileRunning)?))
}

fn internal(error: impl fmt::Display) -> Error {
    Error::Internal(error.to_string())
}
