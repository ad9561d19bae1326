//! Tests of models and their containers.

use super::*;

#[test]
fn unsupported_or_contradictory_models_are_refused() {
    let multi_model = json!({"Mode": "MultiModel", "ModelDataUrl": "s3://models/"});
    let hosts = |one: &str, other: &str| json!([{"ContainerHostname": one}, {"ContainerHostname": other}]);
    let direct = json!({"Mode": "Direct"});
    let table = [
        (json!({}), "A model needs either PrimaryContainer or Containers."),
        (
            json!({"Containers": []}),
            "A model needs either PrimaryContainer or Containers.",
        ),
        (
            json!({"PrimaryContainer": {}, "Containers": [{}]}),
            "A model has either PrimaryContainer or Containers, not both.",
        ),
        (
            json!({"PrimaryContainer": {"Mode": "MultiModel"}}),
            "'primaryContainer': ModelDataUrl is required for a container in MultiModel mode.",
        ),
        (
            json!({"Containers": [{}, {"Mode": "MultiModel"}]}),
            "'containers.2.member': ModelDataUrl is required for a container in MultiModel mode.",
        ),
        (
            json!({"Containers": [multi_model, multi_model]}),
            "More than one container in MultiModel mode is not supported with inference pipeline.",
        ),
        (
            json!({"Containers": [multi_model, {}], "InferenceExecutionConfig": direct}),
            "A container in MultiModel mode is not supported with InferenceExecutionConfig Mode Direct.",
        ),
        (
            json!({"Containers": [{}, {}], "InferenceExecutionConfig": direct}),
            "ContainerHostname is required for every container when InferenceExecutionConfig Mode is Direct.",
        ),
        (
            json!({"PrimaryContainer": {}, "InferenceExecutionConfig": direct}),
            "InferenceExecutionConfig Mode Direct needs Containers, not PrimaryContainer.",
        ),
        (
            json!({"Containers": [{"ContainerHostname": "a"}, {}]}),
            "ContainerHostname must be given for every container or for none.",
        ),
        (
            json!({"Containers": hosts("a", "a")}),
            "ContainerHostname must be unique within a model, and \"a\" is given more than once.",
        ),
        (
            json!({"PrimaryContainer": {"ModelPackageName": "p"}}),
            "'primaryContainer': ModelPackageName is not supported here; give Image and ModelDataUrl instead.",
        ),
        (
            json!({"PrimaryContainer": {"ModelDataUrl": "s3://b/a", "ModelDataSource": {}}}),
            "'primaryContainer': ModelDataUrl and ModelDataSource cannot both be given.",
        ),
        (
            json!({"PrimaryContainer": {"Mode": "MultiModel", "ModelDataSource": {}}}),
            "'primaryContainer': ModelDataSource is not supported for multi-model endpoints; give ModelDataUrl.",
        ),
    ];
    for (with, expected) in table {
        let body = model(with);
        assert_eq!(Plane::new().refused("CreateModel", body.clone()), expected, "{body}");
    }
}

#[test]
fn the_environments_of_a_models_containers_share_a_limit() {
    let value = "x".repeat(1023);
    let containers = |count: usize| {
        let container = json!({"Environment": {"A": value, "B": value, "C": value, "D": value}});
        model(json!({"Containers": vec![container; count]}))
    };
    let message = Plane::new().refused("CreateModel", containers(9));
    assert_eq!(
        message,
        "The Environment of a model's containers has 36864 bytes in total; the limit is 32768."
    );
    Plane::new().must("CreateModel", containers(8));
}

