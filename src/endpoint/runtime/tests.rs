//! Tests of the runtime API through its routes, with fake containers.

mod asynchronous;
mod routing;
mod streams;

use std::sync::Arc;

use actix_web::App;
use actix_web::body::to_bytes;
use actix_web::http::StatusCode;
use actix_web::test::{TestRequest, call_service, init_service};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::archive::UnpackLimits;
use crate::endpoint::fleet::{self, Runner};
use crate::endpoint::spec::{AsyncConfig, Container, Deployment, Execution, Mode, Model, Variant};
use crate::endpoint::testing::{FOREVER, FakeContainer, FakeResponse, SeenRequest};
use crate::store::Environment;

/// A runtime API with its folder.
pub(super) struct Scene {
    pub runtime: Arc<Runtime>,
    pub fleets: Arc<Fleets>,
    pub folder: TempDir,
}

pub(super) struct Got {
    pub status: StatusCode,
    headers: actix_web::http::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Status, type and message of an error.
    pub fn error(&self) -> (u16, &str, String) {
        let message = self.json()["Message"].as_str().unwrap_or_default().to_owned();
        (
            self.status.as_u16(),
            self.header("x-amzn-errortype").unwrap_or_default(),
            message,
        )
    }
}

pub(super) fn scene(faults: &[&str], change: impl FnOnce(&mut RuntimeConfig)) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let store = store::StoreConfig {
        url: String::new(),
        environment: Environment::default(),
        timeout: FOREVER,
        retries: 0,
        downloads: 4,
        bounds: UnpackLimits {
            bytes: 1 << 20,
            entries: 10,
            ratio: 100,
        },
        names_bind: true,
        revalidate: FOREVER,
    };
    // All containers of these tests are attached.
    let fleets = fleet::FleetConfig {
        runner: Runner::Process,
        program: "none".into(),
        environment: Environment::default(),
        folder: folder.path().to_owned(),
        prepared: folder.path().join("prepared"),
        max_instances: 2,
        memory: None,
        allow_other_users: false,
        asynchronous: fleet::InvocationBounds {
            bytes: 1 << 20,
            time: FOREVER,
        },
        faults: Arc::default(),
        start_timeout: FOREVER,
        health_interval: FOREVER,
        drain_timeout: FOREVER,
        store: store.clone(),
        archive_bytes: 1 << 20,
    };
    let fleets = Arc::new(Fleets::start(fleets).unwrap());
    let mut settings = RuntimeConfig::new(store, (folder.path().join("cache"), 1 << 20));
    settings.timeout = FOREVER;
    settings.down_wait = FOREVER;
    change(&mut settings);
    let faults = Arc::new(Faults::new(faults.iter().map(|rule| rule.parse().unwrap()), 0));
    Scene {
        runtime: Runtime::new(settings, Arc::clone(&fleets), faults, Handle::current()).unwrap(),
        fleets,
        folder,
    }
}

pub(super) fn answering(
    hostname: &str,
    answer: impl Fn(&SeenRequest) -> FakeResponse + Send + Sync + 'static,
) -> Arc<FakeContainer> {
    FakeContainer::start(Container::new(hostname), move |seen| Some(answer(seen)))
}

/// A variant with one instance of these containers.
pub(super) fn variant(
    name: &str,
    weight: f64,
    execution: Execution,
    fakes: &[&Arc<FakeContainer>],
) -> (Variant, Arc<Model>) {
    let model = Model {
        name: format!("{name}-model"),
        arn: String::new(),
        created: 0.0,
        containers: fakes.iter().map(|fake| fake.attached()).collect(),
        execution,
        raw: Value::Null,
    };
    let mut variant = Variant::new(name, &model.name);
    variant.weight = weight;
    (variant, Arc::new(model))
}

impl Scene {
    pub async fn serve(&self, variants: Vec<(Variant, Arc<Model>)>) {
        self.serve_with("shop", variants, None).await;
    }

    /// Deploys an endpoint with one container.
    pub async fn serve_one(&self, fake: &Arc<FakeContainer>) {
        self.serve(vec![variant("blue", 1.0, Execution::Serial, &[fake])]).await;
    }

