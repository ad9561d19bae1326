use crate::codec::Format;
use crate::codec::testing::{
    decode_str, identity, input, output, pairs, reply, row_plan, signature, strings, tensor, zip_map,
};
use crate::tensor::{DataType, Signature, Tensor, Value};

const LINES: &str = "application/jsonlines";

fn inputs(body: &str, signature: &Signature) -> Vec<Tensor> {
    decode_str(LINES, body, signature)
        .unwrap_or_else(|e| panic!("{body}: {e}"))
        .inputs
}

#[test]
fn each_line_is_a_row_whatever_its_ending() {
    let expected = [tensor(&[2, 2], &[1f32, 2., 3., 4.])];
    for body in [
        "[1, 2]\n[3, 4]",
        "[1, 2]\n[3, 4]\n",
        "[1, 2]\r\n[3, 4]\r\n",
        "\n\r\n[1, 2]\n \t\n[3, 4]\n\n",
        "\u{feff}[1, 2]\n[3, 4]",
        "{\"x\": [1, 2]}\n{\"features\": [3, 4]}\n",
        "{\"x\": [1, 2]}\n[3, 4]\n",
    ] {
        assert_eq!(inputs(body, &pairs()), expected, "{body:?}");
    }
    for alias in [
        "application/jsonl",
        "application/x-ndjson",
        "Application/JsonLines; charset=utf-8",
    ] {
        assert_eq!(
            decode_str(alias, "[1, 2]\n[3, 4]\n", &pairs()).unwrap().inputs,
            expected,
            "{alias}"
        );
    }
}

#[test]
fn scalars_and_objects_by_name_are_rows_too() {
    assert_eq!(
        inputs("1\n2\n3", &identity(DataType::I64)),
        [tensor(&[3], &[1i64, 2, 3])]
    );
    let texts = identity(DataType::String);
    assert_eq!(
        inputs("\"a\"\n{\"b64\": \"//79\"}", &texts),
        [strings(&[2], &[b"a", b"\xff\xfe\xfd"])]
    );
    let columns = signature(
        &[
            input("age", DataType::F32, &[-1, 1]),
            input("sex", DataType::String, &[-1, 1]),
        ],
        &[],
    );
    assert_eq!(
        inputs(
            "{\"age\": 5, \"sex\": \"f\"}\n{\"sex\": [\"m\"], \"age\": [6]}"
                .replace(['[', ']'], "")
                .as_str(),
            &columns
        ),
        [tensor(&[2, 1], &[5f32, 6.]), strings(&[2, 1], &[b"f", b"m"])]
    );
}

#[test]
fn errors_name_the_line() {
    let table = [
        (
            "[1, 2]\n[3, 4, 5]",
            "input \"x\" at line 2: uneven arrays: length 3 where the ones before have length 2",
        ),
        (
            "[1, 2]\n\n[3, \"a\"]",
            "input \"x\" at line 3, [1]: the string \"a\" is not a number, float32 is needed",
        ),
        (
            "[1, 2]\n3",
            "input \"x\" at line 2: a value where the ones before have arrays",
        ),
        (
            "[1, 2]\n{\"y\": 1}",
            "the model has no input \"y\" at line 2; it takes \"x\" float32[batch, 2]",
        ),
        (
            "[1, 2]\n{}",
            "input \"x\" is missing at line 2; the model takes \"x\" float32[batch, 2]",
        ),
        (
            "[1, 2]\n[3,\n4]",
            "the body is not a valid application/jsonlines request: EOF while parsing a value at line 2 column 3",
        ),
        (
            "[1, 2] [3, 4]",
            "the body is not a valid application/jsonlines request: trailing characters at line 1 column 8",
        ),
        (
            "",
            "the body is not a valid application/jsonlines request: the body is empty",
        ),
        (
            "\r\n \n",
            "the body is not a valid application/jsonlines request: it has no lines",
        ),
    ];
    for (body, expected) in table {
        let error = decode_str(LINES, body, &pairs()).expect_err(body).to_string();
        assert_eq!(error, expected, "{body:?}");
    }
}

/// BT-7: one line per record, in order, no blank lines, no array around them.
#[test]
fn replies_have_exactly_one_line_per_row() {
    let one = |value: Tensor| reply(Format::JsonLines, &row_plan(), &pairs(), &[Value::Tensor(value)]);
    assert_eq!(
        one(tensor(&[2, 2], &[1f32, 2., f32::NAN, 4.])),
        "[1.0,2.0]\n[NaN,4.0]\n"
    );
    assert_eq!(one(tensor(&[3], &[1i64, 2, 3])), "1\n2\n3\n");
    assert_eq!(one(tensor(&[2, 1, 2], &[1u8, 2, 3, 4])), "[[1,2]]\n[[3,4]]\n");
    assert_eq!(one(strings(&[1], &[b"line\nfeed"])), "\"line\\nfeed\"\n");
    assert_eq!(one(tensor::<f32>(&[0, 2], &[])), "");
    assert_eq!(one(tensor(&[], &[7i32])), "7\n");
}

#[test]
fn several_outputs_are_an_object_per_line_or_one_line_when_they_have_no_rows_in_common() {
    let signature = signature(
        &[],
        &[output("label", DataType::I64, &[-1]), zip_map("p", DataType::String)],
    );
    let map = |p: f32| Value::Map {
        keys: strings(&[1], &[b"a"]),
        values: tensor(&[1], &[p]),
    };
    let label = |rows: &[i64]| Value::Tensor(tensor(&[rows.len()], rows));
    let p = Value::Sequence(vec![map(0.5), map(0.25)]);
    let written = |outputs: &[Value]| reply(Format::JsonLines, &row_plan(), &signature, outputs);
    assert_eq!(
        written(&[label(&[1, 2]), p.clone()]),
        "{\"label\":1,\"p\":{\"a\":0.5}}\n{\"label\":2,\"p\":{\"a\":0.25}}\n"
    );
    assert_eq!(
        written(&[label(&[1, 2, 3]), p]),
        "{\"outputs\":{\"label\":[1,2,3],\"p\":[{\"a\":0.5},{\"a\":0.25}]}}\n"
    );
}
