//! The one port: the control plane at `/` (AWS JSON 1.1), the runtime API below `/endpoints/` (rest-json).
//!
//! SageMaker has a host for each. Clients are given both by two variables, and the paths of the two never meet.
//! There are no credentials to check. So other users of this machine are refused, by the owner of
//! their socket, and nothing is done for a page in a browser, which says so by an `Origin`: it could
//! be of any site, even of one that has its own name lead to this machine. AWS's clients send none.

use std::any::Any;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderValue, ORIGIN};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Bytes, Data, PayloadConfig, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use serde_json::{Value, json};

use super::control::AwsError;
use super::provision::Provisioner;
use super::runtime::{self, ERROR_TYPE, REQUEST_ID, Runtime};
use crate::peer::Peer;

/// Of the control plane's requests and replies.
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Both APIs' clients type an error by this name.
const ACCESS_DENIED: &str = "AccessDeniedException";

/// Bytes of a request to the control plane: 15 containers with all the variables that SageMaker takes are below 1 MiB.
const MAX_REQUEST: usize = 4 << 20;

/// What the port is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub threads: usize,
    /// For a connection without a request.
    pub keep_alive: Duration,
    /// For requests under way when the server is stopped.
    pub drain_timeout: Duration,
    /// Whether other users of this machine are served.
    pub allow_other_users: bool,
}

/// Starts to answer on `listener`. The returned future ends when the server was stopped by its handle.
pub fn start(
    listener: TcpListener,
    settings: &Settings,
    provisioner: Provisioner,
    runtime: &Arc<Runtime>,
) -> io::Result<Server> {
    let (provisioner, runtime) = (Data::new(provisioner), runtime::data(runtime));
    let allow_other_users = settings.allow_other_users;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(provisioner.clone())
            .app_data(runtime.clone())
            .app_data(PayloadConfig::new(MAX_REQUEST))
            .wrap(from_fn(refuse_pages))
            .wrap(from_fn(refuse_strangers))
            .configure(routes)
    })
    .on_connect(move |connection, data| {
        if !allow_other_users {
            data.insert(peer_of(connection));
        }
    })
    .workers(settings.threads)
    .keep_alive(settings.keep_alive)
    // A client that is gone takes its invocation with it.
    .h1_allow_half_closed(false)
    // Whole seconds only.
    .shutdown_timeout(settings.drain_timeout.as_secs_f64().ceil() as u64)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}

fn routes(app: &mut ServiceConfig) {
    app.route("/", web::post().to(control))
        .route("/ping", web::get().to(HttpResponse::Ok))
        .configure(runtime::routes)
        .default_service(web::to(elsewhere));
}

/// Looks at the other end of a new connection.
fn peer_of(connection: &dyn Any) -> Peer {
    let peer = Peer::of_connection(connection);
    if peer != Peer::Admitted {
        tracing::warn!("{peer}, and is refused; --allow-other-users serves every user of this machine");
    }
    peer
}

async fn refuse_strangers(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    let peer = request.conn_data::<Peer>().copied();
    match peer.filter(|peer| *peer != Peer::Admitted) {
        None => next.call(request).await,
        Some(peer) => {
            let message = format!(
                "Refused: {peer}. This endpoint serves the user who runs it and root; --allow-other-users serves every \
                 user of this machine."
            );
            let mut reply = HttpResponse::Forbidden();
            reply.insert_header((ERROR_TYPE, ACCESS_DENIED)).force_close();
            Ok(request.into_response(reply.json(json!({"__type": ACCESS_DENIED, "message": message}))))
        }
    }
}

async fn refuse_pages(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse, actix_web::Error> {
    match request.headers().get(ORIGIN) {
        None => next.call(request).await,
        Some(origin) => {
            tracing::warn!(
                ?origin,
                path = request.path(),
                "a request of a page in a browser is refused"
            );
            let message = "Pages in browsers are not served here: there are no credentials to tell them apart by.";
            Ok(request.into_response(HttpResponse::Forbidden().json(json!({"message": message}))))
        }
    }
}

async fn control(
    request: HttpRequest,
    provisioner: Data<Provisioner>,
    runtime: Data<Runtime>,
    body: Result<Bytes, actix_web::Error>,
) -> HttpResponse {
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
        (_, Err(error)) => Err(AwsError::Serialization(error.to_string())),
        (None | Some(Err(_)), _) => Err(AwsError::UnknownOperation(
            "POST / is SageMaker's control plane, whose requests name their action in X-Amz-Target".to_owned(),
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
    reply.insert_header((REQUEST_ID, runtime.request_id()));
    reply.content_type(CONTENT_TYPE);
    match body {
        // Of actions that answer nothing.
        Value::Null => reply.finish(),
        body => reply.body(body.to_string()),
    }
}

/// Mostly another service's request, sent here by a variable that is meant for all services.
async fn elsewhere(request: HttpRequest) -> HttpResponse {
    let message = format!(
        "There is no {} {} here, only SageMaker's control plane (POST /) and its runtime API (POST \
         /endpoints/NAME/invocations). If this was for another service, set AWS_ENDPOINT_URL_SAGEMAKER and \
         AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME instead of AWS_ENDPOINT_URL.",
        request.method(),
        request.path()
    );
    tracing::info!(method = %request.method(), path = request.path(), "a request for something that is not here");
    HttpResponse::NotFound().json(json!({"message": message}))
}
