//! `longshore endpoint` as an operator starts it: its flags, and plain HTTP.

mod faults;
mod life;
pub mod local_endpoint;
mod users;
mod wrong;

use serde_json::json;

use crate::harness::{Builder, Models, Request, fixture, scale};
use crate::support::archive::archive_of;
use local_endpoint::LocalEndpoint;

#[test]
fn a_folder_of_models_is_a_multi_model_endpoint() {
    let models = Models::new();
    models.place_scale("two", 2.0);
    models.place_scale("three", 3.0);
    let local = LocalEndpoint::start(Builder::endpoint().argument("--multi-model").argument(models.root()));
    local.wait_until_served("longshore");
    for (name, answer) in [("two/model", 10.0), ("three/model", 15.0), ("two/model", 10.0)] {
        let request = LocalEndpoint::invocation("longshore").header("X-Amzn-SageMaker-Target-Model", name);
        assert_eq!(local.answer(request, 5.0), answer, "{name}");
    }
    let unnamed = local.send(&LocalEndpoint::invocation("longshore").json(&json!({"instances": [5]})));
    assert_eq!(unnamed.header("x-amzn-errortype"), Some("ValidationError"));
    unnamed.expect(400);
}

#[test]
fn an_endpoint_needs_no_certificates() {
    let endpoint = Builder::endpoint().argument("--model").argument(fixture("scale"));
    let local = LocalEndpoint::start(endpoint.without_certificates());
    local.wait_until_served("longshore");
    assert_eq!(local.answer(LocalEndpoint::invocation("longshore"), 2.0), 2469.0);
}

#[test]
fn a_model_becomes_an_endpoint_with_the_given_name_and_instances() {
    let local = LocalEndpoint::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--endpoint-name", "shop", "--instances", "2"]),
    );
    local.wait_until_served("shop");
    assert_eq!(local.answer(LocalEndpoint::invocation("shop"), 2.0), 2469.0);
    let described = local.control("DescribeEndpoint", &json!({"EndpointName": "shop"}));
    let described = described.expect(200).json();
    assert_eq!(described["EndpointStatus"], "InService");
    assert_eq!(described["ProductionVariants"][0]["CurrentInstanceCount"], 2);
}

