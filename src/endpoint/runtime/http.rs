//! The HTTP interface (rest-json) of the three operations.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::HeaderMap;
use serde_json::json;
use tokio::time::Instant;

use super::request::{Api, InvocationRequest};
use super::{Runtime, new_id};
use crate::connections::{BodyError, discard_body, read_body};
use crate::endpoint::error::{AwsErrorResponse, RuntimeError};
use crate::endpoint::event_stream;
use crate::wire::TARGET_MODEL;

const VARIANT: &str = "x-Amzn-Invoked-Production-Variant";
/// The header with the id of a response.
pub const REQUEST_ID: &str = "x-amzn-RequestId";
/// The header with the type of an error.
pub const ERROR_TYPE: &str = "x-amzn-ErrorType";
/// The header with the media type of a streamed response, whose `Content-Type` is that of the
/// frames.
const MODEL_CONTENT_TYPE: &str = "X-Amzn-SageMaker-Content-Type";

/// Adds the routes of the runtime API. They require the app data of [`data`].
pub fn routes(app: &mut ServiceConfig) {
    app.route("/endpoints/{endpoint}/invocations", web::post().to(invoke))
        .route(
            "/endpoints/{endpoint}/invocations-response-stream",
            web::post().to(stream),
        )
        .route("/endpoints/{endpoint}/async-invocations", web::post().to(asynchronous));
}

async fn invoke(
    runtime: Data<Runtime>,
    endpoint: web::Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let (limit, begun) = (runtime.settings.max_body, Instant::now());
    let result = async {
        let (invocation, body) = read(Api::Invoke, &request, payload, limit, runtime.settings.timeout).await?;
        runtime.invoke(&endpoint, invocation, body).await
    };
    match result.await {
        Ok(response) => {
            runtime.counts.answered(begun.elapsed());
            let mut reply = response_builder(StatusCode::OK);
            reply.insert_header((VARIANT, response.variant));
            forward(&mut reply, &response.headers, None);
            reply.body(response.body)
        }
        Err(error) => error_response(&runtime, &endpoint, &request, &error),
    }
}

async fn stream(
    runtime: Data<Runtime>,
    endpoint: web::Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let (limit, begun) = (runtime.settings.max_body, Instant::now());
    let result = async {
        let (invocation, body) = read(Api::Stream, &request, payload, limit, runtime.settings.timeout).await?;
        runtime.invoke_streaming(&endpoint, invocation, body).await
    };
    match result.await {
        Ok(streamed) => {
            runtime.counts.answered(begun.elapsed());
            let mut reply = response_builder(StatusCode::OK);
            reply.insert_header((VARIANT, streamed.variant));
            forward(&mut reply, &streamed.headers, Some(MODEL_CONTENT_TYPE));
            reply.content_type(event_stream::CONTENT_TYPE);
            reply.streaming(streamed.body.map(Ok::<_, actix_web::Error>))
        }
        Err(error) => error_response(&runtime, &endpoint, &request, &error),
    }
}

async fn asynchronous(
    runtime: Data<Runtime>,
    endpoint: web::Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> HttpResponse {
    let limit = runtime.settings.max_async_body;
    let result = async {
        let (invocation, body) = read(Api::Async, &request, payload, limit, runtime.settings.timeout).await?;
        runtime.invoke_async(&endpoint, invocation, body)
    };
    match result.await {
        Ok(locations) => {
            let mut reply = response_builder(StatusCode::ACCEPTED);
            reply.insert_header(("X-Amzn-SageMaker-OutputLocation", locations.output));
            if let Some(failure) = locations.failure {
                reply.insert_header(("X-Amzn-SageMaker-FailureLocation", failure));
            }
            reply.json(json!({"InferenceId": locations.inference_id}))
        }
        Err(error) => error_response(&runtime, &endpoint, &request, &error),
    }
}

/// Reads the request's headers and its body of up to `limit` bytes.
async fn read(
    api: Api,
    request: &HttpRequest,
    payload: Payload,
    limit: usize,
    time: Duration,
) -> Result<(InvocationRequest, Bytes), RuntimeError> {
    let until = Instant::now() + time;
    let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    let invocation = match InvocationRequest::read(api, header) {
        Ok(invocation) => invocation,
        Err(error) => {
            discard_body(request, payload).await;
            return Err(error);
        }
    };
    match read_body::<()>(request, payload, limit, until, |_, _| true).await {
        Ok((body, _)) => Ok((invocation, body)),
        Err(BodyError::TooLarge) => Err(api.too_large(limit)),
        Err(BodyError::NoMemory) => Err(RuntimeError::Unavailable(
            "there is not enough memory for the request's body".to_owned(),
        )),
        Err(BodyError::Late) => Err(RuntimeError::BodyBroken("the rest did not arrive in time".to_owned())),
        Err(BodyError::Broken(error)) => Err(RuntimeError::BodyBroken(error.to_string())),
    }
}

fn response_builder(status: StatusCode) -> HttpResponseBuilder {
    let mut reply = HttpResponse::build(status);
    reply.insert_header((REQUEST_ID, new_id()));
    reply
}

fn error_response(runtime: &Runtime, endpoint: &str, request: &HttpRequest, error: &RuntimeError) -> HttpResponse {
    tracing::info!(endpoint, %error, "an invocation failed");
    let response = error.answer(runtime.at(endpoint));
    let target = request
        .headers()
        .get(TARGET_MODEL)
        .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    runtime
        .counts
        .failed(endpoint, target.as_deref(), &response, &error.to_string());
    let AwsErrorResponse { status, kind, body } = response;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = response_builder(status);
    if let Some(kind) = kind {
        reply.insert_header((ERROR_TYPE, kind));
    }
    reply.json(body)
}

/// Copies a container's headers. `content_type` renames its `Content-Type`.
fn forward(reply: &mut HttpResponseBuilder, headers: &HeaderMap, content_type: Option<&'static str>) {
    for (name, value) in headers {
        let name = match (name.as_str(), content_type) {
            ("content-type", Some(other)) => other,
            (name, _) => name,
        };
        // reqwest and actix use different versions of these types.
        let (name, value) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes()));
        if let (Ok(name), Ok(value)) = (name, value) {
            reply.insert_header((name, value));
        }
    }
}

/// The app data that the routes require.
pub fn data(runtime: &Arc<Runtime>) -> Data<Runtime> {
    Data::from(Arc::clone(runtime))
}
