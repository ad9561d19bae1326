//! The container's HTTP face: the routes of the SageMaker contract and, below `/v2`, of the Open
//! Inference Protocol, on one port; beside them the interfaces of text servers (`texts.rs`).
//!
//! Handlers are thin: they read what a request says, ask `catalog` for the model, and leave the
//! rest to `engine`, which keeps long work off these threads. What always holds: no handler waits
//! for anything but its own request, so `/ping` and `GET /models` answer whatever models do (PI-2,
//! MM-16); every refusal of a request that was understood is JSON, its status from the one table in
//! `error.rs`; a client that hangs up takes its request with it, so what it asked for uses nothing
//! up. What is no HTTP at all (a malformed request line, a head that is too long or comes too
//! slowly) is refused by actix with a bare status.

mod body;
mod coding;
mod error;
mod health;
mod invoke;
mod models;
mod pulse;
mod texts;
mod v2;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::{Extensions, Response};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, ResponseError, web};
use rustix::net::{Shutdown, shutdown};

use crate::catalog::Catalog;
use crate::codec::{Documents, Format};
use crate::connections::pages::{self, Pages, Verdict};
use crate::connections::{self, InFlight, Server, Tracked};
use crate::engine::Engine;
use crate::peer::Peer;
use crate::telemetry::metrics::{Metrics, Route};
use crate::wire::{ExecutionParameters, INFERENCE_ID, TARGET_MODEL};

use error::Error;
pub use health::Health;
pub use pulse::Pulse;

/// Media types when a request does not say.
#[derive(Debug, Clone)]
pub struct Formats {
    pub default_content_type: String,
    pub default_accept: Format,
    /// How many JSON documents a body may hold.
    pub documents: Documents,
}

/// Which model answers `POST /invocations`.
#[derive(Debug, Clone, Default)]
pub struct Invocations {
    /// The one that the Target-Model header names, where there is such a header.
    pub by_target: bool,
    /// Else this one.
    pub default: Option<String>,
}

/// What the HTTP face is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub formats: Formats,
    pub invocations: Invocations,
    /// Whether models are loaded and unloaded through `/models`.
    pub loads: bool,
    /// Bytes of the largest request body.
    pub max_body: usize,
    /// The least bytes of a reply that is compressed for clients that accept it; `None` for no
    /// reply.
    pub compress_above: Option<usize>,
    /// Bytes of all header names and values of a request.
    pub max_headers: usize,
    pub request_timeout: Duration,
    pub connections: connections::Settings,
    /// Which pages in browsers are served.
    pub pages: Pages,
    /// Whether connections of other users of this machine are closed.
    pub only_this_user: bool,
    /// What the HTTP threads count in, where their progress is of interest.
    pub pulse: Option<Arc<Pulse>>,
    /// For `GET /execution-parameters` (BT-2).
    pub max_concurrent_transforms: usize,
    pub max_payload_in_mb: usize,
}

/// What handlers share. Made once: every HTTP thread has the same.
#[derive(Debug)]
struct State {
    settings: Settings,
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

impl State {
    /// Waits for the model that answers requests which name none, when `name` is that one and the
    /// server has been restarted.
    async fn default_started_by(&self, name: &str, deadline: tokio::time::Instant) -> Result<(), Error> {
        match &self.settings.invocations.default {
            Some(default) if default == name => self.health.started_by(deadline).await,
            Some(_) | None => Ok(()),
        }
    }
}

/// Starts serving on `listener`, until the returned server is stopped.
pub fn start(
    listener: TcpListener,
    settings: Settings,
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
) -> std::io::Result<Server> {
    let connections = settings.connections.clone();
    let (only_this_user, pulse) = (settings.only_this_user, settings.pulse.clone());
    let state = web::Data::new(State {
        settings,
        catalog,
        engine,
        metrics,
        health,
    });
    let shared = state.clone();
    let refuses = move |head: &RequestHead| refuse_to_continue(&shared, head);
    let app = move || {
        // Called on each HTTP thread.
        if let Some(pulse) = pulse.clone() {
            pulse.follow_this_thread();
        }
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(observe))
            .configure(routes)
    };
    let connected = move |stream: &TcpStream, _: &mut Extensions| {
        if only_this_user {
            close_stranger(stream);
        }
    };
    connections::start(listener, &connections, connected, refuses, app)
}

/// Closes a new connection that is of another user of this machine, before anything is read of it.
fn close_stranger(stream: &TcpStream) {
    let peer = Peer::of_connection(stream);
    if peer == Peer::Admitted {
        return;
    }
    tracing::warn!("{peer}, and is closed (--only-this-user)");
    // An error says that it is closed already.
    let _ = shutdown(stream, Shutdown::Both);
}

