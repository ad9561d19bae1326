//! Requests and responses in JSON.

mod refusals;
mod responses;

use bytes::Bytes;
use proptest::prelude::*;

use crate::codec::Format;
use crate::codec::testing::{
    decode, decode_str, identity, input, inputs, output, pairs, plan_of, reply, row_plan, signature, strings, tensor,
    zip_map,
};
use crate::tensor::{DataType, Signature, Tensor, Value};

const JSON: &str = "application/json";

fn error(body: &str, signature: &Signature) -> String {
    decode_str(JSON, body, signature).expect_err(body).to_string()
}

/// `x: float32[batch, 2]`, `n: int64[batch, 1]`, `s: string[batch]`.
fn mixed() -> Signature {
    signature(
        &[
            input("x", DataType::F32, &[-1, 2]),
            input("n", DataType::I64, &[-1, 1]),
            input("s", DataType::String, &[-1]),
        ],
        &[output("y", DataType::F32, &[-1])],
    )
}

fn mixed_tensors() -> Vec<Tensor> {
    vec![
        tensor(&[2, 2], &[1f32, 2., 3., 4.]),
        tensor(&[2, 1], &[5i64, 6]),
        strings(&[2], &[b"a", b"b"]),
    ]
}

#[test]
fn every_form_of_a_single_input_gives_the_same_tensor() {
    let expected = [tensor(&[2, 2], &[1f32, -2.5, 3e2, 4.])];
    for body in [
        r#"{"instances": [[1, -2.5], [3e2, 4.0]]}"#,
        r#"{"signature_name": "serving_default", "instances": [[1, -2.5], [3e2, 4.0]]}"#,
        r#"{"instances": [[1, -2.5], [3e2, 4.0]], "configuration": {"a": [{"b": null}]}}"#,
        r#"{"instances": [{"x": [1, -2.5]}, {"x": [3e2, 4.0]}]}"#,
        r#"{"instances": [{"features": [1, -2.5]}, {"features": [3e2, 4.0]}]}"#,
        r#"{"inputs": [[1, -2.5], [3e2, 4.0]]}"#,
        r#"{"inputs": {"x": [[1, -2.5], [3e2, 4.0]]}}"#,
        r#"[[1, -2.5], [3e2, 4.0]]"#,
        r#"[{"x": [1, -2.5]}, {"x": [3e2, 4.0]}]"#,
        " \r\n[ [ 1 , -2.5 ] ,\t[ 3e2 , 4.0 ] ] \n",
        "\u{feff}[[1,-2.5],[3e2,4.0]]",
    ] {
        assert_eq!(inputs(body, &pairs()), expected, "{body}");
    }
}

#[test]
fn several_inputs_are_given_by_name_in_any_order() {
    for body in [
        r#"{"instances": [{"x": [1, 2], "n": 5, "s": "a"}, {"s": "b", "n": [6], "x": [3, 4]}]}"#.replace("[6]", "6"),
        r#"{"instances": [{"x": [1, 2], "n": [5], "s": "a"}, {"s": "b", "n": [6], "x": [3, 4]}]}"#.to_owned(),
        r#"[{"x": [1, 2], "n": [5], "s": "a"}, {"s": "b", "n": [6], "x": [3, 4]}]"#.to_owned(),
        r#"{"inputs": {"s": ["a", "b"], "x": [[1, 2], [3, 4]], "n": [[5], [6]]}}"#.to_owned(),
        r#"{"inputs": {"s": ["a", "b"], "x": [[1, 2], [3, 4]], "n": [5, 6]}}"#.to_owned(),
    ] {
        assert_eq!(inputs(&body, &mixed()), mixed_tensors(), "{body}");
    }
}

#[test]
fn many_inputs_are_found_by_name_too() {
    let specs: Vec<_> = (0..200)
        .map(|i| input(&format!("c{i}"), DataType::F32, &[-1, 1]))
        .collect();
    let signature = signature(&specs, &[]);
    let row: Vec<String> = (0..200).rev().map(|i| format!("\"c{i}\":{i}")).collect();
    let body = format!("{{\"instances\":[{{{0}}},{{{0}}}]}}", row.join(","));
    for (i, given) in inputs(&body, &signature).iter().enumerate() {
        assert_eq!(*given, tensor(&[2, 1], &[i as f32, i as f32]));
    }
}

