//! Errors in the command line, in requests and in models.

use std::net::TcpListener;

use serde_json::json;

use super::local_endpoint::LocalEndpoint;
use crate::harness::{Builder, Models, Request, fixture};

#[test]
fn an_invalid_command_line_ends_the_endpoint_with_the_reason() {
    let models = Models::new();
    let not_json = models.path("not.json");
    std::fs::write(&not_json, "{").unwrap();
    let not_a_model = models.path("model.json");
    std::fs::write(&not_a_model, "{\"ModelName\": \"a b\"}").unwrap();
    let (not_json, not_a_model) = (not_json.to_str().unwrap(), not_a_model.to_str().unwrap());
    let scale = fixture("scale");
    let scale = scale.to_str().unwrap();
    let table: &[(&[&str], &str)] = &[
        (&["--fault", "explode"], "--fault explode: unknown fault \"explode\""),
        (&["--container", "a"], "--container a: expected NAME=http://host:port"),
        (
            &["--container", "a=https://b"],
            "expected http://host:port without a path",
        ),
        (&["--config", "/nowhere.json"], "cannot read /nowhere.json"),
        (&["--config", not_json], "not.json: EOF"),
        (&["--config", not_a_model], "model.json: "),
        (&["--endpoint-name", "a_b", "--model", scale], "--endpoint-name: "),
        (&["--state", "/proc/state.json"], "--state: "),
        (
            &["--model", "/nowhere"],
            "the endpoint longshore could not be created: Failed to download model data",
        ),
        (&["--model", "s3://"], "--model: "),
    ];
    for (arguments, reason) in table {
        let ended = Builder::endpoint().arguments(*arguments).run_to_end();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}");
        let log = ended.log.join("\n");
        assert!(log.contains(reason), "{arguments:?}: {log}");
        assert!(!log.contains("panic"), "{log}");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = Builder::endpoint().arguments(["--port", &port]).run_to_end();
    assert!(
        ended.last_line().contains("choose another --port"),
        "{}",
        ended.last_line()
    );
}

#[test]
fn unknown_actions_are_refused_as_on_aws() {
    let local = LocalEndpoint::start(Builder::endpoint());
    let refused = |request: Request| {
        let response = local.send(&request).expect(400);
        assert_eq!(response.header("content-type"), Some("application/x-amz-json-1.1"));
        assert!(response.header("x-amzn-requestid").is_some());
        (
            response.json()["__type"].as_str().unwrap().to_owned(),
            response.message(),
        )
    };
    let (kind, message) = refused(Request::post("/").body("{}"));
    assert_eq!(kind, "UnknownOperationException");
    assert!(message.contains("X-Amz-Target"));
    let (kind, message) = refused(
        Request::post("/")
            .header("X-Amz-Target", "SageMaker.CreateNotebook")
            .body("{}"),
    );
    assert_eq!(kind, "UnknownOperationException");
    assert!(message.contains("CreateNotebook"));
    let (kind, _) = refused(
        Request::post("/")
            .header("X-Amz-Target", "SageMaker.CreateModel")
            .body("{"),
    );
    assert_eq!(kind, "SerializationException");
    let large = vec![b' '; 5 << 20];
    let (kind, _) = refused(
        Request::post("/")
            .header("X-Amz-Target", "SageMaker.CreateModel")
            .body(large),
    );
    assert_eq!(kind, "SerializationException");
    let (kind, _) = refused(
        Request::post("/")
            .header("X-Amz-Target", "SageMaker.CreateModel")
            .body("{}"),
    );
    assert_eq!(kind, "ValidationException");
}

#[test]
fn a_failed_endpoint_reports_the_cause_from_its_container() {
    let local = LocalEndpoint::start(Builder::endpoint());
    let broken = fixture("bad/garbage");
    local.create("broken", broken.to_str().unwrap());
    crate::harness::eventually("the endpoint fails", || {
        local.status("broken").as_deref() == Some("Failed")
    });
    let described = local
        .control("DescribeEndpoint", &json!({"EndpointName": "broken"}))
        .json();
    let reason = described["FailureReason"].as_str().unwrap();
    assert!(reason.contains("did not pass the ping health check"), "{reason}");
    assert!(reason.contains("Cause: "), "{reason}");
    let refused = local.send(&LocalEndpoint::invocation("broken").json(&json!({"instances": [1]})));
    assert_eq!(refused.header("x-amzn-errortype"), Some("ValidationError"));
    local
        .control("DeleteEndpoint", &json!({"EndpointName": "broken"}))
        .expect(200);
}
