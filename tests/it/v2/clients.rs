//! Real clients: `tritonclient`, and KServe's schemas with the manifests of
//! `container/deploy/kserve`.

use serde_json::{Value, json};

use super::{ask, get};
use crate::harness::{Builder, Models, TRITON, eventually, fixture};

#[test]
fn a_program_written_for_triton_works() {
    let models = fixture("");
    let server = Builder::store(models.to_str().unwrap(), []).start();
    let printed = TRITON.output("tests/triton/client.py", [server.address().to_string()], []);
    assert_eq!(printed.lines().count(), 8, "{printed}");
}

/// The manifests, checked against KServe's schemas.
#[track_caller]
fn manifests() -> Vec<Value> {
    serde_json::from_str(&TRITON.output("tests/kserve/check.py", [""; 0], [])).unwrap()
}

/// The arguments of a container in `spec`, as KServe combines them: the runtime's, then the
/// service's.
fn arguments(runtime: &Value, service: &Value) -> Vec<String> {
    let name = service["metadata"]["name"].as_str().unwrap();
    let runtime = runtime["spec"]["containers"][0]["args"].as_array().unwrap();
    let service = service["spec"]["predictor"]["model"]["args"].as_array();
    runtime
        .iter()
        .chain(service.into_iter().flatten())
        .map(|argument| argument.as_str().unwrap().replace("{{.Name}}", name))
        .collect()
}

#[test]
fn the_manifests_match_kserves_schemas_and_start_a_server() {
    let manifests = manifests();
    let [runtime, one, many] = &manifests[..] else {
        panic!("{manifests:?}")
    };
    assert_eq!(runtime["kind"], "ClusterServingRuntime");
    let container = &runtime["spec"]["containers"][0];
    let models = Models::new();
    let model = models.place_scale("m", 2.0);
    // Local paths stand for /mnt/models, where KServe puts the model, and for the bucket.
    let place = |argument: String| {
        argument
            .replace("/mnt/models", &model)
            .replace("s3://bucket/segments", fixture("").to_str().unwrap())
            .replace("--port=8080", "--port=0")
    };
    for (service, name) in [(one, one["metadata"]["name"].as_str().unwrap()), (many, "scale")] {
        assert_eq!(service["kind"], "InferenceService");
        let predictor = &service["spec"]["predictor"]["model"];
        assert_eq!(predictor["runtime"], runtime["metadata"]["name"]);
        assert!(
            runtime["spec"]["supportedModelFormats"]
                .as_array()
                .unwrap()
                .iter()
                .any(|format| { format["name"] == predictor["modelFormat"]["name"] })
        );
        assert_eq!(
            runtime["spec"]["protocolVersions"],
            json!([predictor["protocolVersion"]])
        );
        let arguments = arguments(runtime, service);
        assert!(
            arguments.iter().any(|argument| argument == "--port=8080"),
            "{arguments:?}"
        );
        let mut arguments = arguments.into_iter();
        assert_eq!(arguments.next().as_deref(), Some("serve"));
        let arguments: Vec<String> = arguments.map(place).collect();
        // The variable keeps the builder from adding another `--port`.
        let server = Builder::default()
            .environment("SAGEMAKER_BIND_TO_PORT", "0")
            .arguments(&arguments)
            .start();
        for probe in ["readinessProbe", "livenessProbe"] {
            let probe = &container[probe]["httpGet"];
            assert_eq!(probe["port"], 8080);
            let path = probe["path"].as_str().unwrap();
            eventually("the probe passes", || get(&server, path).status == 200);
        }
        ask(&server, name).expect(200);
        get(&server, &format!("/v2/models/{name}")).expect(200);
    }
}
