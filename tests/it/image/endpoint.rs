//! `longshore endpoint --runner docker` with the real engine and the image.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::endpoint::command::desk::Desk;
use crate::harness::{Builder, Models, docker, eventually, image_or_skip};

fn desk() -> Desk {
    Desk::start(Builder::endpoint().arguments(["--runner", "docker"]))
}

/// Names of containers that a desk runs, whose names have its process's number.
fn containers(desk: u32) -> Vec<String> {
    let filter = format!("name=longshore-{desk}-");
    let names = docker(["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
    names.lines().map(ToOwned::to_owned).collect()
}

fn create(desk: &Desk, name: &str, container: &Value) {
    let role = "arn:aws:iam::123456789012:role/sagemaker";
    let model = json!({"ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container});
    desk.control("CreateModel", &model).expect(200);
    let variant = json!({"VariantName": "a", "ModelName": name, "InitialInstanceCount": 1});
    let config = json!({"EndpointConfigName": name, "ProductionVariants": [variant]});
    desk.control("CreateEndpointConfig", &config).expect(200);
    let endpoint = json!({"EndpointName": name, "EndpointConfigName": name});
    desk.control("CreateEndpoint", &endpoint).expect(200);
}

#[test]
fn an_endpoint_runs_the_image_with_one_model_and_with_many() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    models.place_scale("three", 3.0);
    let desk = desk();
    create(&desk, "one", &json!({"Image": image, "ModelDataUrl": two}));
    let root = models.root().display().to_string();
    create(
        &desk,
        "many",
        &json!({"Image": image, "Mode": "MultiModel", "ModelDataUrl": root}),
    );
    desk.wait_until_served("one");
    desk.wait_until_served("many");
    assert_eq!(desk.answer(Desk::invocation("one"), 5.0), 10.0);
    for (name, answer) in [("two/model", 10.0), ("three/model", 15.0), ("two/model", 10.0)] {
        let request = Desk::invocation("many").header("X-Amzn-SageMaker-Target-Model", name);
        assert_eq!(desk.answer(request, 5.0), answer, "{name}");
    }
    let process = desk.0.supervisor().0;
    assert_eq!(containers(process).len(), 2);
    desk.control("DeleteEndpoint", &json!({"EndpointName": "one"}))
        .expect(200);
    eventually("its container is gone", || containers(process).len() == 1);
    desk.0.terminate();
    assert!(desk.0.wait_for_end().status.success());
    assert!(containers(process).is_empty());
}

#[test]
fn after_a_kill_of_the_endpoint_its_containers_end() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let desk = desk();
    create(&desk, "one", &json!({"Image": image, "ModelDataUrl": two}));
    desk.wait_until_served("one");
    let process = desk.0.supervisor().0;
    assert_eq!(containers(process).len(), 1);
    desk.0.supervisor().signal(Signal::KILL);
    desk.0.wait_for_end();
    eventually("the container ends", || containers(process).is_empty());
}

#[test]
fn a_container_that_is_killed_is_started_again() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let desk = desk();
    create(&desk, "one", &json!({"Image": image, "ModelDataUrl": two}));
    desk.wait_until_served("one");
    let before = containers(desk.0.supervisor().0);
    docker(["kill", &before[0]]);
    eventually("there is another one", || {
        let now = containers(desk.0.supervisor().0);
        now.len() == 1 && now != before
    });
    eventually("it answers", || {
        let request = Desk::invocation("one").json(&json!({"instances": [5]}));
        desk.send(&request).status == 200
    });
}

#[test]
fn an_image_that_does_not_exist_fails_the_endpoint_in_the_engines_words() {
    if image_or_skip().is_none() {
        return;
    }
    let desk = desk();
    let missing = "127.0.0.1:1/longshore-missing:1";
    create(&desk, "missing", &json!({"Image": missing}));
    eventually("it has failed", || desk.status("missing").as_deref() == Some("Failed"));
    let described = desk.control("DescribeEndpoint", &json!({"EndpointName": "missing"}));
    let reason = described.expect(200).json()["FailureReason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(reason.contains("docker: Error response from daemon: "), "{reason}");
}
