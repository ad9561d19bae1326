//! Inputs that a request may omit: those with an initializer, and those of an optional type.

use serde_json::{Value, json};

use crate::harness::{Builder, Models, Server, in_parallel, longshore};
use crate::support::onnx::{Graph, Info, Model, Node, Tensor, element};

/// `y = (x > threshold) * 2 * scale`, where `threshold` and `scale` have values that a request may
/// replace.
fn defaults() -> Vec<u8> {
    let graph = Graph::new()
        .input(Info::floats("x", ["n".into(), 3.into()]))
        .input(Info::floats("threshold", []))
        .input(Info::floats("scale", [3.into()]))
        .initializer(Tensor::floats("threshold", &[], &[0.5]))
        .initializer(Tensor::floats("scale", &[3], &[1.0, 2.0, 3.0]))
        .initializer(Tensor::floats("two", &[], &[2.0]))
        .node(Node::new("Greater", ["x", "threshold"], ["is_over"]))
        .node(Node::new("Cast", ["is_over"], ["mask"]).attribute("to", element::FLOAT))
        // This node would be folded if `scale` were a constant.
        .node(Node::new("Mul", ["scale", "two"], ["factor"]))
        .node(Node::new("Mul", ["mask", "factor"], ["y"]))
        .output(Info::floats("y", ["n".into(), 3.into()]));
    Model::new(graph).into_bytes()
}

/// `y = x + more`, or `x` without `more`.
fn optional() -> Vec<u8> {
    let dims = || ["n".into(), 3.into()];
    let with = Graph::new()
        .node(Node::new("OptionalGetElement", ["more"], ["given"]))
        .node(Node::new("Add", ["x", "given"], ["sum"]))
        .output(Info::floats("sum", dims()));
    let without = Graph::new()
        .node(Node::new("Identity", ["x"], ["same"]))
        .output(Info::floats("same", dims()));
    let graph = Graph::new()
        .input(Info::floats("x", dims()))
        .input(Info::optional("more", element::FLOAT, dims()))
        .node(Node::new("OptionalHasElement", ["more"], ["has"]))
        .node(
            Node::new("If", ["has"], ["y"])
                .attribute("then_branch", with)
                .attribute("else_branch", without),
        )
        .output(Info::floats("y", dims()));
    Model::new(graph).opset(18).into_bytes()
}

#[track_caller]
fn assert_answers(server: &Server, name: &str, body: &Value, expected: &Value) {
    let answer = server.invoke(name, body).expect(200).json();
    assert_eq!(answer, *expected, "{body}");
}

#[test]
fn an_input_with_an_initializer_may_be_omitted() {
    for preparation in ["auto", "off"] {
        let server = Builder::multi().arguments(["--prepare", preparation]).start();
        let url = server.models().place_model("m", &defaults());
        server.load("m", &url).expect(200);
        let x = json!([[1.0, 0.25, 2.0]]);
        let table = [
            (json!({"inputs": {"x": x}}), json!({"outputs": [[2.0, 0.0, 6.0]]})),
            (
                json!({"inputs": {"x": x, "threshold": 1.5}}),
                json!({"outputs": [[0.0, 0.0, 6.0]]}),
            ),
            (
                json!({"inputs": {"x": x, "scale": [5, 5, 5], "threshold": 0}}),
                json!({"outputs": [[10.0, 10.0, 10.0]]}),
            ),
            (
                json!({"instances": [{"x": [1, 0.25, 2], "threshold": 1.5}]}),
                json!({"predictions": [[0.0, 0.0, 6.0]]}),
            ),
            (
                json!({"instances": [{"x": [1, 0.25, 2], "threshold": 0}, {"x": [0, 1, 0], "threshold": 0}]}),
                json!({"predictions": [[2.0, 4.0, 6.0], [0.0, 4.0, 0.0]]}),
            ),
        ];
        for (body, expected) in table {
            assert_answers(&server, "m", &body, &expected);
        }
        let body = json!({"inputs": [
            {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 0.25, 2]},
            {"name": "threshold", "shape": [], "datatype": "FP32", "data": [1.5]},
        ]});
        let answer = server.invoke("m", &body).expect(200).json();
        assert_eq!(answer["outputs"][0]["data"], json!([0.0, 0.0, 6.0]));
        let message = server
            .invoke("m", &json!({"inputs": {"x": x, "thresold": 1}}))
            .expect(400)
            .message();
        assert!(message.contains("the model has no input \"thresold\""), "{message}");
        // Only the required inputs: the protocol cannot express optional ones.
        let metadata = server
            .send(&crate::harness::Request::get("/v2/models/m"))
            .expect(200)
            .json();
        assert_eq!(metadata["inputs"].as_array().unwrap().len(), 1, "{metadata}");
    }
}

#[test]
fn an_input_of_an_optional_type_may_be_omitted() {
    let server = Builder::multi().start();
    let url = server.models().place_model("m", &optional());
    server.load("m", &url).expect(200);
    let table = [
        (
            json!({"inputs": {"x": [[1, 2, 3]]}}),
            json!({"outputs": [[1.0, 2.0, 3.0]]}),
        ),
        (
            json!({"inputs": {"x": [[1, 2, 3]], "more": [[1, 1, 1]]}}),
            json!({"outputs": [[2.0, 3.0, 4.0]]}),
        ),
        (
            json!({"instances": [{"x": [1, 2, 3], "more": [1, 1, 1]}, {"x": [0, 0, 0], "more": [2, 2, 2]}]}),
            json!({"predictions": [[2.0, 3.0, 4.0], [2.0, 2.0, 2.0]]}),
        ),
    ];
    for (body, expected) in table {
        assert_answers(&server, "m", &body, &expected);
    }
}

#[test]
fn requests_with_optional_inputs_never_share_a_run_with_others() {
    let server = Builder::multi().arguments(["--threads", "1"]).start();
    let url = server
        .models()
        .place_with_manifest("scale", "m", r#"{"batching": true}"#);
    std::fs::write(std::path::Path::new(&url).join("model.onnx"), defaults()).unwrap();
    server.load("m", &url).expect(200);
    let callers: Vec<u8> = (0..16).collect();
    in_parallel(16, &callers, |&caller| {
        let threshold = f32::from(caller);
        for _ in 0..20 {
            let mut body = json!({"inputs": {"x": [[1.0, 5.0, 100.0]]}});
            let over = |value: f32| value > if caller == 0 { 0.5 } else { threshold };
            if caller > 0 {
                body["inputs"]["threshold"] = json!(threshold);
            }
            let expected = [(1.0, 2.0), (5.0, 4.0), (100.0, 6.0)].map(|(x, y)| if over(x) { y } else { 0.0 });
            assert_answers(&server, "m", &body, &json!({"outputs": [expected]}));
        }
    });
}

#[test]
fn inspect_names_the_optional_inputs() {
    let models = Models::new();
    let url = models.place_model("m", &defaults());
    let report = longshore(["inspect", "--json", &url]).json();
    let names = |key: &str| -> Vec<&str> {
        let inputs = report[key].as_array().unwrap();
        inputs.iter().map(|input| input["name"].as_str().unwrap()).collect()
    };
    assert_eq!(names("inputs"), ["x"]);
    assert_eq!(names("optional_inputs"), ["threshold", "scale"]);
    assert!(longshore(["inspect", &url]).output().contains("threshold float32[]"));
}
