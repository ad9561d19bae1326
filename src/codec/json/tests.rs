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
fn errors_name_the_input_the_position_and_the_expected_form() {
    let ints = identity(DataType::I64);
    let texts = identity(DataType::String);
    let table: [(&Signature, &str, &str); 32] = [
        (
            &ints,
            "[[1, 2], [3, 3.5]]",
            "input \"x\" at [1][1]: 3.5 is not a whole number, int64 is needed",
        ),
        (&ints, "[1e30]", "input \"x\" at [0]: 1e30 is out of range for int64"),
        (
            &ints,
            "[null]",
            "input \"x\" at [0]: null given, but int64 has no missing value; only float types have one (NaN)",
        ),
        (
            &ints,
            r#"["7a"]"#,
            "input \"x\" at [0]: the string \"7a\" is not a number, int64 is needed",
        ),
        (
            &ints,
            r#"[1, {"a": 1}]"#,
            "input \"x\" at [1]: an object is not a number, int64 is needed",
        ),
        (
            &ints,
            "[NaN]",
            "input \"x\" at [0]: NaN is not a number, int64 is needed",
        ),
        (
            &pairs(),
            "[[1, 1e400]]",
            "input \"x\" at [0][1]: 1e400 is out of range for float32",
        ),
        (
            &pairs(),
            "[[1, \"one\"]]",
            "input \"x\" at [0][1]: the string \"one\" is not a number, float32 is needed",
        ),
        (&texts, "[1]", "input \"x\" at [0]: 1 is not a string"),
        (&texts, "[true]", "input \"x\" at [0]: true is not a string"),
        (
            &texts,
            r#"["a", {"b64": "*"}]"#,
            "input \"x\" at [1]: an object is not {\"b64\": \"base64 text\"}",
        ),
        (
            &texts,
            r#"["a", {"b64": "aaaa", "c": 1}]"#,
            "input \"x\" at [1]: an object is not {\"b64\": \"base64 text\"}",
        ),
        (
            &ints,
            "[[1, 2], [3]]",
            "input \"x\" at [1]: uneven arrays: length 1 where the earlier arrays have length 2",
        ),
        (
            &ints,
            "[[1, 2], 3]",
            "input \"x\" at [1]: a value where the earlier elements are arrays",
        ),
        (
            &ints,
            "[1, [2]]",
            "input \"x\" at [1]: an array where the earlier elements are values",
        ),
        (
            &ints,
            "[[], [1]]",
            "input \"x\" at [1]: uneven arrays: length 1 where the earlier arrays have length 0",
        ),
        (
            &ints,
            "[[], 1]",
            "input \"x\" at [1]: a value where the earlier elements are arrays",
        ),
        (
            &pairs(),
            "[[1, 2, 3]]",
            "input \"x\": given an array of shape [1, 3], the model takes float32[batch, 2]",
        ),
        (
            &pairs(),
            r#"{"instances": [{"z": 1}]}"#,
            "the model has no input \"z\" in instance [0]; it takes \"x\" float32[batch, 2]",
        ),
        (
            &pairs(),
            r#"{"inputs": {"x": [1, 2], "x": [3, 4]}}"#,
            "input \"x\" is given twice",
        ),
        (
            &pairs(),
            r#"[{"x": [1, 2]}, {"features": [1, 2], "x": [3, 4]}]"#,
            "input \"x\" is given twice in instance [1]",
        ),
        (
            &pairs(),
            r#"[{"x": [1, 2]}, {}]"#,
            "input \"x\" is missing in instance [1]; the model takes \"x\" float32[batch, 2]",
        ),
        (
            &mixed(),
            r#"{"inputs": {"x": [[1, 2]], "s": ["a"]}}"#,
            "input \"n\" is missing; the model takes \"x\" float32[batch, 2], \"n\" int64[batch, 1], \"s\" string[batch]",
        ),
        (
            &mixed(),
            "[[1, 2]]",
            "row 1 has 2 columns where 4 are expected; the model takes \"x\" float32[batch, 2], \"n\" int64[batch, 1], \"s\" string[batch]",
        ),
        (
            &mixed(),
            r#"{"inputs": [[1, 2]]}"#,
            "row 1 has 2 columns where 4 are expected; the model takes \"x\" float32[batch, 2], \"n\" int64[batch, 1], \"s\" string[batch]",
        ),
        (
            &mixed(),
            r#"{"inputs": 1}"#,
            "\"inputs\" without names does not name its input; give an object by input name; the model takes \"x\" float32[batch, 2], \"n\" int64[batch, 1], \"s\" string[batch]",
        ),
        (
            &pairs(),
            "{}",
            "the body is not a valid application/json request: it must be an array of instances, an object with \"instances\" or \"inputs\", or one of the other forms in docs/formats.md",
        ),
        (
            &pairs(),
            r#"{"instances": {"x": 1}}"#,
            "the body is not a valid application/json request: \"instances\" must be an array",
        ),
        (
            &pairs(),
            r#"{"instances": [[1, 2]], "inputs": [[1, 2]]}"#,
            "the body is not a valid application/json request: it must have either \"instances\" or \"inputs\", once",
        ),
        (
            &pairs(),
            "[[1, 2]] x",
            "the body is not a valid application/json request: trailing characters at line 1 column 10",
        ),
        (
            &pairs(),
            "[[1, 2],]",
            "the body is not a valid application/json request: trailing comma at line 1 column 9",
        ),
        (
            &pairs(),
            "",
            "the body is not a valid application/json request: the body is empty",
        ),
    ];
    for (signature, body, expected) in table {
        assert_eq!(error(body, signature), expected, "{body}");
    }
}

