//! Manifests, the environment and files of exporters: their effect on requests.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Builder, Models, Request, Server, eventually, longshore};

/// Loads `scale` with this manifest, and returns the message of the refusal.
fn refusal(server: &Server, name: &str, manifest: &str) -> String {
    let url = server.models().place_with_manifest("scale", name, manifest);
    server.load(name, &url).expect(400).message()
}

#[test]
fn a_load_fails_and_names_the_place_in_a_manifest_that_does_not_fit() {
    let server = Builder::multi().start();
    let table = [
        (
            r#"{"outptus": ["y"]}"#,
            "\"outptus\" is not a key of longshore.json; did you mean \"outputs\"?",
        ),
        (
            r#"{"outputs": ["nothing"]}"#,
            "longshore.json: outputs: the model has no output \"nothing\"",
        ),
        (
            r#"{"inputs": [{"name": "nothing"}]}"#,
            "longshore.json: inputs: the model has no input \"nothing\"",
        ),
        (r#"{"csv": {"delimiter": "x"}}"#, "csv.delimiter: expected one of"),
    ];
    for (index, (manifest, expected)) in table.into_iter().enumerate() {
        let refusal = refusal(&server, &format!("m{index}"), manifest);
        assert!(refusal.contains(expected), "{manifest}: {refusal}");
    }
    assert_eq!(server.metric("longshore_models_loaded"), 0);
}

#[test]
fn the_environment_overrides_the_manifest_in_single_model_mode() {
    let models = Models::new();
    let manifest = r#"{"outputs": [{"name": "y", "as": "file"}], "unknown_inputs": "ignore"}"#;
    let folder = models.place_with_manifest("scale", "m", manifest);
    let ask = |server: &Server| -> Value {
        let request = Request::post("/invocations").json(&json!({"inputs": {"x": [1.0], "further": [2.0]}}));
        let names = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]});
        server.send(&request).expect(200);
        let reply = server
            .send(&Request::post("/invocations").json(&names))
            .expect(200)
            .json();
        reply["outputs"][0]["name"].clone()
    };
    let single = |variable: Option<&str>| {
        let builder = Builder::single(&folder);
        let builder = variable.into_iter().fold(builder, |builder, value| {
            builder.environment("LONGSHORE_MANIFEST", value)
        });
        let server = builder.start();
        eventually("the model is loaded", || server.ping().status == 200);
        server
    };
    assert_eq!(ask(&single(None)), "file");
    assert_eq!(
        ask(&single(Some(r#"{"outputs": [{"name": "y", "as": "variable"}]}"#))),
        "variable"
    );
}

#[test]
fn a_server_with_several_models_refuses_a_manifest_from_the_environment() {
    let ended = Builder::multi()
        .environment("LONGSHORE_MANIFEST", r#"{"outputs": ["y"]}"#)
        .run_to_end();
    assert_ne!(ended.status.code(), Some(0));
    assert!(
        ended.last_line().contains("put a longshore.json into each archive"),
        "{ended:?}"
    );
    let ended = Builder::single("nowhere")
        .environment("LONGSHORE_MANIFEST", r#"{"outptus": ["y"]}"#)
        .run_to_end();
    assert!(format!("{ended:?}").contains("did you mean"), "{ended:?}");
}

#[test]
fn the_schema_is_printed_for_editors() {
    let schema = longshore(["schema"]).json();
    assert_eq!(schema["title"], "longshore.json");
    assert!(schema["properties"]["columns"]["description"].is_string(), "{schema}");
}

#[test]
fn the_columns_that_mlflow_names_are_read_by_name() {
    let server = Builder::multi().start();
    let url = server.models().place("iris_zipmap", "m");
    let column = |name: &str| json!({"type": "double", "name": name, "required": true});
    let columns: Vec<Value> = ["sepal length", "sepal width", "petal length", "petal width"]
        .map(column)
        .into();
    let signature = format!("signature:\n  inputs: '{}'\n", serde_json::to_string(&columns).unwrap());
    fs::write(Path::new(&url).join("MLmodel"), signature).unwrap();
    server.load("m", &url).expect(200);
    let ask = |body: &str| {
        let request = Server::invocation("m").header("Content-Type", "text/csv");
        server.send(&request.body(body)).expect(200).text()
    };
    let by_position = ask("5.1,3.5,1.4,0.2\n6.3,3.3,6.0,2.5\n");
    let by_name = ask("petal width,petal length,sepal length,sepal width\n0.2,1.4,5.1,3.5\n2.5,6.0,6.3,3.3\n");
    assert_eq!(by_name, by_position);
}
