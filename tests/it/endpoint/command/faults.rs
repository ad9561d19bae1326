//! `--fault`: injected faults.

use std::fs;

use serde_json::json;

use super::local_endpoint::LocalEndpoint;
use crate::endpoint::fleet::setup::{containers_below, words};
use crate::harness::{Builder, Models, Response, fixture};

#[test]
fn a_fault_rule_applies_as_often_as_it_says() {
    let local = LocalEndpoint::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--fault", "error=503@1/3", "--fault", "other:error=500"]),
    );
    local.wait_until_served("longshore");
    let request = LocalEndpoint::invocation("longshore").json(&json!({"instances": [1]}));
    let statuses: Vec<u16> = (0..6).map(|_| local.send(&request).status).collect();
    assert_eq!(statuses, [200, 200, 503, 200, 200, 503]);
}

#[test]
fn a_container_killed_during_a_request_gives_a_model_error_and_serves_the_next_request() {
    let local = LocalEndpoint::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .argument("--fault=kill=model@1/2"),
    );
    local.wait_until_served("longshore");
    let request = || LocalEndpoint::invocation("longshore");
    // The fault hits even if the container responds quickly.
    for _ in 0..5 {
        assert_eq!(local.answer(request(), 2.0), 2469.0);
        assert_cut_off(&local.send(&request().json(&json!({"instances": [2]}))), "model");
    }
    assert_eq!(local.0.count_in_log("killed by --fault"), 5);
}

#[test]
fn a_fault_kills_a_container_of_a_pipeline_when_it_has_the_request() {
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
    let local = LocalEndpoint::start(
        Builder::endpoint()
            .argument("--config")
            .argument(file)
            .argument("--fault=shop:kill=second@1/2"),
    );
    local.wait_until_served("shop");
    let request = || LocalEndpoint::invocation("shop").header("Accept", "application/json");
    assert_eq!(local.answer(request(), 5.0), 30.0);
    assert_cut_off(&local.send(&request().json(&json!({"instances": [5]}))), "second");
    assert_eq!(local.answer(request(), 5.0), 30.0);
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
fn a_fault_can_limit_the_memory_of_containers() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalEndpoint::start(
        Builder::endpoint()
            .argument("--cache-dir")
            .argument(cache.path())
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--container-memory", "2GiB", "--fault", "longshore:memory=512MiB"]),
    );
    local.wait_until_served("longshore");
    let [container] = containers_below(cache.path())[..] else {
        panic!("expected exactly one container");
    };
    let limit = format!("LONGSHORE_MEMORY_LIMIT={}", 512 << 20);
    assert!(words(container, "environ").contains(&limit));
}