#[test]
fn refuses_invalid_json_anywhere_in_the_body() {
    for body in [
        "[01, 2]",
        "[1., 2]",
        "[.5, 2]",
        "[+1, 2]",
        "[1e, 2]",
        "[1 2]",
        "[1,,2]",
        "[-, 2]",
        "[0x1, 2]",
        "[1_0, 2]",
        "[nan, 2]",
        "[-NaN, 2]",
        "['1', 2]",
        "[1, 2",
        "[1, 2}",
        "{\"inputs\": [1, 2]",
        "{inputs: [1, 2]}",
        "{\"inputs\" [1, 2]}",
        "{\"inputs\": [1, 2],}",
        "[\"\\ud800\"]",
        "[\"\\x\"]",
        "[\"\n\"]",
        "\"",
        "nul",
        "[tru]",
        "{\"unknown\": [1, 2, }",
        "{\"unknown\": \"\\ud800\", \"inputs\": [1, 2}",
    ] {
        for signature in [
            pairs(),
            identity(DataType::String),
            identity(DataType::F64),
            identity(DataType::I32),
        ] {
            assert!(decode_str(JSON, body, &signature).is_err(), "{body}");
        }
    }
}

#[test]
fn deep_nesting_is_refused_without_deep_recursion() {
    let deep = 100_000;
    let any = identity(DataType::F32);
    for body in [
        "[".repeat(deep),
        "[".repeat(deep) + &"]".repeat(deep),
        "{\"a\":".repeat(deep),
        format!(
            "{{\"unknown\":{}1{},\"inputs\":[1]}}",
            "[".repeat(deep),
            "]".repeat(deep)
        ),
        format!("{{\"unknown\":{}1{}}}", "{\"a\":".repeat(deep), "}".repeat(deep)),
        format!("{{\"instances\":[{}]}}", "{\"x\":".repeat(deep)),
        format!(
            "{{\"parameters\":{}1{},\"inputs\":[{{\"name\":1}}]}}",
            "[".repeat(deep),
            "]".repeat(deep)
        ),
        "[{\"b64\":".repeat(deep),
    ] {
        for signature in [&any, &identity(DataType::String), &mixed()] {
            let error = error(&body, signature);
            assert!(error.len() < 900, "{error}");
        }
    }
    let at = |depth: usize| "[".repeat(depth) + "1" + &"]".repeat(depth);
    assert_eq!(inputs(&at(32), &any)[0].shape(), [1; 32]);
    assert!(error(&at(33), &any).ends_with("arrays and objects are nested too deep"));
}