/// The answer to a client that announces a body over the limit and waits for leave to send it: it
/// never has to.
fn refuse_to_continue(state: &State, head: &RequestHead) -> Option<Response<BoxBody>> {
    let (path, method) = (head.uri.path(), &head.method);
    let route = route(path, method);
    let limit = match route {
        Route::Invocations | Route::Invoke | Route::Infer => invoke::body_limit(state),
        Route::Load | Route::Protocol => models::MAX_LOAD_BODY,
        Route::Ping
        | Route::ExecutionParameters
        | Route::Metrics
        | Route::List
        | Route::Get
        | Route::Unload
        | Route::Other => return None,
    };
    let declared = head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<usize>().ok()?;
    let refusal = (declared > limit.bytes).then_some(Error::BodyTooLarge {
        limit: limit.bytes,
        knob: limit.knob,
    })?;
    let status = refusal.status_code().as_u16();
    state.metrics.request(route, status, 0.0);
    tracing::info!(status, method = method.as_str(), path, "{refusal}");
    let response = match v2::is_below(path) {
        true => v2::Refusal(refusal).error_response(),
        false => refusal.error_response(),
    };
    Some(response.into())
}

fn routes(app: &mut web::ServiceConfig) {
    app.service(
        web::resource("/ping")
            // The guide words the health check as GET in one place and POST in another (PI-7).
            .route(web::get().to(health::ping))
            .route(web::head().to(health::ping))
            .route(web::post().to(health::ping))
            .default_service(web::to(|request| not_allowed(request, "GET, HEAD, POST"))),
    )
    .service(
        web::resource("/invocations")
            .route(web::post().to(invoke::invocations))
            .default_service(web::to(|request| not_allowed(request, "POST"))),
    )
    .service(
        web::resource("/execution-parameters")
            .route(web::get().to(execution_parameters))
            .default_service(web::to(|request| not_allowed(request, "GET"))),
    )
    .service(
        web::resource("/metrics")
            .route(web::get().to(metrics))
            .default_service(web::to(|request| not_allowed(request, "GET"))),
    )
    .service(
        web::resource("/models")
            .route(web::get().to(models::list))
            .route(web::post().to(models::load))
            .default_service(web::to(|request| not_allowed(request, "GET, POST"))),
    )
    // All other paths: those below /models/ and /v2/ hold names with encoded slashes, so the raw
    // path is read by `wire`. Plain paths above, none with a pattern: matching one costs as much as
    // a small model's run.
    .default_service(web::to(below));
}

