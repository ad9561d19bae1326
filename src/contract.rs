//! The container's HTTP server. One port serves the routes of the SageMaker contract, the Open
//! Inference Protocol (below `/v2`) and the interfaces of other text servers (`texts.rs`).
//!
//! Handlers are thin: they parse the request, get the model from `catalog` and leave the rest to
//! `engine`, which keeps long work off the HTTP threads.
//!
//! Invariants:
//! - A handler waits only for its own request, so `/ping` and `GET /models` answer whatever the
//!   models do (PI-2, MM-16).
//! - Every refusal of a valid HTTP request is JSON, with a status from the table in `error.rs`.
//!   For malformed HTTP (a bad request line, a head that is too long or too slow) actix sends a
//!   bare status.
//! - A client that hangs up cancels its request, so that an abandoned request uses no resources.

mod balancer;
mod body;
mod coding;
mod error;
mod failure;
mod health;
mod invoke;
mod log_level;
mod models;
mod page;
mod profile;
mod pulse;
mod request_log;
mod resource;
mod texts;
mod v2;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{Extensions, Response};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpRequest, HttpResponse, ResponseError, web};
use rustix::net::{Shutdown, shutdown};
use tokio::sync::Semaphore;

use crate::catalog::Catalog;
use crate::codec::{Documents, Format};
use crate::config::LogLevel;
use crate::connections::pages::{self, Pages, Verdict};
use crate::connections::{self, InFlight, Server, Tracked};
use crate::engine::Engine;
use crate::page::feed::Feed;
use crate::peer::Peer;
use crate::telemetry::cause::Cause;
use crate::telemetry::metrics::{CONTENT_TYPE, Facts, ListedModel, Metrics, Route};
use crate::telemetry::request_log::RequestLog;
use crate::wire::ExecutionParameters;

use error::Error;
pub use health::Health;
use log_level::LevelChange;
pub use page::PageConfig;
pub use pulse::Pulse;
use resource::Resource;

/// Defaults for requests that do not name a media type.
#[derive(Debug, Clone)]
pub struct Formats {
    pub default_content_type: String,
    pub default_accept: Format,
    /// Whether a JSON body may hold several documents.
    pub documents: Documents,
}

/// Choice of the model that answers `POST /invocations`.
#[derive(Debug, Clone, Default)]
pub struct Invocations {
    /// Whether the Target-Model header chooses the model, if the request has one.
    pub by_target: bool,
    /// The model for all other requests.
    pub default: Option<String>,
}

/// Options of the HTTP server.
#[derive(Debug, Clone)]
pub struct ContractConfig {
    pub formats: Formats,
    pub invocations: Invocations,
    /// Whether models are loaded and unloaded through `/models`.
    pub loads: bool,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Smallest response that is compressed for clients that accept it, in bytes; `None` disables
    /// compression.
    pub compress_above: Option<usize>,
    /// Largest sum of all header names and values of a request, in bytes.
    pub max_headers: usize,
    pub request_timeout: Duration,
    pub connections: connections::ConnectionConfig,
    /// Web pages whose requests from browsers are served.
    pub pages: Pages,
    /// The server's own page; `None` for a server without one.
    pub page: Option<PageConfig>,
    /// Whether to close connections from other users of this machine.
    pub only_this_user: bool,
    /// Counter in which the HTTP threads record their progress, if the supervisor watches it.
    pub pulse: Option<Arc<Pulse>>,
    /// Whether models may be profiled.
    pub profiles: bool,
    /// Whether requests may change the level of the log.
    pub log_control: bool,
    /// The level of the log at the start.
    pub log_level: LogLevel,
    /// Chooses the requests that are logged and traced.
    pub request_log: Arc<RequestLog>,
    /// Whether statuses are those for a load balancer (`balancer.rs`).
    pub behind_balancer: bool,
    /// For `GET /execution-parameters` (BT-2).
    pub max_concurrent_transforms: usize,
    pub max_payload_in_mb: usize,
}

/// State shared by all handlers. Built once, because every HTTP thread must have the same one.
#[derive(Debug)]
struct AppState {
    settings: ContractConfig,
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    /// The data of the page.
    page: Option<Feed>,
    /// One permit for the profile in progress.
    profiles: Arc<Semaphore>,
    level_change: LevelChange,
}

impl AppState {
    /// Waits until the default model is loaded after a restart, if `name` is the default model.
    async fn wait_for_default(&self, name: &str, deadline: tokio::time::Instant) -> Result<(), Error> {
        match &self.settings.invocations.default {
            Some(default) if default == name => self.health.started_by(deadline).await,
            Some(_) | None => Ok(()),
        }
    }
}