#[test]
fn a_model_has_the_containers_of_its_request() {
    let mut plane = Plane::new();
    plane.must(
        "CreateModel",
        model(json!({
            "Containers": [
                {"Image": "first:1", "ModelDataUrl": "s3://b/first.tar.gz", "Environment": {"A": "1"}},
                {
                    "Mode": "MultiModel",
                    "ModelDataUrl": "/models",
                    "MultiModelConfig": {"ModelCacheSetting": "Disabled"},
                },
            ],
            "Tags": [{"Key": "team", "Value": "a"}],
        })),
    );
    let model = &plane.records.models["m"];
    assert_eq!(model.arn, "arn:aws:sagemaker:eu-central-1:000000000000:model/m");
    assert_eq!(model.execution, Execution::Serial);
    let [first, second] = model.containers.as_slice() else {
        panic!("{model:?}");
    };
    assert_eq!(
        (first.hostname.as_str(), second.hostname.as_str()),
        ("container-1", "container-2")
    );
    assert_eq!(
        (first.image.as_deref(), second.image.as_deref()),
        (Some("first:1"), None)
    );
    assert_eq!(
        (first.mode, second.mode),
        (Mode::SingleModel, Mode::MultiModel { cache: false })
    );
    assert_eq!(first.model_data_url.as_deref(), Some("s3://b/first.tar.gz"));
    assert_eq!(first.environment["A"], "1");
    assert_eq!(model.multi_model(), Some(second));
}

#[test]
fn hostnames_are_given_or_numbered_by_position() {
    let table = [
        (
            json!({"PrimaryContainer": {"ContainerHostname": "ignored"}}),
            vec!["model"],
        ),
        (json!({"Containers": [{}]}), vec!["model"]),
        (json!({"Containers": [{"ContainerHostname": "one"}]}), vec!["one"]),
        (json!({"Containers": [{}, {}]}), vec!["container-1", "container-2"]),
        (
            json!({
                "Containers": [{"ContainerHostname": "a"}, {"ContainerHostname": "b"}],
                "InferenceExecutionConfig": {"Mode": "Direct"},
            }),
            vec!["a", "b"],
        ),
    ];
    for (with, expected) in table {
        let model = parse_model(model(with.clone()), &Arns::new("r"), 0.0).unwrap();
        let hostnames = model.containers.iter().map(|container| container.hostname.as_str());
        assert_eq!(Vec::from_iter(hostnames), expected, "{with}");
    }
}

#[test]
fn model_data_is_given_as_model_data_url_or_model_data_source() {
    let s3 = |uri: &str, kind: &str, compression: &str| {
        json!({"ModelDataSource": {
            "S3DataSource": {"S3Uri": uri, "S3DataType": kind, "CompressionType": compression},
        }})
    };
    let table = [
        (json!({}), None),
        (json!({"ModelDataUrl": "s3://b/m.tar.gz"}), Some("s3://b/m.tar.gz")),
        (json!({"ModelDataUrl": "/models/m"}), Some("/models/m")),
        (s3("s3://b/m.tar.gz", "S3Object", "Gzip"), Some("s3://b/m.tar.gz")),
        (s3("s3://b/m/", "S3Prefix", "None"), Some("s3://b/m/")),
    ];
    for (container, expected) in table {
        let model = parse_model(model(json!({"PrimaryContainer": container})), &Arns::new("r"), 0.0).unwrap();
        assert_eq!(model.containers[0].model_data_url.as_deref(), expected, "{container}");
    }
}

#[test]
fn unsafe_environment_variables_are_refused_by_name_for_processes_only() {
    let with = |name: &str| json!({"Image": "i", "Environment": {"A": "1", name: "/tmp/x"}});
    for name in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "ORT_DYLIB_PATH",
        "GLIBC_TUNABLES",
        "LONGSHORE_MODELS_ROOT",
    ] {
        let refused = Plane::new().refused("CreateModel", model(json!({"PrimaryContainer": with(name)})));
        let begins =
            format!("'primaryContainer.environment': the variable {name} is not allowed for a container that runs");
        assert!(refused.starts_with(&begins), "{refused}");
        let several = json!({"Containers": [{"Image": "i"}, with(name)]});
        let refused = Plane::new().refused("CreateModel", model(several));
        assert!(refused.starts_with("'containers.2.member.environment': "), "{refused}");
    }
    Plane::new().must(
        "CreateModel",
        model(json!({"PrimaryContainer": with("LONGSHORE_THREADS")})),
    );
    let mut images = Plane::new();
    images.processes = false;
    images.must("CreateModel", model(json!({"PrimaryContainer": with("LD_PRELOAD")})));
    let described = images.must("DescribeModel", json!({"ModelName": "m"})).body;
    assert_eq!(
        described["PrimaryContainer"]["Environment"],
        json!({"A": "1", "LD_PRELOAD": "/tmp/x"})
    );
}
