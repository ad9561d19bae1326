//! Traces of requests, sent to an OpenTelemetry collector over OTLP/HTTP.
//!
//! A traced request is a span of the kind "server", and each of its steps is a child: the wait for
//! the model's load, the queue, the run. The spans are built when the request ends, from the times
//! in [`RequestTimes`](super::times::RequestTimes). So a request costs nothing more while it runs,
//! and no span is passed between threads.
//!
//! Invariants:
//! - No request waits for the collector. Spans wait in a queue of bounded length, and the exporter
//!   drops spans that find it full.
//! - A collector that cannot be reached is in the log once, and once more when it answers again.

mod collector;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use tokio::time::timeout;

use super::times::{Step, StepTime};
use crate::background::{Background, BlockingWork};
use collector::Collector;

/// Longest time in which the last spans are sent while the server stops.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(2);

/// Threads for blocking work: one looks up the collector's host name, one sends the last spans.
const BLOCKING_THREADS: usize = 2;

/// Reason why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error("start the HTTP client for traces: {0}")]
    Client(#[from] reqwest::Error),
    #[error("start the thread for traces: {0}")]
    Thread(#[from] io::Error),
    #[error("start the exporter of traces: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Sends spans to a collector.
#[derive(Debug, Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    thread: Arc<Background>,
}

impl Traces {
    /// Starts to send the spans of `service` to the collector at `url`.
    pub fn start(url: &str, service: String) -> Result<Self, TracesError> {
        let thread = Background::start("traces", BLOCKING_THREADS, BlockingWork::Detached)?;
        let collector = Collector::new(url, thread.runtime().clone())?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .with_endpoint(format!("{url}/v1/traces"))
            .with_protocol(Protocol::HttpBinary)
            .build()?;
        // The standard variable OTEL_RESOURCE_ATTRIBUTES adds attributes.
        let resource = Resource::builder().with_service_name(service);
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // `RequestLog` has chosen the requests.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.with_attribute(version).build())
            .build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Self {
            provider,
            tracer,
            thread: Arc::new(thread),
        })
    }

    /// Starts the span of a request that arrived at `arrived`. `name` has no part that depends on
    /// the model, as OpenTelemetry's conventions for HTTP require.
    pub(super) fn start_request(&self, name: String, arrived: SystemTime, parent: Option<&SpanContext>) -> RequestSpan {
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Server)
            .with_start_time(arrived);
        RequestSpan {
            span: self.tracer.build_with_context(builder, &context(parent)),
            tracer: self.tracer.clone(),
        }
    }

    /// Sends the spans that still wait, for a short time.
    pub async fn stop(self) {
        let (provider, runtime) = (self.provider, self.thread.runtime());
        let stopped = runtime.spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS_TIMEOUT));
        // Lookups of a host name that does not answer may have all threads.
        match timeout(LAST_SPANS_TIMEOUT, stopped).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%error, "the last traces were not sent"),
            Ok(Err(error)) => tracing::debug!(%error, "the last traces were not sent"),
            Err(error) => tracing::debug!(%error, "the last traces were not sent"),
        }
    }
}

fn context(parent: Option<&SpanContext>) -> Context {
    match parent {
        Some(parent) => Context::new().with_remote_span_context(parent.clone()),
        None => Context::new(),
    }
}

/// The span of a request. Dropping it ends it.
#[derive(Debug)]
pub(super) struct RequestSpan {
    span: Span,
    tracer: SdkTracer,
}

impl RequestSpan {
    pub fn context(&self) -> &SpanContext {
        self.span.span_context()
    }

    /// Ends the span at `end`, with a child for each of `steps`. `start` is the time of the
    /// request's head on both clocks.
    pub fn end(
        mut self,
        attributes: Vec<KeyValue>,
        status: Status,
        steps: &[StepTime],
        (start, started_at): (Instant, SystemTime),
        end: Instant,
    ) {
        let at = |time: Instant| started_at + time.saturating_duration_since(start);
        let own = Context::new().with_remote_span_context(self.context().clone());
        for step in steps {
            let mut builder = SpanBuilder::from_name(step.step.label()).with_start_time(at(step.start));
            if let (Step::Phase(_), 2..) = (step.step, step.requests) {
                let requests = i64::try_from(step.requests).unwrap_or(i64::MAX);
                builder = builder.with_attributes([KeyValue::new("longshore.batch_requests", requests)]);
            }
            self.tracer
                .build_with_context(builder, &own)
                .end_with_timestamp(at(step.end));
        }
        self.span.set_attributes(attributes);
        self.span.set_status(status);
        self.span.end_with_timestamp(at(end));
    }
}