/// Serves on `listener` until the returned server is stopped.
pub fn start(
    listener: TcpListener,
    settings: ContractConfig,
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
) -> std::io::Result<Server> {
    let connections = settings.connections.clone();
    let (only_this_user, pulse) = (settings.only_this_user, settings.pulse.clone());
    let page = settings.page.as_ref().map(|config| {
        let modes = (settings.loads, settings.invocations.by_target);
        page::start(config, modes, &catalog, &engine, &metrics)
    });
    let state = web::Data::new(AppState {
        page: page.transpose()?,
        settings,
        catalog,
        engine,
        metrics,
        health,
        profiles: Arc::new(Semaphore::new(1)),
        level_change: LevelChange::default(),
    });
    let shared = state.clone();
    let refuses = move |head: &RequestHead| refuse_to_continue(&shared, head);
    let app = move || {
        // Runs once on each HTTP thread.
        if let Some(pulse) = pulse.clone() {
            pulse.count_on_this_thread();
        }
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(observe))
            .default_service(web::to(dispatch))
    };
    let connected = move |stream: &TcpStream, _: &mut Extensions| {
        if only_this_user {
            close_if_other_user(stream);
        }
    };
    connections::start(listener, &connections, connected, refuses, app)
}

/// Closes a new connection from another user of this machine before reading from it.
fn close_if_other_user(stream: &TcpStream) {
    let peer = Peer::of_connection(stream);
    if peer == Peer::Admitted {
        return;
    }
    tracing::warn!("{peer}; connection closed (--only-this-user)");
    // An error means that it is already closed.
    let _ = shutdown(stream, Shutdown::Both);
}

/// Builds the response to a client that announces a body over the limit and waits for
/// `100 Continue`, so that it never sends the body.
fn refuse_to_continue(state: &AppState, head: &RequestHead) -> Option<Response<BoxBody>> {
    let (path, method) = (head.uri.path(), &head.method);
    let route = Resource::of(path).route(method);
    let limit = match route {
        Route::Invocations | Route::Invoke | Route::Infer | Route::Debug => invoke::body_limit(state),
        Route::Load | Route::Protocol => models::MAX_LOAD_BODY,
        Route::Ping
        | Route::ExecutionParameters
        | Route::Metrics
        | Route::List
        | Route::Get
        | Route::Unload
        | Route::Page
        | Route::Other => return None,
    };
    let declared = head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<usize>().ok()?;
    let refusal = (declared > limit.bytes).then_some(Error::BodyTooLarge {
        limit: limit.bytes,
        option: limit.option,
    })?;
    let status = refusal.status_code().as_u16();
    state
        .metrics
        .start_request(route)
        .answered(status, Some(refusal.cause()));
    failure::record_head(state, route, head, &refusal);
    let response = match v2::is_below(path) {
        true => v2::V2Error(refusal).error_response(),
        false => refusal.error_response(),
    };
    Some(response.into())
}

/// Passes a request to the handler of its resource.
async fn dispatch(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, actix_web::Error> {
    let resource = Resource::of(request.path());
    if let Some(allowed) = resource.allowed()
        && !allowed.split(", ").any(|method| method == request.method().as_str())
    {
        let method = request.method().clone();
        return Err(Error::MethodNotAllowed { method, allowed }.into());
    }
    // The larger futures are boxed, so that they do not enlarge those of other requests.
    Ok(match resource {
        Resource::Ping => health::ping(state).await?,
        Resource::Invocations => Box::pin(invoke::invocations(state, request, payload)).await?,
        Resource::ExecutionParameters => execution_parameters(&state),
        Resource::Metrics => metrics(state).await?,
        Resource::Models if *request.method() == Method::POST => {
            Box::pin(models::load(state, request, payload)).await?
        }
        Resource::Models => models::list(state, request).await,
        Resource::Model | Resource::Unknown => Box::pin(models::below(state, request, payload)).await?,
        Resource::Protocol { .. } => Box::pin(v2::answer(state, request, payload)).await?,
        Resource::Profile => Box::pin(profile::answer(state, &request, payload)).await?,
        Resource::LogLevel => Box::pin(log_level::answer(&state, &request, payload)).await?,
        Resource::Text(api) => Box::pin(texts::answer(&state, api, &request, payload)).await?,
        Resource::Page(part) => Box::pin(page::answer(&state, part, &request)).await?,
    })
}

/// `GET /execution-parameters`: batch transform requests it before its first record (BT-2).
fn execution_parameters(state: &AppState) -> HttpResponse {
    HttpResponse::Ok().json(ExecutionParameters {
        max_concurrent_transforms: state.settings.max_concurrent_transforms,
        batch_strategy: "MULTI_RECORD".to_owned(),
        max_payload_in_mb: state.settings.max_payload_in_mb,
    })
}

/// `GET /metrics`, in the Prometheus text format. The page is made on a thread that may block: with
/// thousands of models it takes milliseconds, in which an HTTP thread answers many requests. The
/// thread exists already, because near the memory limit none can be started.
async fn metrics(state: web::Data<AppState>) -> Result<HttpResponse, Error> {
    if !state.metrics.is_on() {
        return Err(Error::MetricsOff);
    }
    let engine = Arc::clone(&state.engine);
    let rendered = engine.with_files(move || state.metrics.render(&facts(&state.catalog, &state.engine)));
    let internal = |error: &dyn std::fmt::Display| Error::Internal(error.to_string());
    let text = rendered
        .await
        .map_err(|error| internal(&error))?
        .map_err(|error| internal(&error))?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text))
}

