//! Tests of the flags and files that declare endpoints, and of the errors for invalid ones.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::endpoint::spec::Mode;

fn declared() -> DeclaredEndpoints {
    DeclaredEndpoints {
        endpoint_name: "local".to_owned(),
        instances: 1,
        ..DeclaredEndpoints::default()
    }
}

fn attached(text: &str) -> AttachedContainer {
    text.parse().unwrap()
}

fn deployments(declared: &DeclaredEndpoints) -> Result<Vec<Deployment>, DeclareError> {
    declared.deployments(&Arns::new("us-east-1"), 1.0)
}

/// The model of the only endpoint.
fn model(declared: &DeclaredEndpoints) -> Model {
    let mut deployments = deployments(declared).unwrap();
    assert_eq!(deployments.len(), 1);
    let mut deployment = deployments.remove(0);
    let (variant, model) = deployment.variants.remove(0);
    assert_eq!(
        (variant.name.as_str(), variant.model_name.as_str()),
        (VARIANT, model.name.as_str())
    );
    assert_eq!(deployment.endpoint, model.name);
    Model::clone(&model)
}

fn file(folder: &TempDir, content: &str) -> PathBuf {
    let path = folder.path().join("models.json");
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn without_flags_there_are_no_endpoints() {
    assert_eq!(deployments(&declared()).unwrap(), []);
}

#[test]
fn one_flag_makes_an_endpoint_of_one_container() {
    let here = |path: &str| path::absolute(path).unwrap().display().to_string();
    let multi_model = Mode::MultiModel { cache: true };
    let table = [
        (
            true,
            "s3://bucket/models/",
            "s3://bucket/models/".to_owned(),
            multi_model,
        ),
        (true, "models", here("models"), multi_model),
        (
            false,
            "/a/model.tar.gz",
            "/a/model.tar.gz".to_owned(),
            Mode::SingleModel,
        ),
        (false, "model.onnx", here("model.onnx"), Mode::SingleModel),
    ];
    for (multi_model, given, url, mode) in table {
        let mut declared = declared();
        declared.instances = 3;
        *(if multi_model {
            &mut declared.multi_model
        } else {
            &mut declared.model
        }) = Some(given.to_owned());
        assert_eq!(deployments(&declared).unwrap()[0].variants[0].0.instances, 3);
        let model = model(&declared);
        assert_eq!(model.name, "local");
        let [container] = model.containers.as_slice() else {
            panic!("{model:?}");
        };
        assert_eq!(container.hostname, "model");
        assert_eq!(
            (container.mode, container.model_data_url.as_deref()),
            (mode, Some(url.as_str()))
        );
        assert!(!container.is_attached());
    }
}

#[test]
fn containers_form_a_pipeline_in_order_or_are_named_by_each_request() {
    for (direct, execution) in [(false, Execution::Serial), (true, Execution::Direct)] {
        let declared = DeclaredEndpoints {
            containers: vec![attached("second=http://127.0.0.1:2"), attached("first=http://[::1]:1/")],
            direct,
            ..declared()
        };
        let model = model(&declared);
        assert_eq!(model.execution, execution);
        let containers = model.containers.iter();
        let containers = containers.map(|container| (container.hostname.as_str(), container.address.as_deref()));
        let expected = [
            ("second", Some("http://127.0.0.1:2")),
            ("first", Some("http://[::1]:1")),
        ];
        assert_eq!(Vec::from_iter(containers), expected);
    }
}

#[test]
fn an_attached_container_may_serve_many_models() {
    let declared = DeclaredEndpoints {
        multi_model: Some("/models".to_owned()),
        containers: vec![attached("mme=http://localhost:8080")],
        ..declared()
    };
    let model = model(&declared);
    let container = &model.containers[0];
    assert!(container.is_multi_model() && container.is_attached());
    assert_eq!(container.model_data_url.as_deref(), Some("/models"));
}

#[test]
fn a_file_has_one_model_or_several_with_paths_relative_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let one = json!({"ModelName": "one", "PrimaryContainer": {"ModelDataUrl": "m.tar.gz"}});
    let other = json!({"ModelName": "other", "Containers": [{"ModelDataUrl": "s3://b/m"}, {"ModelDataUrl": "n"}]});
    let below = |name: &str| folder.path().join(name).display().to_string();
    let cases = [
        (one.clone(), vec![("one", vec![below("m.tar.gz")])]),
        (
            json!([one, other]),
            vec![
                ("one", vec![below("m.tar.gz")]),
                ("other", vec!["s3://b/m".to_owned(), below("n")]),
            ],
        ),
    ];
    for (content, expected) in cases {
        let declared = DeclaredEndpoints {
            configs: vec![file(&folder, &content.to_string())],
            ..declared()
        };
        let deployments = deployments(&declared).unwrap();
        let models = deployments.iter().map(|deployment| {
            let containers = deployment.variants[0].1.containers.iter();
            let urls = containers.filter_map(|container| container.model_data_url.clone());
            (deployment.endpoint.as_str(), Vec::from_iter(urls))
        });
        assert_eq!(Vec::from_iter(models), expected);
    }
}

