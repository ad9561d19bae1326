//! Requests in JSON.

use serde_json::{Value, json};

use super::{answer, ask, infer, question};
use crate::harness::{Builder, assert_close, cases, from_text, to_text};

#[test]
fn a_body_that_is_not_a_request_of_the_protocol_is_a_400_with_the_reason() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let x = |rest: &str| format!(r#"{{"inputs":[{{"name":"x",{rest}}}]}}"#);
    let table: [(&str, Vec<u8>, &str); 18] = [
        ("nothing", vec![], "the body is empty"),
        ("no JSON", b"4,-0.5".to_vec(), "must be an object with \"inputs\""),
        ("no UTF-8", b"{\"inputs\":\"\xff\"}".to_vec(), "not UTF-8"),
        ("half of it", question().to_string().as_bytes()[..40].to_vec(), "EOF"),
        ("more than it", format!("{} 1", question()).into(), "trailing"),
        (
            "deep",
            [b"[".repeat(30_000), b"]".repeat(30_000)].concat(),
            "must be an object",
        ),
        (
            "deep below",
            [br#"{"x":"#.to_vec(), b"[".repeat(30_000)].concat(),
            "too deep",
        ),
        // A body that /invocations accepts.
        ("rows", b"{\"instances\":[4,-0.5]}".to_vec(), "no \"inputs\""),
        ("an array", b"[4,-0.5]".to_vec(), "must be an object with \"inputs\""),
        (
            "columns",
            b"{\"inputs\":[4,-0.5]}".to_vec(),
            "inputs[0] is not an object",
        ),
        ("no inputs", b"{\"inputs\":[]}".to_vec(), "input \"x\" is missing"),
        ("no name", b"{\"inputs\":[{\"shape\":[1]}]}".to_vec(), "has no"),
        (
            "another name",
            x("\"shape\":[1]").replace("\"x\"", "\"z\"").into(),
            "no input \"z\"",
        ),
        (
            "another type",
            x("\"shape\":[1],\"datatype\":\"INT64\",\"data\":[1]").into(),
            "given int64[1]",
        ),
        (
            "no type",
            x("\"shape\":[1],\"datatype\":\"float\",\"data\":[1]").into(),
            "given \"float\"[1]",
        ),
        (
            "another shape",
            x("\"shape\":[3],\"datatype\":\"FP32\",\"data\":[1]").into(),
            "needs 3 elements, 1 given",
        ),
        (
            "words",
            x("\"shape\":[1],\"datatype\":\"FP32\",\"data\":[\"a\"]").into(),
            "not a number",
        ),
        (
            "an unknown output",
            x("\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]")
                .replace("]}]}", "]}],\"outputs\":[{\"name\":\"z\"}]}")
                .into(),
            "requested output \"z\"",
        ),
    ];
    for (what, body, part) in table {
        let error = server.send(&infer("m").body(body)).expect(400).error();
        assert!(error.contains(part), "{what}: {error}");
    }
    server.send(&infer("other").json(&question())).expect(404);
    assert_eq!(ask(&server, "m").expect(200).json(), answer("m", 2.0));
}

#[test]
fn a_body_over_the_limit_is_a_413() {
    let server = Builder::multi().arguments(["--max-body", "1KiB"]).start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let error = server.send(&infer("m").body(vec![b' '; 2000])).expect(413).error();
    assert!(error.contains("--max-body"), "{error}");
}

#[test]
fn parameters_that_would_change_the_response_are_refused_and_others_ignored() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let with = |outputs: Value, parameters: Value| {
        let mut body = question();
        body["outputs"] = outputs;
        body["parameters"] = parameters;
        server.send(&infer("m").json(&body))
    };
    for (parameters, part) in [
        (json!({"classification": 2}), "classification"),
        (
            json!({"shared_memory_region": "r", "shared_memory_byte_size": 8}),
            "shared_memory_region",
        ),
    ] {
        let error = with(json!([{"name": "y", "parameters": parameters}]), json!({}))
            .expect(400)
            .error();
        assert!(error.contains(part), "{error}");
    }
    let parameters = json!({"sequence_id": 1, "sequence_start": true, "priority": 2, "timeout": 1000, "own": "x"});
    let reply = with(json!([{"name": "y", "parameters": {"own": 1.5}}]), parameters);
    assert_eq!(reply.expect(200).json(), answer("m", 2.0));
}

