//! The HTTP server of both APIs: the control plane at `/` (AWS JSON 1.1) and the runtime API below
//! `/endpoints/` (rest-json). The page for browsers is at `/ui`.
//!
//! SageMaker has a host for each API. Here they share a port, because their paths do not overlap;
//! clients take the address from two variables. The server has no credentials to check. Instead it
//! refuses other users of this machine, by the owner of their socket, and web pages in browsers
//! (`connections::pages`).

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use actix_http::Extensions;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::HeaderValue;
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Bytes, Data, Payload, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse};
use serde_json::{Value, json};

use super::control::ControlError;
use super::fleet::Fleets;
use super::page;
use super::provision::Provisioner;
use super::runtime::{self, ERROR_TYPE, REQUEST_ID, Runtime};
use crate::connections::pages::{self, Pages, Verdict};
use crate::connections::{self, InFlight, Receiving, Server, Tracked};
use crate::page::Part;
use crate::page::feed::Feed;
use crate::peer::Peer;

/// The media type of the control plane's requests and responses.
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Error types that the clients of both APIs know.
const ACCESS_DENIED: &str = "AccessDeniedException";
const UNAVAILABLE: &str = "ServiceUnavailable";

/// Maximum bytes of a request to the control plane. The largest one that SageMaker accepts, 15
/// containers with all their variables, is below 1 MiB.
const MAX_REQUEST: usize = 4 << 20;

/// The configuration of the server.
#[derive(Debug, Clone)]
pub struct EndpointServerConfig {
    pub connections: connections::ConnectionConfig,
    /// The web pages whose requests are served.
    pub pages: Pages,
    /// Whether to serve the page for browsers.
    pub has_page: bool,
    /// Whether to serve other users of this machine.
    pub allow_other_users: bool,
}

/// Serves both APIs on `listener` until the returned server is stopped.
pub fn start(
    listener: TcpListener,
    settings: &EndpointServerConfig,
    provisioner: Provisioner,
    runtime: &Arc<Runtime>,
    fleets: &Arc<Fleets>,
) -> io::Result<Server> {
    let feed = settings.has_page.then(|| page::start(fleets, runtime)).transpose()?;
    let (feed, fleets) = (Data::new(feed), Data::from(Arc::clone(fleets)));
    let (provisioner, runtime) = (Data::new(provisioner), runtime::data(runtime));
    let pages = Data::new(settings.pages.clone());
    let allow_other_users = settings.allow_other_users;
    let app = move || {
        App::new()
            .app_data(provisioner.clone())
            .app_data(runtime.clone())
            .app_data(pages.clone())
            .app_data(feed.clone())
            .app_data(fleets.clone())
            .wrap(from_fn(guard))
            .configure(routes)
    };
    let connected = move |stream: &TcpStream, data: &mut Extensions| {
        if !allow_other_users {
            data.insert(peer_of(stream));
        }
    };
    connections::start(listener, &settings.connections, connected, |_| None, app)
}

fn routes(app: &mut ServiceConfig) {
    app.route("/", web::post().to(control))
        .route("/ping", web::get().to(HttpResponse::Ok))
        .configure(runtime::routes)
        .default_service(web::to(no_route));
}

/// Finds the user at the other end of a new connection.
fn peer_of(stream: &TcpStream) -> Peer {
    let peer = Peer::of_connection(stream);
    if peer != Peer::Admitted {
        tracing::warn!("connection refused: {peer}; --allow-other-users serves every user of this machine");
    }
    peer
}

