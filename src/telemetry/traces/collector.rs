//! The HTTP client that sends spans to the collector.
//!
//! The exporter runs on a thread of its own, without a runtime. So each request runs on the
//! server's runtime, and the exporter's thread waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;

use crate::tls;

/// Time limit of a request to the collector, OTLP's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The collector of spans.
#[derive(Debug)]
pub(super) struct Collector {
    url: String,
    client: reqwest::Client,
    runtime: Handle,
    /// Whether the last request failed.
    is_failing: AtomicBool,
}

impl Collector {
    pub fn new(url: &str, runtime: Handle) -> Result<Self, reqwest::Error> {
        tls::provide();
        let builder = reqwest::Client::builder().timeout(TIMEOUT);
        let builder = match url.starts_with("http://") {
            // Plain HTTP needs no certificates, and a small image has none.
            true => builder.tls_certs_only([]),
            false => builder,
        };
        let client = builder.build()?;
        Ok(Self {
            url: url.to_owned(),
            client,
            runtime,
            is_failing: AtomicBool::new(false),
        })
    }

    /// Logs the first failure after a success, and the first success after a failure.
    fn note(&self, failure: Option<&dyn std::fmt::Display>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => {
                tracing::warn!(
                    collector = self.url,
                    "traces cannot be sent and are dropped: {error}; check --otlp-endpoint"
                );
            }
            None if was_failing => tracing::info!(collector = self.url, "traces are sent again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let response = client.execute(request.try_into()?).await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        });
        let sent = sent.await.map_err(HttpError::from);
        let sent = sent.and_then(|sent| sent.map_err(|error| HttpError::from(error.without_url())));
        match sent {
            Ok((status, body)) => {
                let failure = (!status.is_success()).then(|| format!("it answered {status}"));
                self.note(failure.as_ref().map(|failure| failure as _));
                let mut response = Response::new(body);
                *response.status_mut() = status;
                Ok(response)
            }
            Err(error) => {
                self.note(Some(&chain(&*error)));
                Err(error)
            }
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += ": ";
        text += &error.to_string();
        cause = error.source();
    }
    text
}
