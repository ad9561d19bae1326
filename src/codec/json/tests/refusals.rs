//! Requests that are refused, and the messages.

use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

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
