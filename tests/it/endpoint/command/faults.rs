//! `--fault`.

use std::fs;

use serde_json::json;

use super::desk::Desk;
use crate::endpoint::fleet::setup::{containers_below, words};
use crate::harness::{Builder, Models, Response, fixture};

#[test]
fn faults_strike_as_often_as_they_were_asked_to() {
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--fault", "error=503@1/3", "--fault", "other:error=500"]),
    );
    desk.wait_until_served("longshore");
    let request = Desk::invocation("longshore").json(&json!({"instances": [1]}));
    let statuses: Vec<u16> = (0..6).map(|_| desk.send(&request).status).collect();
    assert_eq!(statuses, [200, 200, 503, 200, 200, 503]);
}

#[test]
fn a_container_that_is_killed_while_it_has_a_request_is_a_model_error_each_time_and_the_next_request_is_served() {
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .argument("--fault=kill=model@1/2"),
    );
    desk.wait_until_served("longshore");
    let request = || Desk::invocation("longshore");
    // However quick the answer would be.
    for _ in 0..5 {
        assert_eq!(desk.answer(request(), 2.0), 2469.0);
        assert_cut_off(&desk.send(&request().json(&json!({"instances": [2]}))), "model");
    }
    assert_eq!(desk.0.count_in_log("killed by --fault"), 5);
}

#[test]
fn a_container_of_a_pipeline_is_killed_when_it_has_the_request() {
    let models = Models::new();
    let container = |hostname: &str, factor| {
        json!({
            "ContainerHostname": hostname,
            "ModelDataUrl": models.place_scale(hostname, factor),
            "Environment": {"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"},
        })
    };
    let config = json!({"ModelName": "shop", "Containers": [container("first", 2.0), container("second", 3.0)]});
    let file = models.path("model.json");
    fs::write(&file, config.to_string()).unwrap();
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--config")
            .argument(file)
            .argument("--fault=shop:kill=second@1/2"),
    );
    desk.wait_until_served("shop");
    let request = || Desk::invocation("shop").header("Accept", "application/json");
    assert_eq!(desk.answer(request(), 5.0), 30.0);
    assert_cut_off(&desk.send(&request().json(&json!({"instances": [5]}))), "second");
    assert_eq!(desk.answer(request(), 5.0), 30.0);
}

#[track_caller]
fn assert_cut_off(answer: &Response, container: &str) {
    assert_eq!(answer.status, 424, "{}", answer.text());
    assert_eq!(answer.header("x-amzn-errortype"), Some("ModelError"));
    let error = answer.json();
    assert_eq!(error["OriginalStatusCode"], 0);
    let message = error["Message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("Received server error (0) from {container} with message")),
        "{message}"
    );
}

#[test]
fn memory_of_containers_can_be_scarce() {
    let cache = tempfile::tempdir().unwrap();
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--cache-dir")
            .argument(cache.path())
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--container-memory", "2GiB", "--fault", "longshore:memory=512MiB"]),
    );
    desk.wait_until_served("longshore");
    let [container] = containers_below(cache.path())[..] else {
        panic!("not one container");
    };
    let limit = format!("LONGSHORE_MEMORY_LIMIT={}", 512 << 20);
    assert!(words(container, "environ").contains(&limit));
}
