//! Compares an answer with the one that a manifest expects.
//!
//! JSON is compared by its structure and CSV cell by cell, with a tolerance for numbers; other text
//! must match byte for byte. JSON has no token for NaN and the infinities: a manifest writes
//! `"NaN"`, `"Infinity"` and `"-Infinity"`, which match the bare tokens in an answer.

use std::fmt;

use serde_json::Value as Json;

/// The allowed difference of two numbers: `|answer - expected| <= atol + rtol * |expected|`.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub rtol: f64,
    pub atol: f64,
}

/// The first place where an answer differs from the expected one.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    /// A JSON path, or a row and a column, or a line.
    place: String,
    answer: String,
    expected: String,
}

const NOTHING: &str = "nothing";

/// Maximum characters of a value in a message.
const MOST: usize = 100;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            answer,
            expected,
        } = self;
        write!(f, "at {place} the answer has {answer}, but {expected} is expected")
    }
}

impl Difference {
    fn new(place: impl Into<String>, answer: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self {
            place: place.into(),
            answer: brief(&answer.to_string()),
            expected: brief(&expected.to_string()),
        }
    }
}

fn brief(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the first difference between an answer and the expected one. A string is the expected
/// text of the answer, anything else is JSON.
pub fn compare(expected: &Json, content_type: &str, body: &[u8], tolerance: Tolerance) -> Result<(), Difference> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(Difference::new(
            "its beginning",
            format_args!("binary data ({content_type})"),
            "text (set \"accept\" of the request)",
        ));
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match (essence, expected) {
        ("application/json", Json::String(expected)) => {
            // A string that does not parse as JSON is itself the expected JSON string.
            let expected = parse(expected).unwrap_or_else(|_| Json::String(expected.clone()));
            compare_text_as_json(&expected, text, "$", tolerance)
        }
        ("application/json", expected) => compare_text_as_json(expected, text, "$", tolerance),
        ("application/jsonlines", Json::String(expected)) => {
            in_pairs(expected.lines(), text.lines(), |line, expected, answer| {
                let place = format!("line {}, $", line + 1);
                match (expected, answer) {
                    (Some(expected), Some(answer)) => {
                        let expected = parse(expected).unwrap_or_else(|_| Json::String(expected.to_owned()));
                        compare_text_as_json(&expected, answer, &place, tolerance)
                    }
                    (expected, answer) => Err(one_missing(place, expected, answer)),
                }
            })
        }
        ("text/csv", Json::String(expected)) => compare_csv(expected, text, tolerance),
        (_, expected) => {
            let expected = match expected {
                Json::String(expected) => expected.clone(),
                other => other.to_string(),
            };
            in_pairs(expected.split('\n'), text.split('\n'), |line, expected, answer| {
                if expected == answer {
                    Ok(())
                } else {
                    Err(one_missing(
                        format!("line {}", line + 1),
                        expected.map(quoted).as_deref(),
                        answer.map(quoted).as_deref(),
                    ))
                }
            })
        }
    }
}

fn quoted(text: &str) -> String {
    format!("{:?}", brief(text))
}

fn one_missing(place: String, expected: Option<&str>, answer: Option<&str>) -> Difference {
    Difference::new(place, answer.unwrap_or(NOTHING), expected.unwrap_or(NOTHING))
}

/// Checks the pairs of two sequences, then the rest of the longer one with `None` for the other.
fn in_pairs<T>(
    expected: impl Iterator<Item = T>,
    answer: impl Iterator<Item = T>,
    check: impl Fn(usize, Option<T>, Option<T>) -> Result<(), Difference>,
) -> Result<(), Difference> {
    let (mut expected, mut answer) = (expected.fuse(), answer.fuse());
    for index in 0.. {
        match (expected.next(), answer.next()) {
            (None, None) => break,
            (expected, answer) => check(index, expected, answer)?,
        }
    }
    Ok(())
}

