use crate::codec::testing::{
    decode_str, identity, input, negotiate, output, pairs, reply, row_plan, signature, strings, tensor, zip_map,
};
use crate::codec::{Format, encode, separate_runs};
use crate::tensor::{DataType, OutputRows, OutputSpec, Signature, Tensor, Value};

fn inputs(body: &str, signature: &Signature) -> Vec<Tensor> {
    decode_str("text/csv", body, signature)
        .unwrap_or_else(|e| panic!("{body}: {e}"))
        .inputs
}

fn error(body: &str, signature: &Signature) -> String {
    decode_str("text/csv", body, signature).expect_err(body).to_string()
}

/// `age: float32[batch, 1]`, `pixels: int64[batch, 2, 2]`, `name: string[batch]`.
fn mixed() -> Signature {
    signature(
        &[
            input("age", DataType::F32, &[-1, 1]),
            input("pixels", DataType::I64, &[-1, 2, 2]),
            input("name", DataType::String, &[-1]),
        ],
        &[],
    )
}

#[test]
fn rows_are_lines_whatever_their_ending() {
    let expected = [tensor(&[2, 2], &[1f32, 2., 3., 4.])];
    for body in [
        "1,2\n3,4",
        "1,2\n3,4\n",
        "1,2\r\n3,4\r\n",
        "\"1\",\"2\"\n 3 ,\t4\n",
        "\n1,2\n\n3,4\n\n",
        "\u{feff}1,2\n3,4",
        "1.0,2e0\n+3,4.",
    ] {
        assert_eq!(inputs(body, &pairs()), expected, "{body:?}");
    }
}

#[test]
fn columns_are_assigned_to_the_inputs_in_the_models_order() {
    assert_eq!(
        inputs("5,1,2,3,4,\"Doe, J\"\n,5,6.0,7,8e0,\n", &mixed())[1..],
        [
            tensor(&[2, 2, 2], &[1i64, 2, 3, 4, 5, 6, 7, 8]),
            strings(&[2], &[b"Doe, J", b""])
        ]
    );
    let age = &inputs(",1,2,3,4,x\n", &mixed())[0];
    assert!(age.as_slice::<f32>().unwrap()[0].is_nan());
}

#[test]
fn one_input_of_unknown_width_takes_the_remaining_columns() {
    let open = |dims: &[i64]| {
        signature(
            &[
                input("a", DataType::F32, &[-1, 1]),
                input("b", DataType::F32, dims),
                input("c", DataType::F32, &[-1]),
            ],
            &[],
        )
    };
    let shape = |body: &str, dims: &[i64]| inputs(body, &open(dims))[1].shape().to_vec();
    assert_eq!(shape("1,2,3,4\n1,2,3,4", &[-1, -1]), [2, 2]);
    assert_eq!(shape("1,2,3,4,5,6,7,8", &[-1, 3, -1]), [1, 3, 2]);
    assert_eq!(inputs("1,2,3", &identity(DataType::U8))[0].shape(), [1, 3]);
    assert!(error("1,2,3,4", &open(&[-1, 3, -1])).starts_with(
        "row 1 has 2 columns for the input of unknown width where a multiple of 3 is expected; the model takes \"a\""
    ));
    assert!(error("1,2", &open(&[-1, -1])).contains("row 1 has 0 columns for the input of unknown width"));
    assert!(error("1", &open(&[-1, -1])).contains("row 1 has 1 columns where at least 2 are expected"));
    assert!(error("1", &open(&[-1, -1, -1])).contains("several axes of unknown size"));
    let two = signature(
        &[
            input("a", DataType::F32, &[-1, -1]),
            input("b", DataType::F32, &[-1, -1]),
        ],
        &[],
    );
    assert!(error("1,2", &two).contains("several inputs of unknown width"));
}

#[test]
fn a_model_without_rows_takes_one_line() {
    let scalar = signature(&[input("x", DataType::F64, &[])], &[]);
    assert_eq!(inputs("2.5", &scalar), [tensor(&[], &[2.5f64])]);
    assert_eq!(
        error("1\n2", &scalar),
        "input \"x\": given an array of shape [2], the model takes float64[]"
    );
}

#[test]
fn cells_are_parsed_by_the_element_type_of_their_input() {
    let row = |body: &str, data_type| inputs(body, &identity(data_type)).remove(0);
    let floats = row("nan,NaN,,inf,-Infinity,1e-5", DataType::F64);
    let floats = floats.as_slice::<f64>().unwrap();
    assert!(floats[..3].iter().all(|v| v.is_nan()));
    assert_eq!(floats[3..], [f64::INFINITY, f64::NEG_INFINITY, 1e-5]);
    assert_eq!(
        row("True,false,1,0", DataType::Bool).as_bytes().unwrap().as_ref(),
        [1, 0, 1, 0]
    );
    assert_eq!(
        row("18446744073709551615,1.0", DataType::U64),
        tensor(&[1, 2], &[u64::MAX, 1])
    );
    assert_eq!(
        row("\" a \", b ,\"\"", DataType::String),
        strings(&[1, 3], &[b" a ", b" b ", b""])
    );
}

