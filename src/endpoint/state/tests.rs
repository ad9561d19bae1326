//! Tests of the state file: it keeps acknowledged changes, and invalid files are not touched.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::*;
use crate::endpoint::control::Effect;

/// A fleet without instances.
struct NoFleet;

impl StatusSource for NoFleet {
    fn running_instances(&self, _: &str, _: &str) -> u32 {
        0
    }

    fn runs_processes(&self) -> bool {
        true
    }
}

fn arns() -> Arns {
    Arns::new("us-east-1")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

async fn ask(state: &ControlState, action: &str, body: Value) -> Result<ActionResponse, ControlError> {
    let body = body.to_string();
    state
        .answer(&format!("SageMaker.{action}"), body.as_bytes(), &NoFleet)
        .await
}

/// The records after a restart.
fn restarted(records: &Records) -> Records {
    let mut records = records.clone();
    let gone = records
        .endpoints
        .values()
        .filter(|endpoint| endpoint.declared || endpoint.phase == EndpointPhase::Deleting)
        .map(|endpoint| endpoint.name.clone());
    for name in Vec::from_iter(gone) {
        records.endpoints.remove(&name);
        records.tags.remove(&format!("endpoint/{name}"));
    }
    for endpoint in records.endpoints.values_mut() {
        endpoint.phase = EndpointPhase::Creating;
        endpoint.current = None;
        endpoint.failure = None;
        endpoint.restored = true;
    }
    records
}

fn create_model(name: &str) -> Value {
    json!({"ModelName": name, "PrimaryContainer": {"ModelDataUrl": "/m"}, "Tags": [{"Key": "k", "Value": "v"}]})
}

fn create_config(name: &str, model: &str) -> Value {
    json!({"EndpointConfigName": name, "ProductionVariants": [
        {"VariantName": "a", "ModelName": model, "InitialInstanceCount": 1},
        {"VariantName": "b", "ModelName": model, "InitialInstanceCount": 2, "InitialVariantWeight": 0.5},
    ]})
}

/// A step of a random history. Many steps are refused at the wrong time, and then change nothing.
#[derive(Debug, Clone)]
enum Step {
    Ask(&'static str, Value),
    Settle(&'static str, Result<(), String>),
}

/// Random steps after a fixed start with an endpoint in service, which random steps rarely reach.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let beginning = vec![
        Step::Ask("CreateModel", create_model("x")),
        Step::Ask("CreateEndpointConfig", create_config("x", "x")),
        Step::Ask(
            "CreateEndpoint",
            json!({"EndpointName": "x", "EndpointConfigName": "x"}),
        ),
        Step::Settle("x", Ok(())),
    ];
    prop::collection::vec(step(), 0..20).prop_map(move |random| [beginning.clone(), random].concat())
}

fn step() -> impl Strategy<Value = Step> {
    let name = || select(vec!["x", "y"]);
    let weight = (0u32..1000).prop_map(|hundredths| f64::from(hundredths) / 100.0);
    prop_oneof![
        (name(), any::<bool>()).prop_map(|(name, multi)| {
            let mut body = create_model(name);
            if multi {
                body["PrimaryContainer"] = json!({"Mode": "MultiModel", "ModelDataUrl": "s3://b/m/"});
            }
            Step::Ask("CreateModel", body)
        }),
        name().prop_map(|name| Step::Ask("DeleteModel", json!({"ModelName": name}))),
        (name(), name()).prop_map(|(name, model)| Step::Ask("CreateEndpointConfig", create_config(name, model))),
        name().prop_map(|name| Step::Ask("DeleteEndpointConfig", json!({"EndpointConfigName": name}))),
        (name(), name()).prop_map(|(name, config)| {
            let body = json!({
                "EndpointName": name,
                "EndpointConfigName": config,
                "Tags": [{"Key": "k", "Value": config}],
                "DeploymentConfig": {"AutoRollbackConfiguration": {}},
            });
            Step::Ask("CreateEndpoint", body)
        }),
        (name(), name()).prop_map(|(name, config)| {
            Step::Ask(
                "UpdateEndpoint",
                json!({"EndpointName": name, "EndpointConfigName": config}),
            )
        }),
        (name(), weight, 0u32..4).prop_map(|(name, weight, count)| {
            let wanted = json!({"VariantName": "b", "DesiredWeight": weight, "DesiredInstanceCount": count});
            let body = json!({"EndpointName": name, "DesiredWeightsAndCapacities": [wanted]});
            Step::Ask("UpdateEndpointWeightsAndCapacities", body)
        }),
        name().prop_map(|name| Step::Ask("DeleteEndpoint", json!({"EndpointName": name}))),
        (name(), any::<bool>()).prop_map(|(name, well)| {
            let outcome = if well { Ok(()) } else { Err("no".to_owned()) };
            Step::Settle(name, outcome)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_restart_restores_the_records_of_any_history(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let state = ControlState::open(path.clone(), arns()).unwrap();
        runtime().block_on(async {
            for step in steps {
                match step {
                    Step::Ask(action, body) => drop(ask(&state, action, body).await),
                    Step::Settle(endpoint, outcome) => state.settle(endpoint, outcome).await,
                }
            }
        });
        let records = state.records();
        drop(state);
        let again = ControlState::open(path, arns()).unwrap();
        prop_assert_eq!(&*again.records(), &restarted(&records));
        prop_assert_eq!(again.undeployed().len(), again.records().endpoints.len());
    }
}

#[test]
fn a_state_without_a_file_answers_requests() {
    let state = ControlState::in_memory(arns());
    runtime().block_on(async {
        ask(&state, "CreateModel", create_model("m")).await.unwrap();
        ask(&state, "CreateEndpointConfig", create_config("c", "m"))
            .await
            .unwrap();
        let body = json!({"EndpointName": "e", "EndpointConfigName": "c"});
        let answer = ask(&state, "CreateEndpoint", body).await.unwrap();
        let Some(Effect::Deploy(deployment)) = answer.effect else {
            panic!("{answer:?}");
        };
        assert_eq!(state.undeployed(), [deployment]);
        state.settle("e", Ok(())).await;
        assert_eq!(state.undeployed(), []);
    });
}

#[test]
fn a_restart_does_not_change_the_description_of_an_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let described = async |state: &ControlState| {
        let body = json!({"EndpointName": "e"});
        ask(state, "DescribeEndpoint", body).await.unwrap().body
    };
    runtime().block_on(async {
        let state = ControlState::open(path.clone(), arns()).unwrap();
        let config = json!({
            "EndpointConfigName": "c",
            "ProductionVariants": [{"VariantName": "a", "ModelName": "m", "InitialInstanceCount": 1, "RoutingConfig": {
                "RoutingStrategy": "PREFIX_AWARE",
                "PrefixAwareRoutingConfig": {"PrefixLength": 2048},
            }}],
            "DataCaptureConfig": {
                "EnableCapture": false, "InitialSamplingPercentage": 10, "DestinationS3Uri": "s3://b/k",
                "CaptureOptions": [{"CaptureMode": "Input"}],
            },
        });
        ask(&state, "CreateModel", create_model("m")).await.unwrap();
        ask(&state, "CreateEndpointConfig", config).await.unwrap();
        let body = json!({"EndpointName": "e", "EndpointConfigName": "c"});
        ask(&state, "CreateEndpoint", body).await.unwrap();
        state.settle("e", Ok(())).await;
        let before = described(&state).await;
        drop(state);

        let state = ControlState::open(path.clone(), arns()).unwrap();
        // Times have a resolution of milliseconds, so the clock must advance.
        std::thread::sleep(std::time::Duration::from_millis(5));
        state.settle("e", Ok(())).await;
        assert_eq!(described(&state).await, before);
        let weights =
            json!({"EndpointName": "e", "DesiredWeightsAndCapacities": [{"VariantName": "a", "DesiredWeight": 2}]});
        ask(&state, "UpdateEndpointWeightsAndCapacities", weights)
            .await
            .unwrap();
        state.settle("e", Ok(())).await;
        assert_ne!(described(&state).await["LastModifiedTime"], before["LastModifiedTime"]);
    });
}

#[test]
fn an_invalid_file_is_reported_by_name_and_not_changed() {
    let model = r#"{"created": 1.0, "request": {"ModelName": "a b", "PrimaryContainer": {}}}"#;
    let rest = r#""endpoint_configs": [], "endpoints": [], "tags": {}"#;
    let table = [
        (String::new(), "is damaged: EOF"),
        ("{\"version\": 1, \"mod".to_owned(), "is damaged: EOF"),
        ("{}".to_owned(), "is damaged: the version is missing"),
        ("{\"version\": 1}".to_owned(), "is damaged: missing field"),
        ("{\"version\": 2}".to_owned(), "has version 2"),
        (
            format!("{{\"version\": 1, \"models\": [{model}], {rest}}}"),
            "is damaged: models[0]: 1 validation error detected: Value 'a b' at 'modelName'",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    for (content, expected) in table {
        fs::write(&path, &content).unwrap();
        let message = ControlState::open(path.clone(), arns()).unwrap_err().to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains(expected), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn a_file_that_cannot_be_created_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("state.json");
    let message = ControlState::open(path, arns()).unwrap_err().to_string();
    assert!(message.contains("cannot write the state file"), "{message}");
}

#[test]
fn a_change_that_cannot_be_written_has_not_happened() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    let state = ControlState::open(place.join("state.json"), arns()).unwrap();
    runtime().block_on(async {
        ask(&state, "CreateModel", create_model("m")).await.unwrap();
        fs::rename(&place, folder.path().join("away")).unwrap();
        let error = ask(&state, "CreateModel", create_model("n")).await.unwrap_err();
        assert_eq!((error.code(), error.status()), ("InternalFailure", 500));
        let names = Vec::from_iter(state.records().models.keys().cloned());
        assert_eq!(names, ["m"]);
        fs::rename(folder.path().join("away"), &place).unwrap();
        ask(&state, "CreateModel", create_model("n")).await.unwrap();
    });
    assert_eq!(entries(&place), ["state.json"]);
}

#[test]
fn a_file_that_cannot_be_replaced_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    drop(ControlState::open(path.clone(), arns()).unwrap());
    let before = fs::read(&path).unwrap();
    // No file can be created next to this name of it.
    let open = fs::File::open(&path).unwrap();
    let message = ControlState::open(format!("/proc/self/fd/{}", open.as_raw_fd()).into(), arns())
        .unwrap_err()
        .to_string();
    assert!(message.contains("cannot write the state file"), "{message}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn only_one_process_at_a_time_can_use_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let state = ControlState::open(path.clone(), arns()).unwrap();
    for name in ["m", "n"] {
        let message = ControlState::open(path.clone(), arns()).unwrap_err().to_string();
        assert!(message.contains("in use by another process"), "{message}");
        runtime()
            .block_on(ask(&state, "CreateModel", create_model(name)))
            .unwrap();
    }
    drop(state);
    let again = ControlState::open(path, arns()).unwrap();
    assert_eq!(again.records().models.len(), 2);
}

#[test]
fn the_unfinished_file_of_a_killed_process_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("state.json.new"), "{\"version\": 1, \"mod").unwrap();
    let state = ControlState::open(folder.path().join("state.json"), arns()).unwrap();
    assert_eq!(entries(folder.path()), ["state.json"]);
    runtime()
        .block_on(ask(&state, "CreateModel", create_model("m")))
        .unwrap();
    assert_eq!(entries(folder.path()), ["state.json"]);
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn concurrent_changes_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let state = ControlState::open(path.clone(), arns()).unwrap();
    let names = Vec::from_iter((0..20).map(|index| format!("m{index:02}")));
    runtime().block_on(async {
        let changes = names.iter().map(|name| ask(&state, "CreateModel", create_model(name)));
        for answer in futures_util::future::join_all(changes).await {
            answer.unwrap();
        }
    });
    drop(state);
    let again = ControlState::open(path, arns()).unwrap();
    assert_eq!(Vec::from_iter(again.records().models.keys().cloned()), names);
}

#[test]
fn a_declared_endpoint_is_not_written_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let state = ControlState::open(path.clone(), arns()).unwrap();
    runtime().block_on(async {
        ask(&state, "CreateModel", create_model("m")).await.unwrap();
        ask(&state, "CreateEndpointConfig", create_config("c", "m"))
            .await
            .unwrap();
        ask(
            &state,
            "CreateEndpoint",
            json!({"EndpointName": "e", "EndpointConfigName": "c"}),
        )
        .await
        .unwrap();
        let deployment = state.undeployed().remove(0);
        let declared = Deployment {
            endpoint: "local".to_owned(),
            ..deployment.clone()
        };
        state.declare(declared).await.unwrap();
        assert!(state.declare(deployment).await.is_err());
        assert_eq!(state.undeployed().len(), 2);
        state.settle("local", Ok(())).await;
    });
    drop(state);
    let again = ControlState::open(path, arns()).unwrap();
    assert_eq!(Vec::from_iter(again.records().endpoints.keys().cloned()), ["e"]);
}