/// Middleware around every request. Refuses requests that must not reach a route.
async fn guard(
    pages: Data<Pages>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<Tracked>, actix_web::Error> {
    let in_flight = InFlight::of(&request);
    let mut verdict = pages.judge_request(&request);
    let is_page = Part::of(request.path()).is_some() && *request.method() == Method::GET && pages.own.is_some();
    if is_page && let Err(refusal) = pages.judge_own_page(&request) {
        verdict = Verdict::Refuse(refusal);
    }
    let mut refused = refuse_other_user(&request).or_else(|| refuse_page(&request, &verdict));
    if refused.is_none() && request.path() != "/ping" && InFlight::is_crowded_out(in_flight.as_ref()).await {
        refused = Some(too_many_connections());
    }
    let mut response = match (refused, verdict) {
        (Some(refused), _) => request.into_response(refused),
        (None, Verdict::Preflight(headers)) => {
            let mut response = request.into_response(HttpResponse::NoContent().finish());
            pages::add(&mut response, headers);
            response
        }
        (None, verdict) => {
            let Some(response) = InFlight::unless_cut(in_flight.as_ref(), next.call(request)).await else {
                let message = "The endpoint is stopping, and the request did not end within --drain-timeout.";
                let reply = refusal(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, message);
                return Err(InternalError::from_response(message, reply).into());
            };
            let mut response = response?.map_into_boxed_body();
            if let Verdict::ServePage(headers) = verdict {
                pages::add(&mut response, headers);
            }
            response
        }
    };
    pages::add(&mut response, pages.vary().into_iter().collect());
    Ok(InFlight::track(in_flight, response))
}

/// An error response that closes the connection.
fn refusal(status: StatusCode, kind: &'static str, message: &str) -> HttpResponse {
    let mut reply = HttpResponse::build(status);
    reply.insert_header((ERROR_TYPE, kind)).force_close();
    reply.json(json!({"__type": kind, "message": message}))
}

fn refuse_other_user(request: &ServiceRequest) -> Option<HttpResponse> {
    let peer = request.conn_data::<Peer>().filter(|peer| **peer != Peer::Admitted)?;
    let message = format!(
        "Refused: {peer}. This endpoint serves the user who runs it and root; --allow-other-users serves every user of \
         this machine."
    );
    Some(refusal(StatusCode::FORBIDDEN, ACCESS_DENIED, &message))
}

fn too_many_connections() -> HttpResponse {
    let message = "All connections are busy with requests; only GET /ping is answered. Try again later, or raise \
                   --max-connections and the limit of open files (ulimit -n).";
    refusal(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE, message)
}

fn refuse_page(request: &ServiceRequest, verdict: &Verdict) -> Option<HttpResponse> {
    let Verdict::Refuse(reason) = verdict else { return None };
    tracing::warn!(path = request.path(), %reason, "refused a request of a web page");
    let message = format!("Refused, because this endpoint checks no credentials: {reason}.");
    Some(refusal(StatusCode::FORBIDDEN, ACCESS_DENIED, &message))
}

async fn control(request: HttpRequest, provisioner: Data<Provisioner>, payload: Payload) -> HttpResponse {
    let body = read(&request, payload).await;
    let target = request.headers().get("x-amz-target").map(HeaderValue::to_str);
    let answer = match (target, body) {
        (Some(Ok(target)), Ok(body)) => {
            let answer = provisioner.answer(target.to_owned(), body).await;
            match &answer {
                Ok(_) => tracing::debug!(action = target, "answered"),
                Err(error) => tracing::info!(action = target, %error, "refused"),
            }
            answer
        }
        (_, Err(error)) => Err(ControlError::Serialization(error)),
        (None | Some(Err(_)), _) => Err(ControlError::UnknownOperation(
            "POST / is SageMaker's control plane; name the action in the header X-Amz-Target".to_owned(),
        )),
    };
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, error.body())
        }
    };
    let mut reply = HttpResponse::build(status);
    reply.insert_header((REQUEST_ID, runtime::new_id()));
    reply.content_type(CONTENT_TYPE);
    match body {
        // Some actions have an empty response.
        Value::Null => reply.finish(),
        body => reply.body(body.to_string()),
    }
}

/// Reads the body of a request to the control plane.
async fn read(request: &HttpRequest, payload: Payload) -> Result<Bytes, String> {
    let receiving = Receiving::of(request);
    match payload.to_bytes_limited(MAX_REQUEST).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) if receiving.is_overdue() => Err("the body did not arrive in time".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the body is larger than {MAX_REQUEST} bytes")),
    }
}

/// Answers requests for the page, and refuses those without a route. Most of these are for another
/// AWS service and arrive here because AWS_ENDPOINT_URL applies to all services.
async fn no_route(request: HttpRequest, feed: Data<Option<Feed>>, fleets: Data<Fleets>) -> HttpResponse {
    if let Some(feed) = &**feed
        && *request.method() == Method::GET
        && let Some(response) = page::answer(&request, feed, &fleets).await
    {
        return response;
    }
    let message = format!(
        "There is no {} {} here, only SageMaker's control plane (POST /) and its runtime API (POST \
         /endpoints/NAME/invocations). If this was for another service, set AWS_ENDPOINT_URL_SAGEMAKER and \
         AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME instead of AWS_ENDPOINT_URL.",
        request.method(),
        request.path()
    );
    tracing::info!(method = %request.method(), path = request.path(), "no route for the request");
    HttpResponse::NotFound().json(json!({"message": message}))
}
