//! The JSON of responses.

use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

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
}
