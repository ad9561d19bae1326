//! Tests of asynchronous invocations.

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::*;

const PATH: &str = "/endpoints/shop/async-invocations";

fn config(folder: &Path, max_concurrent: u32) -> AsyncConfig {
    AsyncConfig {
        output: folder.join("out").display().to_string(),
        failure: Some(folder.join("failed").display().to_string()),
        max_concurrent: Some(max_concurrent),
    }
}

async fn serving(
    max_concurrent: u32,
    answer: impl Fn(&SeenRequest) -> FakeResponse + Send + Sync + 'static,
) -> (Scene, Arc<FakeContainer>) {
    serving_with(|_| (), max_concurrent, answer).await
}

async fn serving_with(
    change: impl FnOnce(&mut RuntimeConfig),
    max_concurrent: u32,
    answer: impl Fn(&SeenRequest) -> FakeResponse + Send + Sync + 'static,
) -> (Scene, Arc<FakeContainer>) {
    let scene = scene(&[], change);
    let fake = answering("model", answer);
    let variants = vec![variant("blue", 1.0, Execution::Serial, &[&fake])];
    let config = config(scene.folder.path(), max_concurrent);
    scene.serve_with("shop", variants, Some(config)).await;
    (scene, fake)
}

/// Waits for a file and reads it.
async fn written(path: &str) -> String {
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_result_is_written_to_the_output_location() {
    let (scene, fake) = serving(1, |seen| FakeResponse::new(200, seen.body.to_ascii_uppercase())).await;
    let input = scene.folder.path().join("in.csv");
    std::fs::write(&input, "from a file").unwrap();
    let input = input.display().to_string();
    let headers = [
        ("x-amzn-sagemaker-inputlocation", &*input),
        ("x-amzn-sagemaker-content-type", "text/csv"),
        ("x-amzn-sagemaker-inference-id", "i-1"),
    ];
    let got = scene.post(PATH, &headers, "").await;
    assert_eq!(
        (got.status.as_u16(), got.json()),
        (202, serde_json::json!({"InferenceId": "i-1"}))
    );
    assert_eq!(
        written(got.header("x-amzn-sagemaker-outputlocation").unwrap()).await,
        "FROM A FILE"
    );
    assert_eq!(fake.seen()[0].header("content-type"), Some("text/csv"));
    let headers = [
        ("x-amzn-sagemaker-s3outputpathextension", "a/b"),
        ("x-amzn-sagemaker-filename", "f.out"),
    ];
    let got = scene.post(PATH, &headers, "inline").await;
    let output = got.header("x-amzn-sagemaker-outputlocation").unwrap();
    assert!(output.ends_with("/out/a/b/f.out"), "{output}");
    assert_eq!(written(output).await, "INLINE");
}

#[tokio::test]
async fn a_failure_is_written_to_the_failure_location() {
    let (scene, _) = serving(1, |_| FakeResponse::new(400, "bad")).await;
    let got = scene.post(PATH, &[], "x").await;
    assert_eq!(got.status.as_u16(), 202);
    let failure = written(got.header("x-amzn-sagemaker-failurelocation").unwrap()).await;
    let failure: Value = serde_json::from_str(&failure).unwrap();
    assert_eq!(
        (&failure["OriginalStatusCode"], &failure["OriginalMessage"]),
        (&400.into(), &"bad".into())
    );
    let missing = scene.folder.path().join("missing").display().to_string();
    let got = scene
        .post(PATH, &[("x-amzn-sagemaker-inputlocation", &missing)], "")
        .await;
    let failure = written(got.header("x-amzn-sagemaker-failurelocation").unwrap()).await;
    assert!(failure.contains("there is nothing at"), "{failure}");
}

#[tokio::test]
async fn a_response_without_a_length_or_with_long_headers_is_a_failure() {
    let long = "a".repeat(4096);
    let table = [
        (
            FakeResponse::Chunked(vec!["out"], true),
            "did not specify the required Content-Length header",
        ),
        (
            FakeResponse::new(200, "out").with("x-own", long),
            "headers with length greater than 4096 bytes",
        ),
    ];
    for (answer, expected) in table {
        let (scene, _) = serving(1, move |_| answer.clone()).await;
        let got = scene.post(PATH, &[], "x").await;
        let failure = written(got.header("x-amzn-sagemaker-failurelocation").unwrap()).await;
        let failure: Value = serde_json::from_str(&failure).unwrap();
        assert!(
            failure["OriginalMessage"].as_str().unwrap().contains(expected),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_given_with_an_input_location_is_refused() {
    let (scene, fake) = serving(1, |_| FakeResponse::new(200, "")).await;
    let got = scene.post(PATH, &[], &"x".repeat(128_001)).await;
    let (status, kind, message) = got.error();
    assert_eq!((status, kind), (400, "ValidationError"));
    assert!(message.contains("'body'") && message.contains("128000"), "{message}");
    for body in ["{}", "[[1]]"] {
        let got = scene
            .post(PATH, &[("x-amzn-sagemaker-inputlocation", "s3://b/k")], body)
            .await;
        let (status, kind, message) = got.error();
        assert_eq!((status, kind), (400, "ValidationError"));
        assert!(message.contains("mutually exclusive"), "{message}");
    }
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn invocations_beyond_the_queue_are_refused() {
    let (go_on, may_go_on) = channel();
    let may_go_on = Mutex::new(may_go_on);
    let answer = move |_: &SeenRequest| {
        may_go_on.lock().unwrap().recv().unwrap();
        FakeResponse::new(200, "done")
    };
    let (scene, _) = serving_with(|settings| settings.async_queue = 2, 1, answer).await;
    let accepted = [scene.post(PATH, &[], "x").await, scene.post(PATH, &[], "x").await];
    let refused = scene.post(PATH, &[], "x").await;
    assert_eq!(refused.status.as_u16(), 503);
    assert!(refused.text().contains("--async-queue"), "{}", refused.text());
    for got in accepted {
        assert_eq!(got.status.as_u16(), 202);
        go_on.send(()).unwrap();
        written(got.header("x-amzn-sagemaker-outputlocation").unwrap()).await;
    }
    let accepted = loop {
        // An invocation completes shortly after its result is written.
        let got = scene.post(PATH, &[], "x").await;
        if got.status.as_u16() == 202 {
            break got;
        }
    };
    go_on.send(()).unwrap();
    written(accepted.header("x-amzn-sagemaker-outputlocation").unwrap()).await;
}

#[tokio::test]
async fn invalid_asynchronous_requests_are_refused_at_once() {
    let (scene, fake) = serving(1, |_| FakeResponse::new(200, "")).await;
    let variants = || vec![variant("blue", 1.0, Execution::Serial, &[&fake])];
    scene.serve_with("other", variants(), None).await;
    let got = scene.post("/endpoints/other/async-invocations", &[], "x").await;
    assert!(got.error().2.contains("AsyncInferenceConfig"), "{}", got.text());
    assert!(scene.post(PATH, &[], "").await.error().2.contains("InputLocation"));
    let got = scene
        .post(PATH, &[("x-amzn-sagemaker-s3outputpathextension", "../a")], "x")
        .await;
    assert!(got.error().2.contains("s3OutputPathExtension"), "{}", got.text());
    let remote = AsyncConfig {
        output: "s3://bucket/out".to_owned(),
        failure: None,
        max_concurrent: None,
    };
    scene.serve_with("other", variants(), Some(remote)).await;
    let headers = [("x-amzn-sagemaker-inputlocation", "/etc/hostname")];
    let got = scene.post("/endpoints/other/async-invocations", &headers, "").await;
    assert!(got.error().2.contains("must be an object"), "{}", got.text());
}

#[tokio::test]
async fn an_asynchronous_endpoint_refuses_synchronous_invocations() {
    let (scene, fake) = serving(1, |_| FakeResponse::new(200, "")).await;
    for operation in ["invocations", "invocations-response-stream"] {
        let got = scene
            .post(&PATH.replace("async-invocations", operation), &[], "x")
            .await;
        assert!(got.error().2.contains("InvokeEndpointAsync only"), "{}", got.text());
    }
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn an_instance_runs_a_limited_number_of_invocations_in_order_of_arrival() {
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let (scene, fake) = serving(1, move |seen| {
        gone.lock().unwrap().recv().unwrap();
        FakeResponse::new(200, seen.body.clone())
    })
    .await;
    let mut outputs = Vec::new();
    for body in ["1", "2", "3"] {
        let got = scene.post(PATH, &[], body).await;
        outputs.push(got.header("x-amzn-sagemaker-outputlocation").unwrap().to_owned());
    }
    let mut bodies = Vec::new();
    for output in outputs {
        let began = loop {
            match &fake.seen()[..] {
                [] => tokio::task::yield_now().await,
                seen => break seen.to_vec(),
            }
        };
        assert_eq!(began.len(), 1);
        go.send(()).unwrap();
        bodies.push(written(&output).await);
        assert_eq!(began[0].body, bodies.last().unwrap().as_bytes());
    }
    assert_eq!(bodies, ["1", "2", "3"]);
}

#[tokio::test]
async fn when_the_server_stops_pending_invocations_fail() {
    let (scene, _) = serving(1, |_| FakeResponse::Stall).await;
    let mut failures = Vec::new();
    for body in ["1", "2"] {
        let got = scene.post(PATH, &[], body).await;
        failures.push(got.header("x-amzn-sagemaker-failurelocation").unwrap().to_owned());
    }
    scene.runtime.finish(Duration::ZERO).await;
    for failure in failures {
        let failure = std::fs::read_to_string(failure).unwrap();
        assert!(
            failure.contains("stopped before the invocation was complete"),
            "{failure}"
        );
    }
    assert_eq!(scene.post(PATH, &[], "3").await.error().0, 503);
}

#[tokio::test]
async fn waiting_invocations_of_a_removed_endpoint_fail() {
    let (scene, fake) = serving(1, |_| FakeResponse::Stall).await;
    let waiting = {
        scene.post(PATH, &[], "1").await;
        while fake.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        scene.post(PATH, &[], "2").await
    };
    let fleets = Arc::clone(&scene.fleets);
    // The removal waits for the first invocation.
    tokio::spawn(async move { fleets.remove("shop").await });
    let failure = written(waiting.header("x-amzn-sagemaker-failurelocation").unwrap()).await;
    assert!(failure.contains("not found"), "{failure}");
}
