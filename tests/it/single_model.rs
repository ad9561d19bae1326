//! Single-model mode: the model is loaded at the start, and the container is healthy when it can
//! answer (PI-3, ST-12).

use serde_json::json;

use crate::harness::{Builder, Models, Request, assert_close, cases, eventually, fixture};

#[test]
fn the_model_answers_invocations_after_the_ping_is_200() {
    let server = Builder::single(fixture("mlp")).start();
    eventually("the model is loaded", || server.ping().status == 200);
    for case in cases("mlp") {
        let request = Request::post("/invocations").json(&json!({"instances": case.inputs["features"].rows()}));
        let answer = server.send(&request).expect(200).json();
        assert_close(&answer["predictions"], &case.output("scores"), "mlp");
    }
}

#[test]
fn the_ping_stays_503_while_the_model_loads() {
    let server = Builder::single(fixture("bad/function_bomb")).start();
    eventually("the load has begun", || server.reserved() > 0);
    for _ in 0..20 {
        let refusal = server.ping().expect(503);
        assert!(refusal.message().contains("still loading"), "{}", refusal.message());
    }
    server
        .send(&Request::post("/invocations").json(&json!({"instances": [1]})))
        .expect(503);
    assert!(server.reserved() > 0, "the load is over, so the test has shown nothing");
}

#[test]
fn the_model_routes_list_the_single_model_and_refuse_changes() {
    // MM-25
    let server = Builder::single(fixture("mlp")).start();
    eventually("the model is loaded", || server.ping().status == 200);
    let list = server.list("");
    let models = list["models"].as_array().unwrap();
    assert_eq!(models.len(), 1);
    let name = models[0]["modelName"].as_str().unwrap();
    assert_eq!(server.describe(name).expect(200).json(), models[0]);
    assert_eq!(models[0]["modelUrl"], json!(fixture("mlp")));
    let refusal = server.load("other", "/opt/ml/models/other/model").expect(400);
    assert!(
        refusal.message().contains("SAGEMAKER_MULTI_MODEL"),
        "{}",
        refusal.message()
    );
    server.unload(name).expect(400);
    server.ping().expect(200);
    server.invoke(name, &json!({"instances": [vec![0.5; 32]]})).expect(200);
}

#[test]
fn archives_are_served_however_they_were_packed() {
    // AR-2, AR-6, AR-7
    for path in ["model", "model/model.onnx"] {
        let builder = Builder::multi();
        builder.models().place("scale", "served");
        let folder = builder.models().path("served").join(path);
        let server = Builder::single(folder).start();
        eventually("the model is loaded", || server.ping().status == 200);
        let answer = server
            .send(&Request::post("/invocations").json(&json!({"instances": [2]})))
            .expect(200);
        assert_eq!(answer.json(), json!({"predictions": [2469.0]}));
    }
}

#[test]
fn a_model_that_fails_to_load_ends_the_server_with_the_reason() {
    let empty = tempfile::tempdir().unwrap();
    let gone = empty.path().join("gone");
    let table = [
        (empty.path().to_owned(), "no model in"),
        (gone, "does not exist"),
        (fixture("bad/truncated"), "is not a model"),
        (fixture("bad/garbage"), "is not a model"),
        (fixture("bad/text"), "HTML or XML"),
        (fixture("bad/ambiguous"), "more than one model"),
        (fixture("bad/unknown_operator"), "Frobnicate"),
        (fixture("bad/opset_future"), "opset"),
        (fixture("bad/float8_input"), "input"),
    ];
    for (folder, part) in table {
        let ended = Builder::single(&folder).run_to_end();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let line = ended.last_line();
        for part in ["ERROR", part, "--model-dir", &folder.display().to_string()] {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}

#[test]
fn a_model_that_does_not_fit_ends_the_server() {
    let ended = Builder::single(fixture("mlp"))
        .arguments(["--memory-limit", "1MiB"])
        .run_to_end();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.last_line().contains("--memory-limit"), "{ended:?}");
}

#[test]
fn the_default_model_directory_is_the_platforms() {
    // The directory is below SAGEMAKER_BASE_DIR, which the platform sets to /opt/ml.
    let base = Models::new();
    base.place_scale("", 2.0);
    let server = Builder::default()
        .environment("SAGEMAKER_BASE_DIR", base.root())
        .start();
    eventually("the model is loaded", || server.ping().status == 200);
    let answer = server
        .send(&Request::post("/invocations").json(&json!({"instances": [2]})))
        .expect(200);
    assert_eq!(answer.json(), json!({"predictions": [4.0]}));
}
