//! Tests of optional inputs in each form that names inputs.

use bytes::Bytes;

use super::testing::{decode_str, input, output, signature, tensor};
use super::{Documents, Schema};
use crate::tensor::DataType::{F32, I64};
use crate::tensor::{Signature, Tensor};

/// A model with input `x` and two optional inputs: a number for all records, and one per record.
fn model() -> Signature {
    Signature {
        optional: vec![input("threshold", F32, &[]), input("bias", I64, &[-1])],
        ..signature(&[input("x", F32, &[-1, 2])], &[output("y", F32, &[-1, 2])])
    }
}

fn scalar(value: f32) -> Tensor {
    tensor(&[], &[value])
}

#[test]
fn optional_inputs_are_read_in_every_form_that_has_names() {
    let signature = model();
    let bias = tensor(&[2], &[7i64, 8]);
    let x = tensor(&[2, 2], &[1f32, 2., 3., 4.]);
    type Case<'a> = (&'a str, Vec<(usize, Tensor)>);
    let table: [Case<'_>; 9] = [
        (r#"{"inputs": {"x": [[1, 2], [3, 4]]}}"#, vec![]),
        (
            r#"{"inputs": {"threshold": 0.5, "x": [[1, 2], [3, 4]]}}"#,
            vec![(0, scalar(0.5))],
        ),
        (
            r#"{"inputs": {"x": [[1, 2], [3, 4]], "bias": [7, 8], "threshold": 0.5}}"#,
            vec![(0, scalar(0.5)), (1, bias.clone())],
        ),
        (
            r#"{"inputs": [
                {"name": "threshold", "shape": [], "datatype": "FP32", "data": [0.5]},
                {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}"#,
            vec![(0, scalar(0.5))],
        ),
        (
            r#"{"instances": [{"x": [1, 2], "bias": 7}, {"bias": 8, "x": [3, 4]}]}"#,
            vec![(1, bias.clone())],
        ),
        (
            r#"{"instances": [{"threshold": 0.5, "x": [1, 2]}, {"x": [3, 4], "threshold": 0.5}]}"#,
            vec![(0, scalar(0.5))],
        ),
        (
            r#"[{"threshold": 0.5, "x": [1, 2]}, {"x": [3, 4], "threshold": 0.5}]"#,
            vec![(0, scalar(0.5))],
        ),
        (
            r#"{"x": [[1, 2], [3, 4]], "threshold": 0.5}"#,
            vec![(0, scalar(0.5))],
        ),
        (
            r#"{"dataframe_records": [{"x": [1, 2], "bias": 7}, {"x": [3, 4], "bias": 8}]}"#,
            vec![(1, bias.clone())],
        ),
    ];
    for (body, expected) in table {
        let request = decode_str("application/json", body, &signature).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.optional, expected, "{body}");
        assert_eq!(request.inputs, std::slice::from_ref(&x), "{body}");
    }
    let lines = "{\"x\": [1, 2], \"bias\": 7}\n{\"x\": [3, 4], \"bias\": 8}\n";
    let request = decode_str("application/jsonlines", lines, &signature).unwrap();
    assert_eq!(request.optional, [(1, bias)]);
}

#[test]
fn refuses_invalid_optional_inputs_and_names_them() {
    let table = [
        (
            r#"{"instances": [{"x": [1, 2], "bias": 7}, {"x": [3, 4]}]}"#,
            "input \"bias\" in instance [1]: the input is optional: give it in all instances or in none",
        ),
        (
            r#"{"instances": [{"x": [1, 2]}, {"x": [3, 4], "bias": 7}]}"#,
            "input \"bias\" in instance [1]: the input is optional: give it in all instances or in none",
        ),
        (
            r#"{"instances": [{"x": [1, 2], "threshold": 1}, {"x": [3, 4], "threshold": 2}]}"#,
            "it has no axis for records, so all instances must give the same value",
        ),
        (
            r#"{"instances": [{"x": [1, 2], "bias": 7, "bias": 7}]}"#,
            "input \"bias\" is given twice",
        ),
        (r#"{"inputs": {"x": [[1, 2]], "bias": 1, "bias": 2}}"#, "input \"bias\" is given twice"),
        (r#"{"inputs": {"x": [[1, 2]], "threshold": [1, 2]}}"#, "input \"threshold\""),
        (r#"{"inputs": {"x": [[1, 2]], "threshold": "high"}}"#, "input \"threshold\""),
        (r#"{"inputs": {"bias": [1]}}"#, "input \"x\" is missing"),
        (
            r#"{"inputs": [{"name": "bias", "shape": [1], "datatype": "FP32", "data": [1]}]}"#,
            "input \"bias\"",
        ),
    ];
    for (body, expected) in table {
        let error = decode_str("application/json", body, &model()).unwrap_err().to_string();
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn several_documents_must_give_the_same_optional_inputs() {
    let decode = |body: &str| {
        let body = Bytes::copy_from_slice(body.as_bytes());
        crate::codec::decode("application/json", body, &Schema::of(model()), Documents::Several)
    };
    let request = decode(
        "{\"instances\": [{\"x\": [1, 2], \"threshold\": 0.5}]}\n{\"instances\": [{\"x\": [3, 4], \"threshold\": 0.5}]}",
    )
    .unwrap();
    assert_eq!(request.optional, [(0, scalar(0.5))]);
    assert_eq!(request.inputs, [tensor(&[2, 2], &[1f32, 2., 3., 4.])]);
    for second in [
        r#"{"x": [3, 4], "threshold": 0.25}"#,
        r#"{"x": [3, 4]}"#,
        r#"{"x": [3, 4], "threshold": 0.5, "bias": 1}"#,
    ] {
        let body = format!("{{\"instances\": [{{\"x\": [1, 2], \"threshold\": 0.5}}]}} {{\"instances\": [{second}]}}");
        let error = decode(&body).unwrap_err().to_string();
        assert!(error.contains("must give the same optional inputs"), "{error}");
    }
    let each = "{\"instances\": [{\"x\": [1, 2], \"bias\": 1}]}";
    assert!(decode(&format!("{each} {each}")).is_err());
}