fn compare_text_as_json(expected: &Json, answer: &str, place: &str, tolerance: Tolerance) -> Result<(), Difference> {
    match parse(answer) {
        Ok(answer) => compare_json(expected, &answer, place, tolerance),
        Err(error) => Err(Difference::new(
            place,
            format_args!("{} ({error})", quoted(answer)),
            expected,
        )),
    }
}

fn compare_json(expected: &Json, answer: &Json, place: &str, tolerance: Tolerance) -> Result<(), Difference> {
    match (expected, answer) {
        (Json::Array(expected), Json::Array(answer)) => {
            in_pairs(expected.iter(), answer.iter(), |index, expected, answer| {
                compare_elements(expected, answer, &format!("{place}[{index}]"), tolerance)
            })
        }
        (Json::Object(expected), Json::Object(answer)) => {
            for (key, value) in expected {
                compare_elements(Some(value), answer.get(key), &member(place, key), tolerance)?;
            }
            match answer.iter().find(|(key, _)| !expected.contains_key(*key)) {
                None => Ok(()),
                Some((key, value)) => Err(Difference::new(member(place, key), value, NOTHING)),
            }
        }
        (Json::Number(one), Json::Number(other)) => {
            let same = match (integer(one), integer(other)) {
                // A double cannot represent all integers beyond 2^53.
                (Some(expected), Some(answer)) => {
                    let apart = answer.abs_diff(expected);
                    apart == 0 || apart as f64 <= tolerance.of(expected as f64)
                }
                _ => match (one.as_f64(), other.as_f64()) {
                    (Some(expected), Some(answer)) => tolerance.allows(expected, answer),
                    _ => one == other,
                },
            };
            if same {
                Ok(())
            } else {
                Err(Difference::new(place, other, one))
            }
        }
        (expected, answer) if expected == answer => Ok(()),
        (expected, answer) => Err(Difference::new(place, answer, expected)),
    }
}

fn compare_elements(
    expected: Option<&Json>,
    answer: Option<&Json>,
    place: &str,
    tolerance: Tolerance,
) -> Result<(), Difference> {
    match (expected, answer) {
        (Some(expected), Some(answer)) => compare_json(expected, answer, place, tolerance),
        (Some(expected), None) => Err(Difference::new(place, NOTHING, expected)),
        (None, Some(answer)) => Err(Difference::new(place, answer, NOTHING)),
        (None, None) => Ok(()),
    }
}

fn integer(number: &serde_json::Number) -> Option<i128> {
    number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from))
}

/// The path of an object's member.
fn member(place: &str, key: &str) -> String {
    let key = brief(key);
    if !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        format!("{place}.{key}")
    } else {
        format!("{place}[{key:?}]")
    }
}

impl Tolerance {
    fn of(self, expected: f64) -> f64 {
        self.atol + self.rtol * expected.abs()
    }

    fn allows(self, expected: f64, answer: f64) -> bool {
        if expected.is_nan() || answer.is_nan() {
            return expected.is_nan() && answer.is_nan();
        }
        // The tolerance relative to an infinity would be infinite.
        expected == answer
            || (expected.is_finite() && answer.is_finite() && (answer - expected).abs() <= self.of(expected))
    }
}

fn compare_csv(expected: &str, answer: &str, tolerance: Tolerance) -> Result<(), Difference> {
    let (expected, answer) = (rows(expected), rows(answer));
    in_pairs(expected.iter(), answer.iter(), |row, expected, answer| {
        let row = row + 1;
        let cells = |row: Option<&Vec<String>>| row.map(|row| row.join(","));
        match (expected, answer) {
            (Some(expected), Some(answer)) => in_pairs(expected.iter(), answer.iter(), |column, expected, answer| {
                if let (Some(expected), Some(answer)) = (expected, answer)
                    && is_same_cell(expected, answer, tolerance)
                {
                    return Ok(());
                }
                Err(one_missing(
                    format!("row {row}, column {}", column + 1),
                    expected.map(|cell| quoted(cell)).as_deref(),
                    answer.map(|cell| quoted(cell)).as_deref(),
                ))
            }),
            (expected, answer) => Err(one_missing(
                format!("row {row}"),
                cells(expected).as_deref(),
                cells(answer).as_deref(),
            )),
        }
    })
}

