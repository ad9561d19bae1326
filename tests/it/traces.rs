//! Traces over OTLP/HTTP, received by a collector in the test that reads OTLP's own messages.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Builder, Request, Server, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector of spans.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    services: Vec<String>,
    headers: Vec<String>,
    /// The status of the responses.
    status: u16,
}

impl Collector {
    fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Received {
            status: 200,
            ..Received::default()
        }));
        let shared = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, received }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans, as soon as `count` of them are spans of servers.
    #[track_caller]
    fn spans(&self, count: usize) -> Vec<Span> {
        eventually("the spans arrive", || {
            requests(&self.received.lock().unwrap().spans).len() >= count
        });
        self.received.lock().unwrap().spans.clone()
    }
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, received: &Mutex<Received>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(1..) if line.trim().is_empty() => break,
                Ok(1..) => head.push(line.trim().to_ascii_lowercase()),
                Ok(0) | Err(_) => return,
            }
        }
        assert!(head[0].starts_with("post /v1/traces "), "{head:?}");
        let length = head
            .iter()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        assert!(
            head.contains(&"content-type: application/x-protobuf".to_owned()),
            "{head:?}"
        );
        let message = ExportTraceServiceRequest::decode(&*body).unwrap();
        let mut received = received.lock().unwrap();
        for resource in message.resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            received.services.push(attribute(&attributes, "service.name"));
            received
                .spans
                .extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        received.headers.extend(head);
        let status = received.status;
        drop(received);
        let response = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
        if reader.get_mut().write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

fn attribute(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()) {
        Some(AnyValue {
            value: Some(Any::StringValue(text)),
        }) => text,
        Some(AnyValue {
            value: Some(Any::IntValue(number)),
        }) => number.to_string(),
        Some(AnyValue {
            value: Some(Any::BoolValue(flag)),
        }) => flag.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans of requests.
fn requests(spans: &[Span]) -> Vec<&Span> {
    spans
        .iter()
        .filter(|span| span.kind == SpanKind::Server as i32)
        .collect()
}

/// The spans of the steps of `request`.
fn steps<'a>(spans: &'a [Span], request: &Span) -> Vec<&'a Span> {
    spans
        .iter()
        .filter(|span| span.parent_span_id == request.span_id)
        .collect()
}

/// A server that sends its traces to `collector` soon.
fn traced(builder: Builder, collector: &Collector) -> Builder {
    builder
        .arguments(["--otlp-endpoint", &collector.url()])
        .environment("OTEL_BSP_SCHEDULE_DELAY", "50")
}

fn iris(name: &str) -> Request {
    Server::invocation(name).json(&json!([[5.1, 3.5, 1.4, 0.2]]))
}

#[test]
fn a_traced_request_has_spans_for_its_queue_and_its_run() {
    let collector = Collector::start();
    let server = traced(Builder::multi(), &collector).start();
    let url = server.models().place("iris_zipmap", "iris");
    let load = Request::post("/models").header("X-Amzn-SageMaker-Target-Model", "team/a.tar.gz");
    server
        .send(&load.json(&json!({"model_name": "3f9c", "url": url})))
        .expect(200);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    let request = iris("3f9c")
        .header("traceparent", &parent)
        .header("X-Amzn-SageMaker-Inference-Id", "order-7")
        .not_inline();
    let response = server.send(&request).expect(200);

    let spans = collector.spans(2);
    let of = |name: &str| *requests(&spans).iter().find(|span| span.name == name).unwrap();
    let invocation = of("POST /models/{name}/invoke");
    assert_eq!(
        (hex(&invocation.trace_id), hex(&invocation.parent_span_id)),
        (TRACE.to_owned(), CALLER.to_owned())
    );
    // The caller can find the server's span.
    let own = format!("00-{TRACE}-{}-01", hex(&invocation.span_id));
    assert_eq!(response.header("traceparent"), Some(own.as_str()));
    let attributes = [
        ("http.request.method", "POST"),
        ("http.route", "/models/{name}/invoke"),
        ("url.path", "/models/3f9c/invoke"),
        ("http.response.status_code", "200"),
        ("longshore.model", "3f9c"),
        ("longshore.target_model", "team/a.tar.gz"),
        ("longshore.cold", "false"),
        ("longshore.inference_id", "order-7"),
    ];
    for (name, value) in attributes {
        assert_eq!(attribute(&invocation.attributes, name), value, "{name}");
    }
    let mut steps_of_invocation = steps(&spans, invocation);
    steps_of_invocation.sort_by_key(|span| span.start_time_unix_nano);
    let names: Vec<_> = steps_of_invocation.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["read", "queue", "parse", "run", "write"]);
    for step in steps_of_invocation {
        assert_eq!(step.trace_id, invocation.trace_id);
        assert!(invocation.start_time_unix_nano <= step.start_time_unix_nano);
        assert!(step.start_time_unix_nano <= step.end_time_unix_nano);
        assert!(step.end_time_unix_nano <= invocation.end_time_unix_nano);
    }
    let load = of("POST /models");
    assert!(load.parent_span_id.is_empty());
    assert!(steps(&spans, load).iter().any(|span| span.name == "load"));
    assert_eq!(attribute(&load.attributes, "longshore.model"), "3f9c");
    assert_eq!(collector.received.lock().unwrap().services[0], "longshore");
}