#[test]
fn errors_name_the_row_the_column_and_the_input() {
    let table: [(&Signature, &str, &str); 13] = [
        (
            &pairs(),
            "1,2\n3,4,5",
            "row 2 has 3 columns where 2 are expected; the model takes \"x\" float32[batch, 2]",
        ),
        (
            &pairs(),
            "1",
            "row 1 has 1 columns where 2 are expected; the model takes \"x\" float32[batch, 2]",
        ),
        (
            &pairs(),
            "1,2\n3,four",
            "input \"x\" at row 2 column 2: \"four\" is not a number, float32 is needed",
        ),
        (
            &pairs(),
            "sepal,petal\n3,4",
            "input \"x\" at row 1 column 1: \"sepal\" is not a number, float32 is needed; the first line counts as a header only if it holds the names of the inputs, or with the parameter header=present",
        ),
        (
            &pairs(),
            "1,2\n1e99,4",
            "input \"x\" at row 2 column 1: \"1e99\" is out of range for float32",
        ),
        (
            &mixed(),
            "1,1,2,3,4,a\n1,1,2,3,4.5,a",
            "input \"pixels\" at row 2 column 5: \"4.5\" is not a whole number, int64 is needed",
        ),
        (
            &mixed(),
            "1,1,2,3,4,a\n1,1,,3,4,a",
            "input \"pixels\" at row 2 column 3: an empty cell given, but int64 has no missing value; only float types have one (NaN)",
        ),
        (
            &identity(DataType::Bool),
            "1\nyes",
            "input \"x\" at row 2 column 1: \"yes\" is not a boolean; give true, false, 0 or 1",
        ),
        (
            &pairs(),
            "",
            "the body is not a valid text/csv request: the body is empty",
        ),
        (
            &pairs(),
            "\r\n\n",
            "the body is not a valid text/csv request: it has no rows",
        ),
        (
            &pairs(),
            "1,2\n\"3,4",
            "the body is not a valid text/csv request: row 2 column 1 has no closing quote",
        ),
        (
            &pairs(),
            "\"1\"2,3",
            "the body is not a valid text/csv request: row 1 column 1 has text after its closing quote",
        ),
        (
            &signature(&[], &[]),
            "1",
            "row 1 has 1 columns where 0 are expected; the model takes nothing",
        ),
    ];
    for (signature, body, expected) in table {
        assert_eq!(error(body, signature), expected, "{body:?}");
    }
}

/// BT-9: every line ends in a line feed, the last one too.
#[test]
fn each_row_is_a_line_with_the_outputs_side_by_side() {
    let map = |a: f32| Value::Map {
        keys: strings(&[2], &[b"yes", b"no"]),
        values: tensor(&[2], &[a, 1.0 - a]),
    };
    let signature = signature(
        &[],
        &[
            output("label", DataType::String, &[-1]),
            zip_map("p", DataType::String),
            output("raw", DataType::F64, &[-1, 1, 2]),
            output("ok", DataType::Bool, &[-1]),
        ],
    );
    let outputs = [
        Value::Tensor(strings(&[2], &[b"plain", b"a,\"b\""])),
        // `no` comes before `yes`.
        Value::Sequence(vec![map(0.25), map(1.0)]),
        Value::Tensor(tensor(&[2, 1, 2], &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300])),
        Value::Tensor(Tensor::from_bools(vec![2], vec![1, 0]).unwrap()),
    ];
    assert_eq!(
        reply(Format::Csv, &row_plan(), &signature, &outputs),
        "plain,0.75,0.25,nan,inf,true\n\"a,\"\"b\"\"\",0.0,1.0,-inf,1e+300,false\n"
    );
}

#[test]
fn values_without_rows_are_one_line() {
    let written = |value: Value| reply(Format::Csv, &row_plan(), &pairs(), &[value]);
    assert_eq!(written(Value::Tensor(tensor(&[], &[7i64]))), "7\n");
    let map = Value::Map {
        keys: tensor(&[3], &[10i64, -1, 2]),
        values: tensor(&[3], &[1f32, 2., 3.]),
    };
    assert_eq!(written(map), "2.0,3.0,1.0\n");
    assert_eq!(written(Value::Tensor(tensor::<f32>(&[0, 2], &[]))), "");
    assert_eq!(written(Value::Tensor(strings(&[2], &[b"", b"\r"]))), "\"\"\n\"\r\"\n");
}

/// An output that does not follow the records.
fn whole(name: &str, shape: &[i64]) -> OutputSpec {
    OutputSpec {
        rows: OutputRows::Whole,
        ..output(name, DataType::F32, shape)
    }
}

