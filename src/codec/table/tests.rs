//! Tests that read the same rows in every form of tables.

use bytes::Bytes;
use serde_json::json;

use crate::codec::schema::{CsvRules, InputDefault, InputRule, Schema, SchemaAdditions, TableColumn};
use crate::codec::testing::{input, output, signature, strings, tensor};
use crate::codec::{DecodeError, DecodedRequest, Documents, Format, decode, encode};
use crate::tensor::{DataType, Tensor, Value};

fn read(schema: &Schema, content_type: &str, body: &str) -> Result<DecodedRequest, DecodeError> {
    decode(
        content_type,
        Bytes::copy_from_slice(body.as_bytes()),
        schema,
        Documents::One,
    )
}

fn column(name: &str, input: usize) -> TableColumn {
    TableColumn {
        name: name.to_owned(),
        aliases: Vec::new(),
        input,
        default: None,
    }
}

/// `Island: string[batch, 1]` and `Culmen_Length__mm_: float32[batch, 1]`: pandas' names after an
/// export.
fn penguins() -> Schema {
    Schema::of(signature(
        &[
            input("Island", DataType::String, &[-1, 1]),
            input("Culmen_Length__mm_", DataType::F32, &[-1, 1]),
        ],
        &[output("y", DataType::F32, &[-1])],
    ))
}

/// `X: float32[batch, 3]`, whose columns the manifest names.
fn wine(additions: SchemaAdditions) -> Schema {
    Schema::new(
        signature(&[input("X", DataType::F32, &[-1, 3])], &[]),
        SchemaAdditions {
            columns: vec![column("alcohol", 0), column("acid", 0), column("ash", 0)],
            ..additions
        },
    )
}

const JSON: &str = "application/json";
const LINES: &str = "application/jsonlines";