#[test]
fn one_row_needs_no_array_of_rows_except_in_row_form() {
    let expected = [tensor(&[1, 2], &[1f32, 2.])];
    for body in ["[1, 2]", r#"{"inputs": [1, 2]}"#, r#"{"inputs": {"x": [1, 2]}}"#] {
        assert_eq!(inputs(body, &pairs()), expected, "{body}");
    }
    assert_eq!(
        error(r#"{"instances": [1, 2]}"#, &pairs()),
        "input \"x\": given an array of shape [2], the model takes float32[batch, 2]"
    );
}

#[test]
fn scalars_and_empty_axes_are_shapes_like_any_other() {
    let any = identity(DataType::I32);
    let table: [(&str, &[usize]); 7] = [
        (r#"{"inputs": 7}"#, &[]),
        ("7", &[]),
        ("[7]", &[1]),
        ("[]", &[0]),
        ("[[], []]", &[2, 0]),
        ("[[[]]]", &[1, 1, 0]),
        ("[[[7]], [[8]], [[9]]]", &[3, 1, 1]),
    ];
    for (body, shape) in table {
        assert_eq!(inputs(body, &any)[0].shape(), shape, "{body}");
    }
    assert_eq!(inputs("[]", &pairs())[0].shape(), [0, 2]);
    assert_eq!(inputs(r#"{"instances": []}"#, &mixed())[1].shape(), [0, 1]);
}

#[test]
fn integers_floats_booleans_and_nulls_are_read_if_the_element_type_can_hold_them() {
    let x = inputs(
        r#"[1, 1.0, true, null, NaN, "NaN", "-Infinity", Infinity]"#,
        &identity(DataType::F64),
    );
    let x = x[0].as_slice::<f64>().unwrap();
    assert_eq!(x[..3], [1.0; 3]);
    assert!(x[3..6].iter().all(|v| v.is_nan()));
    assert_eq!(x[6..], [f64::NEG_INFINITY, f64::INFINITY]);

    let n = inputs(
        "[3.0, 1e3, true, false, 18446744073709551615]",
        &identity(DataType::U64),
    );
    assert_eq!(n[0].as_slice::<u64>().unwrap(), [3, 1000, 1, 0, u64::MAX]);

    let b = inputs("[true, false, 1, 0, 1.0]", &identity(DataType::Bool));
    assert_eq!(b[0].as_bytes().unwrap().as_ref(), [1, 0, 1, 0, 1]);
}

#[test]
fn strings_are_text_or_base64() {
    let any = identity(DataType::String);
    for body in [
        r#"["a", {"b64": "//79"}]"#,
        r#"{"instances": ["a", {"b64": "//79"}]}"#,
        r#"{"inputs": ["\u0061", { "b64" : "//79" }]}"#,
    ] {
        assert_eq!(inputs(body, &any), [strings(&[2], &[b"a", b"\xff\xfe\xfd"])], "{body}");
    }
    for body in [
        r#"[{"b64": "//79"}]"#,
        r#"{"instances": [{"b64": "//79"}]}"#,
        r#"{"inputs": [{"b64": "//79"}]}"#,
    ] {
        assert_eq!(inputs(body, &any), [strings(&[1], &[b"\xff\xfe\xfd"])], "{body}");
    }
    for body in [r#"{"b64": "//79"}"#, r#"{"inputs": {"b64": "//79"}}"#] {
        assert_eq!(inputs(body, &any), [strings(&[], &[b"\xff\xfe\xfd"])], "{body}");
    }
    let named = signature(&[input("b64", DataType::String, &[-1])], &[]);
    assert_eq!(inputs(r#"[{"b64": "//79"}]"#, &named), [strings(&[1], &[b"//79"])]);
}

#[test]
fn a_string_element_borrows_the_body() {
    let body = Bytes::from(r#"["a long string without any escapes"]"#);
    let range = body.as_ptr_range();
    let request = decode(JSON, body, &identity(DataType::String)).unwrap();
    assert!(range.contains(&request.inputs[0].as_strings().unwrap()[0].as_ptr()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Uses serde_json only as the writer: it rounds parsed numbers correctly only with a feature
    /// that this crate does not enable. The decoder must read its output back bit for bit.
    #[test]
    fn reads_the_numbers_that_serde_json_writes(values in prop::collection::vec((any::<f64>(), any::<i64>(), any::<u64>()), 1..20)) {
        let floats: Vec<f64> = values.iter().map(|v| v.0).filter(|v| v.is_finite()).collect();
        let given = inputs(&serde_json::to_string(&floats).unwrap(), &identity(DataType::F64));
        prop_assert_eq!(given[0].as_slice::<f64>().unwrap(), &floats);

        let singles: Vec<f32> = floats.iter().map(|v| *v as f32).filter(|v| v.is_finite()).collect();
        let given = inputs(&serde_json::to_string(&singles).unwrap(), &identity(DataType::F32));
        prop_assert_eq!(given[0].as_slice::<f32>().unwrap(), &singles);
        // Written as float64, as Python's json.dumps does.
        let wide: Vec<f64> = singles.iter().map(|v| f64::from(*v)).collect();
        let given = inputs(&serde_json::to_string(&wide).unwrap(), &identity(DataType::F32));
        prop_assert_eq!(given[0].as_slice::<f32>().unwrap(), &singles);

        let ints: Vec<i64> = values.iter().map(|v| v.1).collect();
        let given = inputs(&serde_json::to_string(&ints).unwrap(), &identity(DataType::I64));
        prop_assert_eq!(given[0].as_slice::<i64>().unwrap(), &ints);
        let ints: Vec<u64> = values.iter().map(|v| v.2).collect();
        let given = inputs(&serde_json::to_string(&ints).unwrap(), &identity(DataType::U64));
        prop_assert_eq!(given[0].as_slice::<u64>().unwrap(), &ints);
    }
}
