//! `longshore endpoint` with a real Docker engine: inside a container of the image, and with
//! `--runner docker`, which starts such containers.

use std::fs;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::endpoint::command::local_endpoint::LocalEndpoint;
use crate::harness::{Builder, Connection, Models, Request, docker, eventually, image_or_skip};

fn local(cache: &TempDir) -> LocalEndpoint {
    let builder = Builder::endpoint().arguments(["--runner", "docker", "--cache-dir"]);
    LocalEndpoint::start(builder.argument(cache.path()))
}

/// The name of the only work folder in `cache`.
fn name_in(cache: &TempDir) -> String {
    let names = fs::read_dir(cache.path()).unwrap().flatten();
    let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.starts_with("longshore-endpoint-")).unwrap()
}

/// The containers with this text in their names, running or not.
fn containers(name: &str) -> Vec<String> {
    let filter = format!("name={name}-");
    let names = docker(["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
    names.lines().map(ToOwned::to_owned).collect()
}

fn create(local: &LocalEndpoint, name: &str, container: &Value) {
    let role = "arn:aws:iam::123456789012:role/sagemaker";
    let model = json!({"ModelName": name, "ExecutionRoleArn": role, "PrimaryContainer": container});
    local.control("CreateModel", &model).expect(200);
    let variant = json!({"VariantName": "a", "ModelName": name, "InitialInstanceCount": 1});
    let config = json!({"EndpointConfigName": name, "ProductionVariants": [variant]});
    local.control("CreateEndpointConfig", &config).expect(200);
    let endpoint = json!({"EndpointName": name, "EndpointConfigName": name});
    local.control("CreateEndpoint", &endpoint).expect(200);
}

#[test]
fn a_container_without_privileges_or_writable_disk_is_an_endpoint_behind_a_published_port() {
    if image_or_skip().is_none() {
        return;
    }
    let options = [
        "--network",
        "bridge",
        "--publish",
        "127.0.0.1::8090",
        "--read-only",
        "--tmpfs=/tmp:size=20m",
        "--user=12345",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
    ];
    let builder = Builder::image(&options).command("endpoint").arguments([
        "--bind",
        "0.0.0.0",
        "--multi-model",
        "/opt/ml/models",
    ]);
    builder.models().place_scale("two", 2.0);
    builder.models().place_scale("three", 3.0);
    let server = builder.start();
    let published: SocketAddr = docker(["port", server.container(), "8090"]).parse().unwrap();
    let send = |request: Request| {
        let mut connection = Connection::open(published).unwrap();
        let bytes = request.header("Connection", "close").to_bytes();
        connection.write(&bytes).unwrap();
        connection.read_unchecked("POST").unwrap()
    };
    let invoke = |model: &str| {
        let request = LocalEndpoint::invocation("longshore").json(&json!({"instances": [5]}));
        send(request.header("X-Amzn-SageMaker-Target-Model", model))
    };
    eventually("the endpoint serves", || invoke("two/model").status == 200);
    for (model, answer) in [("three/model", 15.0), ("two/model", 10.0)] {
        assert_eq!(invoke(model).expect(200).json(), json!({"predictions": [answer]}));
    }
    // The control plane answers on the same port.
    let list = Request::post("/")
        .header("X-Amz-Target", "SageMaker.ListEndpoints")
        .header("Content-Type", "application/x-amz-json-1.1")
        .body("{}");
    let listed = send(list).expect(200).json();
    assert_eq!(listed["Endpoints"][0]["EndpointStatus"], "InService", "{listed}");
    docker(["stop", "--time", "30", server.container()]);
    assert_eq!(server.wait_for_end().status.code(), Some(0));
}

#[test]
fn an_endpoint_runs_the_image_with_one_model_and_with_many() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    models.place_scale("three", 3.0);
    let cache = tempfile::tempdir().unwrap();
    let local = local(&cache);
    create(&local, "one", &json!({"Image": image, "ModelDataUrl": two}));
    let root = models.root().display().to_string();
    create(
        &local,
        "many",
        &json!({"Image": image, "Mode": "MultiModel", "ModelDataUrl": root}),
    );
    local.wait_until_served("one");
    local.wait_until_served("many");
    assert_eq!(local.answer(LocalEndpoint::invocation("one"), 5.0), 10.0);
    for (name, answer) in [("two/model", 10.0), ("three/model", 15.0), ("two/model", 10.0)] {
        let request = LocalEndpoint::invocation("many").header("X-Amzn-SageMaker-Target-Model", name);
        assert_eq!(local.answer(request, 5.0), answer, "{name}");
    }
    let name = name_in(&cache);
    assert_eq!(containers(&name).len(), 2);
    local
        .control("DeleteEndpoint", &json!({"EndpointName": "one"}))
        .expect(200);
    eventually("its container is gone", || containers(&name).len() == 1);
    local.0.terminate();
    assert!(local.0.wait_for_end().status.success());
    assert!(containers(&name).is_empty());
}

#[test]
fn containers_end_after_a_kill_of_the_endpoint() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let cache = tempfile::tempdir().unwrap();
    let first = local(&cache);
    create(&first, "one", &json!({"Image": image, "ModelDataUrl": two}));
    first.wait_until_served("one");
    let name = name_in(&cache);
    assert_eq!(containers(&name).len(), 1);
    first.0.supervisor().signal(Signal::KILL);
    first.0.wait_for_end();
    eventually("the container ends", || containers(&name).is_empty());

    // A container that was being created at the time of the kill would look like this.
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
    let second = local(&cache);
    create(&second, "one", &json!({"Image": image, "ModelDataUrl": two}));
    second.wait_until_served("one");
    assert!(containers(&name).is_empty());
    docker(["rm", &other]);
}

#[test]
fn a_killed_container_is_started_again() {
    let Some(image) = image_or_skip() else { return };
    let models = Models::new();
    let two = models.place_scale("two", 2.0);
    let cache = tempfile::tempdir().unwrap();
    let local = local(&cache);
    create(&local, "one", &json!({"Image": image, "ModelDataUrl": two}));
    local.wait_until_served("one");
    let name = name_in(&cache);
    let before = containers(&name);
    docker(["kill", &before[0]]);
    eventually("a new container runs", || {
        let now = containers(&name);
        now.len() == 1 && now != before
    });
    eventually("the model answers", || {
        let request = LocalEndpoint::invocation("one").json(&json!({"instances": [5]}));
        local.send(&request).status == 200
    });
}

#[test]
fn a_missing_image_fails_the_endpoint_with_the_message_of_docker() {
    if image_or_skip().is_none() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let local = local(&cache);
    let missing = "127.0.0.1:1/longshore-missing:1";
    create(&local, "missing", &json!({"Image": missing}));
    eventually("the endpoint has failed", || {
        local.status("missing").as_deref() == Some("Failed")
    });
    let described = local.control("DescribeEndpoint", &json!({"EndpointName": "missing"}));
    let reason = described.expect(200).json()["FailureReason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(reason.contains("docker: Error response from daemon: "), "{reason}");
}
