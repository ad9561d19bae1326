//! Binary tensors after the JSON: `Inference-Header-Content-Length`.

use serde_json::{Value, json};

use super::infer;
use crate::harness::{Builder, Request, Response, Server, assert_close, cases};

const HEADER: &str = "Inference-Header-Content-Length";

/// A request whose JSON is followed by `tail`.
fn binary(name: &str, json: &Value, tail: &[u8]) -> Request {
    let json = json.to_string();
    infer(name)
        .header("Content-Type", "application/octet-stream")
        .header(HEADER, json.len().to_string())
        .body([json.as_bytes(), tail].concat())
}

/// The JSON of a response, and the bytes after it.
#[track_caller]
fn parts(reply: &Response) -> (Value, &[u8]) {
    assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
    let size: usize = reply
        .header("inference-header-content-length")
        .unwrap()
        .parse()
        .unwrap();
    let (json, tail) = reply.body.split_at(size);
    (serde_json::from_slice(json).unwrap(), tail)
}

fn started() -> Server {
    let server = Builder::multi().start();
    let url = server.models().place_scale("m", 2.0);
    server.load("m", &url).expect(200);
    server
}

/// A request for the `scale` models, whose input is eight bytes after the JSON.
fn question() -> Value {
    json!({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]})
}

fn floats(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|float| float.to_le_bytes()).collect()
}

#[test]
fn inconsistent_lengths_are_a_400_that_names_the_mismatch() {
    let server = started();
    let (json, tail) = (question().to_string(), floats(&[4.0, -0.5]));
    let body = [json.as_bytes(), &tail].concat();
    let table = [
        (None, "not UTF-8"),
        (Some("".to_owned()), "not a number of bytes"),
        (Some("many".to_owned()), "not a number of bytes"),
        (Some("-1".to_owned()), "not a number of bytes"),
        (Some("99999999999999999999".to_owned()), "not a number of bytes"),
        (Some((body.len() + 1).to_string()), "but the body has"),
        (Some("0".to_owned()), "EOF"),
        (Some((json.len() - 1).to_string()), "1 bytes follow the binary data"),
        (Some((json.len() + 1).to_string()), "not UTF-8"),
        (Some(body.len().to_string()), "not UTF-8"),
    ];
    for (header, part) in table {
        // Not UTF-8, so that no part of it can pass as JSON.
        let body = [json.as_bytes(), b"\xff", &tail[1..]].concat();
        let request = infer("m").body(body);
        let request = header
            .iter()
            .fold(request, |request, value| request.header(HEADER, value));
        let error = server.send(&request).expect(400).error();
        assert!(error.contains(part), "{header:?}: {error}");
    }
    // The whole body is valid JSON; only the header would announce binary data.
    let error = server.send(&infer("m").body(json)).expect(400).error();
    assert!(
        error.contains("needs the header Inference-Header-Content-Length"),
        "{error}"
    );
    for (tail, part) in [
        (&tail[..7], "but 7 bytes are left"),
        (&[0; 9][..], "1 bytes follow the binary data"),
        (&[], "but 0 bytes are left"),
    ] {
        let error = server.send(&binary("m", &question(), tail)).expect(400).error();
        assert!(error.contains(part), "{error}");
    }
    let mut both = question();
    both["inputs"][0]["data"] = json!([4, -0.5]);
    let error = server.send(&binary("m", &both, &tail)).expect(400).error();
    assert!(error.contains("both"), "{error}");
}

#[test]
fn the_request_chooses_which_outputs_are_binary() {
    let server = started();
    let ask = |outputs: Option<Value>, parameters: Option<Value>| {
        let mut json = question();
        for (key, value) in [("outputs", outputs), ("parameters", parameters)] {
            if let Some(value) = value {
                json[key] = value;
            }
        }
        server.send(&binary("m", &json, &floats(&[4.0, -0.5]))).expect(200)
    };
    let (all, none) = (
        json!({"binary_data_output": true}),
        json!({"binary_data_output": false}),
    );
    let y = |binary: bool| json!([{"name": "y", "parameters": {"binary_data": binary}}]);
    for (outputs, parameters, is_binary) in [
        (None, None, false),
        (None, Some(&all), true),
        (None, Some(&none), false),
        (Some(json!([{"name": "y"}])), Some(&all), true),
        (Some(y(true)), None, true),
        (Some(y(true)), Some(&none), true),
        (Some(y(false)), Some(&all), false),
    ] {
        let what = format!("{outputs:?} {parameters:?}");
        let reply = ask(outputs, parameters.cloned());
        if is_binary {
            let (json, tail) = parts(&reply);
            let expected = json!([{
                "name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8},
            }]);
            assert_eq!(json["outputs"], expected, "{what}");
            assert_eq!(tail, floats(&[8.0, -1.0]), "{what}");
        } else {
            assert_eq!(reply.header("content-type"), Some("application/json"), "{what}");
            assert_eq!(reply.header("inference-header-content-length"), None, "{what}");
            assert_eq!(reply.json()["outputs"][0]["data"], json!([8.0, -1.0]), "{what}");
        }
    }
}

#[test]
fn every_element_type_round_trips_as_binary_data() {
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
            let bytes = given.bytes();
            let json = json!({
                "inputs": [{
                    "name": "x", "shape": given.shape, "datatype": given.open_inference_type(),
                    "parameters": {"binary_data_size": bytes.len()},
                }],
                "parameters": {"binary_data_output": true},
            });
            let reply = server.send(&binary(&model, &json, &bytes)).expect(200);
            let (json, tail) = parts(&reply);
            let output = &json["outputs"][0];
            assert_eq!(output["datatype"], expected.open_inference_type());
            assert_eq!(output["shape"], json!(expected.shape));
            assert_eq!(output["parameters"]["binary_data_size"], tail.len());
            assert_close(&json!(expected.data_of(tail)), &json!(expected.data), &model);
        }
    }
}

#[test]
fn json_and_binary_tensors_mix_in_one_request_and_one_response() {
    let server = Builder::multi().start();
    let url = server.models().place("two_inputs", "m");
    server.load("m", &url).expect(200);
    let json = json!({
        "inputs": [
            {"name": "b", "shape": [1], "datatype": "INT64", "data": [4]},
            {"name": "a", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}},
        ],
        "outputs": [{"name": "positive"}, {"name": "sum", "parameters": {"binary_data": true}}],
    });
    let reply = server.send(&binary("m", &json, &floats(&[1.0, 2.0, 3.0]))).expect(200);
    let (json, tail) = parts(&reply);
    assert_eq!(json["outputs"][0]["data"], json!([true]));
    assert_eq!(json["outputs"][1]["parameters"]["binary_data_size"], 12);
    assert_eq!(tail, floats(&[5.0, 6.0, 7.0]));
}