    pub async fn serve_with(
        &self,
        endpoint: &str,
        variants: Vec<(Variant, Arc<Model>)>,
        asynchronous: Option<AsyncConfig>,
    ) {
        let deployment = Deployment {
            endpoint: endpoint.to_owned(),
            variants,
            asynchronous,
        };
        self.fleets.deploy(deployment).await.unwrap();
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
        let app = init_service(App::new().app_data(data(&self.runtime)).configure(routes)).await;
        let mut request = TestRequest::post().uri(path).set_payload(body.to_owned());
        for header in headers {
            request = request.insert_header(*header);
        }
        let response = call_service(&app, request.to_request()).await;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body())
            .await
            .map_err(|_| "broken")
            .unwrap()
            .to_vec();
        let got = Got { status, headers, body };
        assert_eq!(got.header("x-amzn-requestid").unwrap().len(), 36);
        got
    }

    pub async fn invoke(&self, headers: &[(&str, &str)], body: &str) -> Got {
        self.post("/endpoints/shop/invocations", headers, body).await
    }
}

#[tokio::test]
async fn a_response_is_forwarded_with_the_allowed_headers_only() {
    let scene = scene(&[], |_| ());
    let fake = answering("model", |_| {
        FakeResponse::new(200, "out")
            .with("content-type", "text/csv")
            .with("x-amzn-sagemaker-custom-attributes", "k=v")
            .with("retry-after", "1")
            .with("x-own", "1")
    });
    scene.serve_one(&fake).await;
    let got = scene
        .invoke(&[("user-agent", "boto"), ("accept", "text/csv")], "in")
        .await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "out"));
    assert_eq!(got.header("content-type"), Some("text/csv"));
    assert_eq!(got.header("x-amzn-invoked-production-variant"), Some("blue"));
    assert_eq!(got.header("x-amzn-sagemaker-custom-attributes"), Some("k=v"));
    assert_eq!((got.header("retry-after"), got.header("x-own")), (None, None));
    let seen = &fake.seen()[0];
    assert_eq!((&seen.body[..], seen.header("user-agent")), (&b"in"[..], None));
    assert_eq!(
        (seen.header("accept"), seen.header("content-type")),
        (Some("text/csv"), None)
    );
}