#[test]
fn requested_outputs_are_returned_in_the_requested_order() {
    let server = Builder::multi().start();
    let url = server.models().place("two_inputs", "m");
    server.load("m", &url).expect(200);
    let inputs = json!([
        {"name": "b", "shape": [1], "datatype": "INT64", "data": [4]},
        {"name": "a", "shape": [1, 3], "datatype": "FP32", "data": [[1, 2, 3]]},
    ]);
    let sum = json!({"name": "sum", "datatype": "FP32", "shape": [1, 3], "data": [5.0, 6.0, 7.0]});
    let positive = json!({"name": "positive", "datatype": "BOOL", "shape": [1], "data": [true]});
    for (requested, expected) in [
        (json!(["positive", "sum"]), json!([positive, sum])),
        (json!(["positive"]), json!([positive])),
        (json!([]), json!([sum, positive])),
    ] {
        let outputs: Vec<Value> = requested
            .as_array()
            .unwrap()
            .iter()
            .map(|name| json!({"name": name}))
            .collect();
        let reply = server
            .send(&infer("m").json(&json!({"inputs": inputs, "outputs": outputs})))
            .expect(200)
            .json();
        assert_eq!(reply["outputs"], expected, "{requested}");
        assert!(reply.get("id").is_none());
    }
}

#[test]
fn a_request_for_an_output_that_is_not_a_tensor_is_a_406() {
    let server = Builder::multi().start();
    let url = server.models().place("iris_zipmap", "iris");
    server.load("iris", &url).expect(200);
    let mut body =
        json!({"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]});
    let error = server.send(&infer("iris").json(&body)).expect(406).error();
    assert!(error.contains("output_probability"), "{error}");
    body["outputs"] = json!([{"name": "output_label"}]);
    let reply = server.send(&infer("iris").json(&body)).expect(200).json();
    assert_eq!(reply["outputs"][0]["data"], json!([0]));
}

#[test]
fn every_element_type_round_trips_as_json() {
    let server = Builder::multi().start();
    for element in [
        "bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "string", "uint16",
        "uint32", "uint64", "uint8",
    ] {
        let model = format!("identity_{element}");
        let url = server.models().place(&model, &model);
        server.load(&model, &url).expect(200);
        for case in cases(&model) {
            let (given, expected) = (&case.inputs["x"], case.output_tensor("y").unwrap());
            let body = json!({"inputs": [{
                "name": "x", "shape": given.shape, "datatype": given.open_inference_type(), "data": given.data,
            }]});
            let reply = server
                .send(&infer(&model).body(to_text(&body, given.is_float())))
                .expect(200);
            let expected = json!([{
                "name": "y", "shape": expected.shape, "datatype": expected.open_inference_type(),
                "data": expected.data,
            }]);
            assert_close(&from_text(&reply.body)["outputs"], &expected, &model);
        }
    }
}

#[test]
fn null_members_count_as_absent() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let input = |more: Value| {
        let mut input = question()["inputs"][0].clone();
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    let plain = input(json!({}));
    let unset = json!({"binary_data_size": null, "shared_memory_region": null, "classification": null});
    let bodies = [
        json!({"id": null, "inputs": [plain]}),
        json!({"inputs": [plain], "parameters": null}),
        json!({"inputs": [plain], "outputs": null}),
        json!({"inputs": [input(json!({"parameters": null}))]}),
        json!({"inputs": [input(json!({"parameters": unset}))]}),
        json!({"inputs": [plain], "parameters": {"binary_data_output": null}}),
        json!({"inputs": [plain], "outputs": [{"name": "y", "parameters": null}]}),
        json!({"inputs": [plain], "outputs": [{"name": "y", "parameters": {"binary_data": null}}]}),
        json!({"id": null, "parameters": null, "inputs": [input(json!({"parameters": null}))], "outputs": null}),
    ];
    let mut expected = answer("m", 2.0);
    expected.as_object_mut().unwrap().remove("id");
    for body in bodies {
        assert_eq!(
            server.send(&infer("m").json(&body)).expect(200).json(),
            expected,
            "{body}"
        );
        // Other routes accept the same document.
        assert_eq!(server.invoke("m", &body).expect(200).json(), expected, "{body}");
    }
    for body in [
        json!({"instances": [4, -0.5], "inputs": null}),
        json!({"inputs": null, "instances": [4, -0.5], "signature_name": null}),
    ] {
        assert_eq!(
            server.invoke("m", &body).expect(200).json(),
            json!({"predictions": [8.0, -1.0]})
        );
    }
}

#[test]
fn null_data_means_binary_data_after_the_json() {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    let input = |size: Value| {
        let parameters = json!({"binary_data_size": size});
        let input = json!({"name": "x", "shape": [1], "datatype": "FP32", "data": null, "parameters": parameters});
        json!({"inputs": [input]}).to_string()
    };
    let json = input(json!(4));
    let body = [json.as_bytes(), &4f32.to_le_bytes()].concat();
    let request = infer("m").header("Inference-Header-Content-Length", json.len().to_string());
    let answer = server.send(&request.body(body)).expect(200).json();
    assert_eq!(answer["outputs"][0]["data"], json!([8.0]));
    let refusal = server.send(&infer("m").body(input(Value::Null))).expect(400).error();
    assert!(refusal.contains("has no \"data\""), "{refusal}");
}