/// Below `/models/`, below `/v2`, one of the interfaces for texts, or nowhere.
async fn below(
    state: web::Data<State>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, actix_web::Error> {
    if v2::is_below(request.path()) {
        // Apart, so that it makes no other request's future larger.
        return Ok(Box::pin(v2::answer(state, request, payload)).await?);
    }
    if let Some(api) = texts::api(request.path()) {
        return Ok(Box::pin(texts::answer(&state, api, &request, payload)).await?);
    }
    Ok(models::below(state, request, payload).await?)
}

async fn not_allowed(request: HttpRequest, allowed: &'static str) -> Result<HttpResponse, Error> {
    Err(Error::MethodNotAllowed {
        method: request.method().clone(),
        allowed,
    })
}

/// `GET /execution-parameters`: what batch transform asks before its first record (BT-2).
async fn execution_parameters(state: web::Data<State>) -> HttpResponse {
    HttpResponse::Ok().json(ExecutionParameters {
        max_concurrent_transforms: state.settings.max_concurrent_transforms,
        batch_strategy: "MULTI_RECORD".to_owned(),
        max_payload_in_mb: state.settings.max_payload_in_mb,
    })
}

/// `GET /metrics`, in Prometheus' text format.
async fn metrics(state: web::Data<State>) -> Result<HttpResponse, Error> {
    let now = state.engine.current_load();
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    state.metrics.models_loaded.set(gauge(state.catalog.len() as u64));
    state.metrics.requests_running.set(gauge(now.running as u64));
    state.metrics.requests_waiting.set(gauge(now.waiting as u64));
    state.metrics.stuck_runs.set(gauge(now.stuck.runs as u64));
    state.metrics.stuck_models.set(gauge(now.stuck.models as u64));
    state.metrics.follow(now.batches, now.batched_requests, now.stuck.total);
    state.metrics.memory_reserved_bytes.set(gauge(now.reserved.models));
    state.metrics.memory_mapped_bytes.set(gauge(now.reserved.mapped));
    state.metrics.memory_requests_bytes.set(gauge(now.reserved.requests));
    state.metrics.memory_limit_bytes.set(gauge(now.reserved.limit));
    if let Some(archives) = state.catalog.archives() {
        state.metrics.archives.set(gauge(archives.entries));
        state.metrics.archive_bytes.set(gauge(archives.bytes));
    }
    let text = state
        .metrics
        .render()
        .map_err(|error| Error::Internal(error.to_string()))?;
    Ok(HttpResponse::Ok().content_type(Metrics::CONTENT_TYPE).body(text))
}

/// Around every request: refuses what no route should see, counts, and logs what went wrong where
/// it is handled.
async fn observe(
    state: web::Data<State>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<Tracked>, actix_web::Error> {
    let started = Instant::now();
    let in_flight = InFlight::of(&request);
    let route = route(request.path(), request.method());
    let is_v2 = v2::is_below(request.path());
    let (verdict, mut refusal) = judge(&state, &request);
    if refusal.is_none()
        && !is_health_check(route, request.method())
        && InFlight::is_crowded_out(in_flight.as_ref()).await
    {
        refusal = Some(Error::Crowded);
    }
    let mut response = match (verdict, refusal) {
        (_, Some(refusal)) => refused(request, refusal, is_v2),
        (Verdict::Preflight(headers), None) => {
            let mut response = request.into_response(HttpResponse::NoContent().finish());
            pages::add(&mut response, headers);
            response
        }
        (verdict, None) => match InFlight::unless_cut(in_flight.as_ref(), next.call(request)).await {
            Some(response) => {
                let mut response = response?.map_into_boxed_body();
                if let Verdict::ServePage(headers) = verdict {
                    pages::add(&mut response, headers);
                }
                response
            }
            None => {
                let status = Error::Cut.status_code();
                state
                    .metrics
                    .request(route, status.as_u16(), started.elapsed().as_secs_f64());
                return Err(match is_v2 {
                    true => v2::Refusal(Error::Cut).into(),
                    false => Error::Cut.into(),
                });
            }
        },
    };
    pages::add(&mut response, state.settings.pages.vary().into_iter().collect());
    let status = response.status();
    state
        .metrics
        .request(route, status.as_u16(), started.elapsed().as_secs_f64());
    if status.is_client_error() || status.is_server_error() {
        log_refusal(&response);
    }
    Ok(InFlight::track(in_flight, response))
}

/// Whether a request may reach its route at all.
fn judge(state: &State, request: &ServiceRequest) -> (Verdict, Option<Error>) {
    let bytes: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > state.settings.max_headers {
        let limit = state.settings.max_headers;
        return (Verdict::Serve, Some(Error::HeadersTooLarge { bytes, limit }));
    }
    match state.settings.pages.judge_request(request) {
        Verdict::Refuse(refusal) => (Verdict::Serve, Some(refusal.into())),
        verdict => (verdict, None),
    }
}

fn refused(request: ServiceRequest, refusal: Error, is_v2: bool) -> ServiceResponse<BoxBody> {
    match is_v2 {
        true => request.error_response(v2::Refusal(refusal)),
        false => request.error_response(refusal),
    }
}

/// Whether a request asks how the container is (PI-5).
fn is_health_check(route: Route, method: &Method) -> bool {
    match route {
        Route::Ping | Route::List | Route::Metrics => true,
        Route::Protocol => *method == Method::GET,
        Route::Invocations
        | Route::ExecutionParameters
        | Route::Load
        | Route::Invoke
        | Route::Unload
        | Route::Get
        | Route::Infer
        | Route::Other => false,
    }
}

fn route(path: &str, method: &Method) -> Route {
    match path {
        "/ping" => Route::Ping,
        "/invocations" => Route::Invocations,
        "/execution-parameters" => Route::ExecutionParameters,
        "/metrics" => Route::Metrics,
        "/models" if *method == Method::POST => Route::Load,
        "/models" => Route::List,
        path if path.starts_with("/models/") => match *method {
            Method::POST => Route::Invoke,
            Method::DELETE => Route::Unload,
            _ => Route::Get,
        },
        path if v2::is_below(path) => match v2::is_inference(path) {
            true => Route::Infer,
            false => Route::Protocol,
        },
        path if texts::api(path).is_some() => Route::Invocations,
        _ => Route::Other,
    }
}

/// The opaque name of the path and the client's name together: the log is where one is looked up
/// for the other.
fn log_refusal(response: &ServiceResponse<impl MessageBody>) {
    let request = response.request();
    let header = |name| {
        request
            .headers()
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let status = response.status().as_u16();
    let error = response.response().error().map(ToString::to_string).unwrap_or_default();
    // Names and bodies are quoted in it; the log escapes what would end its line (ST-11).
    let (method, path) = (request.method().as_str(), request.path());
    let (target_model, inference_id) = (header(TARGET_MODEL), header(INFERENCE_ID));
    let (target_model, inference_id) = (target_model.as_deref(), inference_id.as_deref());
    if response.status().is_server_error() {
        tracing::warn!(status, method, path, target_model, inference_id, "{error}");
    } else {
        tracing::info!(status, method, path, target_model, inference_id, "{error}");
    }
}