#[test]
fn columns_of_several_types_are_read_in_every_dialect() {
    let expected = [
        strings(&[2, 1], &[b"Dream", b"Biscoe"]),
        tensor(&[2, 1], &[39.5f32, 40.25]),
    ];
    let table = [
        ("text/csv", "Dream,39.5\nBiscoe,40.25\n"),
        ("text/csv", "Culmen Length (mm),Island\n39.5,Dream\n40.25,Biscoe\n"),
        (
            "text/csv; header=present",
            "Island,Culmen_Length__mm_\nDream,39.5\nBiscoe,40.25\n",
        ),
        ("text/csv", "Dream;39.5\nBiscoe;40.25\n"),
        ("text/csv", "Dream\t39.5\nBiscoe\t40.25\n"),
        ("text/csv", "Island|Culmen Length (mm)\nDream|39.5\nBiscoe|40.25\n"),
        ("text/csv; delimiter=\"|\"", "Dream|39.5\nBiscoe|40.25\n"),
        (JSON, r#"[["Dream", 39.5], ["Biscoe", 40.25]]"#),
        (JSON, r#"{"instances": [["Dream", 39.5], ["Biscoe", "40.25"]]}"#),
        (
            JSON,
            r#"{"instances": [{"features": ["Dream", 39.5]}, {"features": ["Biscoe", 40.25]}]}"#,
        ),
        (
            JSON,
            r#"{"instances": [{"data": {"features": {"values": ["Dream", 39.5]}}}, {"data": {"features": {"values": ["Biscoe", 40.25]}}}]}"#,
        ),
        (
            JSON,
            r#"{"instances": [{"Island": "Dream", "Culmen Length (mm)": 39.5}, {"Culmen Length (mm)": 40.25, "Island": "Biscoe"}]}"#,
        ),
        (
            JSON,
            r#"[{"Island": "Dream", "Culmen Length (mm)": 39.5}, {"Island": "Biscoe", "Culmen Length (mm)": 40.25}]"#,
        ),
        (
            JSON,
            r#"{"inputs": {"Island": ["Dream", "Biscoe"], "Culmen Length (mm)": [39.5, 40.25]}}"#,
        ),
        (
            JSON,
            r#"{"Island": ["Dream", "Biscoe"], "Culmen Length (mm)": [39.5, 40.25]}"#,
        ),
        (
            JSON,
            r#"{"dataframe_split": {"columns": ["Culmen Length (mm)", "Island"], "data": [[39.5, "Dream"], [40.25, "Biscoe"]]}}"#,
        ),
        (
            JSON,
            r#"{"columns": ["Island", "Culmen Length (mm)"], "index": [0, 1], "data": [["Dream", 39.5], ["Biscoe", 40.25]]}"#,
        ),
        (
            JSON,
            r#"{"data": [["Dream", 39.5], ["Biscoe", 40.25]], "columns": ["Island", "Culmen Length (mm)"]}"#,
        ),
        (
            JSON,
            r#"{"dataframe_records": [{"Island": "Dream", "Culmen Length (mm)": 39.5}, {"Island": "Biscoe", "Culmen Length (mm)": 40.25}]}"#,
        ),
        (
            JSON,
            r#"{"Island": {"0": "Dream", "1": "Biscoe"}, "Culmen Length (mm)": {"0": 39.5, "1": 40.25}}"#,
        ),
        (
            JSON,
            r#"{"0": {"Island": "Dream", "Culmen Length (mm)": 39.5}, "1": {"Island": "Biscoe", "Culmen Length (mm)": 40.25}}"#,
        ),
        (
            JSON,
            r#"{"schema": {"fields": [], "primaryKey": ["index"]}, "data": [{"index": 0, "Island": "Dream", "Culmen Length (mm)": 39.5}, {"index": 1, "Island": "Biscoe", "Culmen Length (mm)": 40.25}]}"#,
        ),
        (JSON, r#"{"data": [["Dream", 39.5], ["Biscoe", 40.25]]}"#),
        (LINES, "[\"Dream\", 39.5]\n[\"Biscoe\", 40.25]\n"),
        (
            LINES,
            "{\"Island\": \"Dream\", \"Culmen Length (mm)\": 39.5}\n{\"Island\": \"Biscoe\", \"Culmen Length (mm)\": 40.25}\n",
        ),
        (
            LINES,
            "{\"features\": [\"Dream\", 39.5]}\n{\"features\": [\"Biscoe\", 40.25]}\n",
        ),
    ];
    for (content_type, body) in table {
        let request = read(&penguins(), content_type, body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.inputs, expected, "{content_type} {body}");
    }
    let one = [strings(&[1, 1], &[b"Dream"]), tensor(&[1, 1], &[39.5f32])];
    for body in [
        r#"["Dream", 39.5]"#,
        r#"{"Island": "Dream", "Culmen Length (mm)": 39.5}"#,
    ] {
        assert_eq!(read(&penguins(), JSON, body).unwrap().inputs, one, "{body}");
    }
}

#[test]
fn the_named_columns_of_one_wide_input_are_read_in_every_dialect() {
    let expected = [tensor(&[2, 3], &[1f32, 2., 3., 4., 5., 6.])];
    let table = [
        ("text/csv", "1,2,3\n4,5,6\n"),
        ("text/csv", "ash,alcohol,acid\n3,1,2\n6,4,5\n"),
        (JSON, r#"[[1, 2, 3], [4, 5, 6]]"#),
        (
            JSON,
            r#"{"instances": [{"ash": 3, "alcohol": 1, "acid": 2}, {"alcohol": 4, "acid": 5, "ash": 6}]}"#,
        ),
        (JSON, r#"{"instances": [{"X": [1, 2, 3]}, {"X": [4, 5, 6]}]}"#),
        (
            JSON,
            r#"{"instances": [{"features": [1, 2, 3]}, {"features": [4, 5, 6]}]}"#,
        ),
        (
            JSON,
            r#"{"dataframe_split": {"columns": ["acid", "ash", "alcohol"], "data": [[2, 3, 1], [5, 6, 4]]}}"#,
        ),
        (
            JSON,
            r#"{"alcohol": {"a": 1, "b": 4}, "acid": {"a": 2, "b": 5}, "ash": {"a": 3, "b": 6}}"#,
        ),
        (JSON, r#"{"alcohol": [1, 4], "acid": [2, 5], "ash": [3, 6]}"#),
        (
            JSON,
            r#"{"inputs": {"alcohol": [1, 4], "acid": [2, 5], "ash": [3, 6]}}"#,
        ),
        (
            LINES,
            "{\"ash\": 3, \"alcohol\": 1, \"acid\": 2}\n{\"alcohol\": 4, \"acid\": 5, \"ash\": 6}\n",
        ),
    ];
    for (content_type, body) in table {
        let request = read(&wine(SchemaAdditions::default()), content_type, body);
        assert_eq!(
            request.unwrap_or_else(|error| panic!("{body}: {error}")).inputs,
            expected,
            "{body}"
        );
    }
    // Without a manifest the columns have no names, so the order of the table's columns counts.
    let unnamed = Schema::of(signature(&[input("X", DataType::F32, &[-1, 3])], &[]));
    let split = r#"{"columns": ["p", "q", "r"], "data": [[1, 2, 3], [4, 5, 6]]}"#;
    assert_eq!(read(&unnamed, JSON, split).unwrap().inputs, expected);
    // The members of an object have no order.
    let records = r#"[{"p": 1, "q": 2, "r": 3}]"#;
    assert!(read(&unnamed, JSON, records).is_err());
}

#[test]
fn refuses_missing_unknown_and_mixed_columns_and_names_them() {
    let schema = wine(SchemaAdditions::default());
    let table = [
        (
            JSON,
            r#"[{"alcohol": 1, "acid": 2}]"#,
            "input \"ash\" is missing in instance [0]",
        ),
        (
            LINES,
            "{\"alcohol\": 1, \"acid\": 2, \"ash\": 3}\n{\"acid\": 2, \"ash\": 3}",
            "input \"alcohol\" is missing at line 2",
        ),
        (
            JSON,
            r#"[{"alcohol": 1, "acid": 2, "ash": 3, "x": 4}]"#,
            "the model has no input \"x\" in instance [0]",
        ),
        (
            JSON,
            r#"[{"alcohol": 1, "acid": 2, "ash": 3}, [1, 2]]"#,
            "row 2 has 2 columns where 3 are expected",
        ),
        (
            JSON,
            r#"[{"X": [1, 2, 3]}, {"alcohol": 1, "acid": 2, "ash": 3}]"#,
            "give all in the same form",
        ),
        (
            JSON,
            r#"{"columns": ["alcohol", "acid", "ash"], "data": [[1, 2]]}"#,
            "row 1 of the table has 2 values where 3 columns are named",
        ),
        (
            JSON,
            r#"{"alcohol": {"0": 1}, "acid": {"1": 2}, "ash": {"0": 3}}"#,
            "column \"acid\" does not have the same rows",
        ),
        (
            "text/csv",
            "alcohol,acid\n1,2\n",
            "input \"ash\" is missing in the header",
        ),
        (JSON, r#"{"something": 1}"#, "it must be an array of instances"),
    ];
    for (content_type, body, expected) in table {
        let error = read(&schema, content_type, body).expect_err(body).to_string();
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn the_manifest_sets_defaults_ignored_names_and_missing_values() {
    let inputs = [
        input("a", DataType::F32, &[-1, 1]),
        input("k", DataType::I64, &[-1, 1]),
        input("rate", DataType::I64, &[]),
    ];
    let default = |input: usize, value| InputRule {
        default: Some(InputDefault::new(&inputs[input], &value).unwrap()),
        ..InputRule::default()
    };
    let schema = Schema::new(
        signature(&inputs, &[]),
        SchemaAdditions {
            rules: vec![
                InputRule::default(),
                default(1, json!(7)),
                InputRule {
                    is_constant: true,
                    ..default(2, json!(16000))
                },
            ],
            ignores_unknown: true,
            csv: CsvRules {
                missing: vec!["NA".to_owned()],
                ..CsvRules::default()
            },
            ..SchemaAdditions::default()
        },
    );
    let all = |a: &[f32], k: &[i64]| -> Vec<Tensor> {
        vec![
            tensor(&[a.len(), 1], a),
            tensor(&[k.len(), 1], k),
            tensor(&[], &[16000i64]),
        ]
    };
    let table = [
        ("text/csv", "1\n2\n", all(&[1., 2.], &[7, 7])),
        ("text/csv", "1,5\n2,6\n", all(&[1., 2.], &[5, 6])),
        ("text/csv", "other,a\nx,1\ny,2\n", all(&[1., 2.], &[7, 7])),
        (JSON, r#"[{"a": 1}, {"a": 2}]"#, all(&[1., 2.], &[7, 7])),
        (JSON, r#"[{"a": 1}, {"a": 2, "k": 6}]"#, all(&[1., 2.], &[7, 6])),
        (
            JSON,
            r#"[{"a": 1, "k": 5}, {"a": 2, "other": [[]]}]"#,
            all(&[1., 2.], &[5, 7]),
        ),
        (JSON, r#"[1, 2]"#, all(&[1., 2.], &[7, 7])),
        (
            JSON,
            r#"{"instances": [{"features": [1]}, {"features": [2]}]}"#,
            all(&[1., 2.], &[7, 7]),
        ),
        (JSON, r#"{"inputs": {"a": [1, 2]}}"#, all(&[1., 2.], &[7, 7])),
        (
            JSON,
            r#"{"inputs": [{"name": "a", "shape": [2, 1], "datatype": "FP32", "data": [1, 2]}]}"#,
            all(&[1., 2.], &[7, 7]),
        ),
    ];
    for (content_type, body, expected) in table {
        let request = read(&schema, content_type, body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.inputs, expected, "{body}");
    }
    let missing = read(&schema, "text/csv", "1\nNA\n").unwrap();
    assert!(missing.inputs[0].as_slice::<f32>().unwrap()[1].is_nan());
    let refused = read(&schema, JSON, r#"[{"a": 1, "rate": 8000}]"#)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("the model's manifest sets this input"), "{refused}");
}

#[test]
fn all_instances_give_the_same_value_for_an_input_without_an_axis_for_records() {
    let schema = Schema::of(signature(
        &[
            input("x", DataType::F32, &[-1, 2]),
            input("rate", DataType::I64, &[]),
            input("scales", DataType::F32, &[3]),
            input("state", DataType::F32, &[2, -1, 2]),
        ],
        &[],
    ));
    let row = |x: &str, state: &str| format!(r#"{{"x": {x}, "rate": 8, "scales": [1, 2, 3], "state": {state}}}"#);
    let body = format!(
        r#"{{"instances": [{}, {}]}}"#,
        row("[1, 2]", "[[1, 2], [3, 4]]"),
        row("[3, 4]", "[[5, 6], [7, 8]]")
    );
    let request = read(&schema, JSON, &body).unwrap();
    assert_eq!(
        request.inputs,
        [
            tensor(&[2, 2], &[1f32, 2., 3., 4.]),
            tensor(&[], &[8i64]),
            tensor(&[3], &[1f32, 2., 3.]),
            // The records are on the second axis.
            tensor(&[2, 2, 2], &[1f32, 2., 5., 6., 3., 4., 7., 8.]),
        ]
    );
    let differing = body.replacen("\"rate\": 8", "\"rate\": 9", 1);
    let error = read(&schema, JSON, &differing).unwrap_err().to_string();
    assert!(error.contains("all instances must give the same value"), "{error}");
}

#[test]
fn the_flat_values_of_a_row_take_the_shape_of_the_models_input() {
    let schema = Schema::of(signature(&[input("x", DataType::F32, &[-1, 2, 2])], &[]));
    let expected = [tensor(&[1, 2, 2], &[1f32, 2., 3., 4.])];
    for body in [
        r#"{"instances": [{"data": {"features": {"values": [1, 2, 3, 4]}}}]}"#,
        r#"{"instances": [[[1, 2], [3, 4]]]}"#,
        r#"{"instances": [{"features": [[1, 2], [3, 4]]}]}"#,
    ] {
        let request = read(&schema, JSON, body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.inputs, expected, "{body}");
    }
}

#[test]
fn reads_responses_as_requests() {
    let one = Schema::of(signature(&[input("x", DataType::F32, &[-1, 2])], &[]));
    let expected = [tensor(&[2, 2], &[1f32, 2., 3., 4.])];
    let table = [
        r#"{"predictions": [[1, 2], [3, 4]]}"#,
        r#"{"predictions": [{"probabilities": [1, 2]}, {"probabilities": [3, 4]}]}"#,
        r#"{"predictions": [{"label": 7, "x": [1, 2]}, {"label": 8, "x": [3, 4]}]}"#,
        r#"{"outputs": [[1, 2], [3, 4]]}"#,
        r#"{"outputs": {"y": [[1, 2], [3, 4]]}}"#,
        r#"{"outputs": {"label": [7, 8], "x": [[1, 2], [3, 4]]}}"#,
        r#"{"model_name": "m", "outputs": [{"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}"#,
        r#"{"model_name": "m", "outputs": [{"name": "z", "shape": [1], "datatype": "INT64", "data": [9]}, {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}"#,
    ];
    for body in table {
        let request = read(&one, JSON, body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(request.inputs, expected, "{body}");
    }
    for body in [
        r#"{"predictions": [{"a": [1, 2], "b": [3, 4]}]}"#,
        r#"{"outputs": {"a": [[1, 2]], "b": [[3, 4]]}}"#,
    ] {
        let error = read(&one, JSON, body).expect_err(body).to_string();
        assert!(error.contains("input \"x\" is missing"), "{error}");
    }
}

/// BT-7: a batch transform joins records with line feeds, and expects one line for each.
#[test]
fn several_documents_of_a_batch_have_a_response_document_each() {
    let schema = Schema::of(signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[output("y", DataType::F32, &[-1, 2])],
    ));
    let body = Bytes::from_static(b"{\"instances\": [[1, 2], [3, 4]]}\n[5, 6]\n[]\n[[7, 8]]\n");
    assert!(decode(JSON, body.clone(), &schema, Documents::One).is_err());
    let request = decode(JSON, body, &schema, Documents::Several).unwrap();
    assert_eq!(request.inputs, [tensor(&[4, 2], &[1f32, 2., 3., 4., 5., 6., 7., 8.])]);
    let outputs = vec![Value::Tensor(request.inputs[0].clone())];
    let reply = encode(Format::Json, &request.reply, "m", schema.signature(), &[outputs]).unwrap();
    let expected = "{\"predictions\":[[1.0,2.0],[3.0,4.0]]}\n{\"predictions\":[[5.0,6.0]]}\n{\"predictions\":[]}\n\
                    {\"predictions\":[[7.0,8.0]]}\n";
    assert_eq!(reply.body, expected);
    for body in ["[1, 2]\n{\"inputs\": [[1, 2]]}", "[1, 2]\n[1, 2, 3]", "[1, 2] x"] {
        assert!(
            decode(JSON, Bytes::from_static(body.as_bytes()), &schema, Documents::Several).is_err(),
            "{body}"
        );
    }
}

#[test]
fn reads_latin_1_if_the_charset_names_it() {
    let body = Bytes::from_static(b"Caf\xe9,1\n");
    let request = decode(
        "text/csv; charset=ISO-8859-1",
        body.clone(),
        &penguins(),
        Documents::One,
    )
    .unwrap();
    assert_eq!(request.inputs[0], strings(&[1, 1], &["Café".as_bytes()]));
    assert!(decode("text/csv", body, &penguins(), Documents::One).is_err());
}