#[tokio::test]
async fn invalid_requests_get_a_validation_error() {
    let scene = scene(&[], |settings| settings.max_body = 4);
    let fake = answering("model", |_| FakeResponse::new(200, ""));
    scene.serve_one(&fake).await;
    let got = scene.post("/endpoints/other/invocations", &[], "").await;
    let expected = "Endpoint other of account 000000000000 not found.".to_owned();
    assert_eq!(got.error(), (400, "ValidationError", expected));
    let table = [
        (
            "x-amzn-sagemaker-target-model",
            "a",
            "does not support target model header",
        ),
        ("x-amzn-sagemaker-target-variant", "red", "Variant red not found"),
        (
            "x-amzn-sagemaker-target-container-hostname",
            "a",
            "does not support target container hostname",
        ),
        ("x-amzn-sagemaker-inference-component", "a", "no inference components"),
    ];
    for (name, value, text) in table {
        let got = scene.invoke(&[(name, value)], "").await;
        let (status, kind, message) = got.error();
        assert_eq!((status, kind), (400, "ValidationError"), "{name}");
        assert!(message.contains(text), "{message}");
    }
    let got = scene.invoke(&[], "12345").await;
    assert_eq!(
        got.error(),
        (413, "", "HTTP content length exceeded 4 bytes.".to_owned())
    );
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn a_containers_error_is_a_model_error() {
    let scene = scene(&[], |_| ());
    let fake = answering("model", |_| FakeResponse::new(415, "{\"code\":415}"));
    scene.serve_one(&fake).await;
    let got = scene.invoke(&[], "").await;
    let (status, kind, message) = got.error();
    assert_eq!((status, kind), (424, "ModelError"));
    assert!(
        message.starts_with("Received client error (415) from model with message \"{\"code\":415}\""),
        "{message}"
    );
    assert_eq!(got.json()["OriginalStatusCode"], 415);
}

#[tokio::test]
async fn a_request_chooses_among_many_models_by_name() {
    let scene = scene(&[], |_| ());
    let store = scene.folder.path().join("models");
    std::fs::create_dir_all(store.join("team/a")).unwrap();
    std::fs::write(store.join("team/a/model.onnx"), "x").unwrap();
    let mut spec = Container::new("model");
    spec.mode = Mode::MultiModel { cache: true };
    spec.model_data_url = Some(store.display().to_string());
    let fake = FakeContainer::with_capacity(spec, 2, |_| None);
    scene.serve_one(&fake).await;
    let got = scene.invoke(&[], "in").await;
    assert!(
        got.error().2.contains("is missing a target model header"),
        "{}",
        got.text()
    );
    let got = scene.invoke(&[("x-amzn-sagemaker-target-model", "team/a")], "in").await;
    assert_eq!((got.status.as_u16(), got.text()), (200, "team/a in"));
    let got = scene.invoke(&[("x-amzn-sagemaker-target-model", "team/b")], "in").await;
    assert!(
        got.error().2.starts_with("Failed to download model data"),
        "{}",
        got.text()
    );
    fake.seen();
    scene.invoke(&[("x-amzn-sagemaker-target-model", "team/a")], "in").await;
    assert_eq!(fake.lines(), ["POST /models/*/invoke team/a"]);
}

#[tokio::test]
async fn a_request_chooses_a_container_by_hostname() {
    let scene = scene(&[], |_| ());
    let (a, b) = (
        answering("a", |_| FakeResponse::new(200, "A")),
        answering("b", |_| FakeResponse::new(200, "B")),
    );
    scene
        .serve(vec![variant("blue", 1.0, Execution::Direct, &[&a, &b])])
        .await;
    let hostname = "x-amzn-sagemaker-target-container-hostname";
    assert_eq!(scene.invoke(&[(hostname, "b")], "").await.text(), "B");
    assert!(a.seen().is_empty());
    assert!(
        scene
            .invoke(&[], "")
            .await
            .error()
            .2
            .contains("missing a target container hostname")
    );
    assert!(
        scene
            .invoke(&[(hostname, "c")], "")
            .await
            .error()
            .2
            .contains("Container c not found")
    );
}

#[tokio::test]
async fn faults_are_injected_by_their_rules() {
    let rules = ["error=503@1/4", "shop/blue:model-error=507@2/4", "other:error=500"];
    let scene = scene(&rules, |_| ());
    let fake = answering("model", |_| FakeResponse::new(200, ""));
    scene.serve_one(&fake).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(scene.invoke(&[], "").await.status.as_u16());
    }
    assert_eq!(statuses, [200, 424, 200, 503]);
}

#[tokio::test]
async fn a_response_that_sagemaker_refuses_is_a_model_error_with_the_containers_status() {
    let long = "a".repeat(1025);
    let table = [
        ("x-amzn-sagemaker-custom-attributes", long.as_str(), "the limit is 1024"),
        ("x-amzn-sagemaker-custom-attributes", "k=\u{e9}", "US-ASCII"),
        ("x-amzn-sagemaker-new-session-id", "s-1", "Expires="),
        ("content-type", &long, "the limit is 1024"),
    ];
    for (name, value, reason) in table {
        let scene = scene(&[], |_| ());
        let value = value.to_owned();
        let fake = answering("model", move |_| {
            FakeResponse::new(200, "out").with(name, value.clone())
        });
        scene.serve_one(&fake).await;
        for operation in ["invocations", "invocations-response-stream"] {
            let got = scene.post(&format!("/endpoints/shop/{operation}"), &[], "in").await;
            let (status, kind, message) = got.error();
            assert_eq!((status, kind), (424, "ModelError"), "{name} {operation}");
            assert!(message.contains(reason) && message.contains(name), "{message}");
            assert_eq!(got.json()["OriginalStatusCode"], 200);
        }
    }
}

#[test]
fn ids_look_like_uuids_and_differ() {
    let (one, other) = (new_id(), new_id());
    let lengths: Vec<_> = one.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{one}");
    assert_eq!(&one[14..15], "4");
    assert_ne!(one, other);
}
