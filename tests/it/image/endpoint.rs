//! `longshore endpoint --runner docker` with the real engine and the image.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::endpoint::command::desk::Desk;
use crate::harness::{Builder, Models, docker, eventually, image_or_skip};

fn desk(cache: &TempDir) -> Desk {
    let builder = Builder::endpoint().arguments(["--runner", "docker", "--cache-dir"]);
    Desk::start(builder.argument(cache.path()))
}

/// The name of the folder of the only desk that has one in `cache`.
fn name_in(cache: &TempDir) -> String {
    let names = fs::read_dir(cache.path()).unwrap().flatten();
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.starts_with("longshore-endpoint-")).unwrap()
}

/// The containers with this in their names, whether they run or not.
fn containers(name: &str) -> Vec<String> {
    let filter = format!("name={name}-");
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
    let cache = tempfile::tempdir().unwrap();
    let desk = desk(&cache);
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
    let name = name_in(&cache);
    assert_eq!(containers(&name).len(), 2);
    desk.control("DeleteEndpoint", &json!({"EndpointName": "one"}))
        .expect(200);
    eventually("its container is gone", || containers(&name).len() == 1);
    desk.0.terminate();
    assert!(desk.0.wait_for_end().status.success());
    assert!(containers(&name).is_empty());
}

#[test]
fn after_a_kill_of_the_endpoint_its_containers_end() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let cache = tempfile::tempdir().unwrap();
    let first = desk(&cache);
    create(&first, "one", &json!({"Image": image, "ModelDataUrl": two}));
    first.wait_until_served("one");
    let name = name_in(&cache);
    assert_eq!(containers(&name).len(), 1);
    first.0.supervisor().signal(Signal::KILL);
    first.0.wait_for_end();
    eventually("the container ends", || containers(&name).is_empty());

    // What there would be of one that was just being made.
    docker([
        "create",
        "--label",
        "longshore.test",
        "--name",
        &format!("{name}-2-late"),
        &image,
    ]);
    let other = format!("{name}x-2-late");
    docker(["create", "--label", "longshore.test", "--name", &other, &image]);
    let second = desk(&cache);
    create(&second, "one", &json!({"Image": image, "ModelDataUrl": two}));
    second.wait_until_served("one");
    assert!(containers(&name).is_empty());
    docker(["rm", &other]);
}

#[test]
fn a_container_that_is_killed_is_started_again() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let cache = tempfile::tempdir().unwrap();
    let desk = desk(&cache);
    create(&desk, "one", &json!({"Image": image, "ModelDataUrl": two}));
    desk.wait_until_served("one");
    let name = name_in(&cache);
    let before = containers(&name);
    docker(["kill", &before[0]]);
    eventually("there is another one", || {
        let now = containers(&name);
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
    let cache = tempfile::tempdir().unwrap();
    let desk = desk(&cache);
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