#[test]
fn an_error_in_a_file_names_the_file_and_the_member() {
    let folder = tempfile::tempdir().unwrap();
    let table = [
        ("{", ": EOF while parsing"),
        ("[]", ": the file contains no model"),
        ("{}", ": 1 validation error detected: Value null at 'modelName'"),
        (
            r#"[{"ModelName": "a", "PrimaryContainer": {}}, {"ModelName": "b", "PrimaryContainer": {"Mode": "Multi"}}]"#,
            ": model 2: 1 validation error detected: Value 'Multi' at 'primaryContainer.mode'",
        ),
        (
            r#"{"ModelName": "b", "PrimaryContainer": []}"#,
            ": 'primaryContainer' must be an object",
        ),
    ];
    for (content, expected) in table {
        let path = file(&folder, content);
        let declared = DeclaredEndpoints {
            configs: vec![path.clone()],
            ..declared()
        };
        let message = deployments(&declared).unwrap_err().to_string();
        let expected = format!("{}{expected}", path.display());
        assert!(message.starts_with(&expected), "{message}");
    }
    let declared = DeclaredEndpoints {
        configs: vec![folder.path().join("none.json")],
        ..declared()
    };
    let message = deployments(&declared).unwrap_err().to_string();
    assert!(
        message.starts_with("cannot read ") && message.contains("none.json: "),
        "{message}"
    );
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let containers = |texts: &[&str]| Vec::from_iter(texts.iter().map(|text| attached(text)));
    let folder = tempfile::tempdir().unwrap();
    let local = file(&folder, r#"{"ModelName": "LOCAL", "PrimaryContainer": {}}"#);
    let path = || Some("/m".to_owned());
    let table = [
        (
            DeclaredEndpoints {
                multi_model: path(),
                model: path(),
                ..declared()
            },
            "--model: cannot be combined with --multi-model",
        ),
        (
            DeclaredEndpoints {
                model: path(),
                containers: containers(&["a=http://h:1"]),
                ..declared()
            },
            "--model: cannot be combined with --container",
        ),
        (
            DeclaredEndpoints {
                multi_model: path(),
                containers: containers(&["a=http://h:1", "b=http://h:2"]),
                ..declared()
            },
            "--container: only one container can serve --multi-model",
        ),
        (
            DeclaredEndpoints {
                containers: containers(&["a=http://h:1", "a=http://h:2"]),
                ..declared()
            },
            "--container: two containers have the name \"a\"",
        ),
        (
            DeclaredEndpoints {
                multi_model: path(),
                containers: containers(&["a=http://h:1"]),
                direct: true,
                ..declared()
            },
            "--direct: cannot be combined with --multi-model, whose requests name a model, not a container",
        ),
        (
            DeclaredEndpoints {
                model: path(),
                endpoint_name: "a_b".to_owned(),
                ..declared()
            },
            "--endpoint-name: a name has at most 63 letters and digits, with hyphens between them",
        ),
        (
            DeclaredEndpoints {
                model: Some("ftp://h/m".to_owned()),
                ..declared()
            },
            "--model: 1 validation error detected: Value 'ftp://h/m' at 'primaryContainer.modelDataUrl' failed",
        ),
        (
            DeclaredEndpoints {
                model: path(),
                configs: vec![local],
                ..declared()
            },
            "two endpoints have the name \"LOCAL\"",
        ),
    ];
    for (declared, expected) in table {
        let message = deployments(&declared).unwrap_err().to_string();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn invalid_containers_are_refused() {
    let table = [
        ("http://h:1", ContainerError::Form),
        ("a_b=http://h:1", ContainerError::Name("a_b".to_owned())),
        ("=http://h:1", ContainerError::Name(String::new())),
        ("a=h:1", ContainerError::Address("h:1".to_owned())),
        ("a=https://h:1", ContainerError::Address("https://h:1".to_owned())),
        (
            "a=http://h:1/path",
            ContainerError::Address("http://h:1/path".to_owned()),
        ),
        (
            "a=http://user@h:1",
            ContainerError::Address("http://user@h:1".to_owned()),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<AttachedContainer>(), Err(expected), "{text}");
    }
}