#[test]
fn a_cold_request_has_a_span_for_the_load() {
    let collector = Collector::start();
    let models = crate::harness::Models::new();
    models.place("iris_zipmap", "iris");
    let server = traced(Builder::store(models.root().to_str().unwrap(), []), &collector)
        .environment("OTEL_SERVICE_NAME", "segments")
        .environment("OTEL_EXPORTER_OTLP_HEADERS", "api-key=abc")
        .start();
    for _ in 0..2 {
        server.send(&iris("iris")).expect(200);
    }
    let spans = collector.spans(2);
    let has_load = |request: &&Span| steps(&spans, request).iter().any(|span| span.name == "load");
    let (cold, warm): (Vec<&Span>, Vec<_>) = requests(&spans).into_iter().partition(has_load);
    assert_eq!((cold.len(), warm.len()), (1, 1));
    assert_eq!(attribute(&cold[0].attributes, "longshore.cold"), "true");
    assert_eq!(attribute(&warm[0].attributes, "longshore.cold"), "false");
    let received = collector.received.lock().unwrap();
    assert_eq!(received.services[0], "segments");
    assert!(
        received.headers.contains(&"api-key: abc".to_owned()),
        "{:?}",
        received.headers
    );
}

#[test]
fn a_collector_behind_plain_http_needs_no_certificates() {
    let collector = Collector::start();
    let server = traced(Builder::multi(), &collector).without_certificates().start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    server.send(&iris("iris")).expect(200);
    // Those of the load and of the invocation.
    assert_eq!(requests(&collector.spans(2)).len(), 2);
}

#[test]
fn the_caller_decides_whether_its_trace_is_recorded() {
    let collector = Collector::start();
    let server = traced(Builder::multi(), &collector)
        .arguments(["--otlp-sample", "off"])
        .start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    server.send(&iris("iris")).expect(200);
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    let response = server.send(&iris("iris").header("traceparent", &unsampled)).expect(200);
    assert_eq!(response.header("traceparent"), Some(unsampled.as_str()));
    server
        .send(&iris("iris").header("traceparent", format!("00-{TRACE}-{CALLER}-01")))
        .expect(200);
    server.ping().expect(200);
    // The server sends what still waits when it stops.
    server.supervisor().signal(Signal::TERM);
    server.wait_for_end();
    assert_eq!(requests(&collector.spans(1)).len(), 1);
}

#[test]
fn a_failed_request_is_an_error_in_its_trace_and_in_the_log() {
    let collector = Collector::start();
    let server = traced(Builder::multi(), &collector).start();
    server.send(&iris("missing")).expect(404);
    let spans = collector.spans(1);
    let failed = requests(&spans)[0];
    assert_eq!(attribute(&failed.attributes, "http.response.status_code"), "404");
    assert_eq!(attribute(&failed.attributes, "error.type"), "not_found");
    // By OpenTelemetry's conventions, a client's mistake does not count as an error of the server's
    // span.
    assert_eq!(failed.status.as_ref().map_or(0, |status| status.code), 0);
    server.wait_for_log(&format!("trace_id=\"{}\"", hex(&failed.trace_id)));
}

#[test]
fn a_collector_that_cannot_be_reached_delays_no_request_and_is_logged_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = Builder::multi()
        .arguments(["--otlp-endpoint", &format!("http://{address}")])
        .environment("OTEL_BSP_SCHEDULE_DELAY", "10")
        .start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    for _ in 0..3 {
        server.send(&iris("iris")).expect(200);
        server.wait_for_log("traces cannot be sent");
    }
    let collector = Collector::on(TcpListener::bind(address).unwrap());
    eventually("traces arrive", || {
        server.send(&iris("iris")).expect(200);
        !collector.received.lock().unwrap().spans.is_empty()
    });
    server.wait_for_log("traces are sent again");
    assert_eq!(server.count_in_log("traces cannot be sent"), 1);
    // A collector that refuses the spans is reported, too.
    collector.received.lock().unwrap().status = 400;
    eventually("the refusal is logged", || {
        server.send(&iris("iris")).expect(200);
        server.count_in_log("it answered 400") == 1
    });
}