fn is_same_cell(expected: &str, answer: &str, tolerance: Tolerance) -> bool {
    if expected == answer {
        return true;
    }
    match (expected.trim().parse(), answer.trim().parse()) {
        (Ok(expected), Ok(answer)) => tolerance.allows(expected, answer),
        _ => false,
    }
}

/// Splits CSV with commas and double quotes, the form of responses. The last line needs no line
/// end.
fn rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut in_quotes, mut is_open) = (false, false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        is_open = true;
        match character {
            '"' if in_quotes && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => row.push(std::mem::take(&mut cell)),
            '\r' if !in_quotes && characters.peek() == Some(&'\n') => {}
            '\n' if !in_quotes => {
                row.push(std::mem::take(&mut cell));
                rows.push(std::mem::take(&mut row));
                is_open = false;
            }
            other => cell.push(other),
        }
    }
    if is_open {
        row.push(cell);
        rows.push(row);
    }
    rows
}

fn parse(text: &str) -> serde_json::Result<Json> {
    serde_json::from_str(&with_quoted_tokens(text))
}

/// Puts quotes around the bare tokens of NaN and the infinities.
fn with_quoted_tokens(text: &str) -> String {
    const TOKENS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut quoted = String::with_capacity(text.len());
    let (mut in_string, mut is_escaped) = (false, false);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if !in_string && let Some(token) = TOKENS.iter().find(|token| rest.starts_with(**token)) {
            quoted.push('"');
            quoted.push_str(token);
            quoted.push('"');
            rest = &rest[token.len()..];
            continue;
        }
        match character {
            '"' if !is_escaped => in_string = !in_string,
            _ => {}
        }
        is_escaped = in_string && character == '\\' && !is_escaped;
        quoted.push(character);
        rest = &rest[character.len_utf8()..];
    }
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { rtol: 1e-3, atol: 1e-6 };

    fn difference(expected: &Json, content_type: &str, answer: &str) -> Option<String> {
        let compared = compare(expected, content_type, answer.as_bytes(), TOLERANCE);
        compared.err().map(|difference| difference.to_string())
    }

    #[test]
    fn equal_answers_have_no_difference() {
        let table = [
            ("application/json", json!({"a": [1, 2.0]}), r#"{"a": [1.0005, 2]}"#),
            ("application/json", json!({"a": 1, "b": 2}), r#"{"b": 2, "a": 1}"#),
            ("application/json", json!({"a": 0.0}), r#"{"a": 0.0000009}"#),
            (
                "application/json",
                json!(["NaN", "-Infinity", "Infinity"]),
                "[NaN, -Infinity, Infinity]",
            ),
            ("application/json", json!("[NaN, 1]"), "[NaN, 1.0]"),
            ("application/json", json!("cat"), "\"cat\""),
            ("application/json", json!("\"NaN \\\" NaN\""), "\"NaN \\\" NaN\""),
            (
                "application/json; charset=utf-8",
                json!(u64::MAX),
                "18446744073709551615",
            ),
            ("application/jsonlines", json!("[1]\n[2]"), "[1.0]\n[2.0]\n"),
            ("text/csv", json!("1,a\n2,\"b,\"\"\"\r\n"), "1.0005,a\n2,\"b,\"\"\"\n"),
            ("text/csv", json!("nan,inf,"), "NaN,inf,\n"),
            ("text/plain", json!("cat\ndog"), "cat\ndog"),
            ("text/plain", json!([1]), "[1]"),
        ];
        for (content_type, expected, answer) in table {
            assert_eq!(difference(&expected, content_type, answer), None, "{expected} {answer}");
        }
    }

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let table = [
            (
                "application/json",
                json!({"a": [1, 2]}),
                r#"{"a": [1, 2.1]}"#,
                "at $.a[1] the answer has 2.1, but 2 is",
            ),
            (
                "application/json",
                json!([1]),
                "[1, 2]",
                "at $[1] the answer has 2, but nothing is expected",
            ),
            (
                "application/json",
                json!([1, 2]),
                "[1]",
                "at $[1] the answer has nothing, but 2 is expected",
            ),
            (
                "application/json",
                json!({"a b": 1}),
                "{}",
                "at $[\"a b\"] the answer has nothing, but 1 is",
            ),
            (
                "application/json",
                json!({}),
                r#"{"x": 1}"#,
                "at $.x the answer has 1, but nothing is expected",
            ),
            (
                "application/json",
                json!("cat"),
                "\"dog\"",
                "at $ the answer has \"dog\", but \"cat\" is expected",
            ),
            (
                "application/json",
                json!(1),
                "\"1\"",
                "at $ the answer has \"1\", but 1 is expected",
            ),
            (
                "application/json",
                json!([1]),
                "[NaN]",
                "at $[0] the answer has \"NaN\", but 1 is expected",
            ),
            (
                "application/json",
                json!(["Infinity"]),
                "[1e300]",
                "at $[0] the answer has 1e+300, but \"Infinity\"",
            ),
            (
                "application/json",
                json!(0),
                "0.000002",
                "at $ the answer has 2e-6, but 0 is expected",
            ),
            ("application/json", json!(1), "[", "at $ the answer has \"[\" (EOF"),
            (
                "application/jsonlines",
                json!("[1]\n[2]"),
                "[1]\n[3]",
                "at line 2, $[0] the answer has 3, but 2 is",
            ),
            (
                "application/jsonlines",
                json!("[1]"),
                "[1]\n[3]",
                "at line 2, $ the answer has [3], but nothing is",
            ),
            (
                "text/csv",
                json!("1,2\n3,4"),
                "1,2\n3,5",
                "at row 2, column 2 the answer has \"5\", but \"4\" is",
            ),
            (
                "text/csv",
                json!("1,2"),
                "1",
                "at row 1, column 2 the answer has nothing, but \"2\" is expected",
            ),
            (
                "text/csv",
                json!("1"),
                "1\n2",
                "at row 2 the answer has 2, but nothing is expected",
            ),
            (
                "text/csv",
                json!("inf"),
                "1e300",
                "at row 1, column 1 the answer has \"1e300\", but \"inf\" is",
            ),
            (
                "text/csv",
                json!("1"),
                "nan",
                "at row 1, column 1 the answer has \"nan\", but \"1\" is",
            ),
            (
                "text/plain",
                json!("a\nb"),
                "a\nc",
                "at line 2 the answer has \"c\", but \"b\" is expected",
            ),
        ];
        for (content_type, expected, answer, start) in table {
            let difference = difference(&expected, content_type, answer).unwrap_or_default();
            assert!(difference.starts_with(start), "{start}\n{difference}");
        }
    }

    #[test]
    fn integers_beyond_two_to_the_53_are_compared_exactly() {
        let exact = Tolerance { rtol: 0.0, atol: 0.0 };
        let expected = json!((1_i64 << 53) + 1);
        let compared = |answer: &str| compare(&expected, "application/json", answer.as_bytes(), exact).is_ok();
        assert!(compared("9007199254740993"));
        assert!(!compared("9007199254740992"));
    }

    #[test]
    fn messages_about_binary_answers_and_long_values_are_short() {
        let error = compare(&json!("x"), "application/x-npy", b"\x93NUMPY", TOLERANCE).unwrap_err();
        assert!(error.to_string().contains("binary data (application/x-npy)"), "{error}");
        let long = difference(&json!("x"), "text/plain", &"y".repeat(10_000)).unwrap();
        assert!(long.len() < 300, "{long}");
    }
}
