//! `longshore endpoint` as it is started by hand: what its flags say, and plain HTTP.

pub mod desk;
mod faults;
mod life;
mod users;
mod wrong;

use serde_json::json;

use crate::harness::{Builder, Models, Request, fixture, scale};
use crate::support::archive::archive_of;
use desk::Desk;

#[test]
fn a_folder_of_models_is_a_multi_model_endpoint() {
    let models = Models::new();
    models.place_scale("two", 2.0);
    models.place_scale("three", 3.0);
    let desk = Desk::start(Builder::endpoint().argument("--multi-model").argument(models.root()));
    desk.wait_until_served("longshore");
    for (name, answer) in [("two/model", 10.0), ("three/model", 15.0), ("two/model", 10.0)] {
        let request = Desk::invocation("longshore").header("X-Amzn-SageMaker-Target-Model", name);
        assert_eq!(desk.answer(request, 5.0), answer, "{name}");
    }
    let unnamed = desk.send(&Desk::invocation("longshore").json(&json!({"instances": [5]})));
    assert_eq!(unnamed.header("x-amzn-errortype"), Some("ValidationError"));
    unnamed.expect(400);
}

#[test]
fn a_model_is_an_endpoint_with_the_name_and_the_instances_that_were_asked_for() {
    let desk = Desk::start(
        Builder::endpoint()
            .argument("--model")
            .argument(fixture("scale"))
            .arguments(["--endpoint-name", "shop", "--instances", "2"]),
    );
    desk.wait_until_served("shop");
    assert_eq!(desk.answer(Desk::invocation("shop"), 2.0), 2469.0);
    let described = desk.control("DescribeEndpoint", &json!({"EndpointName": "shop"}));
    let described = described.expect(200).json();
    assert_eq!(described["EndpointStatus"], "InService");
    assert_eq!(described["ProductionVariants"][0]["CurrentInstanceCount"], 2);
}

#[test]
fn a_file_of_models_makes_an_endpoint_of_each() {
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
    // Paths in it are relative to the file.
    let file = models.path("models.json");
    std::fs::write(&file, config.to_string()).unwrap();
    let desk = Desk::start(Builder::endpoint().argument("--config").argument(file));
    for endpoint in ["one-of-many", "pipeline", "either"] {
        desk.wait_until_served(endpoint);
    }
    let request = Desk::invocation("one-of-many").header("X-Amzn-SageMaker-Target-Model", "three/model");
    assert_eq!(desk.answer(request, 5.0), 15.0);
    for (hostname, answer) in [("a", 10.0), ("b", 15.0)] {
        let request = Desk::invocation("either").header("X-Amzn-SageMaker-Target-Container-Hostname", hostname);
        assert_eq!(desk.answer(request, 5.0), answer, "{hostname}");
    }
    // What one container answers is a request to the next.
    let passed_on = desk.send(&Desk::invocation("pipeline").json(&json!({"instances": [5]})));
    assert_eq!(passed_on.expect(200).json(), json!({"predictions": [30.0]}));
}

#[test]
fn multi_model_endpoints_share_one_place_on_disk_and_its_bound() {
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
    let desk = Desk::start(builder.argument("--config").argument(file));
    for (endpoint, answer) in [("two", 10.0), ("three", 15.0)] {
        desk.wait_until_served(endpoint);
        let request = Desk::invocation(endpoint).header("X-Amzn-SageMaker-Target-Model", "model.tar.gz");
        assert_eq!(desk.answer(request, 5.0), answer, "{endpoint}");
    }
    let places = std::fs::read_dir(cache.path().join("models")).unwrap();
    assert_eq!(places.count(), 1);
}

#[test]
fn containers_that_run_already_are_put_behind_an_endpoint() {
    let models = Models::new();
    let (two, three) = (models.place_scale("two", 2.0), models.place_scale("three", 3.0));
    let csv = ["--default-accept", "text/csv"];
    let first = Builder::single(two).arguments(csv).start();
    let second = Builder::single(three).start();
    let container = |name: &str, server: &crate::harness::Server| {
        ["--container".to_owned(), format!("{name}=http://{}", server.address())]
    };
    let attached = [container("first", &first), container("second", &second)].concat();
    let desk = Desk::start(Builder::endpoint().arguments(&attached));
    desk.wait_until_served("longshore");
    let request = Desk::invocation("longshore")
        .header("Content-Type", "text/csv")
        .body("5\n7");
    let answer = desk.send(&request).expect(200);
    assert_eq!(answer.json(), json!({"predictions": [30.0, 42.0]}));

    let desk = Desk::start(Builder::endpoint().arguments(&attached).argument("--direct"));
    desk.wait_until_served("longshore");
    let request = Desk::invocation("longshore").header("X-Amzn-SageMaker-Target-Container-Hostname", "second");
    assert_eq!(desk.answer(request, 5.0), 15.0);
    drop(desk);
    // They are somebody else's.
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
fn pages_in_browsers_are_refused_whatever_they_ask_for() {
    let desk = Desk::start(Builder::endpoint());
    let list = Request::post("/")
        .header("X-Amz-Target", "SageMaker.ListModels")
        .body("{}");
    desk.send(&list).expect(200);
    for request in [list, Desk::invocation("longshore").body("{}"), Request::get("/ping")] {
        // Of a name that leads here, and the same by which it is asked for: not even another site
        // for the browser.
        let request = request.header("Origin", "http://rebound.example:8090");
        let refused = desk.send(&request).expect(403);
        let advice = "--allow-origin http://rebound.example:8090";
        assert!(refused.message().contains(advice), "{}", refused.text());
    }
}

#[test]
fn requests_for_other_services_are_told_where_they_are() {
    let desk = Desk::start(Builder::endpoint());
    let answer = desk.send(&Request::new("PUT", "/bucket/key").body("x")).expect(404);
    assert!(answer.message().contains("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"));
    desk.send(&Request::get("/ping")).expect(200);
}