#[test]
fn refuses_outputs_that_a_line_cannot_hold_before_the_run_if_their_types_tell() {
    let table: [(&[OutputSpec], Option<&str>); 6] = [
        (&[whole("a", &[])], None),
        (&[whole("a", &[-1])], None),
        (&[whole("a", &[3]), whole("b", &[-1]), whole("c", &[4])], None),
        (
            &[whole("a", &[-1]), whole("b", &[-1])],
            Some("several outputs are lists of any length"),
        ),
        (
            &[output("n", DataType::I64, &[-1]), whole("boxes", &[-1, 6])],
            Some("output \"boxes\" is a nested list"),
        ),
        (&[output("scores", DataType::F32, &[-1, 6])], None),
    ];
    for (outputs, problem) in table {
        let signature = signature(&[], outputs);
        let chosen = negotiate(Some("text/csv"), Format::Json, &row_plan(), &signature);
        match problem {
            None => assert_eq!(chosen, Ok(Format::Csv), "{outputs:?}"),
            Some(problem) => {
                let refusal = chosen.unwrap_err().to_string();
                assert!(refusal.contains(problem), "{refusal}");
            }
        }
        // A client that accepts anything gets JSON.
        let anything = negotiate(Some("text/csv, */*;q=0.1"), Format::Csv, &row_plan(), &signature);
        let expected = if problem.is_none() { Format::Csv } else { Format::Json };
        assert_eq!(anything, Ok(expected));
    }
}

#[test]
fn a_record_that_ran_alone_has_a_line_with_its_list_or_is_refused() {
    let signature = signature(&[input("x", DataType::F32, &[-1, 2])], &[whole("labels", &[-1])]);
    let asked = decode_str("text/csv", "1,2\n3,4\n5,6\n", &signature).unwrap().reply;
    assert_eq!(separate_runs(Format::Csv, &asked, &signature, None), Some(3));
    let run = |shape: &[usize]| vec![Value::Tensor(tensor(shape, &vec![1f32; shape.iter().product()]))];
    let written = |runs: &[Vec<Value>]| encode(Format::Csv, &asked, "m", &signature, runs);
    let lines = written(&[run(&[2]), run(&[0]), run(&[1])]).unwrap();
    // BT-7: an empty list is not a blank line.
    assert_eq!(lines.body, "1.0,1.0\n[]\n1.0\n");
    let refusal = written(&[run(&[2]), run(&[1, 2]), run(&[1])]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the outputs cannot be written as text/csv: output \"labels\" is a nested list for each record, which a CSV line \
         cannot hold; accept application/jsonlines or application/json"
    );
}

#[test]
fn an_output_whose_entries_do_not_match_the_records_is_never_split() {
    let signature = pairs();
    let asked = decode_str("text/csv", "1,2\n3,4\n", &signature).unwrap().reply;
    let three = [Value::Tensor(tensor(&[3, 2], &[1f32; 6]))];
    assert_eq!(separate_runs(Format::Csv, &asked, &signature, None), None);
    assert_eq!(separate_runs(Format::Csv, &asked, &signature, Some(&three)), Some(2));
    assert_eq!(separate_runs(Format::Npy, &asked, &signature, Some(&three)), None);
}

#[test]
fn a_first_line_with_the_names_of_the_inputs_is_a_header() {
    let texts = signature(
        &[
            input("name", DataType::String, &[-1]),
            input("city", DataType::String, &[-1, 1]),
        ],
        &[],
    );
    let expected = [strings(&[2], &[b"Ann", b"Bo"]), strings(&[2, 1], &[b"Rome", b"Oslo"])];
    for body in [
        "Ann,Rome\nBo,Oslo\n",
        "name,city\nAnn,Rome\nBo,Oslo\n",
        "city,name\r\nRome,Ann\r\nOslo,Bo\r\n",
        "\u{feff}\"city\", name \n\nRome,Ann\nOslo,Bo",
    ] {
        assert_eq!(inputs(body, &texts), expected, "{body:?}");
        assert_eq!(decode_str("text/csv", body, &texts).unwrap().reply.counted, Some(2));
    }
    let absent = decode_str("text/csv;header=absent", "name,city\n", &texts).unwrap();
    assert_eq!(absent.inputs[0], strings(&[1], &[b"name"]));
    let present = |body: &str| decode_str("text/csv; header=present", body, &texts);
    assert_eq!(present("city,name\nRome,Ann\nOslo,Bo\n").unwrap().inputs, expected);
    assert!(
        present("Ann,Rome\n")
            .unwrap_err()
            .to_string()
            .starts_with("the header names \"Ann\", \"Rome\", which the model does not take")
    );
    assert!(error("name,city\n", &texts).ends_with("it has no rows"));
    assert!(error("city,name\nRome,Ann,x\n", &texts).contains("row 1 has 3 columns where 2 are expected"));
    let maybe = decode_str("text/csv;header=maybe", "Ann,Rome\n", &texts).unwrap_err();
    assert!(
        maybe.to_string().contains("must be \"present\" or \"absent\""),
        "{maybe}"
    );
}

#[test]
fn columns_of_one_wide_input_have_a_header_only_where_the_request_says_so() {
    let body = "sepal,petal\n3,4\n";
    assert!(decode_str("text/csv", body, &pairs()).is_err());
    let present = decode_str("text/csv;header=present", body, &pairs()).unwrap();
    assert_eq!(present.inputs, [tensor(&[1, 2], &[3f32, 4.])]);
}