#[test]
fn a_config_file_creates_an_endpoint_for_each_model() {
    let models = Models::new();
    models.place_scale("two", 2.0);
    models.place_scale("three", 3.0);
    let container =
        |hostname: &str, model: &str| json!({"ContainerHostname": hostname, "ModelDataUrl": format!("{model}/model")});
    let role = "arn:aws:iam::123456789012:role/service-role/sagemaker";
    let config = json!([
        {"ModelName": "one-of-many", "ExecutionRoleArn": role, "PrimaryContainer": {"Mode": "MultiModel", "ModelDataUrl": "."}},
        {"ModelName": "pipeline", "ExecutionRoleArn": role, "Containers": [container("a", "two"), container("b", "three")]},
        {
            "ModelName": "either",
            "Containers": [container("a", "two"), container("b", "three")],
            "InferenceExecutionConfig": {"Mode": "Direct"}
        },
    ]);
    // Paths in the file are relative to the file.
    let file = models.path("models.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let local = LocalEndpoint::start(Builder::endpoint().argument("--config").argument(file));
    for endpoint in ["one-of-many", "pipeline", "either"] {
        local.wait_until_served(endpoint);
    }
    let request = LocalEndpoint::invocation("one-of-many").header("X-Amzn-SageMaker-Target-Model", "three/model");
    assert_eq!(local.answer(request, 5.0), 15.0);
    for (hostname, answer) in [("a", 10.0), ("b", 15.0)] {
        let request =
            LocalEndpoint::invocation("either").header("X-Amzn-SageMaker-Target-Container-Hostname", hostname);
        assert_eq!(local.answer(request, 5.0), answer, "{hostname}");
    }
    // The response of each container is the request to the next.
    let passed_on = local.send(&LocalEndpoint::invocation("pipeline").json(&json!({"instances": [5]})));
    assert_eq!(passed_on.expect(200).json(), json!({"predictions": [30.0]}));
}

#[test]
fn multi_model_endpoints_share_one_folder_and_its_limit() {
    let (buckets, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let multi_model = |name: &str, factor: f32| {
        let folder = buckets.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.tar.gz"), archive_of(&scale(factor))).unwrap();
        json!({"ModelName": name, "PrimaryContainer": {"Mode": "MultiModel", "ModelDataUrl": folder}})
    };
    let config = json!([multi_model("two", 2.0), multi_model("three", 3.0)]);
    let file = buckets.path().join("models.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let builder = Builder::endpoint().argument("--cache-dir").argument(cache.path());
    let local = LocalEndpoint::start(builder.argument("--config").argument(file));
    for (endpoint, answer) in [("two", 10.0), ("three", 15.0)] {
        local.wait_until_served(endpoint);
        let request = LocalEndpoint::invocation(endpoint).header("X-Amzn-SageMaker-Target-Model", "model.tar.gz");
        assert_eq!(local.answer(request, 5.0), answer, "{endpoint}");
    }
    let places = std::fs::read_dir(cache.path().join("models")).unwrap();
    assert_eq!(places.count(), 1);
}

#[test]
fn an_endpoint_attaches_to_running_containers() {
    let models = Models::new();
    let (two, three) = (models.place_scale("two", 2.0), models.place_scale("three", 3.0));
    let csv = ["--default-accept", "text/csv"];
    let first = Builder::single(two).arguments(csv).start();
    let second = Builder::single(three).start();
    let container = |name: &str, server: &crate::harness::Server| {
        ["--container".to_owned(), format!("{name}=http://{}", server.address())]
    };
    let attached = [container("first", &first), container("second", &second)].concat();
    let local = LocalEndpoint::start(Builder::endpoint().arguments(&attached));
    local.wait_until_served("longshore");
    let request = LocalEndpoint::invocation("longshore")
        .header("Content-Type", "text/csv")
        .body("5\n7");
    let answer = local.send(&request).expect(200);
    assert_eq!(answer.json(), json!({"predictions": [30.0, 42.0]}));

    let local = LocalEndpoint::start(Builder::endpoint().arguments(&attached).argument("--direct"));
    local.wait_until_served("longshore");
    let request = LocalEndpoint::invocation("longshore").header("X-Amzn-SageMaker-Target-Container-Hostname", "second");
    assert_eq!(local.answer(request, 5.0), 15.0);
    drop(local);
    // The endpoint does not own these containers, so they outlive it.
    first.ping().expect(200);

    let many = Builder::multi().start();
    let place = |name: &str, factor| many.models().place_scale(name, factor);
    place("a", 7.0);
    let attached = container("many", &many);
    let folder = many.models().root().to_owned();
    let refused = Builder::endpoint()
        .arguments(["--multi-model".into(), folder.into_os_string()])
        .arguments(attached)
        .arguments(["--container", "other=http://127.0.0.1:1"])
        .run_to_end();
    assert!(
        refused
            .last_line()
            .contains("only one container can serve --multi-model")
    );
    let gone = many.models().path("gone").into_os_string();
    let refused = Builder::endpoint()
        .arguments(["--multi-model".into(), gone])
        .run_to_end();
    assert!(refused.last_line().contains("--multi-model: no such directory"));
}

#[test]
fn requests_of_web_pages_are_refused_on_every_path() {
    let local = LocalEndpoint::start(Builder::endpoint());
    let list = Request::post("/")
        .header("X-Amz-Target", "SageMaker.ListModels")
        .body("{}");
    local.send(&list).expect(200);
    for request in [
        list,
        LocalEndpoint::invocation("longshore").body("{}"),
        Request::get("/ping"),
    ] {
        // A name that resolves to this machine, and the same name as the host: the browser sees no
        // cross-site request.
        let request = request.header("Origin", "http://rebound.example:8090");
        let refused = local.send(&request).expect(403);
        let advice = "--allow-origin http://rebound.example:8090";
        assert!(refused.message().contains(advice), "{}", refused.text());
    }
}

#[test]
fn requests_for_other_services_are_refused_with_directions() {
    let local = LocalEndpoint::start(Builder::endpoint());
    let answer = local.send(&Request::new("PUT", "/bucket/key").body("x")).expect(404);
    assert!(answer.message().contains("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"));
    local.send(&Request::get("/ping")).expect(200);
}
