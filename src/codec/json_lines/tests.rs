use crate::codec::testing::{
    decode_str, identity, input, negotiate, output, pairs, reply, row_plan, signature, strings, tensor, zip_map,
};
use crate::codec::{Format, encode, separate_runs};
use crate::tensor::{DataType, OutputRows, OutputSpec, Signature, Tensor, Value};

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
            "input \"x\" at line 2: uneven arrays: length 3 where the earlier arrays have length 2",
        ),
        (
            "[1, 2]\n\n[3, \"a\"]",
            "input \"x\" at line 3, [1]: the string \"a\" is not a number, float32 is needed",
        ),
        (
            "[1, 2]\n3",
            "input \"x\" at line 2: a value where the earlier elements are arrays",
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
fn several_outputs_are_an_object_per_line() {
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
    // If the outputs cannot be split, one record has all of them.
    assert_eq!(
        written(&[label(&[1, 2, 3]), p]),
        "{\"label\":[1,2,3],\"p\":[{\"a\":0.5},{\"a\":0.25}]}\n"
    );
}

/// A detector: a varying number of boxes for each image, and one name.
fn detector() -> Signature {
    let boxes = OutputSpec {
        rows: OutputRows::Whole,
        ..output("boxes", DataType::I64, &[-1, 2])
    };
    signature(
        &[input("x", DataType::F32, &[-1, 2])],
        &[boxes, output("name", DataType::I64, &[-1])],
    )
}

#[test]
fn records_that_ran_alone_have_a_line_each_with_their_whole_output() {
    let run = |boxes: usize, name: i64| {
        let values: Vec<i64> = (0..2 * boxes as i64).collect();
        vec![
            Value::Tensor(tensor(&[boxes, 2], &values)),
            Value::Tensor(tensor(&[1], &[name])),
        ]
    };
    let asked = decode_str(LINES, "[1, 2]\n[3, 4]\n[5, 6]", &detector()).unwrap();
    assert_eq!(
        separate_runs(Format::JsonLines, &asked.reply, &detector(), None),
        Some(3)
    );
    let runs = [run(2, 7), run(0, 8), run(1, 9)];
    let lines = encode(Format::JsonLines, &asked.reply, "m", &detector(), &runs).unwrap();
    assert_eq!(
        String::from_utf8(lines.body.to_vec()).unwrap(),
        "{\"boxes\":[[0,1],[2,3]],\"name\":7}\n{\"boxes\":[],\"name\":8}\n{\"boxes\":[[0,1]],\"name\":9}\n"
    );
    let rows = encode(Format::Json, &asked.reply, "m", &detector(), &runs).unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&rows.body).unwrap();
    assert_eq!(rows["predictions"][0]["boxes"], serde_json::json!([[0, 1], [2, 3]]));
    assert_eq!(rows["predictions"][1], serde_json::json!({"boxes": [], "name": 8}));
}

#[test]
fn refuses_lines_for_inseparable_records_whose_outputs_cannot_be_split() {
    let signature = |rows| {
        signature(
            &[input("x", DataType::F32, &[3, 2])],
            &[OutputSpec {
                rows,
                ..output("y", DataType::I64, &[-1])
            }],
        )
    };
    let body = "[1, 2]\n[3, 4]\n[5, 6]";
    let whole = signature(OutputRows::Whole);
    let asked = decode_str(LINES, body, &whole).unwrap().reply;
    let refusal = negotiate(Some(LINES), Format::Json, &asked, &whole).unwrap_err();
    assert!(
        refusal.to_string().contains("the 3 records of the request together"),
        "{refusal}"
    );
    assert_eq!(negotiate(None, Format::JsonLines, &asked, &whole), Ok(Format::Json));
    // Only the run shows that the output cannot be split.
    let unknown = signature(OutputRows::PerRecord);
    let run = |entries: usize| [vec![Value::Tensor(tensor(&[entries], &vec![5i64; entries]))]];
    assert_eq!(
        negotiate(Some(LINES), Format::Json, &asked, &unknown),
        Ok(Format::JsonLines)
    );
    assert_eq!(
        separate_runs(Format::JsonLines, &asked, &unknown, Some(&run(2)[0])),
        None
    );
    let refusal = encode(Format::JsonLines, &asked, "m", &unknown, &run(2)).unwrap_err();
    assert!(
        refusal.to_string().contains("the 3 records of the request together"),
        "{refusal}"
    );
    assert_eq!(
        encode(Format::JsonLines, &asked, "m", &unknown, &run(3)).unwrap().body,
        "5\n5\n5\n"
    );
    // A whole tensor without a count of records is one record.
    let columns = decode_str("application/json", "{\"inputs\": [[1, 2], [3, 4], [5, 6]]}", &unknown).unwrap();
    let line = encode(Format::JsonLines, &columns.reply, "m", &unknown, &run(2)).unwrap();
    assert_eq!(line.body, "[5,5]\n");
}
