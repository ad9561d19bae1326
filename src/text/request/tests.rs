use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> TextInput {
    TextInput::One(text.to_owned())
}

fn pair(first: &str, second: &str) -> TextInput {
    TextInput::Pair(first.to_owned(), second.to_owned())
}

fn with_pairs() -> ReadOptions {
    ReadOptions {
        pairs: true,
        ..ReadOptions::default()
    }
}

fn json_of(body: &str) -> Result<Option<TextRequest>, RequestError> {
    read("application/json", body.as_bytes(), &ReadOptions::default())
}

#[test]
fn reads_texts_and_form_from_each_dialect() {
    let table: [(&str, Vec<TextInput>, TextForm); 19] = [
        (r#"{"inputs": "a"}"#, vec![one("a")], TextForm::One),
        (r#"{"inputs": ["a", "b"]}"#, vec![one("a"), one("b")], TextForm::List),
        (
            r#"{"inputs": {"text": "a", "text_pair": "b"}}"#,
            vec![pair("a", "b")],
            TextForm::One,
        ),
        (r#"{"inputs": {"text": "a"}}"#, vec![one("a")], TextForm::One),
        (
            r#"{"inputs": [{"text": "a"}, {"text": "b", "text_pair": "c"}]}"#,
            vec![one("a"), pair("b", "c")],
            TextForm::List,
        ),
        (
            r#"{"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}"#,
            vec![one("a"), one("b"), one("c")],
            TextForm::Similarity,
        ),
        (r#"{"text": "a"}"#, vec![one("a")], TextForm::One),
        (r#"{"text": ["a", "b"]}"#, vec![one("a"), one("b")], TextForm::List),
        (
            r#"{"text": "a", "text_pair": "b"}"#,
            vec![pair("a", "b")],
            TextForm::One,
        ),
        (r#"{"instances": ["a"]}"#, vec![one("a")], TextForm::Instances),
        (r#"{"instances": [{"text": "a"}]}"#, vec![one("a")], TextForm::Instances),
        (r#""a""#, vec![one("a")], TextForm::One),
        (r#"["a", "b"]"#, vec![one("a"), one("b")], TextForm::List),
        (
            r#"{"question": "a", "context": "b"}"#,
            vec![pair("a", "b")],
            TextForm::One,
        ),
        (
            r#"{"inputs": {"question": "a", "context": "b"}}"#,
            vec![pair("a", "b")],
            TextForm::One,
        ),
        (
            r#"{"query": "a", "texts": ["b", "c"]}"#,
            vec![pair("a", "b"), pair("a", "c")],
            TextForm::Ranking,
        ),
        (r#"{"input": ["a"]}"#, vec![one("a")], TextForm::List),
        (r#"{"inputs": [["a"]]}"#, vec![one("a")], TextForm::List),
        (
            r#" { "inputs" : "\ud83d\udc69\u0000\n" } "#,
            vec![one("👩\0\n")],
            TextForm::One,
        ),
    ];
    for (body, inputs, form) in table {
        let request = json_of(body).unwrap().unwrap_or_else(|| panic!("{body}"));
        assert_eq!((request.inputs, request.form), (inputs, form), "{body}");
    }
}

#[test]
fn lists_of_two_texts_are_pairs_only_if_the_task_takes_pairs() {
    let body = r#"{"inputs": [["a", "b"], ["c", "d"]]}"#;
    let request = read("application/json", body.as_bytes(), &with_pairs())
        .unwrap()
        .unwrap();
    assert_eq!(request.inputs, [pair("a", "b"), pair("c", "d")]);
    let error = json_of(body).unwrap_err().to_string();
    assert!(error.contains("inputs[0]") && error.contains("text_pair"), "{error}");
}

#[test]
fn returns_parameters_and_other_keys() {
    let body =
        r#"{"parameters": {"top_k": 2, "deep": [1]}, "inputs": "a", "truncate": true, "model": "m", "stop": ["x"]}"#;
    let request = json_of(body).unwrap().unwrap();
    assert_eq!(Value::Object(request.parameters), json!({"top_k": 2, "deep": [1]}));
    assert_eq!(
        Value::Object(request.rest),
        json!({"truncate": true, "model": "m", "stop": ["x"]})
    );
}

#[test]
fn leaves_bodies_of_numbers_to_the_readers_of_tensors() {
    let table = [
        r#"{"inputs": [[1, 2]]}"#,
        r#"{"inputs": [1.5]}"#,
        r#"{"inputs": [NaN]}"#,
        r#"{"inputs": true}"#,
        r#"{"inputs": null}"#,
        r#"{"inputs": {"input_ids": [[1]]}}"#,
        r#"{"inputs": [{"name": "input_ids", "shape": [1], "datatype": "INT64", "data": [1]}]}"#,
        r#"{"instances": [{"input_ids": [1]}]}"#,
        r#"{"instances": [[0.1, NaN]]}"#,
        r#"{"input_ids": [[1]], "attention_mask": [[1]]}"#,
        r#"{"signature_name": "s", "instances": [[1]]}"#,
        r#"{"id": "7", "inputs": [{"name": "x"}]}"#,
        r#"[[1, 2]]"#,
        r#"[]5"#,
        "5",
        "{}",
        "{",
        "",
        r#"{"inputs": [[1, 2"#,
    ];
    for body in table {
        match json_of(body) {
            Ok(None) => {}
            other => assert!(
                body == "[]5" && matches!(other, Err(RequestError::Json { .. }) | Ok(None)),
                "{body}: {other:?}"
            ),
        }
    }
    // A body of other tensors is not parsed.
    let body = [br#"{"inputs": [[0.5, "#.as_slice(), &[b'!'; 1 << 20]].concat();
    assert_eq!(read("application/json", &body, &ReadOptions::default()), Ok(None));
    assert_eq!(read("application/x-npy", b"..", &ReadOptions::default()), Ok(None));
}

#[test]
fn errors_name_the_path_of_the_value() {
    let table = [
        (
            r#"{"inputs": ["a", 1]}"#,
            "inputs[1]: found a number where a text is expected",
        ),
        (r#"["a", null]"#, "[1]: found null where a text is expected"),
        (
            r#"{"inputs": ["a", ["b", "c", "d"]]}"#,
            "inputs[1][2]: found one text too many where",
        ),
        (r#"{"inputs": "a", "inputs": "b"}"#, "duplicate key"),
        (r#"{"inputs": "a", "text": "b"}"#, "several keys"),
        (r#"{"inputs": [{"text": "a", "x": 1}]}"#, "inputs[0].x: not a text"),
        (r#"{"inputs": "a", "parameters": 5}"#, "parameters: expected an object"),
        (r#"{"text_pair": "a"}"#, "the first text of the pair is missing"),
        (r#"{"query": "a"}"#, "the texts to rank are missing"),
        (r#"{"inputs": "a"#, "the body is not valid JSON"),
        (r#"{"inputs": "a"} x"#, "the body is not valid JSON"),
        (r#"{"inputs": "\ud800"}"#, "the body is not valid JSON"),
        (r#"{"inputs": []}"#, "the body has no texts"),
    ];
    for (body, problem) in table {
        let error = json_of(body).expect_err(body).to_string();
        assert!(error.contains(problem), "{body}: {error}");
    }
    let error = read("application/json", b"{\"inputs\": \"\xff\"}", &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, RequestError::Json { .. }), "{error}");
}

#[test]
fn each_line_of_json_holds_texts() {
    let body = "{\"inputs\": \"a\"}\r\n\n\"b\"\n{\"inputs\": [\"c\", \"d\"]}";
    let request = read("application/jsonlines", body.as_bytes(), &ReadOptions::default());
    let request = request.unwrap().unwrap();
    assert_eq!(request.inputs, ["a", "b", "c", "d"].map(one));
    assert_eq!(request.form, TextForm::Lines(vec![1, 1, 2]));
    let table = [
        ("\"a\"\n5", "line 2: the line has no text"),
        ("\"a\"\n\"b", "at line 2"),
        ("\n\n", "the body has no texts"),
        (
            "{\"inputs\": \"a\", \"parameters\": {\"top_k\": 1}}\n\"b\"",
            "line 2: its parameters differ from those",
        ),
    ];
    for (body, problem) in table {
        let error = read("application/jsonlines", body.as_bytes(), &ReadOptions::default());
        let error = error.expect_err(body).to_string();
        assert!(error.contains(problem), "{body}: {error}");
    }
    assert_eq!(
        read("application/jsonlines", b"[1, 2]\n[3, 4]", &ReadOptions::default()),
        Ok(None)
    );
}

#[test]
fn plain_text_is_one_text_without_its_last_line_end() {
    for (body, text) in [
        ("a\nb", "a\nb"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        ("\u{feff}a", "a"),
        ("", ""),
    ] {
        let request = read("text/plain", body.as_bytes(), &ReadOptions::default())
            .unwrap()
            .unwrap();
        assert_eq!(request.inputs, [one(text)]);
    }
    let error = read("text/plain", b"ab\xff", &ReadOptions::default()).unwrap_err();
    assert_eq!(error, RequestError::Utf8 { at: 2 });
}

#[test]
fn csv_has_a_text_or_a_pair_in_each_line() {
    let texts = |body: &str, options: &ReadOptions| {
        let request = read("text/csv", body.as_bytes(), options).unwrap().unwrap();
        assert_eq!(request.form, TextForm::Lines(vec![1; request.inputs.len()]));
        request.inputs
    };
    let plain = ReadOptions::default();
    assert_eq!(texts("a\nb\r\n\nc", &plain), ["a", "b", "c"].map(one));
    assert_eq!(texts("text\n\"a, \"\"b\"\"\nc\"\n", &plain), [one("a, \"b\"\nc")]);
    assert_eq!(
        texts("a,b\n\"c,d\",e", &with_pairs()),
        [pair("a", "b"), pair("c,d", "e")]
    );
    assert_eq!(texts("text,text_pair\na,b", &plain), [pair("a", "b")]);
    assert_eq!(texts("text_pair,text\na,b", &plain), [pair("b", "a")]);
    assert_eq!(texts("sentence1,sentence2\na,b", &plain), [pair("a", "b")]);
    assert_eq!(
        texts(
            "text\r",
            &ReadOptions {
                csv_header: Some(false),
                ..plain
            }
        ),
        [one("text")]
    );
    let table = [
        ("Hello, world", "line 1: it has 2 columns, expected one text in a line"),
        ("a,b,c,d", "line 1: it has 4 columns"),
        ("text,text_pair\na", "line 2: it has 1 columns, the header has 2"),
        ("\"a", "line 1: a quote is not closed"),
        ("\"a\"b", "line 1: there is text after a closing quote"),
        ("", "the body has no texts"),
        ("text\n", "the body has no texts"),
    ];
    for (body, problem) in table {
        let error = read("text/csv", body.as_bytes(), &plain).expect_err(body).to_string();
        assert!(error.contains(problem), "{body}: {error}");
    }
}

#[test]
fn errors_name_the_limit() {
    let options = ReadOptions {
        limits: TextLimits {
            texts: 2,
            text_bytes: 5,
            ..TextLimits::default()
        },
        ..ReadOptions::default()
    };
    let table = [
        (
            "application/json",
            r#"["a", "b", "c"]"#,
            "texts of a request: 3, at most 2",
        ),
        (
            "application/json",
            r#"{"query": "a", "texts": ["a", "b", "c"]}"#,
            "texts of a request: 3",
        ),
        (
            "application/json",
            r#"["a", "abcdef"]"#,
            "bytes of text 1: 6, at most 5",
        ),
        ("text/plain", "abcdef", "bytes of text 0: 6"),
        ("text/csv", "a\nb\nc", "texts of a request: 3"),
        ("application/jsonlines", "\"a\"\n\"b\"\n\"c\"", "texts of a request: 3"),
    ];
    for (essence, body, problem) in table {
        let error = read(essence, body.as_bytes(), &options).expect_err(body).to_string();
        assert!(error.contains(problem), "{body}: {error}");
    }
}

/// JSON of any structure that contains texts.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        Just("inputs".to_owned()),
        Just("instances".to_owned()),
        Just("text".to_owned()),
        Just("text_pair".to_owned()),
        Just("parameters".to_owned()),
        Just("sentences".to_owned()),
        Just("source_sentence".to_owned()),
        "[a-z]{1,4}",
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(body in prop::collection::vec(any::<u8>(), 0..64), pairs: bool) {
        let options = ReadOptions { pairs, ..ReadOptions::default() };
        for essence in ["application/json", "application/jsonlines", "text/csv", "text/plain"] {
            let _ = read(essence, &body, &options);
        }
    }

    #[test]
    fn texts_survive_a_round_trip(value in any_json(), pairs: bool) {
        let options = ReadOptions { pairs, ..ReadOptions::default() };
        let body = value.to_string();
        if let Ok(Some(request)) = read("application/json", body.as_bytes(), &options) {
            prop_assert!(!request.inputs.is_empty());
            for text in request.inputs.iter().flat_map(TextInput::texts) {
                prop_assert!(body.contains(&Value::from(text).to_string()));
            }
        }
    }

    #[test]
    fn quoted_cells_survive_a_round_trip(texts in prop::collection::vec("[a-c,\"\n\r ]{1,6}", 1..5)) {
        let body: String = texts.iter().map(|text| format!("\"{}\"\n", text.replace('"', "\"\""))).collect();
        let options = ReadOptions { csv_header: Some(false), ..ReadOptions::default() };
        let request = read("text/csv", body.as_bytes(), &options).unwrap().unwrap();
        prop_assert_eq!(request.inputs, texts.iter().map(|text| one(text)).collect::<Vec<_>>());
    }
}