#[test]
fn one_output_is_the_value_of_predictions_or_outputs() {
    let y = [Value::Tensor(tensor(&[2, 2], &[1f32, 0.1, -3e-7, 1e20]))];
    assert_eq!(
        reply(Format::Json, &row_plan(), &pairs(), &y),
        r#"{"predictions":[[1.0,0.1],[-3e-7,1e+20]]}"#
    );
    assert_eq!(
        reply(Format::Json, &plan_of(r#"{"inputs": [1, 2]}"#), &pairs(), &y),
        r#"{"outputs":[[1.0,0.1],[-3e-7,1e+20]]}"#
    );
    let scalar = [Value::Tensor(tensor(&[], &[7i64]))];
    assert_eq!(
        reply(Format::Json, &row_plan(), &pairs(), &scalar),
        r#"{"predictions":7}"#
    );
}

#[test]
fn any_shape_is_written_as_nested_arrays() {
    let any = identity(DataType::I32);
    let table: [(&[usize], &str); 9] = [
        (&[], "0"),
        (&[1], "[0]"),
        (&[0], "[]"),
        (&[2, 0], "[[],[]]"),
        (&[0, 2], "[]"),
        (&[2, 0, 3], "[[],[]]"),
        (&[1, 1, 1], "[[[0]]]"),
        (&[2, 1, 3], "[[[0,1,2]],[[3,4,5]]]"),
        (&[2, 3, 1], "[[[0],[1],[2]],[[3],[4],[5]]]"),
    ];
    for (shape, expected) in table {
        let count = shape.iter().product::<usize>() as i32;
        let value = [Value::Tensor(tensor(shape, &(0..count).collect::<Vec<_>>()))];
        let written = reply(Format::Json, &row_plan(), &any, &value);
        assert_eq!(written, format!("{{\"predictions\":{expected}}}"), "{shape:?}");
    }
}

#[test]
fn several_outputs_are_objects_by_row_where_they_have_rows_in_common() {
    let signature = signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[
            output("label", DataType::I64, &[-1]),
            output("scores", DataType::F64, &[-1, 2]),
        ],
    );
    let outputs = [
        Value::Tensor(tensor(&[2], &[0i64, 1])),
        Value::Tensor(tensor(&[2, 2], &[0.5f64, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])),
    ];
    assert_eq!(
        reply(Format::Json, &row_plan(), &signature, &outputs),
        r#"{"predictions":[{"label":0,"scores":[0.5,NaN]},{"label":1,"scores":[Infinity,-Infinity]}]}"#
    );
    assert_eq!(
        reply(Format::Json, &plan_of(r#"{"inputs": [1, 2]}"#), &signature, &outputs),
        r#"{"outputs":{"label":[0,1],"scores":[[0.5,NaN],[Infinity,-Infinity]]}}"#
    );
    for uneven in [tensor(&[3], &[0i64, 1, 2]), tensor(&[], &[0i64])] {
        let label = reply(
            Format::Json,
            &row_plan(),
            &signature,
            &[Value::Tensor(uneven), outputs[1].clone()],
        );
        assert!(label.starts_with(r#"{"outputs":{"label":"#), "{label}");
    }
}

#[test]
fn scikit_learn_probabilities_become_an_object_per_row() {
    let map = |a: f32| Value::Map {
        keys: tensor(&[2], &[0i64, 1]),
        values: tensor(&[2], &[a, 1.0 - a]),
    };
    let probabilities = Value::Sequence(vec![map(0.25), map(0.75)]);
    let signature = signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[
            output("label", DataType::String, &[-1]),
            zip_map("probabilities", DataType::I64),
        ],
    );
    let outputs = [Value::Tensor(strings(&[2], &[b"no", b"y\"es"])), probabilities];
    assert_eq!(
        reply(Format::Json, &row_plan(), &signature, &outputs),
        r#"{"predictions":[{"label":"no","probabilities":{"0":0.25,"1":0.75}},{"label":"y\"es","probabilities":{"0":0.75,"1":0.25}}]}"#
    );
}

#[test]
fn strings_that_are_not_text_are_written_as_base64() {
    let value = [Value::Tensor(strings(&[2], &[b"\xff\xfe\xfd", b"ok\n"]))];
    assert_eq!(
        reply(Format::Json, &row_plan(), &identity(DataType::String), &value),
        r#"{"predictions":[{"b64":"//79"},"ok\n"]}"#
    );
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

    #[test]
    fn serde_json_reads_the_responses(values in prop::collection::vec(any::<f32>(), 1..50), text in any::<String>()) {
        let finite: Vec<f32> = values.into_iter().filter(|v| v.is_finite()).collect();
        let count = finite.len();
        let signature = signature(&[], &[output("f", DataType::F32, &[-1]), output("s", DataType::String, &[-1])]);
        let strings = Tensor::from_strings(vec![1], vec![Bytes::from(text.clone())]).unwrap();
        let outputs = [Value::Tensor(tensor(&[count], &finite)), Value::Tensor(strings)];
        let plan = plan_of(r#"{"inputs": [1, 2]}"#);
        let document: serde_json::Value = serde_json::from_str(&reply(Format::Json, &plan, &signature, &outputs)).unwrap();
        let read: Vec<f32> = document["outputs"]["f"].as_array().unwrap().iter().map(|v| v.to_string().parse().unwrap()).collect();
        prop_assert_eq!(read, finite);
        prop_assert_eq!(document["outputs"]["s"][0].as_str(), Some(text.as_str()));
    }

    /// The decoder refuses the same texts as serde_json, except for the added tokens.
    #[test]
    fn refuses_what_serde_json_refuses(body in "[\\[\\]{}:,\"a0-9.eE+ -]{0,24}") {
        if serde_json::from_str::<serde::de::IgnoredAny>(&body).is_err() {
            for data_type in [DataType::F64, DataType::I32, DataType::String] {
                prop_assert!(decode_str(JSON, &body, &identity(data_type)).is_err(), "{}", body);
                let wrapped = format!("{{\"unknown\":{body},\"inputs\":[1]}}");
                if serde_json::from_str::<serde::de::IgnoredAny>(&wrapped).is_err() {
                    prop_assert!(decode_str(JSON, &wrapped, &identity(data_type)).is_err(), "{}", wrapped);
                }
            }
        }
    }
}