/// Collects the present state of the server for the metrics. Takes milliseconds for thousands of
/// models: call it on a thread that may block.
pub fn facts(catalog: &Catalog, engine: &Engine) -> Facts {
    let now = engine.current_load();
    let listed = catalog.overview().into_iter().map(|model| ListedModel {
        name: model.name,
        target_model: model.target_model,
        memory: model.memory.map(|memory| memory.own),
        stats: model.stats,
    });
    Facts {
        models: listed.collect(),
        running: now.running as u64,
        waiting: now.waiting as u64,
        threads: now.threads as u64,
        stuck_runs: now.stuck.runs as u64,
        stuck_models: now.stuck.models as u64,
        stuck_total: now.stuck.total,
        reserved: now.reserved.models,
        mapped: now.reserved.mapped,
        requests: now.reserved.requests,
        limit: Some(now.reserved.limit).filter(|&limit| limit < u64::MAX),
        free: engine.free_memory(),
        process: engine.process_bytes(),
        shared_constants: now.constants.constants,
        shared_bytes: now.constants.bytes,
        shared_saved: now.constants.saved,
        archives: catalog.archives().map(|archives| (archives.entries, archives.bytes)),
        prepared: engine.prepared_bytes(),
    }
}

/// Wraps every request: refuses requests that must not reach a route, records metrics, and logs
/// errors.
async fn observe(
    state: web::Data<AppState>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<Tracked>, actix_web::Error> {
    let in_flight = InFlight::of(&request);
    let route = Resource::of(request.path()).route(request.method());
    let mut record = state.metrics.start_request(route);
    let mut logged = request_log::start(&state, route, &request);
    let is_v2 = v2::is_below(request.path());
    let (verdict, mut refusal) = judge(&state, route, &request);
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
                let error = match state.settings.behind_balancer {
                    true => Error::CutWhileBegun,
                    false => Error::Cut,
                };
                let status = error.status_code().as_u16();
                record.answered(status, Some(Cause::Unready));
                if let Some(logged) = &mut logged {
                    logged.answered(status, Some(Cause::Unready), None);
                }
                return Err(match is_v2 {
                    true => v2::V2Error(error).into(),
                    false => error.into(),
                });
            }
        },
    };
    if state.settings.behind_balancer {
        response = balancer::adapt(response, is_v2);
    }
    pages::add(&mut response, state.settings.pages.vary().into_iter().collect());
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let cause = is_error.then(|| failure::cause(&response));
    record.answered(status.as_u16(), cause);
    if let Some(logged) = &mut logged {
        request_log::note_model(&state, route, &response, logged).await;
        logged.answered(status.as_u16(), cause, request_log::size(&response));
    }
    if let Some(cause) = cause {
        let trace_id = request_log::trace_id(&response, logged.as_ref());
        failure::record(&state, route, cause, &response, trace_id.as_deref()).await;
    }
    request_log::echo(&mut response, logged.as_ref());
    Ok(InFlight::track(in_flight, response))
}

/// Decides whether a request may reach its route.
fn judge(state: &AppState, route: Route, request: &ServiceRequest) -> (Verdict, Option<Error>) {
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
        verdict if route == Route::Page && state.page.is_some() => {
            let refusal = state.settings.pages.judge_own_page(request).err();
            (verdict, refusal.map(Error::from))
        }
        verdict => (verdict, None),
    }
}

fn refused(request: ServiceRequest, refusal: Error, is_v2: bool) -> ServiceResponse<BoxBody> {
    match is_v2 {
        true => request.error_response(v2::V2Error(refusal)),
        false => request.error_response(refusal),
    }
}

/// Whether a request checks the health of the container (PI-5).
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
        | Route::Page
        | Route::Debug
        | Route::Other => false,
    }
}
